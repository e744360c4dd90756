"""DAPO's dynamic sampling: groups that are all right or all wrong have no advantage, so new ones are drawn in their place."""

import warnings
from collections.abc import Callable
from dataclasses import replace

from vapo.rollout.collate import without_faults
from vapo.types import Rollout


def dynamic_sampling(
    draw: Callable[[int], list[Rollout]], group_size: int, groups: int, max_draws: int
) -> tuple[list[Rollout], list[Rollout]]:
    """Draws until there are `groups` mixed groups, part right and part wrong (DAPO Eq 11: 0 < number correct < G).

    Args:
        draw: `draw(i)` returns the rollouts of the i-th draw, whole groups of `group_size`, with different prompts each time.
        groups: number of mixed groups wanted; surplus ones of the last draw are dropped.
        max_draws: maximum draws; after them it warns and continues with fewer groups. If none is mixed, it continues with the
            first draw, whose outcomes carry no signal (only the overlong punishment does, if it is on).

    Returns:
        The rollouts to train on, without those that the verifier failed on, groups numbered 0, 1, ..., and all
        rollouts drawn, numbered likewise.
    """
    sampled: list[list[Rollout]] = []
    mixed: list[list[Rollout]] = []
    draws = 0
    while len(mixed) < groups and draws < max_draws:
        rollouts = draw(draws)
        draws += 1
        drawn = [rollouts[i : i + group_size] for i in range(0, len(rollouts), group_size)]
        sampled += drawn
        judged = [[rollout for rollout in group if rollout.judged] for group in drawn]  # without what the verifier failed on
        mixed += [group for group in judged if 0 < sum(rollout.correct for rollout in group) < len(group)]
    if len(mixed) < groups:
        warnings.warn(
            f"dynamic sampling found {len(mixed)} of {groups} mixed groups in {draws} draws of prompts and continues with those: "
            "raise algorithm.max_draws, or choose problems closer to what the policy can solve",
            stacklevel=2,
        )
    return _numbered(mixed[:groups]) or without_faults(_numbered(sampled[:groups])), _numbered(sampled)


def _numbered(groups: list[list[Rollout]]) -> list[Rollout]:
    return [replace(rollout, group=number) for number, group in enumerate(groups) for rollout in group]
