"""Alarms: none in healthy runs, the right one in a run made to be sick; holding the actor; stopping."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.runs import CONFIGS, config_for, metrics, resume, run

from vapo.algorithms import ActorCritic, GroupRelative
from vapo.analysis.sweep import COLUMNS
from vapo.callbacks.health import ALARMS, Health, zero_terms
from vapo.checkpoints import saved_checkpoints
from vapo.models.critic import Critic
from vapo.module import RLModule
from vapo.run.training import train
from vapo.types import Rollout, Status, Verdict

RESULTS = Path(CONFIGS).parent / "docs" / "results"
KEYS = {short: name for name, short in COLUMNS.items() if name.startswith(("actor/entropy", "response/length", "critic/expl"))}


def replay(curves: pd.DataFrame) -> set[str]:
    """The alarms that the default bounds would have raised in one run of a study."""
    health, found, score = Health(), set(), None
    for row in curves.sort_values("rl_step").to_dict("records"):
        score = row["score"] if row["score"] == row["score"] else score
        step = {name: row[short] for short, name in KEYS.items() if row.get(short) == row.get(short)}
        found |= {name for name, _ in health.alarms(step, score, int(row["policy_step"]))}
    return found


@pytest.mark.parametrize("study", ["safe", "baselines", "main", "fresh", "extra"])
def test_no_healthy_run_of_the_studies_raises_one(study: str) -> None:
    curves = pd.read_csv(RESULTS / study / "curves.csv")
    healthy = curves[curves["arm"].str.startswith(("vapo_full", "instructions="))]
    runs = {key: replay(run) for key, run in healthy.groupby(["arm", "seed"])}
    assert len(runs) >= 3 and {key: found for key, found in runs.items() if found} == {}


def test_runs_of_the_studies_that_did_not_learn_raise_one() -> None:
    curves = pd.read_csv(RESULTS / "fresh" / "curves.csv")
    sick = {seed: replay(run) for seed, run in curves[curves["arm"] == "ppo_vanilla"].groupby("seed")}
    assert len(sick) == 3 and all("explained_variance" in found for found in sick.values())


def test_a_run_with_the_default_settings_raises_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = (
        "data.rollouts_per_step=64",
        "module.minibatch_rollouts=16",
        "module.policy_steps=2",
        "callbacks.credit_assignment=null",
    )
    small += ("callbacks.aime_evaluation.k=4", "data.benchmark_limit=8", "callbacks.export_hf=null", "callbacks.summary=null")
    train(config_for(tmp_path, "experiment=vapo_full", "scale_overrides.value_pretraining_steps=2", "module.overlap=false", *small))
    columns = metrics(tmp_path)[[f"alarm/{name}" for name in ALARMS]].dropna()
    assert len(columns) == 4 and not columns.to_numpy().any()
    assert "ALARM" not in capsys.readouterr().out


# --- runs made to be sick ------------------------------------------------------------------------------------------------------


def after_each_update(patch: pytest.MonkeyPatch, spoil: Callable[[RLModule], object]) -> None:
    """Spoils weights after each policy step."""
    improve = RLModule.improve

    def spoiled(self: RLModule, batch: Any) -> None:
        improve(self, batch)
        if self.actor_trained:
            with torch.no_grad():
                spoil(self)

    patch.setattr(RLModule, "improve", spoiled)


def change_rollouts(patch: pytest.MonkeyPatch, change: Callable[[Rollout, int], Rollout], first_step: int = 0) -> None:
    """Changes the rollouts that are trained on; the second argument counts them."""
    sample = RLModule.sample

    def changed(self: RLModule, prompts: Any, group_size: int, sampling: Any, rl_step: int, *phase: str) -> list[Rollout]:
        rollouts = sample(self, prompts, group_size, sampling, rl_step, *phase)
        return [change(rollout, i) for i, rollout in enumerate(rollouts)] if rl_step >= first_step else rollouts

    patch.setattr(RLModule, "sample", changed)


def scale_logits(factor: float) -> Callable[[RLModule], object]:
    return lambda module: module.actor.language_model.model.norm.weight.mul_(factor)


def cut(rollout: Rollout, number: int) -> Rollout:
    whole = rollout.completion
    return replace(rollout, completion=replace(whole, token_ids=whole.token_ids[:3], logprobs=whole.logprobs[:3]))


def judged(status: Status) -> Callable[[Rollout, int], Rollout]:
    return lambda rollout, number: replace(rollout, verdict=Verdict(status))


def every_second_is_correct(patch: pytest.MonkeyPatch) -> None:
    change_rollouts(patch, lambda r, i: judged(Status.CORRECT if i % 2 else Status.WRONG)(r, i))


def flip_critic(module: RLModule) -> None:
    module.critic.head.weight.mul_(-9)


LONGER = ("module.policy_steps=3", "module.minibatch_rollouts=16", "data.benchmark_limit=6")
SICK: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], object], tuple[str, ...]]] = {
    "entropy_collapse": ("0.1", lambda patch: after_each_update(patch, scale_logits(4.0)), LONGER),
    "entropy_explosion": (r"times it", lambda patch: after_each_update(patch, scale_logits(0.2)), LONGER),
    "length_collapse": (r"3 tokens, .* in the first step", lambda patch: change_rollouts(patch, cut, first_step=2), LONGER),
    "explained_variance": (
        r"-\d.*step 2 below 0",
        lambda patch: (every_second_is_correct(patch), after_each_update(patch, flip_critic)),
        (*LONGER, "scale_overrides.value_pretraining_steps=0"),
    ),
    "truncation": (r"0\.\d+ \(bound 0.1\): raise rollout.sampling", lambda patch: None, ("rollout.sampling.max_new_tokens=3",)),
    "verifier_faults": (
        r"0.0625 \(bound 0.01\)",
        lambda patch: change_rollouts(patch, lambda r, i: judged(Status.ERROR)(r, i) if i == 5 else r),
        (),
    ),
    "score_fall": (
        r"0\.\d+, 0\.\d+ at best",
        lambda patch: after_each_update(patch, scale_logits(0.05)),
        ("data.benchmark_limit=null", "callbacks.aime_evaluation.k=4"),
    ),
    "zero_loss": (
        r"the LM loss \(algorithm.positive_lm_coef\) is exactly 0",
        lambda patch: change_rollouts(patch, judged(Status.WRONG)),
        (),
    ),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_run_raises_its_alarm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, sicken, overrides = SICK[name]
    sicken(monkeypatch)
    run(tmp_path, *overrides)
    column = metrics(tmp_path)[f"alarm/{name}"].dropna()
    lines = [line for line in capsys.readouterr().out.splitlines() if f": {name}: " in line]
    assert set(column) <= {0.0, 1.0} and column.max() == 1
    assert len(lines) == (column.diff().fillna(column) > 0).sum()  # one where it starts
    assert pd.Series(lines).str.contains(said).all()


def test_every_alarm_is_tested() -> None:
    assert {*SICK, "logprob_gap"} == {*ALARMS}  # that one's test is among those of the self-test


# --- loss terms that are 0 -----------------------------------------------------------------------------------------------------


def said_of_zero(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str, experiment: str = "vapo_full") -> list[str]:
    run(folder, *overrides, experiment=experiment)
    return [line.partition("zero_loss: ")[2] for line in capsys.readouterr().out.splitlines() if "zero_loss: " in line]


def test_a_head_that_does_not_train_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every_second_is_correct(monkeypatch)
    assert said_of_zero(tmp_path / "healthy", capsys) == []
    forward = Critic.forward

    def frozen(self: Critic, micro: Any) -> torch.Tensor:
        self.head.requires_grad_(False)
        return forward(self, micro)

    monkeypatch.setattr(Critic, "forward", frozen)
    assert said_of_zero(tmp_path / "frozen", capsys) == ["the gradient of the critic's head is exactly 0"]
    found = {name: metrics(tmp_path / name) for name in ("healthy", "frozen")}
    assert (found["frozen"]["critic/grad_norm"].dropna() > 0).all()  # the whole critic's looks well
    assert (found["frozen"]["critic/head_grad_norm"].dropna() == 0).all()
    assert found["frozen"]["critic/head_weight_norm"].nunique() == 1 < found["healthy"]["critic/head_weight_norm"].nunique()


def test_equal_rewards_leave_grpo_without_advantages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_rollouts(monkeypatch, judged(Status.WRONG))
    expected = ["the advantage of every token is exactly 0"]
    assert said_of_zero(tmp_path / "grpo", capsys, experiment="grpo")[:1] == expected
    change_rollouts(monkeypatch, judged(Status.CORRECT))
    assert said_of_zero(tmp_path / "right", capsys, "algorithm.positive_lm_coef=0", experiment="grpo")[:1] == expected


@pytest.mark.parametrize(
    ("key", "coefficient", "policy_step", "term"),
    [
        ("critic/value_loss", "gamma", 0, "the value loss is"),
        ("actor/kl_reference", "kl_coef", 2, "the KL loss (algorithm.kl_coef) is"),
        ("actor/kl_reference", "kl_coef", 1, None),  # the policy is still the reference
    ],
)
def test_other_terms_that_are_zero(key: str, coefficient: str, policy_step: int, term: str | None) -> None:
    algorithm = (GroupRelative if coefficient == "kl_coef" else ActorCritic)(**{coefficient: 0.1})
    assert zero_terms({key: 0.0}, algorithm, policy_step) == ([] if term is None else [term])
    assert zero_terms({key: 1e-30}, algorithm, policy_step) == []


# --- bounds --------------------------------------------------------------------------------------------------------------------

BOUNDS = [  # setting, its value, metric or score, its value in two steps: healthy, then an alarm
    ("min_entropy", 0.3, "actor/entropy_mean", (1.0, 0.31), (1.0, 0.29), "entropy_collapse"),
    ("max_entropy", 1.5, "actor/entropy_mean", (1.0, 1.49), (1.0, 1.51), "entropy_explosion"),
    ("min_length", 0.8, "response/length_mean", (100.0, 81.0), (100.0, 79.0), "length_collapse"),
    ("min_explained_variance", -0.5, "critic/explained_variance", (-0.4, -0.4), (-0.6, -0.6), "explained_variance"),
    ("explained_variance_steps", 1, "critic/explained_variance", (0.1, 0.1), (0.1, -0.1), "explained_variance"),
    ("explained_variance_steps", 2, "critic/explained_variance", (-0.1, 0.1), (-0.1, -0.1), "explained_variance"),
    ("max_truncated", 0.3, "response/truncated_fraction", (0.0, 0.29), (0.0, 0.31), "truncation"),
    ("max_logprob_gap", 0.2, "engine/logprob_gap_mean", (0.0, 0.19), (0.0, 0.21), "logprob_gap"),
    ("max_faults", 0.05, "verifier/error_fraction", (0.0, 0.04), (0.0, 0.06), "verifier_faults"),
    ("max_score_fall", 0.2, "score", (0.5, 0.31), (0.5, 0.29), "score_fall"),
]


@pytest.mark.parametrize(("setting", "bound", "key", "healthy", "sick", "name"), BOUNDS)
def test_bounds(setting: str, bound: float, key: str, healthy: Sequence[float], sick: Sequence[float], name: str) -> None:
    def last(values: Sequence[float]) -> list[str]:
        health = Health(**{setting: bound})
        return [[n for n, _ in health.alarms({key: value}, value if key == "score" else None, 1)] for value in values][-1]

    assert last(healthy) == [] and last(sick) == [name]


def test_a_step_whose_returns_are_equal_says_nothing_about_the_critic() -> None:
    health = Health()
    found = [bool(list(health.alarms({"critic/explained_variance": x}, None, 1))) for x in (-0.1, 0.0, -0.1, 0.0, 0.1, -0.1)]
    assert found == [False, False, True, True, False, False]


# --- holding and stopping ------------------------------------------------------------------------------------------------------

HOLD = (
    "callbacks.health.hold_actor=true",
    "scale_overrides.value_pretraining_steps=0",
    "module.policy_steps=4",
    "data.benchmark_limit=3",
)


def broken_from_step_two(patch: pytest.MonkeyPatch, last: int = 5) -> None:
    """Flips the critic while rollouts are annotated: its explained variance is below 0."""
    every_second_is_correct(patch)
    annotate = RLModule.annotate

    def flipped(self: RLModule, rollouts: Any) -> Any:
        batch = annotate(self, rollouts)
        reward_R = self.algorithm.reward(batch).repeat_interleave(batch.response_length_B)  # type: ignore[attr-defined]
        return batch.replace(value_R=0.5 * reward_R * (-1 if 2 <= self.rl_step + 1 <= last else 1))

    patch.setattr(RLModule, "annotate", flipped)


def test_the_actor_is_held_until_the_critic_has_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_from_step_two(monkeypatch)
    run(tmp_path / "whole", *HOLD)
    found = metrics(tmp_path / "whole").set_index("rl_step").loc[1:]
    assert found["alarm/explained_variance"].tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert found["clock/policy_step"].tolist() == [
        1,
        2,
        3,
        3,
        3,
        3,
        4,
    ]  # steps 4 to 6 are held: what the alarm of the step before says
    assert found["actor/entropy_mean"].isna().tolist() == [False, False, False, True, True, True, False]
    assert (found["clock/critic_updates"].diff().dropna() > 0).all()
    said = capsys.readouterr().out
    assert said.count("the actor is held until the critic has recovered") == 1
    assert "the critic has recovered in 3 RL steps: the actor trains again" in said

    class Killed(BaseException):
        pass

    def kill(self: RLModule, batch: Any) -> None:
        if self.rl_step == 4:
            raise Killed
        improve(self, batch)

    improve = RLModule.improve
    with monkeypatch.context() as patch:
        patch.setattr(RLModule, "improve", kill)
        with pytest.raises(Killed):
            run(tmp_path / "killed", *HOLD)
    resume(tmp_path / "killed")  # in the middle of the hold
    pd.testing.assert_frame_equal(metrics(tmp_path / "killed"), metrics(tmp_path / "whole"), check_exact=True)


def test_a_critic_that_does_not_recover_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_from_step_two(monkeypatch, last=6)
    run(tmp_path, *HOLD, "callbacks.health.max_held_steps=2", "callbacks.rl_checkpoint.every_n_steps=100")
    assert metrics(tmp_path)["rl_step"].max() == 5  # held in steps 4 and 5
    assert [path.name for path in saved_checkpoints(tmp_path / "checkpoints")] == ["step_000005.ckpt"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped at RL step 5 by callbacks.health (explained_variance): ")
    resume(tmp_path)  # and gets time again, in which the critic recovers
    assert metrics(tmp_path)["clock/policy_step"].max() == 4


def test_an_alarm_stops_the_run_with_a_checkpoint_and_it_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sick = ("rollout.sampling.max_new_tokens=3", "callbacks.rl_checkpoint.every_n_steps=100", "callbacks.health.stop=[truncation]")
    run(tmp_path, *sick)
    assert metrics(tmp_path)["rl_step"].max() == 1
    assert [path.name for path in saved_checkpoints(tmp_path / "checkpoints")] == ["step_000001.ckpt"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last == f"stopped at RL step 1 by callbacks.health (truncation): docs/metrics.md says what to do; resume={tmp_path} goes on"
    )
    resume(tmp_path)  # the alarm that stopped it is still there
    assert metrics(tmp_path)["rl_step"].max() == 3
    said = capsys.readouterr().out
    assert "ALARM at RL step 2: truncation" not in said and "stopped" not in said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("min_entropy=1.5", r"min_entropy is 1.5; set it in \[0, 1\)"),
        ("max_entropy=0.5", "max_entropy is 0.5; set it above 1"),
        ("explained_variance_steps=0", "explained_variance_steps is 0, .* set both to 1 or more"),
        ("stop=[entropy]", r"callbacks.health.stop has \['entropy'\]; set it to a list of entropy_collapse, "),
        ("stop=entropy_collapse", "callbacks.health.stop"),
    ],
)
def test_settings_without_meaning(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        run(tmp_path, f"callbacks.health.{setting}")
