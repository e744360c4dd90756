from dataclasses import replace

import numpy as np
import pytest
from tests.completions import completion_of

from vapo.rollout.sampler import Sampler, sampling_seed
from vapo.types import Prompt, SamplingParams, Status, Verdict
from vapo.verifiers.base import Verifier
from vapo.verifiers.math_answer import MathVerifier
from vapo.verifiers.sums import SumsVerifier

PROMPTS = [Prompt(40, "1+2:", "3", (5, 6, 7)), Prompt(7, "9-1:", "8", (8, 9)), Prompt(41, "2+2:", "4", (5, 5))]


class ScriptedEngine:
    """Returns what it was told, and remembers what it was asked."""

    weights_version, ranks_per_engine, own_weights = 0, 1, False

    def __init__(self, completions):
        self.completions, self.requests, self.sampling = completions, None, None

    def load_weights(self, actor, version):
        raise AssertionError

    def generate(self, requests, sampling, on_finish):
        self.requests, self.sampling = list(requests), sampling
        completions = [replace(self.completions[i % len(self.completions)]) for i in range(len(requests))]
        for i, completion in reversed(list(enumerate(completions))):  # in an order of its own
            on_finish(i, completion)
        return completions


class RecordingVerifier(Verifier):
    def __init__(self):
        self.calls = []

    def __call__(self, response, reference):
        self.calls.append((response, reference))
        return Verdict(Status.CORRECT if response.endswith(reference) else Status.WRONG, response[-1:])


def complete(tokenizer, text, finished=True):
    return completion_of(tokenizer.encode(text), -0.5, finished)


def run(tokenizer, completions, prompts=PROMPTS, group_size=2, seed=3, rl_step=5):
    engine, verifier, sampling = ScriptedEngine(completions), RecordingVerifier(), SamplingParams(0.9, 0.8, 12)
    rollouts = Sampler(engine, tokenizer, verifier).sample(prompts, group_size, sampling, seed, rl_step)
    assert engine.sampling is sampling
    verifier.calls.reverse()
    return rollouts, engine, verifier


def test_of_ranks_that_share_an_engine_one_verifies(tokenizer, monkeypatch):
    monkeypatch.setattr(ScriptedEngine, "ranks_per_engine", 2)
    for rank, calls in ((0, 6), (1, 0)):
        monkeypatch.setattr("vapo.rollout.sampler.rank", lambda rank=rank: rank)
        monkeypatch.setattr("vapo.rollout.sampler.rank_slice", lambda size, share: slice(0, size))
        assert len(run(tokenizer, [complete(tokenizer, f"A{i}!") for i in range(6)])[2].calls) == calls


def test_groups_are_contiguous_and_numbered(tokenizer):
    completions = [complete(tokenizer, f"A{i}!") for i in range(6)]
    rollouts, engine, verifier = run(tokenizer, completions)
    assert [rollout.group for rollout in rollouts] == [0, 0, 1, 1, 2, 2]
    assert [rollout.prompt for rollout in rollouts] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [request.prompt_ids for request in engine.requests] == [rollout.prompt.token_ids for rollout in rollouts]
    assert [r.completion.token_ids.tolist() for r in rollouts] == [c.token_ids.tolist() for c in completions]
    assert verifier.calls == [(f"A{i}", rollout.prompt.reference) for i, rollout in enumerate(rollouts)]
    assert [rollout.verdict.status for rollout in rollouts].count(Status.CORRECT) == 1
    assert rollouts[4].verdict == Verdict(Status.CORRECT, "4")


def test_seeds_are_keyed_by_what_is_asked(tokenizer):
    rollouts, engine, _ = run(tokenizer, [complete(tokenizer, "A1!")])
    expected = [sampling_seed(3, 5, rollout.prompt.index, i % 2) for i, rollout in enumerate(rollouts)]
    assert [request.seed for request in engine.requests] == expected
    _, part, _ = run(tokenizer, [complete(tokenizer, "A1!")], prompts=PROMPTS[1:])
    assert part.requests == engine.requests[2:]  # not by the place in the batch


def test_a_seed_changes_with_each_of_its_keys():
    keys = [(s, r, p, k) for s in (0, 1, 11) for r in (-1, 0, 1, 11) for p in (0, 1, 11) for k in (0, 1, 11)]
    seeds = [sampling_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [sampling_seed(*key) for key in keys]
    assert max(seeds) > 2**61


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("so\nAnswer: 3\nand then I went on", "so\nAnswer: 3\n"),
        ("so\nAnswer: 3", "so\n"),  # it may have been 37
        ("Answer: 3", None),
        ("", None),
    ],
)
def test_a_truncated_response_is_judged_by_its_whole_lines(text, judged, tokenizer, monkeypatch):
    monkeypatch.setattr(Sampler, "decode", lambda self, token_ids: text)
    monkeypatch.setattr(RecordingVerifier, "reads_cut", True)
    rollouts, _, verifier = run(tokenizer, [complete(tokenizer, "A3", finished=False)], PROMPTS[:1], 1)
    assert [response for response, _ in verifier.calls] == ([] if judged is None else [judged])
    assert (rollouts[0].verdict == Verdict(Status.NO_ANSWER)) == (judged is None) and not rollouts[0].completion.finished


