"""Evaluates a model on a benchmark: saves samples file by file, then scores them."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed.checkpoint as dcp
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from vapo.analysis.benchmark import problem_table, samples_frame, summarize
from vapo.callbacks.aime_evaluation import EVALUATION_STEP
from vapo.callbacks.progress import QUIET_SECONDS
from vapo.checkpoints import check_intact, find_checkpoint
from vapo.data.prompts import digest
from vapo.models.actor import Actor
from vapo.models.ends import check_positions, end_tokens
from vapo.rollout.sampler import Sampler
from vapo.run.record import RESOLVED, load_config, provenance
from vapo.run.training import quiet_libraries
from vapo.run.value_types import check_types
from vapo.types import SamplingParams, Status
from vapo.whole_file import replacing

# The settings that, with the problems, determine the samples.
SETTINGS = ("run", "checkpoint", "model", "k", "sampling", "seed", "problems_per_file")


def evaluate(config: DictConfig) -> dict[str, float]:
    """Samples, scores, and writes `samples/*.parquet`, `problems.csv` and `summary.json` into `config.out`.

    Raises:
        ValueError, FileNotFoundError: a setting is wrong; the message says what to set.
    """
    quiet_libraries()
    torch.set_num_threads(config.threads)
    if config.k < 1 or config.problems_per_file < 1:
        raise ValueError(f"k is {config.k}, problems_per_file {config.problems_per_file}; set both to 1 or more")
    config = of_run(config)
    if torch.cuda.is_available() and "float32_matmul" in config:
        torch.set_float32_matmul_precision(config.float32_matmul)
    check_types(config)
    if config.sampling.max_new_tokens is None:
        raise ValueError(
            "set sampling.max_new_tokens, in tokens: 256 for mini, 20480 for AIME as in DAPO; or run= to a run's folder"
        )
    config.sampling = {name: value for name, value in config.sampling.items() if value is not None}
    sampling, out = instantiate(config.sampling, _target_=SamplingParams), Path(config.out)
    source = instantiate(config.data.source)
    verifier = getattr(source, "verifier", None) or instantiate(config.data.verifier)
    tokenizer, prompts = instantiate(config.module.tokenizer), source.benchmark()[: config.data.get("benchmark_limit")]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    check_positions(config.module.actor, longest, sampling.max_new_tokens, "sampling.max_new_tokens")
    actor, rl_step = load_actor(config)
    check_same(out, config, {"rl_step": rl_step, "problems": digest(prompts)})
    engine = instantiate(config.rollout.engine)(eos_token_ids=end_tokens(actor, tokenizer))
    engine.load_weights(actor, 0)
    sampler, said = Sampler(engine, tokenizer, verifier), time.monotonic()

    def watch(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > QUIET_SECONDS:
            said = time.monotonic()
            print(f"responses to the next problems: {done} of {total}", flush=True)

    sampler.watch = watch
    files, correct, prefix = [], 0, f"{source.benchmark_name}_t{sampling.temperature:g}_p{sampling.top_p:g}"
    (out / "samples").mkdir(exist_ok=True)
    for first in range(0, len(prompts), config.problems_per_file):
        file = out / "samples" / f"problems_{first:05d}.parquet"
        asked = prompts[first : first + config.problems_per_file]
        if not file.exists():
            rollouts = sampler.sample(asked, config.k, sampling, config.seed, EVALUATION_STEP)
            texts = [sampler.decode(rollout.completion.token_ids) for rollout in rollouts]
            with replacing(file) as partial:
                samples_frame(rollouts, first, config.k).assign(response=texts).to_parquet(partial)
        files.append(pd.read_parquet(file))
        correct += int((files[-1]["status"] == Status.CORRECT).sum())
        done = first + len(asked)
        print(f"problems {done}/{len(prompts)}  {prefix}/avg@{config.k} so far {correct / (done * config.k):.3f}", flush=True)
    samples = pd.concat(files)
    summary = {f"{prefix}/{name}": value for name, value in summarize(samples, config.k).items()}
    problem_table(samples).to_csv(out / "problems.csv", index=False)
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
    show(summary, out)
    return summary


def of_run(config: DictConfig) -> DictConfig:
    """With `run=`, takes the run's model and precision, its task unless another is chosen, and its length limit unless another is
    set."""
    if config.run is None:
        return config
    saved = Path(config.run) / RESOLVED
    if not saved.exists():
        raise FileNotFoundError(f"no {RESOLVED} in {config.run}: set run to the folder of a run, such as logs/train/runs/<time>")
    overrides = HydraConfig.get().overrides.task
    if any(choice.startswith(("model", "module")) for choice in overrides):
        raise ValueError("run= takes the run's own model: leave model and module out, or give model.path= instead of run=")
    run, config = load_config(saved), config.copy()
    config.model, config.module = run.model, run.module
    with open_dict(config):  # what precision follows, as in the run
        config.float32_matmul = run.get("float32_matmul", "high")
        config.trainer = {name: run.trainer[name] for name in ("precision", "strategy") if name in run.trainer}
    if not any(choice.startswith(("data=", "problems@")) for choice in overrides):
        keys = [key for choice in overrides if (key := choice.lstrip("+").split("=")[0]).startswith("data.")]
        chosen = {key: OmegaConf.select(config, key) for key in keys}
        config.data = run.data
        with open_dict(config):
            config.data.setdefault("benchmark_limit", None)  # older runs have none
            for key, value in chosen.items():
                OmegaConf.update(config, key, value)
    if config.sampling.stop is None:
        config.sampling.stop = run.rollout.sampling.get("stop") or None
    if config.sampling.max_new_tokens is None:
        config.sampling.max_new_tokens = run.rollout.sampling.max_new_tokens
    return config


def load_actor(config: DictConfig) -> tuple[Actor, int | None]:
    """The policy and its RL step; None for a model that is not from a run."""
    actor: Actor = instantiate(config.module.actor)()
    rl_step = None
    if config.run is not None:
        path, rl_step = find_checkpoint(Path(config.run) / "checkpoints", config.checkpoint)
        if path is None:
            raise FileNotFoundError(f"no checkpoint in {config.run}: the run was stopped before its first")
        if path.is_dir():  # a sharded checkpoint
            check_intact(path)
            dcp.load(
                {"model": {f"actor.{name}": weight for name, weight in actor.state_dict().items()}},
                checkpoint_id=path,
                no_dist=True,
            )
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            actor.load_state_dict({n.removeprefix("actor."): weight for n, weight in state.items() if n.startswith("actor.")})
    generates = config.rollout.engine._target_.endswith("TorchEngine")  # others have weights of their own there
    return actor.eval().to(config.device or ("cuda" if generates and torch.cuda.is_available() else "cpu")), rl_step


def check_same(out: Path, config: DictConfig, found: dict[str, Any]) -> None:
    """Raises ValueError unless `out` is new or holds part of the same evaluation."""
    out.mkdir(parents=True, exist_ok=True)
    others = {"verifier": config.data.verifier, "dtype": config.rollout.engine.dtype}
    file, named = out / "settings.json", {name: config[name] for name in SETTINGS} | others
    settings = {**OmegaConf.to_container(OmegaConf.create(named)), **found}  # type: ignore[dict-item]
    if file.exists():
        before = json.loads(file.read_text())["settings"]
        differs = [name for name, value in settings.items() if before.get(name) != value]
        if differs:
            raise ValueError(f"{out} holds an evaluation with another {', '.join(differs)}: set out to a new folder")
    else:
        file.write_text(json.dumps({"settings": settings, **provenance(config.paths.root)}, indent=2))


def show(summary: dict[str, float], out: Path) -> None:
    table = Table(title=next(iter(summary)).split("/")[0], show_header=False)
    for name, value in summary.items():
        if name.endswith(("_low95", "_high95")):
            continue
        low, high = summary.get(f"{name}_low95"), summary.get(f"{name}_high95")
        interval = "" if low is None else f"  (95 % interval over problems {low:.3f} to {high:.3f})"
        table.add_row(name.split("/")[1], f"{value:.3f}{interval}")
    table.add_row("samples, problems, settings", f"{out}/")
    Console(width=None).print(table)
