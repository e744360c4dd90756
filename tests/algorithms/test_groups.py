import random

import pytest
import torch

from vapo.algorithms import group_fractions


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
