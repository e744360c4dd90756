"""Log-probabilities from hidden states, a chunk of tokens at a time: the full (tokens, vocabulary) logits never exist."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vapo.algorithms import entropy


def chunked_logprobs(
    hidden_RD: Tensor, head: nn.Module, token_R: Tensor, temperature: float = 1.0, chunk_tokens: int = 4096
) -> tuple[Tensor, Tensor]:
    """log softmax(head(hidden) / temperature) at each token, in float32.

    Args:
        hidden_RD: last hidden state at the position before each token.
        head: the output embedding, hidden -> logits.
        token_R: the tokens.
        temperature: > 0, the sampler's, so that ratios compare like with like (vapo.md A22).
        chunk_tokens: tokens per chunk, >= 1; with more than one chunk, logits are recomputed in the backward pass.

    Returns:
        logprob_R with gradient, entropy_R in nats without.
    """

    def one_chunk(hidden: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float() / temperature
        logprob = logits.gather(-1, token[:, None])[:, 0] - logits.logsumexp(-1)
        return logprob, entropy(logits.detach())

    if len(token_R) <= chunk_tokens:
        return one_chunk(hidden_RD, token_R)
    pieces = [
        checkpoint(one_chunk, hidden, token, use_reentrant=False)
        for hidden, token in zip(hidden_RD.split(chunk_tokens), token_R.split(chunk_tokens), strict=True)
    ]
    return torch.cat([logprob for logprob, _ in pieces]), torch.cat([entropy_ for _, entropy_ in pieces])
