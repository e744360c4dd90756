"""Key-value caches that are allocated once, in the form that Hugging Face models write to."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from vapo.models.attention import NO_MASK


class BufferedLayer(CacheLayerMixin):
    """Keys and values of one layer, `(B, heads, capacity, head_dim)`, filled up to `length`; attention sees the filled part."""

    def __init__(self, capacity: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.capacity, self.length, self.dtype = capacity, 0, dtype

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size, dtype=self.dtype)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1], dtype=self.dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        keys, values = self.buffers()
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def keep_rows(self, row_B: Tensor) -> None:
        if not self.is_initialized:
            return
        for x in self.buffers():
            x[: len(row_B), :, : self.length] = x[row_B, :, : self.length]
        self.keys, self.values = (x[: len(row_B)] for x in self.buffers())

    def repeat_rows(self, row_B: Tensor) -> None:
        self.keys, self.values = (x[row_B] for x in self.buffers())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class BufferedCache(Cache):
    """One `BufferedLayer` per layer of the model."""

    def __init__(self, layers: int, capacity: int, plain: bool = False, dtype: torch.dtype | None = None) -> None:
        """
        Args:
            layers: attention layers of the model.
            capacity: tokens per row.
            plain: one mask serves all layers, so the model need not make one for each kind.
            dtype: of the buffers; None: the model's.
        """
        self.plain = plain
        self.buffered = [BufferedLayer(capacity, dtype) for _ in range(layers)]
        self.mask_BL: Tensor | None = None
        super().__init__(layers=list(self.buffered))

    def options(self) -> dict[str, Any]:
        """Arguments of the model for the next token, besides this cache."""
        assert self.mask_BL is not None
        mask_BL = self.mask_BL[:, : self.buffered[0].length + 1]
        return {"attention_mask": mask_BL[:, None, None] if self.plain else mask_BL}

    def keep_rows(self, row_B: Tensor) -> None:
        """Keeps these rows, ascending, and moves them to the front of the buffer."""
        for layer in self.buffered:
            layer.keep_rows(row_B)
        if self.mask_BL is not None:
            self.mask_BL = self.mask_BL[row_B]

    def repeat_rows(self, row_B: Tensor, mask_BL: Tensor) -> None:
        """Copies rows, in this order and as often, into a new buffer.

        Args:
            mask_BL: True on tokens, those to come included, and False on padding.
        """
        for layer in self.buffered:
            layer.repeat_rows(row_B)
        self.mask_BL = mask_BL


class GroupCache(BufferedCache):
    """Keys and values of the responses, and those of each distinct prompt once for all rows that share it: most of what a decoding
    step does is to read the cache. In float32, whatever the model computes in."""

    def __init__(self, prompts: BufferedCache, mask_PL: Tensor, prompt_B: Tensor, capacity: int) -> None:
        """
        Args:
            prompts: a cache filled with the distinct prompts.
            mask_PL: False on their padding.
            prompt_B: the prompt of each row.
            capacity: tokens per response.
        """
        super().__init__(len(prompts.buffered), capacity, dtype=torch.float32)
        for layer in prompts.buffered:
            layer.keys, layer.values = (x.float() for x in layer.buffers())
        self.prompts, self.prompt_B = prompts, prompt_B
        self.bias_P11L = torch.where(mask_PL, 0.0, float("-inf"))[:, None, None]
        self._arrange()

    def options(self) -> dict[str, Any]:
        return {"attention_mask": NO_MASK, "attend": self.attend}

    def keep_rows(self, row_B: Tensor) -> None:
        super().keep_rows(row_B)
        self.prompt_B = self.prompt_B[row_B]
        self._arrange()

    def _arrange(self) -> None:
        """Gives each row a slot in a grid of prompts and their rows, as many for each prompt as the largest group has."""
        size_P = self.prompt_B.bincount(minlength=len(self.bias_P11L))
        order_B = self.prompt_B.argsort(stable=True)
        start_P = size_P.cumsum(0) - size_P
        place_B = torch.empty_like(order_B)
        place_B[order_B] = torch.arange(len(order_B), device=order_B.device) - start_P.repeat_interleave(size_P)
        width = int(size_P.max())
        self.slot_B = self.prompt_B * width + place_B
        self.row_X = torch.zeros(len(size_P) * width, dtype=torch.long, device=order_B.device)  # empty slots repeat row 0
        self.row_X[self.slot_B] = torch.arange(len(order_B), device=order_B.device)

    @torch.autocast("cpu", enabled=False)
    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, **options: Any) -> Tensor:
        """Attention of one new token of each row over its prompt and its response.

        Args:
            query: (B, heads, 1, head_dim).
            key, value: of the responses so far, (B, shared heads, T, head_dim).

        Returns:
            (B, 1, heads, head_dim).
        """
        rows, heads, _, size = query.shape
        shared, prompts = key.shape[1], len(self.bias_P11L)
        prompt_key, prompt_value = (x.flatten(0, 1) for x in self.prompts.buffered[module.layer_idx].buffers())
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        dtype, query = query.dtype, (query.float() * scaling).view(rows, shared, -1, size)

        def grid(x: Tensor) -> Tensor:
            """(rows, shared heads, heads of each, D) -> (P * shared heads, slots * heads of each, D)."""
            slots = x.index_select(0, self.row_X).view(prompts, -1, *x.shape[1:])
            return slots.transpose(1, 2).reshape(prompts * shared, -1, x.shape[-1])

        def ungrid(x: Tensor) -> Tensor:
            """(P * shared heads, slots * heads of each, D) -> (rows * shared heads, heads of each, D)."""
            slots = x.view(prompts, shared, -1, query.shape[2], x.shape[-1]).transpose(1, 2).flatten(0, 1)
            return slots.index_select(0, self.slot_B).flatten(0, 1)

        bias = self.bias_P11L.expand(-1, shared, 1, -1).reshape(prompts * shared, 1, -1)
        on_prompt = ungrid(torch.baddbmm(bias, grid(query), prompt_key.transpose(1, 2)))
        on_response = torch.bmm(query.flatten(0, 1), key.transpose(1, 2))
        share = torch.cat([on_prompt, on_response], -1).softmax(-1)
        of_prompt, of_response = share.split([on_prompt.shape[-1], on_response.shape[-1]], -1)
        from_prompt = ungrid(torch.bmm(grid(of_prompt.unflatten(0, (rows, shared))), prompt_value))
        return torch.baddbmm(from_prompt, of_response, value).view(rows, 1, heads, size).to(dtype)
