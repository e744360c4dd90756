"""Runs the real training entry on the real configs, made small by `debug=fast`."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from vapo.metric_names import MEASURED
from vapo.module import RLModule
from vapo.run.resolvers import register
from vapo.run.training import train
from vapo.types import Batch, SamplingParams

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
VAPO: dict[str, Any] = {
    "length_adaptive_alpha": 0.1,
    "critic_lambda": 1.0,
    "clip_high": 1.0,  # wide: of a few tokens, some ratio must lie between it and plain 1.2
    "loss_aggregation": "token",
    "positive_lm_coef": 0.1,
    "group_size": 4,
}
CREDIT = [  # debug=fast leaves it out; its problems are too short to have steps to tell apart
    "+callbacks.credit_assignment._target_=vapo.callbacks.credit_assignment.CreditAssignment",
    "+callbacks.credit_assignment.responses=4",
    "+callbacks.credit_assignment.every_n_steps=1",
    "data.source.min_operands=6",
    "data.source.max_operands=9",
]
FAST = ("callbacks.aime_evaluation=null", "callbacks.export_hf=null", "callbacks.self_test=null")  # of the fixture `fast_run`


def config_for(folder: Path, *overrides: str) -> DictConfig:
    """The composed `train.yaml` with its run folder set."""
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        config = compose("train", [*overrides, f"paths.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def run(folder: Path, *overrides: str, experiment: str = "vapo_full", summary: bool = False) -> dict[str, float]:
    """Trains with `debug=fast`, groups of 4, a benchmark of 6 and `overrides`; a summary takes as long as two RL steps."""
    fast = ["debug=fast", "threads=1", "algorithm.group_size=4", "data.benchmark_limit=6"]
    fast += [] if summary or any(word.startswith("callbacks=") for word in overrides) else ["callbacks.summary=null"]
    return train(config_for(folder, f"experiment={experiment}", *fast, *overrides))


def resume(folder: Path, *overrides: str) -> dict[str, float]:
    """What `python src/train.py resume=<folder>` does."""
    return train(config_for(folder, f"resume={folder}", *overrides))


def metrics(folder: Path) -> pd.DataFrame:
    """`metrics.csv` without what is measured with a clock."""
    frame = pd.read_csv(folder / "metrics.csv")
    return frame[sorted(name for name in frame.columns if not name.startswith(MEASURED))]


def build(folder: Path, *overrides: str, family: str = "vapo", **algorithm: Any) -> tuple[RLModule, Batch]:
    """A module without a trainer, and 16 real rollouts with credit. The weights move in between, so that ratios differ from 1."""
    values = (VAPO if family == "vapo" else {"group_size": 4}) | algorithm
    switches = [f"algorithm.{k}={'null' if v is None else v}" for k, v in values.items()]
    config = config_for(folder, f"algorithm={family}", "debug=fast", "threads=1", *switches, *overrides)
    torch.manual_seed(0)
    module: RLModule = instantiate(config.module)
    module._trainer = without_trainer(folder, instantiate(config.data))
    module.configure_model()
    module.sampler.engine.load_weights(module.actor, 0)
    prompts = [module.datamodule.source.prompt(i, seed=0) for i in range(4)]
    batch = module.annotate(module.sampler.sample(prompts, 4, SamplingParams(max_new_tokens=64), 0, 0))
    batch = batch.replace(correct_B=torch.arange(16) % 3 == 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module, module.algorithm.credit(batch)


def without_trainer(folder: Path, datamodule: Any = None) -> Any:
    """What a module asks of its trainer when there is none."""
    precision = SimpleNamespace(forward_context=nullcontext)
    strategy = SimpleNamespace(model=None, backward=lambda loss, optimizer: loss.backward())
    parts = {"datamodule": datamodule, "precision_plugin": precision, "strategy": strategy, "precision": "32-true"}
    return SimpleNamespace(**parts, default_root_dir=folder, max_steps=-1)


def backward(module: RLModule, name: str, minibatch: Batch) -> None:
    """Accumulates the gradient of the `actor` or the `critic` on a whole minibatch."""
    counts, learner = module.algorithm.normalizers(minibatch), module.learners[name]
    loss = {"actor": module.actor_loss, "critic": module.critic_loss}[name]
    learner.backward_over(learner.micro_batches(minibatch), lambda micro: loss(micro, counts))


def gradients(module: RLModule, batch: Batch, microbatch_tokens: int) -> list[torch.Tensor]:
    """Of the critic's and the actor's loss, for every parameter that has one."""
    module.zero_grad()
    for name in ("critic", "actor") if module.algorithm.needs_critic else ("actor",):
        module.learners[name].microbatch_tokens = microbatch_tokens
        backward(module, name, batch)
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
