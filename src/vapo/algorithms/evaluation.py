"""Benchmark scores from k samples per problem: avg@k (VAPO section 5.1: avg@32 on AIME), pass@k, maj@k, intervals."""

import random
from collections import Counter
from collections.abc import Sequence
from math import comb


def avg_at_k(correct_PK: Sequence[Sequence[float]]) -> float:
    """Mean over problems of the share of correct samples, 0 to 1."""
    return sum(sum(row) / len(row) for row in correct_PK) / len(correct_PK)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement is correct: unbiased (arXiv 2107.03374 Eq 1).

        1 - C(n - c, k) / C(n, k)

    Args:
        samples: n, number of samples, >= k.
        correct: c, number of correct samples.
        k: number of tries, >= 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= {samples} samples; set k in that range")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def maj_at_k(answer_K: Sequence[str | None], correct_K: Sequence[bool]) -> float:
    """1 if the most frequent answer is correct, else 0; a tie scores its share of correct answers. Samples without an answer do
    not vote.

    >>> maj_at_k(["3", "3", "4"], [True, True, False]), maj_at_k(["3", "4", None], [True, False, False])
    (1.0, 0.5)
    """
    votes = Counter(answer for answer in answer_K if answer is not None)
    if not votes:
        return 0.0
    correct_answers = {answer for answer, correct in zip(answer_K, correct_K, strict=True) if correct}
    top = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == top]
    return sum(answer in correct_answers for answer in tied) / len(tied)


def bootstrap_interval(
    correct_PK: Sequence[Sequence[float]], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of avg@k, resampling problems: how far another draw of problems would move the score."""
    scores = [sum(row) / len(row) for row in correct_PK]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(scores, k=len(scores))) / len(scores) for _ in range(resamples))
    tail = (1.0 - confidence) / 2
    return means[int(tail * resamples)], means[min(int((1.0 - tail) * resamples), resamples - 1)]
