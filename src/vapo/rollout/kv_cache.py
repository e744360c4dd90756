"""A key-value cache that is allocated once, in the form that Hugging Face models write to."""

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class BufferedLayer(CacheLayerMixin):
    """Keys and values of one layer, `(B, heads, capacity, head_dim)`, filled up to `length`; attention sees the filled part."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select_rows(self, row_B: Tensor) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(row_B), *old.shape[1:])
            new[:, :, : self.length] = old[row_B, :, : self.length]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class BufferedCache(Cache):
    """One `BufferedLayer` per layer of the model."""

    def __init__(self, layers: int, capacity: int) -> None:
        """
        Args:
            layers: attention layers of the model.
            capacity: tokens per row, prompt and response together.
        """
        self.buffers = [BufferedLayer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self.buffers))

    def select_rows(self, row_B: Tensor) -> None:
        """Keeps (or repeats) these rows, in this order, by copying the filled part."""
        for buffer in self.buffers:
            buffer.select_rows(row_B)
