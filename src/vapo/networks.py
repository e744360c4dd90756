"""Actor and critic under Lightning: building, optimizers, gradients over ranks, checkpoints. The loop is in `module.py`."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vapo.algorithms import PolicyGradient
from vapo.metrics import StepMetrics
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.sharding import Sharding, full
from vapo.ranks import gather_lists, rank, sum_over_ranks, world_size
from vapo.rollout.collate import micro_batches
from vapo.rollout.engine import Engine
from vapo.run_state import random_state, restore_random_state
from vapo.types import Batch, MicroBatch

COUNTERS = ("rl_step", "policy_step", "actor_updates", "critic_updates", "rollouts_sampled")


def apply_configuration(optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Gives a restored optimizer the hyperparameters it was constructed with: a checkpoint brings its own, and a learning rate
    changed for the resumed run would do nothing."""
    schedule.base_lrs = [optimizer.defaults["lr"]] * len(optimizer.param_groups)
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group.update({name: value for name, value in optimizer.defaults.items() if name in group})
        group["initial_lr"] = optimizer.defaults["lr"]
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


class Networks(LightningModule):
    """Actor and critic, each with an optimizer and a schedule of its own, under manual optimization. An algorithm without a critic
    has none; one with a KL term also has the frozen `reference`, the policy that training started from."""

    actor: Actor
    critic: Critic
    reference: Actor
    microbatch_tokens: int  # most padded tokens in one forward

    def __init__(
        self,
        algorithm: PolicyGradient,
        actor: Callable[..., Actor],
        critic: Callable[..., Critic],
        engine: Callable[..., Engine],
        actor_optimizer: Callable[..., Optimizer],
        critic_optimizer: Callable[..., Optimizer],
        actor_schedule: Callable[[Optimizer], LambdaLR],
        critic_schedule: Callable[[Optimizer], LambdaLR],
        max_grad_norm: float | None,
        max_skipped_updates: int,
        offload: bool,
        sharding: Sharding,
    ) -> None:
        super().__init__()
        self.algorithm = algorithm
        if max_skipped_updates < 0:
            raise ValueError(f"module.max_skipped_updates is {max_skipped_updates}; set it to 0 (stop at once) or more")
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm is {max_grad_norm}; set it above 0, or to null for no clipping")
        self.automatic_optimization = False
        self.make_actor, self.make_critic, self.make_engine = actor, critic, engine
        self.make_optimizers = {"actor": actor_optimizer, "critic": critic_optimizer}
        self.make_schedules = {"actor": actor_schedule, "critic": critic_schedule}
        self.max_grad_norm, self.max_skipped_updates, self.sharding = max_grad_norm, max_skipped_updates, sharding
        self.offload = offload
        self.skipped = {"actor": 0, "critic": 0}  # updates in a row
        self.metrics = StepMetrics()
        self.rl_step = self.policy_step = self.actor_updates = self.critic_updates = self.rollouts_sampled = 0  # finished ones
        self._random_state: dict[str, Any] | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What trains: the actor, and the critic of an algorithm that has one."""
        return {name: getattr(self, name) for name in (("actor", "critic") if self.algorithm.needs_critic else ("actor",))}

    @property
    def raw_optimizers(self) -> dict[str, Optimizer]:
        """Without Lightning's wrappers, which would count their steps."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        return dict(zip(self.networks, optimizers if isinstance(optimizers, list) else [optimizers], strict=True))

    @property
    def schedules(self) -> dict[str, LambdaLR]:
        schedules: Any = self.lr_schedulers()
        return dict(zip(self.networks, schedules if isinstance(schedules, list) else [schedules], strict=True))

    def backward(self, loss: Tensor) -> None:  # type: ignore[override]
        """Adds to the gradients. DDP and FSDP average over ranks, but losses already divide by counts over all of them."""
        super().backward(loss * world_size())

    def micro_batches(self, batch: Batch, train: str | None = None) -> Iterator[MicroBatch]:
        """This rank's pieces of a batch, as many as every other rank's.

        Args:
            train: `actor` or `critic`: backward passes of it follow, and gradients are summed over ranks with the last one, or
                with each, as its kind of sharding wants it.
        """
        pieces = self.pieces(batch)
        for number, micro in enumerate(pieces, 1):
            if train is not None:
                self._set_gradient_sync(self.networks[train], number == len(pieces))
            yield micro

    def pieces(self, batch: Batch) -> list[MicroBatch]:
        """What this rank's passes over a batch go through."""
        return list(micro_batches(batch, self.microbatch_tokens, self.device, rank(), world_size()))

    def per_token(self, batch: Batch, forward: Callable[[MicroBatch], Tensor]) -> Tensor:
        """Applies `forward` to micro-batches, each rank to its own, and joins the results in the order of the flat tokens."""
        pieces = [torch.zeros(length) for length in batch.response_length_B.tolist()]
        for micro in self.micro_batches(batch):
            x_R = forward(micro).float().cpu()
            for row, x_T in zip(micro.index_B.tolist(), x_R.split(micro.part.response_length_B.tolist()), strict=False):
                pieces[row] = x_T
        return sum_over_ranks(torch.cat(pieces))

    def _set_gradient_sync(self, network: nn.Module, last: bool) -> None:
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(last or not self.sharding.defer_gradient_sync)
        elif self._trainer is not None and isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.require_backward_grad_sync = last  # type: ignore[assignment]

    @contextmanager
    def at_hand(self, name: str) -> Iterator[None]:
        """The `actor`, `critic` or `reference` is in use: with `offload`, only now it and its optimizer are on the device."""
        if self.offload:
            self._move(name, self.device)
        try:
            yield
        finally:
            network = getattr(self, name)
            if isinstance(network, FSDPModule):
                network.reshard()  # its root stays gathered after a forward pass without a backward pass
            if self.offload:
                self._move(name, torch.device("cpu"))

    def _move(self, name: str, device: torch.device) -> None:
        getattr(self, name).to(device)
        if name in self.networks and self._trainer is not None:
            for state in self.raw_optimizers[name].state.values():
                state |= {key: x.to(device) for key, x in state.items() if isinstance(x, Tensor) and x.dim() > 0}

    def apply_gradient(self, name: str, minibatch: Batch) -> None:
        """Clips and applies the accumulated gradient of the `actor` or the `critic`. One that is not finite on any rank is dropped
        on all of them; too many in a row stop the run, with the last minibatch kept for a replay."""
        optimizer = self.raw_optimizers[name]
        norm = full(nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.max_grad_norm or float("inf"))).item()
        finite = math.isfinite(norm)
        self.metrics.mean(f"{name}/skipped_fraction", float(not finite))
        self.skipped[name] = 0 if finite else self.skipped[name] + 1
        if finite:
            self.metrics.mean(f"{name}/grad_norm", norm)
            optimizer.step()
        optimizer.zero_grad()
        if self.skipped[name] > self.max_skipped_updates:
            file = Path(self.trainer.default_root_dir) / f"nonfinite_{name}_step_{self.rl_step + 1:06d}.pt"
            if rank() == 0:
                torch.save({field.name: getattr(minibatch, field.name) for field in fields(minibatch)}, file)
            raise FloatingPointError(
                f"the {name}'s gradient norm is {norm} in RL step {self.rl_step + 1}, after {self.skipped[name] - 1} skipped "
                f"updates in a row: look at {file} (fields of a Batch), lower module.{name}_optimizer.lr, or raise "
                "module.max_skipped_updates; the last checkpoint is from before it"
            )

    # --- Lightning's hooks ---------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if not hasattr(self, "actor"):
            placed: dict[str, Any] = {}
            if self.device_mesh is not None:  # set by the strategy that shards
                placed = {"mesh": self.sharding.mesh(self.device_mesh.device_type, world_size()), "sharding": self.sharding}
            self.actor = self.make_actor(**placed).train()
            if self.algorithm.needs_critic:
                self.critic = self.make_critic(**placed).train()
            if self.algorithm.needs_reference:
                self.reference = self.make_actor(**placed).eval().requires_grad_(False)
            self.engine = self.make_engine(eos_token_ids=self.actor.eos_token_ids)  # without weights yet

    def configure_optimizers(self) -> Any:
        # actor first, critic second: the order is the key under which checkpoints keep them
        configured = []
        for name, network in self.networks.items():
            optimizer = self.make_optimizers[name]([p for p in network.parameters() if p.requires_grad])
            configured.append({"optimizer": optimizer, "lr_scheduler": self.make_schedules[name](optimizer)})
        return tuple(configured)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # prompts are plain values; the engine moves what it needs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vapo"] = {name: getattr(self, name) for name in COUNTERS} | {"random_states": gather_lists([random_state()])}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["vapo"]
        states = saved["random_states"]
        self._random_state = states[rank()] if len(states) == world_size() else None  # of other ranks, none fits
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def on_train_start(self) -> None:
        for name, optimizer in self.raw_optimizers.items():
            apply_configuration(optimizer, self.schedules[name])
        if self.offload:
            if isinstance(self.trainer.strategy.model, DistributedDataParallel):
                raise ValueError(
                    "module.offload=true would cut DDP's hooks from the parameters it moves; set it to false, or trainer=fsdp"
                )
            for name in (*self.networks, *(("reference",) if self.algorithm.needs_reference else ())):
                self._move(name, torch.device("cpu"))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._random_state is not None:  # only here: making the loader's iterator draws a random number
            restore_random_state(self._random_state)
            self._random_state = None
