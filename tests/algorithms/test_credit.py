import random

import pytest

from vapo.algorithms import auroc_at


def definition(scores, index):
    """Probability that the one is scored above one of the others drawn at random, a tie being a coin toss."""
    wins = 0.0
    for i, score in enumerate(scores):
        if i != index:
            wins += 1.0 if scores[index] > score else 0.5 if scores[index] == score else 0.0
    return wins / (len(scores) - 1)


@pytest.mark.parametrize("seed", range(20))
def test_auroc_is_its_definition(seed):
    rng = random.Random(seed)
    scores = [rng.randint(0, 4) / 2 for _ in range(rng.randint(2, 9))]
    index = rng.randrange(len(scores))
    assert auroc_at(scores, index) == pytest.approx(definition(scores, index))


def test_limits():
    assert auroc_at([0.0, 1.0, 0.0], 1) == 1.0
    assert auroc_at([1.0, 0.0, 1.0], 1) == 0.0
    assert auroc_at([3.0] * 7, 2) == 0.5


def test_one_score_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="two scores"):
        auroc_at([1.0], 0)
