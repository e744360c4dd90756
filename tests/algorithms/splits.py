"""Losses of a whole optimizer minibatch, however it is cut into micro-batches."""

import torch

from vapo.micro_batches import micro_batches
from vapo.types import Batch


def cut(batch: Batch, pieces: int):
    """The batch as `pieces` micro-batches of equally many rollouts, each with its flat tokens' places in the batch."""
    start_B = [0, *batch.response_length_B.cumsum(0).tolist()]
    for index_B in torch.arange(len(batch)).chunk(pieces):
        (micro,) = micro_batches(batch.select(index_B), 10**6)
        rows = index_B[micro.index_B].tolist()
        yield micro, torch.tensor([place for row in rows for place in range(start_B[row], start_B[row + 1])])


def losses(algorithm, batch, x_R, pieces, kind):
    """Loss summed over micro-batches, its gradient at each token, and the sums that are watched."""
    x_R, total, watched = x_R.clone().requires_grad_(), algorithm.normalizers(batch), []
    loss = 0.0
    for micro, place_R in cut(batch, pieces):
        if kind == "actor":
            part, sums = algorithm.actor_loss(x_R[place_R], micro, total)
            watched.append(torch.stack([sums[name] for name in sorted(sums)]))
        else:
            part = algorithm.critic_loss(x_R[place_R], micro, total)
        part.backward()
        loss += part.item()
    return loss, x_R.grad, sum(watched)
