from itertools import combinations

import pytest

from vapo.algorithms import avg_at_k, bootstrap_interval, maj_at_k, pass_at_k

SCORES_PK = [[True] * i + [False] * (4 - i) for i in (0, 1, 1, 2, 3, 4, 4, 4)]


def test_avg_at_k_weighs_problems_equally():
    assert avg_at_k([[True, False], [True, True]]) == 0.75
    assert avg_at_k([[True], [False, False, False]]) == 0.5


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples):
    for correct in range(samples + 1):
        drawn = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            subsets = list(combinations(drawn, k))
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [0, -1, 5])
def test_pass_at_k_needs_a_k_in_range(k):
    with pytest.raises(ValueError, match="set k"):
        pass_at_k(4, 2, k)


@pytest.mark.parametrize(
    ("answers", "correct", "score"),
    [
        (["3", "3", "4"], [True, True, False], 1.0),
        (["3", "3", "4"], [False, False, True], 0.0),
        (["3", "4"], [True, False], 0.5),  # a tie
        (["3", "4", "5"], [False, True, False], 1 / 3),
        (["3", "4"], [False, False], 0.0),
        (["3", None, None], [True, False, False], 1.0),  # no answer is no vote
        ([None, None], [False, False], 0.0),
        ([], [], 0.0),
    ],
)
def test_maj_at_k_by_hand(answers, correct, score):
    assert maj_at_k(answers, correct) == pytest.approx(score)


def test_bootstrap_interval_is_seeded_and_contains_the_mean():
    low, high = bootstrap_interval(SCORES_PK, seed=3)
    assert (low, high) == bootstrap_interval(SCORES_PK, seed=3)
    assert (low, high) != bootstrap_interval(SCORES_PK, seed=4)
    assert 0 <= low < avg_at_k(SCORES_PK) < high <= 1


def test_bootstrap_interval_is_a_point_when_all_problems_score_the_same():
    assert bootstrap_interval([[True, False]] * 5) == (0.5, 0.5)


def test_bootstrap_interval_widens_with_confidence_and_narrows_with_problems():
    def width(scores_PK, confidence):
        low, high = bootstrap_interval(scores_PK, confidence)
        return high - low

    assert width(SCORES_PK, 0.5) < width(SCORES_PK, 0.95) <= width(SCORES_PK, 1.0)
    assert width(SCORES_PK * 16, 0.95) == pytest.approx(width(SCORES_PK, 0.95) / 4, rel=0.15)


def test_bootstrap_interval_has_the_width_of_the_normal_approximation():
    scores = [sum(row) / 4 for row in SCORES_PK * 8]
    mean = sum(scores) / len(scores)
    error = (sum((s - mean) ** 2 for s in scores) / len(scores) / len(scores)) ** 0.5
    assert bootstrap_interval(SCORES_PK * 8) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
