"""Bytes that tensors hold, counted as they are made and freed: real tensors, or fake ones that have a size but no memory."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Counts the storages that every operation returns, until they are freed; what a kernel allocates inside is not seen.

    Why not torch's `FSDPMemTracker`: it follows one sharded network with its optimizer, and a step of ours has two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0  # now
        self.peak: dict[str, int] = {}  # bytes, of each phase
        self._phase = "start"
        self._sizes: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Peaks until the end of the block are this phase's; a phase that comes again keeps its highest."""
        before, self._phase = self._phase, name
        self._note()
        try:
            yield
        finally:
            self._phase = before

    def __enter__(self) -> "LiveMemory":
        self._fake = active_fake_mode() is not None  # in a real run the fake ones are DTensor's, which propagates shapes with them
        self._resize = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:  # FSDP2 frees and brings back gathered layers with it
            result = self._resize(storage, size)
            if storage._cdata in self._sizes:
                self._count(storage)
            return result

        torch.UntypedStorage.resize_ = resize  # type: ignore[assignment, method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, as what it does to this rank's part
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta" and isinstance(tensor, FakeTensor) <= self._fake:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            before, reference = self._sizes[key]
        else:
            before, reference = 0, weakref.ref(storage, lambda _, key=key: self._forget(key))  # type: ignore[misc]
        if size != before or key not in self._sizes:
            self._sizes[key] = (size, reference)
            self.bytes += size - before
            self._note()

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)[0]

    def _note(self) -> None:
        self.peak[self._phase] = max(self.peak.get(self._phase, 0), self.bytes)


class FakeValues(TorchDispatchMode):
    """Lets code that reads values run under a `FakeTensorMode`: what is computed from real tensors alone is real, such as counts of
    a batch, and a fake number, such as a gradient's norm, is 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0 if args[0].dtype.is_floating_point else 1
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        if tensors and not any(isinstance(x, FakeTensor) or x.device.type == "meta" for x in tensors):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_outside() -> Iterator[None]:
    """DTensor works out the shapes of results on fake tensors of its own, as large as the whole: not in the modes around a fake
    run, where they would count."""
    original = ShardingPropagator.propagate_op_sharding_non_cached

    def propagate(self: ShardingPropagator, schema: Any) -> Any:
        with _disable_current_modes():
            return original(self, schema)

    ShardingPropagator.propagate_op_sharding_non_cached = propagate  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShardingPropagator.propagate_op_sharding_non_cached = original  # type: ignore[method-assign]
