"""The module through the real configs: gradients do not depend on the cut, and the wiring is the equations'."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from tests.padding import pad
from tests.runs import backward, build, gradients, run

import vapo.models.logprobs
from vapo.algorithms import Normalizers, length_adaptive_lambda
from vapo.learner import check_precision
from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.types import Batch, MicroBatch

# name -> settings that turn one thing on or off
ARMS: dict[str, dict[str, Any]] = {
    "vapo": {},
    "shared lambda": {"critic_lambda": None},
    "fixed lambda": {"length_adaptive_alpha": None},
    "plain clip": {"clip_high": 0.2},
    "sequence level": {"loss_aggregation": "sequence"},
    "no lm loss": {"positive_lm_coef": 0.0},
    "no whitening": {"whiten_advantages": False},
    "dual clip": {"dual_clip": 1.5},
    "value clip": {"clip_value": 0.1},
    "overlong": {"overlong_buffer": 64},
}
GROUP_ARMS: dict[str, dict[str, Any]] = {
    "grpo with k1": {"family": "grpo", "kl_coef": 0.01, "kl_estimator": "k1"},
    "grpo with k2": {"family": "grpo", "kl_coef": 0.01, "kl_estimator": "k2"},
    "grpo with k3": {"family": "grpo", "kl_coef": 0.01, "kl_estimator": "k3"},
    "dapo": {"family": "dapo"},
}


@pytest.mark.parametrize("arm", ARMS | GROUP_ARMS)
def test_gradients_do_not_depend_on_micro_batches(arm: str, tmp_path: Path) -> None:
    module, batch = build(tmp_path, **(ARMS | GROUP_ARMS)[arm])
    whole = gradients(module, batch, 10**6)
    assert sum(g.abs().sum() for g in whole) > 0
    width = int(batch.total_length_B.max())
    for parts in (2, 4, 8):
        for a, b in zip(whole, gradients(module, batch, width * len(batch) // parts), strict=True):
            assert (a - b).abs().max() < 1e-6 * max(1.0, a.abs().max()), (arm, parts)


@pytest.mark.parametrize("arm", [a for a in ARMS if a != "vapo"])
def test_every_switch_changes_the_gradients(arm: str, tmp_path: Path) -> None:
    base, changed = build(tmp_path), build(tmp_path, **ARMS[arm])
    a, b = gradients(*base, 10**6), gradients(*changed, 10**6)
    assert max((x - y).abs().max().item() for x, y in zip(a, b, strict=True)) > 1e-5


def test_the_references_logprobs_are_those_of_the_policy_that_training_started_from(tmp_path: Path) -> None:
    """The actor has moved since the batch was annotated; the reference has no gradient and is no network that trains."""
    module, batch = build(tmp_path, family="grpo", kl_coef=0.5)
    assert batch.reference_logprob_R is not None and batch.old_logprob_R is not None
    assert torch.equal(batch.reference_logprob_R, batch.old_logprob_R)  # the actor was the initial policy then
    with torch.no_grad():
        now_R = module.learners["actor"].per_token(batch, lambda micro: module.actor(micro)[0])
    assert (now_R - batch.reference_logprob_R).abs().max() > 0.1
    gradients(module, batch, 10**6)
    assert all(p.grad is None and not p.requires_grad for p in module.reference.parameters())
    assert list(module.learners) == ["actor", "reference"] and not hasattr(module, "critic")


def test_log_probabilities_in_training_are_at_the_temperature_of_the_rollouts(tmp_path: Path) -> None:
    """The engine's, the old policy's, the reference's and those of an update, all of the same weights."""
    module, _ = build(tmp_path, "rollout.sampling.temperature=0.7", family="grpo", kl_coef=0.5)
    module.reference.load_state_dict(module.actor.state_dict())
    prompts = [module.datamodule.source.prompt(i, seed=0) for i in range(4)]
    batch = module.annotate(module.sampler.sample(prompts, 4, module.sampling, 0, 0))
    assert batch.old_logprob_R is not None and batch.reference_logprob_R is not None
    for other_R in (batch.old_logprob_R, batch.reference_logprob_R):
        torch.testing.assert_close(other_R, batch.sampler_logprob_R, atol=1e-4, rtol=0)
    backward(module, "actor", module.algorithm.credit(batch))
    found = module.metrics.flush()
    assert found["actor/kl_k3"] < 1e-6 and found["actor/kl_reference"] < 1e-6 < found["actor/entropy_mean"]


def test_a_constant_critic_gives_the_advantage_known_in_closed_form(tmp_path: Path) -> None:
    """Equation and wiring together: with V = c, only the last TD error is not 0, so A_t = lambda^(l-1-t) (R - c)."""
    module, batch = build(tmp_path, whiten_advantages=False)
    head = module.critic.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(0.25)
        value_R = module.learners["critic"].per_token(batch, module.critic)
    credited = module.algorithm.credit(batch.replace(value_R=value_R))
    advantage_BT, target_BT = pad(credited, credited.advantage_R), pad(credited, credited.target_R)
    for i in range(len(batch)):
        length, reward = int(batch.response_length_B[i]), 1.0 if batch.correct_B[i] else -1.0
        lam = float(length_adaptive_lambda(batch.response_length_B, 0.1)[i])
        for t in range(length):
            assert advantage_BT[i, t].item() == pytest.approx(lam ** (length - 1 - t) * (reward - 0.25), abs=1e-5)
            assert target_BT[i, t].item() == pytest.approx(reward, abs=1e-5)


