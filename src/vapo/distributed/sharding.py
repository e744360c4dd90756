"""Sharding with FSDP2: where parameters are split, in which precision they compute, how they are loaded and gathered.

A network is built on the meta device, sharded layer by layer, and then filled: each rank reads its own slices of the safetensors
files, so no rank ever holds a whole network.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from vapo.distributed.ranks import rank, sum_over_ranks, world_size

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Sharding:
    """How networks are sharded over ranks. Weights, gradients and optimizer states keep the dtype they were built in, float32."""

    compute_dtype: str = "bfloat16"  # dtype of forward and backward passes; gradients are summed over ranks in float32
    shard_ranks: int | None = None  # ranks that share one copy of a network, such as those of a node; None for all ranks
    cpu_offload: bool = False  # keep weights, gradients and optimizer states in CPU memory
    defer_gradient_sync: bool = False  # sum gradients once per minibatch: less traffic, but each rank holds whole gradients

    def __post_init__(self) -> None:
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"module.sharding.compute_dtype is {self.compute_dtype!r}; set it to float32 or bfloat16")

    def placement(self, device_mesh: DeviceMesh | None) -> dict[str, Any]:
        """Arguments of `from_pretrained` that shard a network; none without a mesh, which trainer=fsdp sets.

        Raises:
            ValueError: a setting would do nothing, because the trainer does not shard.
        """
        if device_mesh is None:
            unused = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
            if unused:
                raise ValueError(
                    f"module.sharding.{unused[0]} does nothing without trainer=fsdp: set that, or leave it at its default"
                )
            return {}
        return {"mesh": self.mesh(device_mesh.device_type, world_size()), "sharding": self}

    def mesh(self, device_type: str, ranks: int) -> DeviceMesh:
        """The device mesh: all ranks share one copy, or each group of `shard_ranks` ranks has its own copy (hybrid sharding)."""
        shard_ranks = self.shard_ranks or ranks
        if ranks % shard_ranks != 0:
            raise ValueError(
                f"module.sharding.shard_ranks is {shard_ranks} and does not divide the {ranks} ranks; set it to a divisor"
            )
        if shard_ranks == ranks:
            return init_device_mesh(device_type, (ranks,), mesh_dim_names=("shard",))
        return init_device_mesh(device_type, (ranks // shard_ranks, shard_ranks), mesh_dim_names=("replicate", "shard"))

    def shard(self, network: nn.Module, mesh: DeviceMesh) -> None:
        """Shards each layer, a float32 `head` separately, and then the remaining parameters."""
        policy = MixedPrecisionPolicy(param_dtype=getattr(torch, self.compute_dtype), reduce_dtype=torch.float32)
        offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if self.cpu_offload else OffloadPolicy()
        for layer in layers_of(network):
            fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=offload)
        if isinstance(getattr(network, "head", None), nn.Module):
            fully_shard(network.head, mesh=mesh, mp_policy=MixedPrecisionPolicy(), offload_policy=offload)  # type: ignore[arg-type]
        fully_shard(network, mesh=mesh, mp_policy=policy, offload_policy=offload)

    def build(self, outline: Callable[[], Network], mesh: DeviceMesh) -> Network:
        """Shards the network that `outline` makes on the meta device, and allocates this rank's part without filling it."""
        network = outline()
        self.shard(network, mesh)
        names: dict[int, list[str]] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        network.to_empty(device="cpu" if self.cpu_offload else mesh.device_type)
        for first, *others in names.values():  # a tied head shares the embedding's memory
            for name in others:
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, network.get_parameter(first))
        return network


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The transformer's layers: the modules that Hugging Face lists in `_no_split_modules`."""
    names = {name for module in network.modules() if isinstance(module, PreTrainedModel) for name in module._no_split_modules or ()}
    layers = [m for m in network.modules() if type(m).__name__.removeprefix("FSDP") in names]  # FSDP2 changes the class of its own
    if not layers:
        raise ValueError(
            f"{type(network).__name__} names no layers to shard (_no_split_modules): set trainer to one without sharding"
        )
    return layers


def is_sharded(network: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def read_safetensors(model: PreTrainedModel, path: str) -> None:
    """Loads this rank's slices of the files into a model from `Sharding.build`. Adapters are in no file: they start as PEFT's do.

    Args:
        path: folder or hub name of a model in safetensors format.

    Raises:
        ValueError: the files lack a parameter.
    """
    reader = HuggingFaceStorageReader(str(local_folder(path)))
    entries = reader.read_metadata().state_dict_metadata
    prefix = f"{model.base_model_prefix}."
    wanted: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer.", ".")
        found = [key for key in (plain, prefix + plain, plain.removeprefix(prefix)) if key in entries]
        if "lora_" in name:
            whole = torch.zeros(parameter.shape)
            fill(parameter, nn.init.kaiming_uniform_(whole, a=5**0.5) if "lora_A" in name else whole)
        elif not found:
            raise ValueError(f"{path} has no tensor {plain}: set model.path to a model of this architecture in safetensors format")
        else:
            wanted[found[0]] = parameter.detach()
    compute_buffers(model)  # first: it may also draw weights
    dcp.load(wanted, storage_reader=reader)


def compute_buffers(model: PreTrainedModel) -> None:
    """Fills the buffers that are computed and not stored, such as rotary frequencies, after `to_empty`."""
    for module in model.modules():
        if module._non_persistent_buffers_set:
            model._init_weights(module)


def read_entries(path: str, prefix: str) -> dict[str, Tensor]:
    """Loads the tensors whose names start with `prefix` from a model's files, whole."""
    reader = HuggingFaceStorageReader(str(local_folder(path)))
    entries = reader.read_metadata().state_dict_metadata
    found = {key: torch.empty(entry.size) for key, entry in entries.items() if key.startswith(prefix)}  # type: ignore[union-attr]
    dcp.load(found, storage_reader=reader)
    return found


def local_folder(path: str) -> Path:
    """The folder with a model's files; a model given by hub name is downloaded if it is not cached yet."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json"]))


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Copies this rank's part of `whole`, which all ranks have, into a parameter that may be sharded."""
    if isinstance(parameter, DTensor):
        whole = distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
    parameter.copy_(whole)


def device_of(network: nn.Module) -> torch.device:
    """The device a network computes on; its parameters may be kept elsewhere."""
    parameter = next(network.parameters())
    return torch.device(parameter.device_mesh.device_type) if isinstance(parameter, DTensor) else parameter.device


def full(tensor: Tensor) -> Tensor:
    """The whole tensor on this rank; a collective if it is sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    there = tensor.to(tensor.device_mesh.device_type)  # an offloaded one cannot be gathered on the CPU
    return cast(DTensor, there).full_tensor()


def checksum(tensor: Tensor) -> int:
    """Sum of the bits of all elements as integers: exact, and additive over the parts of a tensor."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(integers).sum(dtype=torch.int64))


def checksums(entries: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """The `checksum` of each whole tensor, from its parts: only the sums are communicated."""
    sums = {name: checksum(_counted_part(tensor)) for name, tensor in entries}
    return dict(zip(sums, sum_over_ranks(torch.tensor(list(sums.values()))).tolist(), strict=True))


def _counted_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank counts, so that every element is counted once over all ranks."""
    if not isinstance(tensor, DTensor):
        return tensor if rank() == 0 else tensor.flatten()[:0]
    place = tensor.device_mesh.get_coordinate()
    assert place is not None
    copies = [at for at, placement in zip(place, tensor.placements, strict=True) if placement.is_replicate()]
    return tensor.to_local() if not any(copies) else tensor.to_local().flatten()[:0]
