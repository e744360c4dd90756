"""What a group tells, against plain loops over its members."""

import random
from statistics import mean, pstdev, stdev

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import group_advantage, group_fractions


def test_group_fractions_are_their_definition():
    rng = random.Random(0)
    correct = [rng.random() < 0.6 for _ in range(40)]
    group = [i % 13 for i in range(40)]  # interleaved groups of 3 and 4
    rng.shuffle(group)
    members = [[c for c, g in zip(correct, group, strict=True) if g == i] for i in range(13)]
    fractions = group_fractions(torch.tensor(correct), torch.tensor(group))
    assert fractions["frac_all_wrong"] == pytest.approx(sum(not any(m) for m in members) / 13)
    assert fractions["frac_mixed"] == pytest.approx(sum(any(m) and not all(m) for m in members) / 13)
    assert fractions["frac_all_correct"] == pytest.approx(sum(all(m) for m in members) / 13)
    assert all(fractions.values())


@pytest.mark.parametrize(("correct", "name"), [(True, "frac_all_correct"), (False, "frac_all_wrong")])
def test_groups_of_one_are_never_mixed(correct, name):
    fractions = group_fractions(torch.full((5,), correct), torch.arange(5))
    assert fractions == {"frac_all_wrong": 0.0, "frac_mixed": 0.0, "frac_all_correct": 0.0} | {name: 1.0}


@pytest.fixture
def rewards():
    """Twenty rewards of any size in five interleaved groups of 2 to 6."""
    rng = random.Random(1)
    group = [number for number, size in enumerate((2, 3, 4, 5, 6)) for _ in range(size)]
    rng.shuffle(group)
    return [rng.gauss(0, 2) for _ in group], group


def advantage(reward, group, **settings):
    return group_advantage(torch.tensor(reward, dtype=torch.float64), torch.tensor(group), **settings)


def test_group_advantage_is_its_definition(rewards):
    reward, group = rewards
    members = {number: [r for r, g in zip(reward, group, strict=True) if g == number] for number in group}
    expected = [(r - mean(members[g])) / (stdev(members[g]) + 1e-6) for r, g in zip(reward, group, strict=True)]
    assert advantage(reward, group).tolist() == pytest.approx(expected, rel=1e-9)
    expected = [r - mean(members[g]) for r, g in zip(reward, group, strict=True)]
    assert advantage(reward, group, divide_by_std=False).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_standard_deviation_is_the_samples():
    reward = [1.0, -1.0, -1.0, -1.0]
    found = advantage(reward, [0] * 4).tolist()
    assert found == pytest.approx([(r + 0.5) / stdev(reward) for r in reward], rel=1e-5)  # n - 1
    assert found != pytest.approx([(r + 0.5) / pstdev(reward) for r in reward], rel=1e-2)  # n


def test_the_advantages_of_a_group_have_mean_0_and_variance_1(rewards):
    reward, group = rewards
    found = advantage(reward, group).tolist()
    for number in set(group):
        members = [a for a, g in zip(found, group, strict=True) if g == number]
        assert mean(members) == pytest.approx(0, abs=1e-9) and stdev(members) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("divide_by_std", [True, False])
@pytest.mark.parametrize("reward", [1.0, -1.0, 0.1, 1e6])
def test_equal_rewards_and_groups_of_one_have_no_advantage(reward, divide_by_std):
    assert advantage([reward] * 3, [0] * 3, divide_by_std=divide_by_std).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    found = advantage([reward, 5.0, 1.0, -1.0], [1, 0, 2, 2], divide_by_std=divide_by_std).tolist()
    assert found[:2] == [0, 0] and found[2] == -found[3] > 0


def test_the_order_of_the_rollouts_does_not_matter(rewards):
    reward, group = (torch.tensor(x) for x in rewards)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    assert_close(group_advantage(reward[order], group[order]), group_advantage(reward, group)[order])


def test_a_group_does_not_see_the_others(rewards):
    reward, group = rewards
    changed = [r if g == 3 else 100 * r + 7 for r, g in zip(reward, group, strict=True)]
    rows = [i for i, g in enumerate(group) if g == 3]
    before, after = advantage(reward, group), advantage(changed, group)
    assert_close(after[rows], before[rows])
    others = advantage([reward[i] for i in rows], [0] * len(rows))
    assert_close(others, before[rows])  # nor what number it has


def test_a_large_common_reward_costs_no_precision_and_the_type_is_kept():
    found = group_advantage(torch.tensor([1e4 + 1, 1e4 - 1]), torch.tensor([0, 0]))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([2**-0.5, -(2**-0.5)], rel=1e-5)
