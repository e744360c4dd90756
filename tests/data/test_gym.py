"""reasoning-gym's problems through the real configuration, and its scores in a worker."""

import json

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
        "training": {json.loads(source.prompt(i, seed).reference)["index"] for i in range(50) for seed in (0, 1)},
        "held out": {json.loads(source.held_out(i, 0).reference)["index"] for i in range(50)},
        "benchmark": {json.loads(prompt.reference)["index"] for prompt in datamodule.benchmark()},
    }
    assert [len(found) for found in numbers.values()] == [100, 50, 5]
    assert not numbers["training"] & numbers["held out"] and numbers["benchmark"] == set(range(5)) != numbers["held out"] & set(
        range(5)
    )
    assert source.prompt(3, 0) == source.prompt(3, 0) != source.prompt(3, 1)


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
