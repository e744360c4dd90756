"""Does it measure where a critic points? On critics whose answer is known, and on a real run."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tests.completions import completion_of
from tests.runs import CREDIT, FAST, config_for, run

from vapo.algorithms import ActorCritic
from vapo.callbacks.credit_assignment import NAMES, CreditAssignment, MarkedResponse
from vapo.data.prompts import SumsPrompts
from vapo.models.actor import load_tokenizer
from vapo.rollout.collate import collate
from vapo.run.pretrain import ALPHABET, STATED, build_tokenizer
from vapo.types import Prompt, Rollout, Status, Verdict

TEXTS = ["7-3=4;4+5=8;8+9=7;A7", "7-3=?4;4+5=9;9+9=?;A9", "7-3=?;7+5=0;0+9=9;A9"]
FIRST_SLIPS = [1, 2, 0]


@pytest.fixture
def datamodule(tmp_path):
    tokenizer = load_tokenizer(config_for(tmp_path, "experiment=vapo_full").model.path)
    return SimpleNamespace(source=SumsPrompts(tokenizer, "{problem}:", 4, 4))


def rollout(datamodule, text: str) -> Rollout:
    tokens = (*datamodule.source.tokenizer.encode(text), 1)
    prompt = Prompt(0, "7-3+5+9:", "8", tuple(datamodule.source.tokenizer.encode("7-3+5+9:")))
    return Rollout(prompt, 0, completion_of(tokens), Verdict(Status.WRONG, text[-1]))


def measured(datamodule, value_of, **settings) -> dict[str, float]:
    """What the callback records for the critic `value_of(text index, token index)`, the value before each token."""
    callback, recorded = CreditAssignment(3, 1), {}
    callback._marked = [CreditAssignment._mark(datamodule, rollout(datamodule, text), text) for text in TEXTS]
    callback._batch = collate([marked.rollout for marked in callback._marked])
    value_R = torch.tensor([value_of(i, t) for i, text in enumerate(TEXTS) for t in range(len(text) + 1)])
    module = SimpleNamespace(
        learners={"critic": SimpleNamespace(per_token=lambda batch, critic: value_R)},
        critic=None,
        algorithm=ActorCritic(**settings),
        record=lambda found: recorded.update(found),
    )
    callback._measure(module)
    return recorded


def result_index(text_index: int) -> int:
    return [i + 1 for i, character in enumerate(TEXTS[text_index]) if character == "="][FIRST_SLIPS[text_index]]


def test_marks_the_first_unrepaired_slip(datamodule):
    for text, slip in zip(TEXTS, FIRST_SLIPS, strict=True):
        marked = CreditAssignment._mark(datamodule, rollout(datamodule, text), text)
        assert isinstance(marked, MarkedResponse) and marked.slip == slip
        assert [text[i - 1] for i in marked.result_indices] == ["="] * 3


def test_leaves_out_responses_without_a_slip_to_find(datamodule):
    for text in ("A3", "7-3=4;4+5=9;9+9=8;A7", "7-3=?4;4+5=9;9+9=8;A8", "nonsense"):
        assert CreditAssignment._mark(datamodule, rollout(datamodule, text), text) is None


def test_a_critic_that_knows_scores_one(datamodule):
    found = measured(datamodule, lambda i, t: 1.0 if t <= result_index(i) else -1.0)
    assert found["credit/first_slip_auroc_advantage"] == found["credit/first_slip_auroc_value_drop"] == 1.0
    assert found["credit/value_drop_slip"] == 2.0 and found["credit/value_drop_other"] == 0.0


def test_a_critic_that_sees_nothing_scores_one_half(datamodule):
    assert measured(datamodule, lambda i, t: 0.25)["credit/first_slip_auroc_value_drop"] == 0.5


def test_the_blame_of_a_slip_is_its_part_of_the_negative_advantage(datamodule):
    def value(i, t):  # with lambda 1 the advantage of a wrong response is -1 - V: here -0.5 at the first token, -2 at the slip
        return -1.0 + 0.5 * (t == 0) + 2.0 * (t == result_index(i))

    found = measured(datamodule, value, actor_lambda=1.0)  # whitening is on, and has no part in it
    assert found["credit/first_slip_blame_share"] == pytest.approx(2.0 / 2.5)


def test_explained_variance_around_the_stated_total():
    """A critic that knows the outcome from the copied total on, and nothing before it."""
    datamodule = SimpleNamespace(source=SumsPrompts(build_tokenizer(ALPHABET + STATED), "{problem}:", 4, 4))
    callback, texts = CreditAssignment(1, 1), ["7-3=4;4+5=9;9|9=0;9+9=8;A8", "7-3=5;5+5=0;0|9=1:0+9=9;A9"]
    rollouts = [rollout(datamodule, text) for text in texts]
    rollouts[0] = replace(rollouts[0], verdict=Verdict(Status.CORRECT, "8"))
    callback._revealed = [(rollout, 14) for rollout in rollouts]
    value_R = torch.tensor([reward if t >= 14 else 0.3 for reward in (1.0, -1.0) for t in range(len(texts[0]) + 1)])
    module = SimpleNamespace(
        learners={"critic": SimpleNamespace(per_token=lambda batch, critic: value_R)}, critic=None, algorithm=ActorCritic()
    )
    found = callback._around_reveal(module)
    assert found["explained_variance_before_reveal"] == pytest.approx(0.0)
    assert found["explained_variance_after_reveal"] == pytest.approx(1.0)


def test_a_critic_one_token_late_gets_no_credit(datamodule):
    found = measured(datamodule, lambda i, t: 1.0 if t <= result_index(i) + 1 else -1.0)
    assert found["credit/first_slip_auroc_value_drop"] == 0.5


def test_measures_before_the_first_update_and_after_each_and_always_the_same_responses(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        run(tmp_path / name, f"seed={seed}", "module.actor_optimizer.lr=1e-2", *FAST, *CREDIT)
    frames = [pd.read_csv(tmp_path / name / "metrics.csv").set_index("rl_step") for name in ("a", "b")]
    for frame in frames:
        assert list(frame.index[frame[f"credit/{NAMES[0]}"].notna()]) == [1, 2, 3]
    pd.testing.assert_series_equal(  # before the critic saw anything: without value pretraining both critics are the shipped one
        *[measure_untrained(tmp_path / f"{name}0", seed) for name, seed in (("a", 0), ("b", 1))]
    )


def measure_untrained(folder, seed: int) -> pd.Series:
    run(folder, f"seed={seed}", "algorithm.value_pretraining_steps=0", *FAST, *CREDIT)
    frame = pd.read_csv(folder / "metrics.csv").set_index("rl_step")
    return frame.loc[0, [f"credit/{name}" for name in NAMES]].rename("credit")


def test_an_algorithm_without_a_critic_measures_nothing(tmp_path):
    run(tmp_path, *FAST, *CREDIT, experiment="grpo")
    assert not any(name.startswith("credit/") for name in pd.read_csv(tmp_path / "metrics.csv"))


def test_wrong_settings_say_what_to_set():
    with pytest.raises(ValueError, match=r"set both values of callbacks\.credit_assignment to 1 or more"):
        CreditAssignment(0, 1)
