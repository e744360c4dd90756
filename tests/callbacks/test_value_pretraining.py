"""Technique 1: the actor stands still bit for bit, the critic learns returns, and its file is only used where it fits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from tests.runs import FAST, build, config_for, metrics, resume, run

from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.callbacks.value_pretraining import ValuePretraining, fingerprint
from vapo.module import RLModule
from vapo.types import Batch

STEPS = "scale_overrides.value_pretraining_steps=3"
LONG = "data.source.max_operands=12"  # so many different problems that none is drawn twice
EXPLAINED = "value_pretraining/heldout_explained_variance"


@contextmanager
def after_each_step(see: Callable[[RLModule, Batch], None]) -> Iterator[None]:
    """Calls `see` whenever a run has reported an RL step."""
    report = RLModule.report

    def report_and_see(self: RLModule, batch: Batch) -> None:
        report(self, batch)
        see(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RLModule, "report", report_and_see)
        yield


def test_the_actor_stands_still_and_the_critic_moves_on_monte_carlo_targets(tmp_path: Path) -> None:
    actors: list[str] = []
    critics: list[str] = []

    def see(module: RLModule, batch: Batch) -> None:
        actors.append(fingerprint(module.actor))
        critics.append(fingerprint(module.critic))
        if module.rl_step <= 3:
            reward_B = torch.where(batch.correct_B, 1.0, -1.0)
            return_R = reward_B.repeat_interleave(batch.response_length_B)
            assert batch.target_R is not None
            torch.testing.assert_close(batch.target_R, return_R, atol=1e-5, rtol=0)

    with after_each_step(see):
        run(tmp_path, STEPS, "algorithm.critic_lambda=0.5")  # value pretraining is Monte Carlo whatever the critic's lambda
    assert len(set(actors[:3])) == 1 and len(set(actors)) == 3
    assert len(set(critics)) == 5
    frame = metrics(tmp_path)
    assert frame["clock/actor_updates"].dropna().tolist() == [0, 0, 0, 2, 4]
    assert frame[EXPLAINED].notna().tolist() == [False, True, True, True, False, False]


def test_heldout_explained_variance_is_that_of_monte_carlo_returns(tmp_path: Path) -> None:
    module, batch = build(tmp_path, "callbacks.value_pretraining.steps=3")
    callback = instantiate(config_for(tmp_path, "debug=fast", STEPS).callbacks.value_pretraining)
    callback._heldout = batch
    value_R = module.learners["critic"].per_token(batch, module.critic).double()
    return_R = 2 * batch.correct_B.repeat_interleave(batch.response_length_B).double() - 1  # the reward, not discounted
    expected = 1 - (return_R - value_R).var() / return_R.var()
    assert callback._explained_variance(module) == pytest.approx(expected.item(), abs=1e-5) and abs(expected) > 1e-3


def test_patience_goes_on_where_it_was(tmp_path: Path) -> None:
    """Resumed after the first of two steps without a rise, the second one ends it."""
    one, other = (ValuePretraining(9, 8, 2, 0.005) for _ in range(2))
    one.best, one.waited, one.steps_done = 0.3, 1, 4
    other.load_state_dict(one.state_dict())
    assert (other.best, other.waited, other.steps_done) == (0.3, 1, 4)


def test_patience_ends_it_when_explained_variance_stops_rising(tmp_path: Path) -> None:
    run(
        tmp_path,
        "scale_overrides.value_pretraining_steps=50",
        "callbacks.value_pretraining.patience=1",
        "callbacks.value_pretraining.min_delta=10",
    )
    assert metrics(tmp_path)["clock/policy_step"].dropna().tolist() == [0, 0, 1, 2]  # best at step 1, no rise at step 2


def test_many_small_rises_together_are_a_rise(tmp_path: Path) -> None:
    """0.004 a step passes min_delta 0.005 at every second step, so patience 2 never ends it."""
    explained = iter([0.004 * i for i in range(99)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ValuePretraining, "_explained_variance", lambda self, module: next(explained))
        run(tmp_path, "scale_overrides.value_pretraining_steps=6", "callbacks.value_pretraining.patience=2")
    assert metrics(tmp_path)["clock/policy_step"].dropna().tolist() == [0] * 6 + [1, 2]


def test_epochs_pass_several_times_over_the_frozen_rollouts(tmp_path: Path) -> None:
    run(tmp_path, "module.value_pretraining_epochs=3", "module.epochs=2")
    frame = metrics(tmp_path)
    assert frame["clock/critic_updates"].dropna().tolist() == [6, 10, 14]
    assert frame["clock/actor_updates"].dropna().tolist() == [0, 4, 8]


def test_groups_begin_with_policy_training(tmp_path: Path) -> None:
    cursors: list[int] = []
    groups: list[int] = []

    def see(module: RLModule, batch: Batch) -> None:
        cursors.append(module.trainer.datamodule.cursor)  # type: ignore[attr-defined]
        groups.append(len({rollout.prompt.text for rollout in module.rollouts}))

    def kill(self: RLCheckpoint, trainer: Any, module: RLModule, *args: Any) -> None:
        save(self, trainer, module, *args)
        if module.rl_step == 1:
            raise KeyError("killed")

    save = RLCheckpoint._save
    arguments = ("scale_overrides.value_pretraining_steps=2", "callbacks.value_pretraining.group_size=1", LONG)
    with after_each_step(see):
        run(tmp_path / "ungrouped", *arguments)
        with pytest.MonkeyPatch.context() as once:
            once.setattr(RLCheckpoint, "_save", kill)
            with pytest.raises(KeyError, match="killed"):
                run(tmp_path / "killed", *arguments)
        resume(tmp_path / "killed")
    assert cursors == 2 * [16, 32, 36, 40]  # 16 rollouts a step: of 16 problems, then of 4
    assert groups == 2 * [16, 16, 4, 4]
    pd.testing.assert_frame_equal(metrics(tmp_path / "killed"), metrics(tmp_path / "ungrouped"), check_exact=True)


def test_a_saved_critic_is_loaded_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    file = f"callbacks.value_pretraining.critic_file={tmp_path}/critic.pt"
    run(tmp_path / "pays", *FAST, file)
    run(tmp_path / "loads", *FAST, file)
    pays, loads = metrics(tmp_path / "pays"), metrics(tmp_path / "loads")
    pays, loads = pays.set_index("rl_step"), loads.set_index("rl_step")
    assert loads.loc[1, ["clock/policy_step", "clock/rollouts"]].tolist() == [0, 16]
    assert loads.index.tolist() == [1, 2, 3]  # it starts right after value pretraining
    columns = [name for name in pays.columns if name in loads.columns]
    pd.testing.assert_frame_equal(loads.loc[2:, columns], pays.loc[2:, columns], check_exact=True)  # as if it had paid itself
    assert loads.loc[1, EXPLAINED] == pays.loc[1, EXPLAINED]  # the same critic on the same held-out rollouts
    for change, named in (
        ("data.source.max_operands=6", "task"),
        ("data.verifier._target_=vapo.verifiers.math_answer.MathVerifier", "task"),
        ("model.critic.head_init=zero", "critic initialization"),
        ("algorithm.gamma=0.9", "return"),
        ("algorithm.pretraining_lambda=0.9", "return"),
        ("module.critic_optimizer.lr=0.01", "training"),
        ("module.critic_schedule.warmup_steps=9", "training"),
        ("callbacks.value_pretraining.group_size=2", "training"),
        ("algorithm.clip_value=0.1", "training"),
        ("module.keep_groups=true", "training"),
        ("module.max_grad_norm=0.5", "training"),
        ("trainer.precision=bf16-mixed", "precision"),
    ):
        with pytest.raises(ValueError, match=f"made with another .*{named}"):
            run(tmp_path / change.split("=")[0], *FAST, file, change)


def test_a_critic_of_another_seed_is_taken_with_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = f"callbacks.value_pretraining.critic_file={tmp_path}/critic.pt"
    run(tmp_path / "first", *FAST, file)
    for folder, seed, warned in (("again", 0, 0), ("other", 1, 1)):
        recwarn.clear()
        run(tmp_path / folder, *FAST, file, f"seed={seed}")
        assert sum("is of seed 0, this run of 1" in str(warning.message) for warning in recwarn) == warned


def test_zero_steps_turn_it_off(tmp_path: Path) -> None:
    run(tmp_path, "scale_overrides.value_pretraining_steps=0")
    frame: pd.DataFrame = metrics(tmp_path)
    assert frame["clock/policy_step"].dropna().tolist() == [1, 2] and EXPLAINED not in frame


def test_a_run_killed_after_saving_its_critic_file_does_those_steps_again(tmp_path: Path) -> None:
    file = f"callbacks.value_pretraining.critic_file={tmp_path}/critic.pt"
    run(tmp_path / "whole", *FAST, STEPS)

    def kill(self: RLCheckpoint, *args: Any) -> None:
        if args[1].rl_step == 3:
            raise KeyError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RLCheckpoint, "_save", kill)
        with pytest.raises(KeyError, match="killed"):
            run(tmp_path / "killed", *FAST, STEPS, file)
    assert (tmp_path / "critic.pt").exists()
    resume(tmp_path / "killed")
    pd.testing.assert_frame_equal(metrics(tmp_path / "killed"), metrics(tmp_path / "whole"), check_exact=True)
