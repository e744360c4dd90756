"""DDP and FSDP2 strategies for Lightning, with collectives on CPU and GPU and exact sharded checkpoints."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vapo.checkpoints import REST, check_intact, check_shapes, shapes, tensors_in
from vapo.distributed.ranks import RUN_ID, raise_on_all_ranks, rank_slice


def backend(device: torch.device) -> str:
    """Process group backends: batches communicate on the CPU, networks on their device."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def join(strategy: ParallelStrategy, timeout: timedelta) -> None:
    """Makes the process group before Lightning would. Ranks find each other under their run's id: one that another run has left
    behind at this port cannot join."""
    assert strategy.cluster_environment is not None and strategy.accelerator is not None
    strategy.accelerator.setup_device(strategy.root_device)
    environment, device = strategy.cluster_environment, strategy.root_device
    names = {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    os.environ |= names
    number, size = environment.global_rank(), environment.world_size()
    try:
        store, _, _ = next(dist.rendezvous("env://", number, size, timeout=timeout))
        store.set_timeout(timeout)
        dist.init_process_group(
            backend(device),
            store=dist.PrefixStore(os.environ.get(RUN_ID, ""), store),
            rank=number,
            world_size=size,
            timeout=timeout,
            device_id=None if device.type == "cpu" else device,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        address = ":".join(names.values())
        raise OSError(
            f"the ranks cannot meet at {address} ({str(error).splitlines()[0][:200]}): set MASTER_PORT to a free port"
        ) from error


class DDP(DDPStrategy):
    """Each rank holds whole networks (`trainer=ddp`)."""

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        # actor and critic have separate backward passes, in which the other's parameters are unused
        self.patience = timedelta(minutes=timeout_minutes)
        super().__init__(find_unused_parameters=True, timeout=self.patience)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        join(self, self.patience)
        super().setup_distributed()

    def _get_process_group_backend(self) -> str:
        return backend(self.root_device)


class FSDP2(ModelParallelStrategy):
    """Each rank holds a part of each network (`trainer=fsdp`). `configure_model` shards them; this class sets up process groups and
    handles checkpoints."""

    def __init__(self, timeout_minutes: float = 30.0, asynchronous_checkpoints: bool = False) -> None:
        """
        Args:
            timeout_minutes: timeout of collectives; it ends the run, because another rank is gone.
            asynchronous_checkpoints: training continues while a checkpoint is written; costs a copy of the state in CPU memory.
        """
        self.patience = timedelta(minutes=timeout_minutes)
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, timeout=self.patience)
        self.asynchronous_checkpoints = asynchronous_checkpoints
        self._writing: Future[Any] | None = None
        self._writers: dist.ProcessGroup | None = None  # a separate group: collectives of two threads must not mix

    def _get_process_group_backend(self) -> str:
        return backend(self.root_device)

    def _setup_distributed(self) -> None:
        self.set_world_ranks()
        join(self, self.patience)
        super()._setup_distributed()
        self._data_parallel_size = self.world_size

    def model_to_device(self) -> None:
        assert self.model is not None
        if any(isinstance(p, DTensor) and p.device.type != p.device_mesh.device_type for p in self.model.parameters()):
            for buffer in self.model.buffers():  # parameters are kept on the CPU (module.sharding.cpu_offload) and must stay there
                buffer.data = buffer.data.to(self.root_device)
        else:
            super().model_to_device()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()  # not torch's get_optimizer_state_dict: it would take a step to fill an empty one

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes tensors in torch's distributed format, each rank its own, and everything else to `rest.pt` next to them."""
        self.finish_saving()
        path = Path(filepath)
        optimizers = checkpoint["optimizer_states"]
        state = {"model": checkpoint.pop("state_dict")} | {
            f"optimizer_{i}": {str(number): values for number, values in saved.pop("state").items()}
            for i, saved in enumerate(optimizers)
        }
        with raise_on_all_ranks():
            if self.global_rank == 0:
                path.mkdir(parents=True, exist_ok=True)
                torch.save(checkpoint, path / REST)
        with _plain_errors():
            if self.asynchronous_checkpoints:
                self._writers = self._writers or dist.new_group(backend="gloo", timeout=self.patience)
                self._writing = dcp.async_save(state, checkpoint_id=path, process_group=self._writers)  # type: ignore[assignment]
            else:
                dcp.save(state, checkpoint_id=path)

    def saved(self) -> bool:
        """Whether this rank's part of the last checkpoint is written."""
        return self._writing is None or self._writing.done()

    def finish_saving(self) -> None:
        """Waits until the last checkpoint is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with _plain_errors():
                writing.result()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads networks and optimizers in place, on any number of ranks, and returns everything else."""
        assert self.lightning_module is not None
        path = Path(checkpoint_path)
        with raise_on_all_ranks():
            check_intact(path, rank_slice)
        rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=weights_only)
        state: dict[str, Any] = {"model": self.lightning_module.state_dict()}
        saved = {name: list(entry.size) for name, entry in tensors_in(path).items() if name.startswith("model.")}
        check_shapes({name.removeprefix("model."): size for name, size in saved.items()}, shapes(state["model"]))
        for i, optimizer in enumerate(self.optimizers):
            state[f"optimizer_{i}"] = _memory_for(f"optimizer_{i}", optimizer, path)
        dcp.load({name: part for name, part in state.items() if part}, checkpoint_id=path)
        for i, optimizer in enumerate(self.optimizers):
            values = {int(number): entries for number, entries in state[f"optimizer_{i}"].items()}
            optimizer.load_state_dict({"state": values, **rest["optimizer_states"][i]})
        return rest

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Does nothing: `load_checkpoint` has loaded it."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns torch's CheckpointException (a BaseException that carries every rank's traceback) into an OSError."""
    try:
        yield
    except CheckpointException as error:
        raise OSError("; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in error.failures.items())) from error


def _memory_for(name: str, optimizer: Optimizer, path: Path) -> dict[str, dict[str, Tensor]]:
    """Zero tensors to load an optimizer's state into; those shaped like a parameter are sharded like it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, dict[str, Tensor]] = {}
    for key, entry in tensors_in(path).items():
        owner, _, rest = key.partition(".")
        if owner == name:
            number, _, leaf = rest.partition(".")
            parameter = parameters[int(number)].detach()
            like = torch.zeros_like(parameter) if entry.size == parameter.shape else torch.zeros(entry.size)
            state.setdefault(number, {})[leaf] = like
    return state
