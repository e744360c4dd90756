"""Actor and critic under Lightning: building, optimizers, gradients over ranks, checkpoints. The loop is in `module.py`."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.rollout.engine import Engine
from vapo.run_state import random_state, restore_random_state

COUNTERS = ("rl_step", "policy_step", "actor_updates", "critic_updates")


def apply_configuration(optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Gives a restored optimizer the hyperparameters it was constructed with: a checkpoint brings its own, and a learning rate
    changed for the resumed run would do nothing."""
    schedule.base_lrs = [optimizer.defaults["lr"]] * len(optimizer.param_groups)
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group.update({name: value for name, value in optimizer.defaults.items() if name in group})
        group["initial_lr"] = optimizer.defaults["lr"]
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


class ActorCriticNetworks(LightningModule):
    """Two networks, each with an optimizer and a schedule of its own, under manual optimization."""

    def __init__(
        self,
        actor: Callable[[], Actor],
        critic: Callable[[], Critic],
        engine: Callable[..., Engine],
        actor_optimizer: Callable[..., Optimizer],
        critic_optimizer: Callable[..., Optimizer],
        actor_schedule: Callable[[Optimizer], LambdaLR],
        critic_schedule: Callable[[Optimizer], LambdaLR],
        max_grad_norm: float | None,
    ) -> None:
        super().__init__()
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm is {max_grad_norm}; set it above 0, or to null for no clipping")
        self.automatic_optimization = False
        self.make_actor, self.make_critic, self.make_engine = actor, critic, engine
        self.make_optimizers = (actor_optimizer, critic_optimizer)
        self.make_schedules = (actor_schedule, critic_schedule)
        self.max_grad_norm = max_grad_norm
        self.actor: Actor | None = None
        self.critic: Critic | None = None
        self.rl_step = self.policy_step = self.actor_updates = self.critic_updates = 0  # finished ones
        self._random_state: dict[str, Any] | None = None

    @property
    def networks(self) -> tuple[Actor, Critic]:
        assert self.actor is not None and self.critic is not None, "configure_model has not run"
        return self.actor, self.critic

    @property
    def raw_optimizers(self) -> list[Optimizer]:
        """Actor's, critic's; without Lightning's wrappers, which would count their steps."""
        return cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))

    @property
    def world_size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        if dist.is_initialized():
            x = x.to(self.device)
            dist.all_reduce(x)
        return x

    def backward(self, loss: Tensor) -> None:  # type: ignore[override]
        """Adds to the gradients. DDP and FSDP average over ranks, but losses already divide by counts over all of them."""
        super().backward(loss * self.world_size)

    def apply_gradient(self, name: str) -> float:
        """Clips and applies the accumulated gradient of the `actor` or the `critic`; returns its norm before clipping."""
        index = ("actor", "critic").index(name)
        norm = nn.utils.clip_grad_norm_(self.networks[index].parameters(), self.max_grad_norm or float("inf"))
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the {name}'s gradient norm is {norm.item()} in RL step {self.rl_step + 1}: lower module.{name}_optimizer.lr; "
                "the last checkpoint is from before it"
            )
        self.raw_optimizers[index].step()
        self.raw_optimizers[index].zero_grad()
        return norm.item()

    # --- Lightning's hooks ---------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if self.actor is None:
            self.actor, self.critic = self.make_actor().train(), self.make_critic().train()
            eos = self.actor.language_model.generation_config.eos_token_id  # type: ignore[union-attr]
            self.engine = self.make_engine(eos_token_ids=[eos] if isinstance(eos, int) else eos)

    def configure_optimizers(self) -> Any:
        # actor first, critic second: the order is the key under which checkpoints keep them
        configured = []
        for network, make_optimizer, make_schedule in zip(self.networks, self.make_optimizers, self.make_schedules, strict=True):
            optimizer = make_optimizer(network.parameters())
            configured.append({"optimizer": optimizer, "lr_scheduler": make_schedule(optimizer)})
        return tuple(configured)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # prompts are plain values; the engine moves what it needs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vapo"] = {name: getattr(self, name) for name in COUNTERS} | {"random_state": random_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = dict(checkpoint["vapo"])
        self._random_state = saved.pop("random_state")
        for name, value in saved.items():
            setattr(self, name, value)

    def on_train_start(self) -> None:
        for optimizer, schedule in zip(self.raw_optimizers, cast(list[LambdaLR], self.lr_schedulers()), strict=True):
            apply_configuration(optimizer, schedule)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._random_state is not None:  # only here: making the loader's iterator draws a random number
            restore_random_state(self._random_state)
            self._random_state = None
