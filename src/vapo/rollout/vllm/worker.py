"""Inside the workers of a vLLM server: weights that come in HTTP requests, by vLLM's own weight-transfer API.

`src/serve.py` names `WorkerExtension` to vLLM, whose workers then import this file; that registers the transfer as `vapo_http`.
Each request brings a bucket of whole tensors in checkpoint format; vLLM cuts and repacks them, as when it loads a file.
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
    """Some tensors by name: a safetensors file in base64, or the path of one."""

    safetensors: str = ""
    path: str = ""


class HTTPWeightTransfer(WeightTransferEngine[WeightTransferInitInfo, Bucket]):
    """Loads buckets, and keeps the checksum of every tensor that came since the update began."""

    init_info_cls, update_info_cls = WeightTransferInitInfo, Bucket

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.received: dict[str, int] = {}
        self.updating = False

    def init_transfer_engine(self, init_info: WeightTransferInitInfo) -> None:
        """There is no connection to make: each bucket is a request of its own."""

    def start_weight_update(self) -> None:
        if self.updating:  # a trainer died in the middle: its half-filled layers must not count for this update
            self.finish_weight_update()
        initialize_layerwise_reload(self.model)
        self.received, self.updating = {}, True

    def receive_weights(self, update_info: Bucket) -> None:
        if update_info.path:  # mapped into memory: stays readable when the trainer has removed it
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
    """What the trainer may call in every worker, beside vLLM's own methods."""

    weight_transfer_engine: HTTPWeightTransfer
    _weight_update_active: bool

    def end_unfinished_update(self) -> None:
        """Lets an update begin although the last one never ended."""
        self._weight_update_active = False

    def received_checksums(self) -> dict[str, int]:
        """By tensor, of the weights that came last."""
        return self.weight_transfer_engine.received


WeightTransferEngineFactory.register_engine("vapo_http", HTTPWeightTransfer)
