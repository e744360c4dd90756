"""Prefetched rollouts: sampled from exactly the policy before, with that policy's log-probabilities, and resumable."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from tests.runs import metrics, resume, run

from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.models.actor import Actor
from vapo.module import RLModule
from vapo.types import Batch

PREFETCH = ("rollout.prefetch=1", "rollout.engine.own_weights=true", "module.policy_steps=4", "module.actor_optimizer.lr=1e-3")
OVERLAP = 1e-4  # nats: float32 rounding; a step moves log-probabilities by far more


@torch.no_grad()
def logprobs(module: RLModule, actor: Actor, batch: Batch) -> torch.Tensor:
    return module.learners["actor"].per_token(batch, lambda micro: actor(micro, module.sampling.temperature)[0])


def test_they_are_of_the_policy_before_and_so_are_the_old_log_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, policies, gaps = RLModule.improve, [], []

    def improve(self: RLModule, batch: Batch) -> None:
        policies.append(copy.deepcopy(self.actor))  # as it was when this step's rollouts were taken
        if not self.actor_frozen:
            gaps.append([float((logprobs(self, p, batch) - batch.old_logprob_R).abs().max()) for p in policies[-3:]])
        original(self, batch)

    monkeypatch.setattr(RLModule, "improve", improve)
    run(tmp_path, *PREFETCH)
    assert metrics(tmp_path)["clock/staleness"].tolist()[1:] == [0, 0, 1, 1, 1]  # value pretraining, then policy training
    assert len(gaps) == 4 and gaps[0][-1] < OVERLAP
    assert all(before < OVERLAP < now for _, before, now in gaps[1:])
    assert all(older > OVERLAP for older, _, _ in gaps[2:])  # exactly one old; before that, the older one is the initial policy too


def test_without_it_they_are_of_the_policy_itself(tmp_path: Path) -> None:
    run(tmp_path / "off", "module.policy_steps=4", "callbacks.self_test.equal_gap=null")
    assert set(metrics(tmp_path / "off")["clock/staleness"].dropna()) == {0}
    run(tmp_path / "own", "module.policy_steps=4", "rollout.engine.own_weights=true")
    pd.testing.assert_frame_equal(metrics(tmp_path / "off"), metrics(tmp_path / "own"), check_exact=True)
    run(tmp_path / "on", *PREFETCH[:3])
    on, off = metrics(tmp_path / "on"), metrics(tmp_path / "off")
    shared = [name for name in on if name in off and name != "clock/staleness"]
    pd.testing.assert_frame_equal(on.loc[:2, shared], off.loc[:2, shared], check_exact=True)  # up to the first policy step
    assert not on.loc[4:, "reward/mean"].equals(off.loc[4:, "reward/mean"]) or not on["actor/kl_k1"].equals(off["actor/kl_k1"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("rl_step", [2, 3])
def test_a_killed_run_resumes_bit_for_bit(rl_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint holds the rollouts in the making: the weights that they came from are gone."""
    run(tmp_path / "whole", *PREFETCH)
    original = RLCheckpoint._save

    def killing(self: RLCheckpoint, trainer: object, module: RLModule) -> None:
        original(self, trainer, module)  # type: ignore[arg-type]
        if module.rl_step == rl_step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RLCheckpoint, "_save", killing)
        with pytest.raises(Killed):
            run(tmp_path / "killed", *PREFETCH)
    resume(tmp_path / "killed")
    pd.testing.assert_frame_equal(metrics(tmp_path / "killed"), metrics(tmp_path / "whole"), check_exact=True)
    a, b = (torch.load(tmp_path / f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in ("killed", "whole"))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("rollout.prefetch=2",), "rollout.prefetch is 2; set it to 0"),
        (("rollout.prefetch=1",), r"set rollout\.engine\.own_weights=true, or rollout=vllm"),
        (("rollout.prefetch=1", "algorithm.mismatch=truncate"), r"algorithm\.mismatch=null"),
        (("rollout.prefetch=1", "rollout.sampling.top_p=0.9"), "set top_p to 1, or prefetch to 0"),
    ],
)
def test_what_it_cannot_go_with_is_refused(setting: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, InstantiationException), match=message):
        run(tmp_path, *setting)


def test_dynamic_sampling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstantiationException, match="dynamic_sampling=false"):
        run(tmp_path, "rollout.prefetch=1", "rollout.engine.own_weights=true", experiment="dapo")
