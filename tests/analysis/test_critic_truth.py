"""The truth of a prefix, on an engine whose continuations are known."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tests.completions import completion_of

from vapo.analysis.critic_truth import by_place, critic_against_truth
from vapo.types import Prompt, Rollout, SamplingParams, Status, Verdict
from vapo.verifiers.sums import SumsVerifier

LETTERS = "_!0123456789+-=;?:A"


class KnownEngine:
    """Finishes `7` + `-` with a right answer three times out of four, everything else with a wrong one."""

    def load_weights(self, model, version):
        self.version = version

    def generate(self, requests, sampling):
        self.requests, found = requests, []
        for number, request in enumerate(requests):
            text = "".join(LETTERS[i] for i in request.prompt_ids)
            digit = "4" if text.endswith(":7-") and number % 4 else "5"
            found.append(completion_of([LETTERS.index(c) for c in f"3=4;A{digit}!"]))
        return found


def against_truth(sampling: SamplingParams, engine: KnownEngine | None = None) -> pd.DataFrame:
    tokens = tuple(LETTERS.index(c) for c in "7-3=4;A4!")
    prompt = Prompt(0, "7-3:", "4", tuple(LETTERS.index(c) for c in "7-3:"))
    rollout = Rollout(prompt, 0, completion_of(tokens), Verdict(Status.CORRECT, "4"))
    module = SimpleNamespace(
        sampler=SimpleNamespace(engine=engine or KnownEngine(), decode=lambda ids: "".join(LETTERS[i] for i in ids if i > 1)),
        actor=SimpleNamespace(language_model=None),
        critic=None,
        actor_updates=3,
        sampling=sampling,
        learners={"critic": SimpleNamespace(per_token=lambda batch, critic: torch.arange(9) / 10)},
    )
    return critic_against_truth(module, [rollout], SumsVerifier(), positions=4, continuations=8, seed=0)


def test_truth_is_the_mean_reward_of_continuations_and_value_that_of_the_prefix():
    engine = KnownEngine()
    frame = against_truth(SamplingParams(), engine)
    assert frame["tokens"].tolist() == [0, 2, 4, 6] and engine.version == 3
    assert torch.allclose(torch.tensor(frame["value"].tolist()), torch.tensor([0.0, 0.2, 0.4, 0.6]))
    assert frame["truth"].tolist() == [-1.0, 0.5, -1.0, -1.0]  # 6 of 8 right after "7-"
    assert frame["place"].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert frame["noise"].tolist() == [0.0, (0.75 / 8) ** 0.5, 0.0, 0.0]
    assert frame["reward"].tolist() == [1.0] * 4
    assert [len(request.prompt_ids) for request in engine.requests] == [4] * 8 + [6] * 8 + [8] * 8 + [10] * 8
    assert len({request.seed for request in engine.requests}) == 32


def test_a_continuation_past_the_length_limit_is_wrong():
    frame = against_truth(SamplingParams(max_new_tokens=8))  # 2 + 7 tokens are one too many
    assert frame["truth"].tolist() == [-1.0] * 4


def test_by_place_is_the_mean_of_each_place():
    values = {"place": [0.0, 0.0, 0.5], "value": [0.0, 0.4, 1.0], "truth": [0.2, 0.1, 0.5], "noise": [0.3, 0.1, 0.0]}
    table = by_place(pd.DataFrame(values))
    assert table.index.tolist() == [0.0, 0.5] and table["prefixes"].tolist() == [2, 1]
    assert table.loc[0.0, "value"] == 0.2 and table.loc[0.0, "difference"] == pytest.approx(((0.04 + 0.09) / 2) ** 0.5)
    assert table.loc[0.0, "noise"] == pytest.approx(0.05**0.5)
