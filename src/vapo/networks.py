"""Actor and critic under Lightning: building, optimizers, gradients over ranks, checkpoints. The loop is in `module.py`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vapo.algorithms import PolicyGradient
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.rollout.engine import Engine
from vapo.run_state import random_state, restore_random_state

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

    def __init__(
        self,
        algorithm: PolicyGradient,
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
        self.algorithm = algorithm
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm is {max_grad_norm}; set it above 0, or to null for no clipping")
        self.automatic_optimization = False
        self.make_actor, self.make_critic, self.make_engine = actor, critic, engine
        self.make_optimizers = {"actor": actor_optimizer, "critic": critic_optimizer}
        self.make_schedules = {"actor": actor_schedule, "critic": critic_schedule}
        self.max_grad_norm = max_grad_norm
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
        norm = nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.max_grad_norm or float("inf"))
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the {name}'s gradient norm is {norm.item()} in RL step {self.rl_step + 1}: lower module.{name}_optimizer.lr; "
                "the last checkpoint is from before it"
            )
        self.raw_optimizers[name].step()
        self.raw_optimizers[name].zero_grad()
        return norm.item()

    # --- Lightning's hooks ---------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if not hasattr(self, "actor"):
            self.actor = self.make_actor().train()
            if self.algorithm.needs_critic:
                self.critic = self.make_critic().train()
            if self.algorithm.needs_reference:
                self.reference = self.make_actor().eval().requires_grad_(False)
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
        checkpoint["vapo"] = {name: getattr(self, name) for name in COUNTERS} | {"random_state": random_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = dict(checkpoint["vapo"])
        self._random_state = saved.pop("random_state")
        for name, value in saved.items():
            setattr(self, name, value)

    def on_train_start(self) -> None:
        for name, optimizer in self.raw_optimizers.items():
            apply_configuration(optimizer, self.schedules[name])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._random_state is not None:  # only here: making the loader's iterator draws a random number
            restore_random_state(self._random_state)
            self._random_state = None
