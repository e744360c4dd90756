"""Training of one network: passes over a batch, micro-batches, backward, gradient clipping, skipped updates, optimizer, offload."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vapo.distributed.ranks import rank, sum_over_ranks, world_size
from vapo.distributed.sharding import full
from vapo.metrics import StepMetrics
from vapo.micro_batches import SIMILAR, micro_batches
from vapo.types import Batch, MicroBatch


class Learner:
    """The actor or the critic with its optimizer, or the frozen reference, which has none.

    A plain object: the network itself stays an attribute of `RLModule`, so that state-dict keys start with `actor.` and `critic.`.
    """

    optimizer: Optimizer
    schedule: LambdaLR
    trains = False  # until `configure` gives it an optimizer

    def __init__(
        self,
        backward: Callable[[Tensor], None],
        metrics: StepMetrics,
        microbatch_tokens: int,
        max_grad_norm: float | None,
        max_skipped_updates: int,
        offload: bool,
        defer_gradient_sync: bool,
        name: str,
        network: nn.Module,
        precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            backward: the module's `manual_backward`.
            microbatch_tokens: maximum padded tokens in one forward pass, >= 1; affects memory only.
            max_grad_norm: larger gradients are scaled down to this norm; None for no clipping.
            max_skipped_updates: updates in a row that may be skipped because their gradient is not finite.
            offload: keep network and optimizer states on the device only inside `on_device`.
            defer_gradient_sync: with FSDP2, gradients are summed over ranks once per minibatch.
            name: `actor`, `critic` or `reference`; prefix of its metrics.
            precision: the trainer's precision, entered around passes without gradient: Lightning enters it in `training_step` only.
        """
        if microbatch_tokens < 1:
            raise ValueError(f"module.microbatch_tokens is {microbatch_tokens}; set it to 1 or more")
        if max_skipped_updates < 0:
            raise ValueError(f"module.max_skipped_updates is {max_skipped_updates}; set it to 0 (stop at the first) or more")
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm is {max_grad_norm}; set it above 0, or to null for no clipping")
        self.name, self.network, self.backward, self.metrics, self.precision = name, network, backward, metrics, precision
        self.microbatch_tokens, self.max_grad_norm, self.max_skipped_updates = microbatch_tokens, max_grad_norm, max_skipped_updates
        self.offload, self.defer_gradient_sync = offload, defer_gradient_sync
        self.device = torch.device("cpu")
        self.ddp: DistributedDataParallel | None = None  # the wrapper that averages gradients over ranks, with trainer=ddp
        self.skipped = 0  # consecutive skipped updates

    def configure(self, optimizer: Callable[..., Optimizer], schedule: Callable[[Optimizer], LambdaLR]) -> dict[str, Any]:
        """Creates optimizer and schedule; returns them in Lightning's format."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        chosen = getattr(optimizer, "keywords", {}).keys() & {"fused", "foreach"}
        adam = getattr(optimizer, "func", optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        fused = {"fused": True} if adam and not chosen else {}  # one kernel, no temporaries
        self.optimizer = optimizer(parameters, **fused)
        self.schedule, self.trains = schedule(self.optimizer), True
        return {"optimizer": self.optimizer, "lr_scheduler": self.schedule}

    def place(self, device: torch.device, wrapper: nn.Module | None) -> None:
        """Sets the device the network computes on, and DDP's wrapper if there is one; called before training."""
        self.device, self.ddp = device, wrapper if isinstance(wrapper, DistributedDataParallel) else None
        if self.offload and self.ddp is not None:
            raise ValueError(
                "module.offload=true would detach DDP's hooks from the parameters it moves; set it to false, or trainer=fsdp"
            )

    def start(self) -> None:
        """Applies the configured hyperparameters and offload; called after a checkpoint is restored, before the first step."""
        if self.trains:
            self._apply_configuration()
        if self.offload:
            self.move(torch.device("cpu"), states=True)

    # --- without gradient ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def per_token(self, batch: Batch, forward: Callable[[MicroBatch], Tensor]) -> Tensor:
        """Applies `forward` to micro-batches, each rank to its share, and joins the results.

        Args:
            forward: runs the network on a micro-batch -> x_R.

        Returns:
            x_R of the whole batch in float32, on the CPU of every rank.
        """
        end_B = batch.response_length_B.cumsum(0)
        x_R = torch.zeros(int(end_B[-1]))  # each rank writes its share; the others' is 0 in the sum over ranks
        was_training = self.network.training
        self.network.eval()  # without dropout, as the engine samples
        with self.on_device(), self.precision():
            for micro in self.micro_batches(batch):
                pieces = forward(micro).float().cpu().split(micro.part.response_length_B.tolist())
                for end, x_T in zip(end_B[micro.index_B].tolist(), pieces, strict=False):  # index_B may be empty
                    x_R[end - len(x_T) : end] = x_T
        self.network.train(was_training)
        return sum_over_ranks(x_R)

    # --- with gradient -------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, index_B: Tensor, loss: Callable[[MicroBatch], Tensor], dump: Path) -> None:
        """One optimizer step on the minibatch `index_B` of a batch, which may be skipped; see `backward_over` and `step`."""
        self.backward_over(self.micro_batches(batch, index_B), loss)
        self.step(batch, index_B, dump)

    def backward_over(self, micros: Sequence[MicroBatch], loss: Callable[[MicroBatch], Tensor]) -> None:
        """Accumulates the gradient of a whole minibatch over its micro-batches.

        Args:
            loss: a micro-batch's share of the minibatch's loss; the shares of all micro-batches and ranks add up to it.
        """
        for number, micro in enumerate(micros, 1):
            self._sync_gradients(last=number == len(micros))
            self.backward(loss(micro) * world_size())  # their mean over ranks (DDP, FSDP) is then the sum

    def step(self, batch: Batch, index_B: Tensor, dump: Path) -> None:
        """Clips and applies the accumulated gradient. If it is not finite on any rank, all ranks skip the update.

        Args:
            dump: file to save the minibatch to if too many updates in a row were skipped.

        Raises:
            FloatingPointError: more than `max_skipped_updates` in a row.
        """
        head = norm_of(p.grad for p in self._head())  # of the value head alone: the whole network's can hide one that never moves
        norm = full(nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm or float("inf"))).item()
        finite = math.isfinite(norm)
        self.metrics.mean(f"{self.name}/skipped_fraction", float(not finite))
        self.skipped = 0 if finite else self.skipped + 1
        if finite:
            self.metrics.mean(f"{self.name}/grad_norm", norm)
            if head is not None:
                self.metrics.mean(f"{self.name}/head_grad_norm", head)
            self.optimizer.step()
            torch.clear_autocast_cache()  # Lightning enters autocast once an RL step: the next minibatch must not see old weights
        self.optimizer.zero_grad()
        if self.skipped > self.max_skipped_updates:
            if rank() == 0:
                torch.save(vars(batch.select(index_B)), dump)
            raise FloatingPointError(
                f"the {self.name}'s gradient norm is {norm} after {self.skipped - 1} skipped updates in a row: look at {dump} "
                f"(fields of a Batch), lower module.{self.name}_optimizer.lr, or raise module.max_skipped_updates; the last "
                "checkpoint was written before this"
            )

    def report(self) -> None:
        if self.trains:
            self.metrics.gauge(f"{self.name}/learning_rate", self.optimizer.param_groups[0]["lr"])
            if (norm := norm_of(self._head())) is not None:
                self.metrics.gauge(f"{self.name}/head_weight_norm", norm)

    # --- helpers -------------------------------------------------------------------------------------------------------

    def _head(self) -> list[nn.Parameter]:
        """The critic's head; nothing for the actor, whose output embedding is a part of its language model."""
        head = getattr(self.network, "head", None)
        return list(head.parameters()) if isinstance(head, nn.Module) else []

    def micro_batches(self, batch: Batch, index_B: Tensor | None = None) -> list[MicroBatch]:
        """This rank's micro-batches, as many as every other rank's; a rank that has too few gets empty ones, whose loss is 0.

        Args:
            index_B: the rollouts of the batch; None for all.
        """
        similar = SIMILAR if getattr(self.network, "packs", False) else 0.0
        return list(micro_batches(batch, self.microbatch_tokens, self.device, rank(), world_size(), index_B, similar))

    def _sync_gradients(self, last: bool) -> None:
        """Sets whether the next backward pass reduces gradients over ranks: the last does, others only with undeferred FSDP2."""
        if isinstance(self.network, FSDPModule):
            self.network.set_requires_gradient_sync(last or not self.defer_gradient_sync)
        elif self.ddp is not None:
            self.ddp.require_backward_grad_sync = last  # type: ignore[assignment]

    @contextmanager
    def on_device(self, train: bool = False) -> Iterator[None]:
        """Wraps every use of the network: with `offload` it is on the device only here, its optimizer states only to `train`."""
        if self.offload:
            self.move(self.device, states=train)
        try:
            yield
        finally:
            if isinstance(self.network, FSDPModule):
                self.network.reshard()  # its root stays gathered after a forward pass without a backward pass
            if self.offload:
                self.move(torch.device("cpu"), states=train)

    def move(self, device: torch.device, states: bool) -> None:
        """Moves the network, and its optimizer states if wanted (`moved`)."""
        self.network.to(device)
        for state in self.optimizer.state.values() if self.trains and states else ():
            state |= {key: moved(x, device) for key, x in state.items() if isinstance(x, Tensor) and x.dim() > 0}

    def _apply_configuration(self) -> None:
        """Gives a restored optimizer the hyperparameters it was constructed with; otherwise the checkpoint's values would silently
        override a learning rate changed on resume."""
        defaults = self.optimizer.defaults
        self.schedule.base_lrs = [defaults["lr"]] * len(self.optimizer.param_groups)
        for group, factor in zip(self.optimizer.param_groups, self.schedule.lr_lambdas, strict=True):
            group.update({name: value for name, value in defaults.items() if name in group})
            group["initial_lr"] = defaults["lr"]
            for parameter in group["params"] if defaults.get("fused") else ():
                state = self.optimizer.state.get(parameter, {})  # a checkpoint that was not fused has step counts on the CPU
                state |= {key: x.to(parameter.device) for key, x in state.items() if key == "step"}
            group["lr"] = group["initial_lr"] * factor(self.schedule.last_epoch)


def norm_of(tensors: Iterable[Tensor | None]) -> float | None:
    """Euclidean norm of all tensors together, also where they are sharded; None without tensors. A missing gradient is 0."""
    parts = list(tensors)
    there = [x.detach() for x in parts if x is not None]
    return (full(nn.utils.get_total_norm(there)).item() if there else 0.0) if parts else None


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`: in pinned memory on the CPU of a machine with a GPU, so that it is copied back at full speed; not where it
    is sharded."""
    if device.type == "cpu" and x.is_cuda and type(x) is Tensor:
        return torch.empty_like(x, device=device, pin_memory=True).copy_(x)
    return x.to(device)


def check_precision(precision: str) -> None:
    """Raises ValueError for precisions of Lightning that this loop would train wrongly with."""
    reasons = {
        "16-mixed": "its loss scaling is for optimizers that Lightning steps",
        "bf16-true": "an AdamW step at a learning rate of 1e-6 is lost in bfloat16 weights",
    }
    if precision not in ("32-true", "bf16-mixed"):
        why = reasons.get(precision, "it was never tried here")
        raise ValueError(f"trainer.precision is {precision}: {why}; set it to bf16-mixed (GPUs) or 32-true")
