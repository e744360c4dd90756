from types import SimpleNamespace

import pytest
from tests.completions import completion_of

from vapo.callbacks.aime_evaluation import EVALUATION_STEP, AIMEEvaluation, scores
from vapo.types import Prompt, Rollout, SamplingParams, Status, Verdict

SAMPLING = SamplingParams(temperature=1.0, top_p=0.7, max_new_tokens=9)


def hand_made(table):
    """One row of answers a problem, whose reference is "1"; None is no answer. The j-th response has j + 1 tokens."""
    rollouts = []
    for i, row in enumerate(table):
        for j, answer in enumerate(row):
            status = Status.NO_ANSWER if answer is None else Status.CORRECT if answer == "1" else Status.WRONG
            response = completion_of([2] * (j + 1))
            rollouts.append(Rollout(Prompt(i, "", "1", (3,)), i, response, Verdict(status, answer)))
    return rollouts


TABLE = [
    ["1", "1", "2", None],  # half right, a majority
    ["2", "2", "1", "3"],  # a quarter right, outvoted
    ["1", "2", None, None],  # a tie: half a point
    [None, None, None, None],
    ["1", "1", "1", "1"],
]


def test_scores_by_hand():
    found = scores(hand_made(TABLE), 4)
    assert found["avg@4"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4 + 0 + 1) / 5)
    assert found["pass@4"] == pytest.approx(4 / 5)
    assert found["maj@4"] == pytest.approx((1 + 0 + 0.5 + 0 + 1) / 5)
    assert found["length_mean"] == 2.5
    assert 0 <= found["avg@4_low95"] < found["avg@4"] < found["avg@4_high95"] <= 1
    assert found.keys() == {"avg@4", "avg@4_low95", "avg@4_high95", "pass@4", "maj@4", "length_mean"}


@pytest.mark.parametrize(("answer", "score"), [("1", 1.0), ("2", 0.0), (None, 0.0)])
def test_scores_of_equal_answers_leave_no_doubt(answer, score):
    found = scores(hand_made([[answer] * 2] * 3), 2)
    assert {name: value for name, value in found.items() if "@" in name} == dict.fromkeys(
        ["avg@2", "avg@2_low95", "avg@2_high95", "pass@2", "maj@2"], score
    )


def test_with_one_sample_all_scores_are_the_accuracy():
    found = scores(hand_made([["1"], ["2"], [None], ["1"]]), 1)
    assert found["avg@1"] == found["pass@1"] == found["maj@1"] == 0.5


@pytest.mark.parametrize(("k", "every"), [(0, 1), (1, 0)])
def test_settings_below_1_say_what_to_set(k, every):
    with pytest.raises(ValueError, match=r"set both callbacks\.aime_evaluation values to 1"):
        AIMEEvaluation(k, every, SAMPLING)


def evaluations(every, policy_steps, frozen_steps=0, start=0):
    """Drives the callback through a run; returns the policy step of each evaluation and what was asked and recorded."""
    seen, asked, recorded = [], [], {}
    module = SimpleNamespace(rl_step=start, policy_step=start, record=recorded.update)

    def sample(*arguments):
        asked.append(arguments)
        seen.append(module.policy_step)
        return hand_made(TABLE)

    module.sample, module.record = sample, recorded.update
    datamodule = SimpleNamespace(benchmark=lambda: "benchmark", source=SimpleNamespace(benchmark_name="mini_aime"))
    module.datamodule, trainer, callback = datamodule, None, AIMEEvaluation(4, every, SAMPLING)
    if start > 0:
        callback.load_state_dict({"evaluated": True})
    callback.on_train_start(trainer, module)
    while module.policy_step < policy_steps:
        frozen = module.rl_step < frozen_steps
        module.actor_trained = not frozen
        module.rl_step, module.policy_step = module.rl_step + 1, module.policy_step + (not frozen)
        module.is_last_step = module.policy_step >= policy_steps
        callback.on_train_batch_end(trainer, module, None, None, 0)
    return seen, asked, recorded


@pytest.mark.parametrize(
    ("every", "policy_steps", "frozen_steps", "start", "expected"),
    [
        (2, 6, 0, 0, [0, 2, 4, 6]),
        (2, 5, 0, 0, [0, 2, 4, 5]),
        (10, 3, 0, 0, [0, 3]),
        (2, 4, 5, 0, [0, 2, 4]),  # value pretraining changes no policy
        (2, 6, 0, 3, [4, 6]),  # resumed
    ],
)
def test_it_evaluates_before_during_and_after_policy_training(every, policy_steps, frozen_steps, start, expected):
    assert evaluations(every, policy_steps, frozen_steps, start)[0] == expected


def test_it_asks_the_benchmark_with_its_own_sampling_and_the_same_seeds_each_time():
    _, asked, recorded = evaluations(1, 2)
    assert asked == [("benchmark", 4, SAMPLING, EVALUATION_STEP, "evaluation")] * 3
    assert EVALUATION_STEP < 0  # no RL step has these seeds
    assert recorded == {f"mini_aime_t1_p0.7/{name}": value for name, value in scores(hand_made(TABLE), 4).items()}
