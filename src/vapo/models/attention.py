"""Attention over packed tokens: every other layer reads what prompts share once, attention sees whole responses.

A Hugging Face model whose attention is SDPA over all earlier tokens gets this attention instead (`use_packed_attention`); without
packed tokens it is SDPA.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vapo.types import MicroBatch, Packed

PACKED = "sdpa_packed"  # name of the implementation in transformers
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # models pass a mask of four dimensions on as it is; `attend` reads none


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    attend: Callable[..., Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA, or what a caller of the model passes as `attend`."""
    if attend is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    return attend(module, query, key, value, **options), None


def attend_packed(packed: Packed, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Attention of each response and its prompt, gathered from the one row of S tokens.

    Args:
        query, key, value: (1, heads, S, head_dim).

    Returns:
        (1, S, heads, head_dim).
    """
    flat = (x[0].transpose(0, 1).flatten(1).index_select(0, packed.index_X) for x in (query, key, value))
    pieces = zip(packed.blocks, *(x_X.split([rows * length for rows, length in packed.blocks]) for x_X in flat), strict=True)
    outputs = []
    for block, *piece in pieces:
        q, k, v = (x_X.view(*block, -1, query.shape[3]).transpose(1, 2) for x_X in piece)
        outputs.append(_causal(module, q, k, v, **options).flatten(0, 1))  # padding is on the right: no mask
    return torch.cat(outputs).index_select(0, packed.slot_S)[None]


def _causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Causal SDPA. Under a CPU's autocast in float32: its backward in bfloat16 is many small products, and takes twice as long."""
    if value.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return sdpa_attention_forward(module, query, key, value, None, **options)[0]
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), None, **options)
    return output.to(value.dtype)


AttentionInterface.register(PACKED, attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def layer_kinds(model: PreTrainedModel) -> set[str]:
    """What transformers calls the layers' types, such as full_attention and sliding_attention."""
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])


def sees_all_before(model: PreTrainedModel) -> bool:
    """Whether every layer is SDPA over all tokens before each, without windows."""
    config = model.config.get_text_config()
    windowed = layer_kinds(model) != {"full_attention"} or (
        not hasattr(config, "layer_types") and getattr(config, "sliding_window", None)
    )
    return config._attn_implementation in ("sdpa", PACKED) and not windowed


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Gives the model packed attention, if it can have it: it leaves attention to transformers' interface and has no windows."""
    if model._supports_attention_backend and sees_all_before(model):
        model.set_attn_implementation(PACKED)
    return is_packed(model)


def is_packed(model: Any) -> bool:
    """Whether the model has packed attention."""
    return bool(model.config.get_text_config()._attn_implementation == PACKED)


def predicting_states(model: nn.Module, micro: MicroBatch) -> Tensor:
    """hidden_RD: the last hidden state at the position before each response token.

    Args:
        model: a base model; with packed attention it reads what prompts of the micro-batch share once.
    """
    if not is_packed(model):
        hidden_BLD: Tensor = model(input_ids=micro.token_BL, use_cache=False).last_hidden_state
        return hidden_BLD[micro.predicts_BL]
    tokens = {"input_ids": micro.packed.token_S[None], "position_ids": micro.packed.position_S[None]}
    attend = partial(attend_packed, micro.packed)
    hidden_1SD: Tensor = model(**tokens, attention_mask=NO_MASK, attend=attend, use_cache=False).last_hidden_state
    return hidden_1SD[0].index_select(0, micro.packed.predicts_R)
