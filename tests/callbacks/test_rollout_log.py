"""What is logged of a step whatever the limit, and of the policy after its updates when asked."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.runs import build, metrics, run

from vapo.callbacks.rollout_log import after_updates, chosen_rollouts
from vapo.module import RLModule
from vapo.rollout.sampler import Sampler
from vapo.types import Batch, Rollout, Status, Verdict

ASKED = "callbacks.rollout_log.ratio_and_entropy=true"


def logged(folder: Path, step: int) -> pd.DataFrame:
    return pd.read_parquet(folder / "rollouts" / f"step_{step:06d}.parquet")


def test_all_of_the_shortest_the_longest_and_a_random_problem(rollouts: list[Rollout]) -> None:
    """Prompts of 3, 1, 6 and 2 tokens, two responses each."""
    assert chosen_rollouts(rollouts, None, "seed") == list(range(8))
    drawn = {tuple(chosen_rollouts(rollouts, 0, str(seed))) for seed in range(40)}
    assert drawn == {(2, 3, 4, 5), (0, 1, 2, 3, 4, 5), (2, 3, 4, 5, 6, 7)}  # the random one may be one of the others
    assert chosen_rollouts(rollouts, 1, "0") == sorted({0, *chosen_rollouts(rollouts, 0, "0")})
    assert chosen_rollouts(rollouts, 0, "7") == chosen_rollouts(rollouts, 0, "7")


def test_among_problems_of_one_length_the_first_and_the_last(make_rollout: Any) -> None:
    alike = [make_rollout(random.Random(group), 3, 2, True, group) for group in range(4)]
    assert {0, 3} <= set(chosen_rollouts(alike, 0, "0"))


def test_ratios_and_entropies_are_those_of_the_policy_now(tmp_path: Path) -> None:
    module, batch = build(tmp_path)  # its weights have moved since the batch's log-probabilities
    module.batch = batch
    assert "ratios" not in after_updates(module, batch)  # the actor was frozen
    module.actor_trained = True
    columns = after_updates(module, batch)
    expected = []
    start = 0
    for prompt, response in zip(batch.prompt_length_B.tolist(), batch.response_length_B.tolist(), strict=True):
        tokens = batch.token_N[start : start + prompt + response].long()
        start += prompt + response
        with torch.no_grad():
            logits = module.actor.language_model(tokens[None]).logits[0, prompt - 1 : -1]
        logprob_TV = (logits / module.sampling.temperature).log_softmax(-1)
        chosen = logprob_TV.gather(-1, tokens[prompt:, None])[:, 0]
        expected.append(torch.stack([chosen, -(logprob_TV.exp() * logprob_TV).sum(-1)]))
    logprob_R, entropy_R = torch.cat(expected, 1)
    assert batch.old_logprob_R is not None
    torch.testing.assert_close(columns["entropies"], entropy_R, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(columns["ratios"], (logprob_R - batch.old_logprob_R).exp(), atol=1e-5, rtol=1e-4)
    assert (columns["ratios"] - 1).abs().max() > 0.1
    torch.testing.assert_close(columns["old_logprobs"], batch.old_logprob_R)
    module.batch = batch.replace(old_logprob_R=batch.sampler_logprob_R)  # the engine's stand for the actor's
    assert after_updates(module, module.batch.select(torch.tensor([0]))).keys() == {"entropies", "ratios"}


def test_asking_changes_no_number_of_the_training(tmp_path: Path) -> None:
    run(tmp_path / "plain")
    run(tmp_path / "asked", ASKED, "callbacks.rollout_log.max_rollouts=1")
    pd.testing.assert_frame_equal(metrics(tmp_path / "plain"), metrics(tmp_path / "asked"), check_exact=True)
    plain, asked = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("plain", "asked"))
    assert all(torch.equal(x, asked["state_dict"][name]) for name, x in plain["state_dict"].items())
    pretraining, training = logged(tmp_path / "asked", 1), logged(tmp_path / "asked", 3)
    assert "entropies" in pretraining and "ratios" not in pretraining  # the policy did not move
    assert not {"entropies", "ratios", "old_logprobs"} & set(logged(tmp_path / "plain", 3))
    for _, row in training.iterrows():
        assert len(row["ratios"]) == len(row["entropies"]) == row["length"]
    assert (np.concatenate(list(training["ratios"])) != 1).any()


def test_lambda_is_logged_where_there_is_a_critic(tmp_path: Path) -> None:
    run(tmp_path / "vapo", "algorithm.length_adaptive_alpha=0.4", "module.policy_steps=1")
    frame = logged(tmp_path / "vapo", 2)
    assert frame["actor_lambda"].tolist() == pytest.approx([max(0, 1 - 1 / (0.4 * length)) for length in frame["length"]])
    run(tmp_path / "grpo", "module.policy_steps=1", experiment="grpo")
    assert "actor_lambda" not in logged(tmp_path / "grpo", 1)


def test_what_the_verifier_failed_on_is_logged_without_credit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sampler.sample

    def failing(self: Sampler, prompts: Any, group_size: int, *args: Any, **options: Any) -> list[Rollout]:
        rollouts = sample(self, prompts, group_size, *args, **options)
        if len(rollouts) != 16:  # evaluations
            return rollouts
        lost = {4, 5, 6, 7, 9}  # the second problem as a whole
        return [replace(r, verdict=Verdict(Status.TIMEOUT)) if i in lost else r for i, r in enumerate(rollouts)]

    monkeypatch.setattr(Sampler, "sample", failing)
    trained: list[Batch] = []
    improve = RLModule.improve
    monkeypatch.setattr(RLModule, "improve", lambda self, batch: (trained.append(batch), improve(self, batch))[1])
    run(tmp_path, ASKED, "module.policy_steps=1", "algorithm.value_pretraining_steps=0")
    frame = logged(tmp_path, 1)
    assert len(frame) == 16 and len(trained[0]) == 11
    faults = frame[frame["status"] == "timeout"]
    assert faults.index.tolist() == [11, 12, 13, 14, 15]
    assert faults[["reward", "actor_lambda", "values", "advantages", "targets", "ratios", "entropies"]].isna().all(axis=None)
    assert faults["token_ids"].map(len).tolist() == faults["length"].tolist()
    for _, group in frame.groupby("group"):
        assert group["prompt"].nunique() == 1 and len(group) == 4
    assert frame["reward"][:11].isin([1, -1]).all()
