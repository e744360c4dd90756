"""How well a signal points at the place where a response went wrong. Measured, never trained on."""

from collections.abc import Sequence


def auroc_at(scores: Sequence[float], index: int) -> float:
    """Share of the other scores that `scores[index]` exceeds, ties counted half: the area under the ROC curve of one positive.

    1 is a signal highest at `index`, 0.5 one that says nothing, as any that is the same everywhere.

    Args:
        scores: two or more.
        index: of the one that should be the highest.

    >>> auroc_at([0.1, 0.9, 0.9, 0.2], 1)
    0.8333333333333334
    """
    others = [score for i, score in enumerate(scores) if i != index]
    if not others:
        raise ValueError("auroc_at needs two scores or more, the one in question and one to compare it with")
    return sum((scores[index] > other) + 0.5 * (scores[index] == other) for other in others) / len(others)
