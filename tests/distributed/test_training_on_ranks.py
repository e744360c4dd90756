"""The same training on any number of ranks, sharded or not."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.ranks import REPLICATED, SETTINGS, SHARDED, train_on_ranks
from tests.runs import metrics

from vapo.types import Batch

pytestmark = pytest.mark.distributed

KINDS = {"fsdp": SHARDED, "ddp": REPLICATED}
RATE = ("module.actor_optimizer.lr=1e-4", "module.actor_schedule.decay_share=0")  # large and constant: updates move the actor


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three RL steps of one plain process, with its rollouts and gradients."""
    return run(1, "alone", ("trainer=cpu",), tmp_path_factory.mktemp("alone"))


def run(ranks: int, name: str, trainer: tuple[str, ...], base: Path, *more: str) -> Path:
    folder = base / name
    (folder / "gradients").mkdir(parents=True)
    train_on_ranks(ranks, folder, *SETTINGS, *RATE, *trainer, *more, gradients=folder / "gradients", replay=base / "rollouts.pt")
    return folder


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@pytest.mark.parametrize(
    ("kind", "ranks", "more"),
    [
        ("fsdp", 2, ()),
        ("fsdp", 4, ("module.sharding.shard_ranks=2", "module.sharding.defer_gradient_sync=true", "module.microbatch_tokens=64")),
        ("ddp", 2, ("module.microbatch_tokens=64",)),
        pytest.param("ddp", 4, (), marks=pytest.mark.slow),
        pytest.param("fsdp", 4, (), marks=pytest.mark.slow),
        pytest.param("fsdp", 1, (), marks=pytest.mark.slow),
        pytest.param(
            "fsdp", 2, ("module.sharding.cpu_offload=true", "model.activation_checkpointing=true"), marks=pytest.mark.slow
        ),
    ],
)
def test_gradients_norms_and_metrics_do_not_depend_on_ranks(kind: str, ranks: int, more: tuple[str, ...], alone: Path) -> None:
    folder = run(ranks, f"{kind}_{ranks}_{len(more)}", KINDS[kind], alone.parent, *more)
    lengths = [len(r.completion.token_ids) for step in torch.load(alone.parent / "rollouts.pt", weights_only=False) for r in step]
    assert max(lengths) > 10 * min(lengths)
    updates = sorted(path.name for path in (alone / "gradients").iterdir())
    assert len(updates) > 8 and updates == sorted(path.name for path in (folder / "gradients").iterdir())
    for name in updates:
        one, other = (torch.load(f / "gradients" / name) for f in (alone, folder))
        assert one.keys() == {*other} and len(one) > 30
        assert max(relative(other[n], one[n]) for n in one) < 1e-5, name
    mine, theirs = metrics(folder), metrics(alone)
    assert list(mine) == list(theirs) and len(mine) == 4
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-5, atol=1e-5)
    assert (mine.loc[1:, ["critic/head_grad_norm", "critic/head_weight_norm"]] > 0.01).all(axis=None)  # whole, of sharded heads too


def test_a_nan_on_one_rank_skips_the_update_on_all(tmp_path: Path) -> None:
    train_on_ranks(2, tmp_path, *SETTINGS, *SHARDED, poison=1)
    assert metrics(tmp_path)["actor/skipped_fraction"].tolist()[2:] == [0.5, 0.0]
    assert metrics(tmp_path)["actor/grad_norm"].notna().tolist()[2:] == [True, True]


def test_too_many_stop_all_ranks_with_the_batch_kept(tmp_path: Path) -> None:
    said = train_on_ranks(2, tmp_path, *SETTINGS, *SHARDED, "module.max_skipped_updates=0", poison=1, fails=True)
    assert said.count("the actor's gradient norm is nan after 0 skipped updates") >= 2
    batch = Batch(**torch.load(tmp_path / "nonfinite_actor_step_000002.pt", weights_only=True))
    assert len(batch) == 8
