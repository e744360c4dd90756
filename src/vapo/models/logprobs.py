"""Log-probabilities from hidden states, a chunk of tokens at a time: the full (tokens, vocabulary) logits never exist."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from vapo.algorithms import entropy

LOGITS_BYTES = 2**29  # of the float32 logits of a chunk, where logits_chunk_tokens is not set


class _HiddenStates(nn.Module):
    """Stands in for the base of a language model: its output is the hidden states that it is given."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.__dict__["base"] = base  # not a module of this one

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Any:
        return _Output(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["base"], name)
        if isinstance(value, nn.Module):
            raise ValueError(
                f"{type(self.__dict__['base']).__name__} is used in parts by its language model ({name}), so its logits cannot be "
                "computed from its last hidden states: set model.path to another family (docs/models.md)"
            )
        return value


class _Output(SimpleNamespace):
    """A model output that has nothing but its last hidden state."""

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        hidden: Tensor = self.last_hidden_state
        return hidden


def own_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The model's own way from last hidden states (R, D) to logits (R, V): whatever its `forward` does after its layers, such as
    soft-capping or scaling, and not only the output embedding."""
    shell = copy.copy(model)  # shares all parameters
    shell._modules = model._modules | {model.base_model_prefix: _HiddenStates(model.base_model)}

    def head(hidden_RD: Tensor) -> Tensor:
        logits: Tensor = shell(inputs_embeds=hidden_RD[None], use_cache=False).logits
        return logits[0]

    return head


def chunked_logprobs(
    hidden_RD: Tensor,
    head: Callable[[Tensor], Tensor],
    token_R: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int = 4096,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(head(hidden) / temperature) at each token, in float32.

    Args:
        hidden_RD: last hidden state at the position before each token.
        head: hidden states -> logits.
        token_R: the tokens.
        temperature: > 0, the sampler's, so that ratios compare like with like (vapo.md A22).
        chunk_tokens: tokens per chunk, >= 1; with more than one chunk, logits are recomputed in the backward pass.
        with_entropy: computes the entropy too, which needs two more copies of a chunk's logits.

    Returns:
        logprob_R with gradient; entropy_R in nats without, or None.
    """

    def one_chunk(hidden: Tensor, token: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = head(hidden).float()
        if temperature != 1:  # a division by 1 would copy them
            logits = logits / temperature
        normalizer = logits.logsumexp(-1)
        logprob = logits.gather(-1, token[:, None])[:, 0] - normalizer
        return logprob, entropy(logits.detach(), normalizer.detach()) if with_entropy else None

    if len(token_R) <= chunk_tokens:
        return one_chunk(hidden_RD, token_R)
    pieces = [
        checkpoint(one_chunk, hidden, token, use_reentrant=False)
        for hidden, token in zip(hidden_RD.split(chunk_tokens), token_R.split(chunk_tokens), strict=True)
    ]
    entropies = [entropy_ for _, entropy_ in pieces]
    return torch.cat([logprob for logprob, _ in pieces]), torch.cat(entropies) if with_entropy else None
