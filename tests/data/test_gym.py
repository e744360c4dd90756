"""reasoning-gym's problems through the real configuration, and its scores in a worker."""

import json
from dataclasses import replace

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from tests.runs import config_for

from vapo.types import Status

EASY = ["data=reasoning_gym", "data.source.name=chain_sum", "+data.source.settings.max_terms=3", "data.source.problems=5"]


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    return instantiate(config_for(tmp_path_factory.mktemp("gym"), *EASY).data)


def test_training_held_out_and_benchmark_problems_have_numbers_of_their_own(datamodule):
    source = datamodule.source
    numbers = {
        "training": {json.loads(source.prompt(i, seed).reference)["number"] for i in range(50) for seed in (0, 1)},
        "held out": {json.loads(source.held_out(i, 0).reference)["number"] for i in range(50)},
        "benchmark": {json.loads(prompt.reference)["number"] for prompt in datamodule.benchmark()},
    }
    assert [len(found) for found in numbers.values()] == [100, 50, 5]
    assert numbers["benchmark"] == set(range(5))
    assert not numbers["training"] & numbers["held out"] and not numbers["benchmark"] & (numbers["training"] | numbers["held out"])
    assert source.prompt(3, 0) == source.prompt(3, 0) != source.prompt(3, 1)


def test_problems_that_changed_are_noticed(datamodule, tmp_path, monkeypatch):
    """As those of a generator that iterates over sets do in another process."""
    saved = datamodule.state_dict()
    again = instantiate(config_for(tmp_path, *EASY).data)
    again.setup("fit")
    again.load_state_dict(saved)
    other = instantiate(config_for(tmp_path, *EASY).data)
    make = other.source._make
    monkeypatch.setattr(other.source, "_make", lambda index, number: replace(make(index, number), text=f"another {number}"))
    with pytest.raises(ValueError, match="PYTHONHASHSEED=0"):
        other.load_state_dict(saved)


def test_what_the_benchmark_asks_is_not_trained_on(tmp_path):
    few = ["data=additions", "data.source.settings.min_terms=2", "data.source.settings.max_terms=2", "data.source.chat=false"]
    source = instantiate(config_for(tmp_path, *few, "data.source.problems=30").data).source  # about 30 of 121 texts
    asked = {prompt.text for prompt in source.benchmark()}
    trained = [source.prompt(i, 0).text for i in range(300)]
    assert len(asked) > 20 and len(set(trained)) > 70 and not asked & set(trained)
    source.asked = {source.dataset[number]["question"] for number in range(20_000)}
    with pytest.raises(ValueError, match=r"lower data.source.problems"):
        source.prompt(0, 0)


def test_the_librarys_own_score_decides(datamodule):
    verifier = datamodule.verifier
    for prompt in [*datamodule.benchmark(), datamodule.source.prompt(0, 0)]:
        gold = json.loads(prompt.reference)["answer"]
        assert verifier(f"Answer: {gold}", prompt.reference).status is Status.CORRECT
        assert verifier(f"Answer: {int(gold) + 1}", prompt.reference).status is Status.WRONG
        assert verifier(str(gold), prompt.reference).status is Status.NO_ANSWER
    assert verifier("Answer: " + "9" * 1000, prompt.reference).status is Status.WRONG


def test_a_generator_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InstantiationException) as raised:
        instantiate(config_for(tmp_path, "data=reasoning_gym", "data.source.name=nonsense").data)
    assert "set data.source.name" in str(raised.value.__cause__)


def verifier_of(tmp_path, name):
    return instantiate(config_for(tmp_path, "data=reasoning_gym", f"data.source.name={name}", "data.source.problems=5").data)


@pytest.mark.parametrize("name", ["polynomial_multiplication", "rotate_matrix", "mini_sudoku", "countdown", "word_sorting"])
def test_a_gold_answer_is_correct_also_when_it_has_lines_or_depends_on_the_hash_seed(name, tmp_path):
    datamodule = verifier_of(tmp_path, name)
    for prompt in datamodule.benchmark():
        gold = json.loads(prompt.reference)["answer"]
        assert datamodule.verifier(f"I think:\nAnswer: {gold}", prompt.reference).status is Status.CORRECT, gold


@pytest.mark.parametrize("name", ["countdown", "spiral_matrix"])
def test_scores_that_evaluate_the_answer_reach_no_file_and_no_process(name, tmp_path):
    datamodule, file = verifier_of(tmp_path, name), tmp_path / "PWNED"
    prompt = datamodule.benchmark()[0]
    for attack in (
        f"__import__('os').system('touch {file}')",
        f"open('{file}', 'w')",
        f"__import__('subprocess').run(['touch', '{file}'])",
    ):
        assert datamodule.verifier(f"Answer: {attack}", prompt.reference).status is not Status.CORRECT
    assert not file.exists()
