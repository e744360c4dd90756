"""Runs in the workers of a vLLM server: receives weights in HTTP requests through vLLM's weight-transfer API.

`src/serve.py` passes `WorkerExtension` to vLLM, whose workers then import this file; that registers the transfer as `vapo_http`.
Each request brings a bucket of whole tensors in checkpoint format; vLLM cuts and repacks them, as when loading a file.
"""

import base64
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from vapo.distributed.sharding import checksum


@dataclass
class Bucket(WeightTransferUpdateInfo):
    """Named tensors: a safetensors file in base64, or the path of one."""

    safetensors: str = ""
    path: str = ""


class HTTPWeightTransfer(WeightTransferEngine[WeightTransferInitInfo, Bucket]):
    """Loads buckets, and keeps the checksum of every tensor received since the update began."""

    init_info_cls, update_info_cls = WeightTransferInitInfo, Bucket

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.received: dict[str, int] = {}
        self.updating = False

    def init_transfer_engine(self, init_info: WeightTransferInitInfo) -> None:
        """Does nothing: there is no connection to open, each bucket is a separate request."""

    def start_weight_update(self) -> None:
        if self.updating:  # a trainer died during its update: its half-filled layers must not count for this one
            self.finish_weight_update()
        initialize_layerwise_reload(self.model)
        self.received, self.updating = {}, True

    def receive_weights(self, update_info: Bucket) -> None:
        if update_info.path:  # memory-mapped: stays readable after the trainer removes it
            tensors = safetensors.torch.load_file(update_info.path)
        else:
            tensors = safetensors.torch.load(base64.b64decode(update_info.safetensors))
        self.received |= {name: checksum(tensor) for name, tensor in tensors.items()}
        with torch.device(self.device):
            self.model.load_weights((name, tensor.to(self.device)) for name, tensor in tensors.items())

    def finish_weight_update(self) -> None:
        self.updating = False
        with torch.device(self.device):
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to release."""


class WorkerExtension:
    """Methods that the trainer can call in every worker, in addition to vLLM's own."""

    weight_transfer_engine: HTTPWeightTransfer
    _weight_update_active: bool

    def end_unfinished_update(self) -> None:
        """Allows a new update to begin even if the last one never ended."""
        self._weight_update_active = False

    def received_checksums(self) -> dict[str, int]:
        """Checksum of each tensor received in the last update."""
        return self.weight_transfer_engine.received


WeightTransferEngineFactory.register_engine("vapo_http", HTTPWeightTransfer)