def test_annotation_agrees_with_the_sampler_and_is_from_before_the_updates(tmp_path: Path) -> None:
    seen: list[Batch] = []
    original = RLModule.report

    def watch(self: RLModule, batch: Batch) -> None:
        seen.append(batch)
        original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RLModule, "report", watch)
        run(tmp_path, "callbacks.self_test.equal_gap=null")
    frozen, *trained = seen
    assert frozen.old_logprob_R is None and len(trained) == 2
    for batch in trained:
        assert batch.old_logprob_R is not None
        assert (batch.old_logprob_R - batch.sampler_logprob_R).abs().max() < 1e-4


def test_each_step_trains_on_its_own_rollouts_only(tmp_path: Path) -> None:
    """The first actor update after value pretraining sees no rollout of the frozen policy."""
    prompts: dict[int, set[bytes]] = {}
    trained: dict[int, set[bytes]] = {}
    collected, updated = RLModule.collect, RLModule.actor_loss

    def rows(batch: Batch) -> set[bytes]:
        return {batch.select(torch.tensor([i])).token_N.numpy().tobytes() for i in range(len(batch))}

    def collecting(self: RLModule, asked: Any) -> Any:
        rollouts = collected(self, asked)
        prompts[self.rl_step] = rows(collate(rollouts))
        return rollouts

    def updating(self: RLModule, micro: MicroBatch, counts: Normalizers) -> torch.Tensor:
        trained.setdefault(self.rl_step, set()).update(rows(micro.part))
        return updated(self, micro, counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RLModule, "collect", collecting)
        patch.setattr(RLModule, "actor_loss", updating)
        run(tmp_path)
    assert set(trained) == {1, 2} and set(prompts) == {0, 1, 2}
    assert all(trained[step] == prompts[step] for step in trained)


@pytest.mark.parametrize("keeps_casts", [False, True])  # as Lightning 2.6.6 enters it, and as another version may
def test_log_probabilities_follow_an_optimizer_step_in_bfloat16(keeps_casts: bool, tmp_path: Path) -> None:
    """Autocast may keep casts of weights; here they must not outlive a step."""
    module, batch = build(tmp_path)
    module.configure_optimizers()
    learner = module.learners["actor"]
    keeping = partial(torch.autocast, "cpu", torch.bfloat16, cache_enabled=True)
    learner.precision = keeping if keeps_casts else MixedPrecision("bf16-mixed", "cpu").forward_context
    with learner.precision():
        before_R = learner.per_token(batch, lambda micro: module.actor(micro)[0])
        gradients(module, batch, 10**6)
        learner.optimizer.param_groups[0]["lr"] = 0.01
        learner.step(batch, torch.arange(len(batch)), tmp_path / "batch.pt")
        after_R = learner.per_token(batch, lambda micro: module.actor(micro)[0])
    outside_R = learner.per_token(batch, lambda micro: module.actor(micro)[0])
    assert (after_R - before_R).abs().max() > 0.1 and torch.equal(after_R, outside_R)  # the learner enters it by itself


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true", "16-true", "64-true"])
def test_precisions_that_would_train_wrongly_are_refused_by_name(precision: str) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.precision is {precision}: .* set it to bf16-mixed \(GPUs\) or 32-true"):
        check_precision(precision)


def test_a_run_in_bfloat16_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision is bf16-true: an AdamW step"):
        run(tmp_path, "trainer.precision=bf16-true")


@pytest.mark.parametrize("setting", ["cpu_offload=true", "compute_dtype=float32", "defer_gradient_sync=true"])
def test_sharding_settings_without_sharding_are_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"module\.sharding\.{setting.split('=')[0]} does nothing without trainer=fsdp"):
        run(tmp_path, f"module.sharding.{setting}")


def test_the_entropy_is_computed_in_updates_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = build(tmp_path)
    calls: list[int] = []
    monkeypatch.setattr(vapo.models.logprobs, "entropy", lambda logits, normalizer: calls.append(1) or torch.zeros(len(logits)))
    module.annotate(module.sampler.sample([module.datamodule.source.prompt(0, 0)], 4, module.sampling, 0, 0))
    assert calls == []
    gradients(module, batch, 10**6)
    assert calls == [1]


def test_end_of_sequence_tokens_are_a_setting(tmp_path: Path) -> None:
    module, _ = build(tmp_path, "model.eos_token_ids=[5,1]")
    assert module.sampler.engine.eos_token_ids == (5, 1)  # type: ignore[attr-defined]
    assert {
        r.completion.token_ids[-1] for r in module.sampler.sample([module.datamodule.source.prompt(0, 0)], 8, module.sampling, 0, 0)
    } <= {5, 1}


@pytest.mark.parametrize("setting", ["", "foreach=true", "foreach=false", "fused=false"])
def test_adam_is_fused_unless_another_kernel_is_chosen(setting: str, tmp_path: Path) -> None:
    module, _ = build(tmp_path, *([f"+module.actor_optimizer.{setting}"] if setting else []))
    module.configure_optimizers()
    assert bool(module.learners["actor"].optimizer.defaults["fused"]) is (setting == "")


def test_an_optimizer_that_is_not_adam_is_left_as_it_is(tmp_path: Path) -> None:
    module, _ = build(tmp_path, "module.actor_optimizer._target_=torch.optim.SGD")
    module.configure_optimizers()
    assert module.learners["actor"].optimizer.defaults["fused"] is None
