"""A fault of the verifier is no wrong answer: the step is that of the batch without the response."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import build, gradients, metrics, run

from vapo.rollout.collate import collate, without_faults
from vapo.rollout.dynamic_sampling import dynamic_sampling
from vapo.types import Rollout, Status, Verdict
from vapo.verifiers.sums import SumsVerifier


def failed(rollout: Rollout, status: Status = Status.TIMEOUT) -> Rollout:
    return replace(rollout, verdict=Verdict(status, rollout.verdict.answer))


def test_faults_are_dropped_and_groups_numbered_anew(rollouts: list[Rollout]) -> None:
    faulty = [failed(r, Status.ERROR) if i in (0, 2, 3) else r for i, r in enumerate(rollouts)]
    kept = without_faults(faulty)
    assert [r.completion for r in kept] == [rollouts[i].completion for i in (1, 4, 5, 6, 7)]
    assert [r.group for r in kept] == [0, 1, 1, 2, 2]
    assert without_faults(rollouts) == rollouts
    with pytest.raises(ValueError, match=r"failed on all 8 responses: raise data.verifier.timeout"):
        without_faults([failed(r) for r in rollouts])


def test_dynamic_sampling_looks_at_what_was_judged(rollouts: list[Rollout]) -> None:
    """Groups by outcome: +-, -+, --, ++; the fault makes the second one all wrong."""
    faulty = [failed(r) if i == 3 else r for i, r in enumerate(rollouts)]
    trained, sampled = dynamic_sampling(lambda number: faulty, 2, 1, 1)
    assert [r.completion for r in trained] == [r.completion for r in rollouts[:2]] and len(sampled) == 8
    with pytest.warns(UserWarning, match="found 1 of 4 mixed groups"):
        trained, _ = dynamic_sampling(lambda number: faulty, 2, 4, 1)
    assert all(rollout.judged for rollout in trained)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"whiten_advantages": False, "critic_lambda": None, "loss_aggregation": "sequence"},
        {"family": "grpo", "kl_coef": 0.1},
        {"family": "dapo", "dynamic_sampling": False},
    ],
)
def test_the_losses_are_those_of_the_batch_without_the_response(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = build(tmp_path, **settings)
    prompts = [module.datamodule.source.prompt(i, seed=0) for i in range(4)]
    drawn = module.sampler.sample(prompts, 4, module.sampling, 0, 0)
    drawn = [replace(r, verdict=Verdict(Status.CORRECT if i % 3 == 0 else Status.WRONG)) for i, r in enumerate(drawn)]
    faults = {1, 6, 8, 9, 10, 11}  # the third group is lost
    sampled = [failed(r) if i in faults else r for i, r in enumerate(drawn)]
    monkeypatch.setattr(module, "sample", lambda *args: sampled)
    batch = module.annotate(module.collect(prompts))
    by_hand = collate([replace(r, group=r.group - (r.group == 3)) for i, r in enumerate(drawn) if i not in faults])
    assert len(batch) == 10 and module.sampled == sampled
    expected = by_hand.replace(
        **{
            name: value[torch.ones(len(value), dtype=torch.bool)]
            for name in ("value_R", "old_logprob_R", "reference_logprob_R")
            if (value := getattr(batch, name)) is not None
        }
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found, wanted = (gradients(module, module.algorithm.credit(x), 10**6) for x in (batch, expected))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)) and sum(g.abs().sum() for g in found) > 0


def test_a_run_goes_on_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = SumsVerifier.__call__, []

    def sometimes(self: SumsVerifier, response: str, reference: str) -> Verdict:
        calls.append(response)
        return Verdict(Status.TIMEOUT) if len(calls) % 20 == 7 else original(self, response, reference)

    monkeypatch.setattr(SumsVerifier, "__call__", sometimes)
    monkeypatch.setattr(SumsVerifier, "max_fault_share", 0.5)
    run(tmp_path)
    frame = metrics(tmp_path)
    steps = frame[frame["rl_step"] > 0]
    assert steps["verifier/timeout_fraction"].max() > 0 and steps["verifier/timeout_fraction"].max() < 0.5
    assert ((steps["reward/mean"] + 1) / 2 - steps["response/accuracy"]).abs().max() < 1e-9
