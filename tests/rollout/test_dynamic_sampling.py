"""Dynamic sampling over hand-made draws: a draw is a list of groups, a group a string such as "+-" (right, wrong)."""

import random
import warnings
from dataclasses import replace

import pytest

from vapo.rollout.dynamic_sampling import dynamic_sampling


@pytest.fixture
def ask(make_rollout):
    """`ask(draws, groups, max_draws)`: the prompts of what trains and of what was sampled, their groups, and the draws asked for.
    The j-th group of draw i is about prompt 10 i + j."""

    def run(draws, groups, max_draws=10):
        asked = []

        def draw(number):
            asked.append(number)
            rollouts = []
            for group, outcomes in enumerate(draws[number]):
                for outcome in outcomes:
                    rollout = make_rollout(random.Random(len(rollouts)), 2, 3, outcome == "+", group)
                    rollouts.append(replace(rollout, prompt=replace(rollout.prompt, index=10 * number + group)))
            return rollouts

        trained, sampled = dynamic_sampling(draw, len(draws[0][0]), groups, max_draws)
        return [(describe(rollouts), [r.group for r in rollouts]) for rollouts in (trained, sampled)], asked

    return run


def describe(rollouts):
    return [f"{r.prompt.index}{'+' if r.correct else '-'}" for r in rollouts]


@pytest.fixture
def silent():
    """Any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_only_mixed_groups_train_in_order_renumbered_and_all_sampled_are_returned(ask, silent):
    draws = [["--", "+-", "++"], ["-+", "--", "--"], ["++", "--", "+-"]]
    (trained, sampled), asked = ask(draws, 3)
    assert trained == (["1+", "1-", "10-", "10+", "22+", "22-"], [0, 0, 1, 1, 2, 2])
    assert sampled[0] == [f"{10 * i + j}{o}" for i, draw in enumerate(draws) for j, group in enumerate(draw) for o in group]
    assert sampled[1] == [group for group in range(9) for _ in range(2)]
    assert asked == [0, 1, 2]


def test_drawing_stops_when_there_are_enough_and_the_surplus_is_dropped(ask, silent):
    draws = [["+--", "---"], ["+++", "-++"], ["+--", "+--"]]
    (trained, sampled), asked = ask(draws, 2)
    assert trained == (["0+", "0-", "0-", "11-", "11+", "11+"], [0, 0, 0, 1, 1, 1])
    assert len(sampled[0]) == 12 and asked == [0, 1]
    draws = [["+-", "--", "--"], ["+-", "-+", "+-"]]
    (trained, sampled), asked = ask(draws, 3)
    assert trained[0] == ["0+", "0-", "10+", "10-", "11-", "11+"]  # 12 is mixed too, and one too many
    assert len(sampled[0]) == 12 and asked == [0, 1]


def test_a_first_draw_of_mixed_groups_is_all_there_is(ask, silent):
    (trained, sampled), asked = ask([["+-", "-+"]], 2)
    assert trained == sampled == (["0+", "0-", "1-", "1+"], [0, 0, 1, 1])
    assert asked == [0]


@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_mixed_is_at_least_one_right_and_one_wrong(ask, silent, group_size):
    groups = ["+" * right + "-" * (group_size - right) for right in range(group_size + 1)]
    (trained, _), _ = ask([groups], group_size - 1)
    assert sorted({name[:-1] for name in trained[0]}) == [str(right) for right in range(1, group_size)]


def test_after_max_draws_it_warns_and_goes_on_with_fewer_groups(ask):
    draws = [["--", "+-"], ["++", "--"], ["+-", "+-"]]
    with pytest.warns(UserWarning, match=r"found 1 of 2 mixed groups in 2 draws .*raise algorithm.max_draws"):
        (trained, sampled), asked = ask(draws, 2, max_draws=2)
    assert trained == (["1+", "1-"], [0, 0])
    assert len(sampled[0]) == 8 and asked == [0, 1]


def test_without_any_mixed_group_the_first_draw_trains(ask):
    draws = [["--", "++"], ["++", "++"], ["--", "--"]]
    with pytest.warns(UserWarning, match="found 0 of 2 mixed groups in 3 draws"):
        (trained, sampled), asked = ask(draws, 2, max_draws=3)
    assert trained == (["0-", "0-", "1+", "1+"], [0, 0, 1, 1])
    assert len(sampled[0]) == 12 and asked == [0, 1, 2]


def test_the_last_draw_allowed_may_still_fill_up_without_a_warning(ask, silent):
    (trained, _), asked = ask([["--"], ["++"], ["+-"]], 1, max_draws=3)
    assert trained == (["20+", "20-"], [0, 0]) and asked == [0, 1, 2]