def test_only_verifiers_with_markers_read_what_was_cut():
    """Of `12\\nbut wait` the last number, or the whole response, would be another if it went on."""
    lines = "Answer: 12\nbut wait"
    for markers, reads in (
        (["answer", "boxed"], True),
        (["answer", "last_number"], False),
        (["whole_response"], False),
        (["text"], False),
    ):
        assert MathVerifier(markers).judged(lines, finished=False) == ("Answer: 12\n" if reads else "")
        assert MathVerifier(markers).judged(lines, finished=True) == lines
    assert SumsVerifier().judged(lines, finished=False) == ""


def test_a_truncated_line_is_no_answer_and_never_verified(tokenizer):
    rollouts, _, verifier = run(tokenizer, [complete(tokenizer, "A3", finished=False), complete(tokenizer, "A3!")])
    assert [rollout.verdict for rollout in rollouts[::2]] == [Verdict(Status.NO_ANSWER)] * 3
    assert [reference for _, reference in verifier.calls] == ["3", "8", "4"]


def test_token_ids_are_kept_as_sampled(tokenizer):
    ids = (0, *tokenizer.encode("A3"), 0, 1)  # padding inside: decoding drops it, so encoding the text would lose tokens
    made = completion_of(ids, [-0.1 * i for i in range(len(ids))])
    rollouts, _, verifier = run(tokenizer, [made])
    for kept in (rollout.completion for rollout in rollouts):
        assert kept.token_ids.tolist() == list(ids) and kept.logprobs.tolist() == made.logprobs.tolist() and kept.finished
        assert (kept.token_ids.dtype, kept.logprobs.dtype) == (np.int32, np.float32)
    assert verifier.calls[0] == ("A3", "3")
    assert tokenizer.encode("A3") != list(ids)


def test_group_size_1_is_one_response_a_prompt(tokenizer):
    rollouts, _, _ = run(tokenizer, [complete(tokenizer, "A1!")], group_size=1)
    assert [rollout.group for rollout in rollouts] == [0, 1, 2]


class FaultyVerifier(Verifier):
    max_fault_share = 0.5

    def __init__(self, statuses):
        self.statuses = list(statuses)

    def __call__(self, response, reference):
        return Verdict(self.statuses.pop())

    def last_fault(self):
        return "timeout on answer '9'"


def test_faults_up_to_the_limit_are_only_counted(tokenizer):
    engine = ScriptedEngine([complete(tokenizer, "A1!")])
    verifier = FaultyVerifier([Status.TIMEOUT, Status.ERROR, Status.WRONG, Status.CORRECT])
    rollouts = Sampler(engine, tokenizer, verifier).sample(PROMPTS[:2], 2, SamplingParams(), 0, 0)
    assert sorted(rollout.verdict.status for rollout in rollouts) == ["correct", "error", "timeout", "wrong"]


def test_a_verifier_that_fails_too_often_stops_the_run_and_says_on_what(tokenizer):
    engine = ScriptedEngine([complete(tokenizer, "A1!")])
    verifier = FaultyVerifier([Status.TIMEOUT, Status.ERROR, Status.ERROR, Status.CORRECT])
    with pytest.raises(ValueError, match=r"failed on 3 of 4 responses \(last: timeout on answer '9'\); look at the problem set's"):
        Sampler(engine, tokenizer, verifier).sample(PROMPTS[:2], 2, SamplingParams(), 0, 0)


def test_scoring_starts_before_the_last_response_is_generated(tokenizer):
    """The first response's verdict is being worked on when the engine hands over the second."""
    order = []

    class Recorder(Verifier):
        def submit(self, response, reference):
            order.append(f"submit {response}")
            return super().submit(response, reference)

        def __call__(self, response, reference):
            return Verdict(Status.WRONG)

    class SlowEngine(ScriptedEngine):
        def generate(self, requests, sampling, on_finish):
            for i, completion in enumerate(self.completions):
                order.append(f"generate {i}")
                on_finish(i, completion)
            return self.completions

    engine = SlowEngine([complete(tokenizer, "A1!"), complete(tokenizer, "A2!")])
    Sampler(engine, tokenizer, Recorder()).sample(PROMPTS[:1], 2, SamplingParams(), 0, 0)
    assert order == ["generate 0", "submit A1", "generate 1", "submit A2"]
