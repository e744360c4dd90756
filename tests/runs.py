"""Runs the real training entry on the real configs, made small by `debug=fast`."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from vapo.module import RLModule
from vapo.rollout.collect import collect
from vapo.run.resolvers import register
from vapo.run.training import train
from vapo.types import Batch, SamplingParams
from vapo.verifiers.sums import SumsVerifier

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
MEASURED = ("time/", "speed/", "memory/")  # differ from run to run


def config_for(folder: Path, *overrides: str) -> DictConfig:
    """The composed `train.yaml` with its run folder set."""
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        config = compose("train", [*overrides, f"paths.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def run(folder: Path, *overrides: str, experiment: str = "vapo_full") -> dict[str, float]:
    """Trains with `debug=fast`, groups of four and `overrides`."""
    return train(config_for(folder, f"experiment={experiment}", "debug=fast", "threads=1", "algorithm.group_size=4", *overrides))


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
    module.configure_model()
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    source = instantiate(config.data.source)
    module.engine.load_weights(module.actor, 0)
    prompts = [source.prompt(i, seed=0) for i in range(4)]
    sampling = SamplingParams(max_new_tokens=64)
    batch = module.annotate(collect(prompts, 4, module.engine, sampling, module.tokenizer, SumsVerifier(), 0, 0))
    batch = batch.with_(correct_B=torch.arange(16) % 3 == 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module, module.algorithm.credit(batch)


def gradients(module: RLModule, batch: Batch, microbatch_tokens: int) -> list[torch.Tensor]:
    """Of the critic's and the actor's loss, for every parameter that has one."""
    module.microbatch_tokens = microbatch_tokens
    module.zero_grad()
    if module.algorithm.needs_critic:
        module.backward_critic(batch)
    module.backward_actor(batch)
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
