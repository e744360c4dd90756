"""The self-test at the start finds what silently trained on a wrong policy before, and the alarm finds it later."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.runs import metrics, resume, run
from torch import Tensor

import vapo.models.actor
import vapo.rollout.torch_engine
from vapo.callbacks.self_test import SelfTest
from vapo.learner import Learner
from vapo.module import RLModule


def break_the_engines_mask(patch: pytest.MonkeyPatch) -> str:
    """A boolean mask for eager attention, which adds it to the scores: nothing is masked."""
    patch.setattr(vapo.rollout.torch_engine, "plain_attention", lambda model: True)
    return "model.attention=eager"


def break_the_head(patch: pytest.MonkeyPatch) -> None:
    """As if the model scaled its logits and the actor did not know."""
    original = vapo.models.actor.own_head

    def scaled(model: object) -> Callable[[Tensor], Tensor]:
        head = original(model)  # type: ignore[arg-type]
        return lambda hidden_RD: 0.5 * head(hidden_RD)

    patch.setattr(vapo.models.actor, "own_head", scaled)


def test_a_wrong_mask_of_the_engine_stops_the_run_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = break_the_engines_mask(monkeypatch)
    with pytest.raises(ValueError, match=r"self-test: the engine's log-probabilities differ .* Set model\.attention to sdpa"):
        run(tmp_path, setting)
    assert not (tmp_path / "metrics.csv").exists()


def test_a_wrong_head_of_the_actor_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_head(monkeypatch)
    with pytest.raises(ValueError, match=r"self-test: the actor's log-probabilities differ from the model's own by \S+ nats"):
        run(tmp_path)


def test_without_it_the_alarm_stops_the_run_after_the_first_policy_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = break_the_engines_mask(monkeypatch)
    with pytest.raises(ValueError, match=r"engine/logprob_gap_mean is \S+ nats .* although engine and trainer share their weights"):
        run(tmp_path, setting, "callbacks.self_test=null")
    assert metrics(tmp_path)["engine/logprob_gap_mean"].dropna().iloc[0] > 0.05


def test_the_alarm_is_a_line_where_the_engine_has_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = break_the_engines_mask(monkeypatch)
    run(tmp_path, setting, "callbacks.self_test=null", "rollout.engine.own_weights=true")
    assert re.search(r"ALARM at RL step 2: logprob_gap: .* see docs/metrics\.md", capsys.readouterr().out)
    assert metrics(tmp_path)["alarm/logprob_gap"].max() == 1


def test_it_changes_no_number(tmp_path: Path) -> None:
    run(tmp_path / "with", "callbacks.self_test.max_gap=1e-4", "callbacks.self_test.equal_gap=null")
    run(tmp_path / "without", "callbacks.self_test=null")
    pd.testing.assert_frame_equal(metrics(tmp_path / "with"), metrics(tmp_path / "without"), check_exact=True)


def test_bfloat16_passes_with_its_own_limit_and_not_with_float32s(tmp_path: Path) -> None:
    run(tmp_path / "bf16", "trainer.precision=bf16-mixed", "module.policy_steps=1")
    with pytest.raises(ValueError, match="rounding explains 1e-05"):
        run(tmp_path / "strict", "trainer.precision=bf16-mixed", "callbacks.self_test.max_gap=1e-5")


def test_settings_below_1_say_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"set both of callbacks\.self_test to 1 or more"):
        SelfTest(0, 2, 32, None)


def test_dropout_is_no_gap_and_a_resumed_run_may_skip_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes without gradient are without dropout, as the engine samples; updates are with it."""
    training: list[bool] = []
    for name in ("actor_loss", "critic_loss"):
        loss = getattr(RLModule, name)

        def noted(self: RLModule, *given: Any, loss: Any = loss, **options: Any) -> Tensor:
            training.extend(
                network.training for network in (self.actor, self.critic, self.actor.language_model, self.critic.backbone)
            )
            return loss(self, *given, **options)  # type: ignore[no-any-return]

        monkeypatch.setattr(RLModule, name, noted)
    lora = ("model.lora.rank=8", "model.lora.dropout=0.3", "module.actor_optimizer.lr=1e-3", "callbacks.self_test.equal_gap=null")
    run(tmp_path, *lora)
    assert metrics(tmp_path)["engine/logprob_gap_mean"].dropna().max() < 1e-4
    resume(tmp_path, "module.policy_steps=3")
    resume(tmp_path, "module.policy_steps=4", "callbacks.self_test=null")
    assert metrics(tmp_path)["clock/policy_step"].max() == 4
    assert len(training) > 40 and all(training)


def test_an_equal_engine_saves_the_actors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probabilities are the old policy's: the first update is the same up to rounding."""
    passes: list[str] = []
    original = Learner.per_token

    def per_token(self: Learner, *arguments: Any) -> Tensor:
        passes.append(self.name)
        return original(self, *arguments)

    monkeypatch.setattr(Learner, "per_token", per_token)
    counts, found = {}, {}
    for gap in ("1e-5", "null"):
        passes.clear()
        run(tmp_path / gap, f"callbacks.self_test.equal_gap={gap}", "module.policy_steps=2")
        counts[gap], found[gap] = passes.count("actor"), metrics(tmp_path / gap)
    assert counts["null"] - counts["1e-5"] == 2  # one for each policy step
    assert "engine/logprob_gap_mean" not in found["1e-5"]
    first = [frame.dropna(subset=["actor/grad_norm"]).iloc[0] for frame in found.values()]
    assert first[0]["actor/grad_norm"] == pytest.approx(first[1]["actor/grad_norm"], rel=1e-4)
    assert abs(first[0]["actor/kl_k3"] - first[1]["actor/kl_k3"]) < 1e-6


@pytest.mark.parametrize(
    "setting", ["rollout.engine.own_weights=true", "rollout.sampling.top_p=0.9", "algorithm.mismatch=truncate"]
)
def test_an_engine_that_is_not_the_actor_saves_nothing(setting: str, tmp_path: Path) -> None:
    run(tmp_path, setting, "module.policy_steps=1", "callbacks.self_test.max_gap=10")
    assert "engine/logprob_gap_mean" in metrics(tmp_path)
