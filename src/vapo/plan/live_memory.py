"""Counts the bytes of live tensors as they are made and freed: real tensors, or fake ones that have a size but no memory."""

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
    """Counts the storages that every operation returns, until they are freed; memory that a kernel allocates inside is not seen.

    Why not torch's `FSDPMemTracker`: it follows one sharded network with its optimizer, and a step of ours has two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0  # live now
        self.peak: dict[str, int] = {}  # peak bytes of each phase
        self._phase = "start"
        self._sizes: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts peaks inside the block for this phase; a phase that is entered again keeps its highest."""
        before, self._phase = self._phase, name
        self._note()
        try:
            yield
        finally:
            self._phase = before

    def __enter__(self) -> "LiveMemory":
        self._fake = active_fake_mode() is not None  # in a real run, fake tensors are from DTensor's shape propagation
        self._resize = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:  # FSDP2 uses it to free and reallocate gathered layers
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
            return NotImplemented  # it is dispatched again for this rank's part
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
    """Lets code that reads values run under a `FakeTensorMode`: results of real tensors alone are real, such as counts of a batch,
    and a number read from a fake tensor, such as a gradient norm, is 1."""

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
    """Runs DTensor's shape propagation outside the active modes: it uses fake tensors of full size, which would be counted."""
    original = ShardingPropagator.propagate_op_sharding_non_cached

    def propagate(self: ShardingPropagator, schema: Any) -> Any:
        with _disable_current_modes():
            return original(self, schema)

    ShardingPropagator.propagate_op_sharding_non_cached = propagate  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShardingPropagator.propagate_op_sharding_non_cached = original  # type: ignore[method-assign]
