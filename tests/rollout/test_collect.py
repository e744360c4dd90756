from vapo.rollout.collect import collect, sampling_seed
from vapo.types import Completion, Prompt, SamplingParams, Status, Verdict

PROMPTS = [Prompt(40, "1+2:", "3", (5, 6, 7)), Prompt(7, "9-1:", "8", (8, 9)), Prompt(41, "2+2:", "4", (5, 5))]


class ScriptedEngine:
    """Returns what it was told, and remembers what it was asked."""

    weights_version = 0

    def __init__(self, completions):
        self.completions, self.requests, self.sampling = completions, None, None

    def load_weights(self, language_model, version):
        raise AssertionError

    def generate(self, requests, sampling):
        self.requests, self.sampling = list(requests), sampling
        return [self.completions[i % len(self.completions)] for i in range(len(requests))]


class RecordingVerifier:
    def __init__(self):
        self.calls = []

    def __call__(self, response, reference):
        self.calls.append((response, reference))
        return Verdict(Status.CORRECT if response.endswith(reference) else Status.WRONG, response[-1:])


def complete(tokenizer, text, finished=True):
    ids = tuple(tokenizer.encode(text))
    return Completion(ids, (-0.5,) * len(ids), finished)


def run(tokenizer, completions, prompts=PROMPTS, group_size=2, seed=3, rl_step=5):
    engine, verifier, sampling = ScriptedEngine(completions), RecordingVerifier(), SamplingParams(0.9, 0.8, 12)
    rollouts = collect(prompts, group_size, engine, sampling, tokenizer, verifier, seed, rl_step)
    assert engine.sampling is sampling
    return rollouts, engine, verifier


def test_groups_are_contiguous_and_numbered(tokenizer):
    completions = [complete(tokenizer, f"A{i}!") for i in range(6)]
    rollouts, engine, verifier = run(tokenizer, completions)
    assert [rollout.group for rollout in rollouts] == [0, 0, 1, 1, 2, 2]
    assert [rollout.prompt for rollout in rollouts] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [request.prompt_ids for request in engine.requests] == [rollout.prompt.token_ids for rollout in rollouts]
    assert [rollout.completion for rollout in rollouts] == completions
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


def test_a_truncated_response_is_no_answer_and_never_verified(tokenizer):
    rollouts, _, verifier = run(tokenizer, [complete(tokenizer, "A3", finished=False), complete(tokenizer, "A3!")])
    assert [rollout.verdict for rollout in rollouts[::2]] == [Verdict(Status.NO_ANSWER)] * 3
    assert [reference for _, reference in verifier.calls] == ["3", "8", "4"]
    assert rollouts[0].text == "A3"


def test_token_ids_are_kept_as_sampled(tokenizer):
    ids = (0, *tokenizer.encode("A3"), 0, 1)  # padding inside: decoding drops it, so encoding the text would lose tokens
    completion = Completion(ids, tuple(-0.1 * i for i in range(len(ids))), True)
    rollouts, _, verifier = run(tokenizer, [completion])
    assert all(rollout.completion is completion for rollout in rollouts)
    assert verifier.calls[0] == ("A3", "3")
    assert tuple(tokenizer.encode(rollouts[0].text)) != ids


def test_group_size_1_is_one_response_a_prompt(tokenizer):
    rollouts, _, _ = run(tokenizer, [complete(tokenizer, "A1!")], group_size=1)
    assert [rollout.group for rollout in rollouts] == [0, 1, 2]
