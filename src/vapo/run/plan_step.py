"""One RL step without rollouts: the training code itself, on tensors that are fake (a plan) or real (what a plan is checked by).

Fake tensors have shapes and no memory, a fake process group has ranks and no processes: so one CPU runs one rank's step of any
cluster, and `LiveMemory` counts what would be allocated. The device is `cpu` throughout, where FSDP2 runs the same code.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from vapo.analysis.live_memory import FakeValues, LiveMemory, shapes_outside
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.loading import Loading
from vapo.module import RLModule
from vapo.ranks import world_size
from vapo.rollout.collate import micro_batches
from vapo.types import Batch, MicroBatch

MICRO_BATCHES = 2  # per rank and minibatch: from the second on, the gradients of those before are there too


@dataclass(frozen=True)
class StepMemory:
    """Bytes per rank in the second RL step and later, when optimizer states are there. Networks: actor, critic, reference."""

    parameters: dict[str, int]  # elements of each whole network, a tied embedding counted once
    weights: dict[str, int]  # of each network's part
    gradients: dict[str, int]
    optimizer: dict[str, int]
    peak: dict[str, int]  # of each phase: `annotate`, then `critic_backward`, `critic_optimizer`, and the actor's

    def resting(self, phase: str) -> dict[str, int]:
        """What is there all through a phase: weights, optimizer states, and the gradients of the network it updates."""
        gradients = self.gradients.get(phase.split("_")[0], 0)
        return {"weights": sum(self.weights.values()), "optimizer": sum(self.optimizer.values()), "gradients": gradients}

    def temporary(self, phase: str) -> int:
        """Activations, gathered layers and what operations need in between: all of the peak that is not resting."""
        return self.peak[phase] - sum(self.resting(phase).values())


class OneStep(RLModule):
    """The training loop with its networks and optimizers, without Lightning, engine and files."""

    given: list[MicroBatch] | None = None  # what passes go through instead of a batch's micro-batches
    starts_with_gradients = False  # as if a micro-batch had gone before
    built: dict[str, Optimizer]

    def build(self, outlines: dict[str, nn.Module], mesh: DeviceMesh, foreach: bool | None) -> None:
        """Sharded networks with memory and made-up weights; optimizers with their states.

        Args:
            foreach: of optimizers: as torch chooses on GPUs (True) or on CPUs (False), which need different memory.
        """
        for name, outline in outlines.items():
            network = self.sharding.build(partial(lambda made: made, outline), mesh).train()
            with torch.no_grad():
                for parameter in network.parameters():
                    local(parameter).fill_(0.01)
                for buffer in network.buffers():
                    buffer.zero_()
            setattr(self, name, network)
        if self.algorithm.needs_reference:
            self.reference.eval().requires_grad_(False)
        self.built = {}
        for name, network in self.networks.items():
            parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
            self.built[name] = self.make_optimizers[name](parameters, foreach=foreach)
            self._zero_gradients(name)
            self.built[name].step()
            self.built[name].zero_grad()

    def _zero_gradients(self, name: str) -> None:
        for parameter in self.networks[name].parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    @property
    def raw_optimizers(self) -> dict[str, Optimizer]:
        return self.built

    def manual_backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        self.backward(loss)

    def pieces(self, batch: Batch) -> list[MicroBatch]:
        return super().pieces(batch) if self.given is None else self.given

    def run(self, batch: Batch, memory: LiveMemory) -> StepMemory:
        """Annotates `batch`, and updates critic and actor on it once."""
        gradients: dict[str, int] = {}
        with memory.phase("annotate"), torch.no_grad():
            for name in ("critic", "reference", "actor"):
                if hasattr(self, name):
                    with self.at_hand(name):
                        for micro in self.micro_batches(batch):
                            getattr(self, name)(micro)
        for name, backward in (("critic", self.backward_critic), ("actor", self.backward_actor)):
            if name in self.networks:
                if self.starts_with_gradients:
                    self._zero_gradients(name)
                with memory.phase(f"{name}_backward"):
                    backward(batch)
                gradients[name] = held(p.grad for p in self.networks[name].parameters())
                with memory.phase(f"{name}_optimizer"):
                    self.apply_gradient(name, batch)
        networks = self.networks | ({"reference": self.reference} if self.algorithm.needs_reference else {})
        states = {name: [x for state in self.built[name].state.values() for x in state.values()] for name in self.networks}
        return StepMemory(
            parameters={name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()},
            weights={name: held(network.parameters()) for name, network in networks.items()},
            gradients=gradients,
            optimizer={name: held(tensors) for name, tensors in states.items()},
            peak={phase: peak for phase, peak in memory.peak.items() if phase != "start"},
        )


def local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return cast(DTensor, tensor).to_local() if isinstance(tensor, DTensor) else tensor


def held(tensors: Any) -> int:
    """Bytes of this rank's parts; those that are views of one storage, as gradients of a layer are, count once."""
    storages = [local(x).untyped_storage() for x in tensors if isinstance(x, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def full_batch(microbatch_tokens: int, longest: int, micro_batches_in_all: int) -> Batch:
    """A minibatch whose every micro-batch is as large as one can be.

    Args:
        longest: tokens of the longest prompt and response together; if above the budget, a micro-batch is one such rollout.
    """
    rows = -(-microbatch_tokens // longest)
    length = longest if rows == 1 else microbatch_tokens // rows
    size = rows * micro_batches_in_all
    response_B = torch.full((size,), length - 1)  # after a prompt of one token: most logits
    per_token = {name: torch.zeros(size * (length - 1)) for name in ("value_R", "advantage_R", "target_R")}
    below_zero = torch.full((size * (length - 1),), -1.0)
    return Batch(
        token_N=torch.ones(size * length, dtype=torch.long),
        prompt_length_B=torch.ones(size, dtype=torch.long),
        response_length_B=response_B,
        group_B=torch.zeros(size, dtype=torch.long),
        correct_B=torch.ones(size, dtype=torch.bool),
        truncated_B=torch.zeros(size, dtype=torch.bool),
        sampler_logprob_R=below_zero,
        old_logprob_R=below_zero,
        reference_logprob_R=below_zero,
        **per_token,
    )


def step_memory(settings: DictConfig, longest: int, fake: bool, foreach: bool | None = None) -> StepMemory:
    """What one step of a rank needs at its peak. The process group is there already, a fake one for a `fake` step.

    Args:
        settings: `module` of the configuration.
        longest: tokens of the longest prompt and response together.
        fake: count without allocating.
    """
    settings = settings.copy()
    with open_dict(settings):
        settings.tokenizer, settings._target_ = None, "vapo.run.plan_step.OneStep"
    module: OneStep = instantiate(settings)
    budget, memory = module.microbatch_tokens, LiveMemory()
    modes: list[AbstractContextManager[Any]] = [memory]
    if fake:
        module.starts_with_gradients = not module.sharding.defer_gradient_sync  # a quicker way to be in the second micro-batch
        batch = full_batch(budget, longest, 1 if module.starts_with_gradients else MICRO_BATCHES)
        # which tokens have a response to predict is read from a mask, and a fake one could not say how many they are
        module.given = [
            replace(micro, predicts_BL=micro.predicts_BL.nonzero(as_tuple=True))  # type: ignore[arg-type]
            for micro in micro_batches(batch, budget)
        ]
        modes = [shapes_outside(), FakeTensorMode(allow_non_fake_inputs=True), FakeValues(), memory]
    else:
        batch = full_batch(budget, longest, MICRO_BATCHES * world_size())
    mesh, outlines = module.sharding.mesh("cpu", world_size()), _outlines(settings, module)
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        module.build(outlines, mesh, foreach)
        return module.run(batch, memory)


def _outlines(settings: DictConfig, module: RLModule) -> dict[str, nn.Module]:
    """Networks on the meta device."""
    loading: Loading = instantiate(settings.actor.loading)

    def actor() -> Actor:
        return Actor(loading.outline(AutoModelForCausalLM, settings.actor.path), settings.actor.logits_chunk_tokens)

    outlines: dict[str, nn.Module] = {"actor": actor()}
    if module.algorithm.needs_critic:
        outlines["critic"] = Critic._outline(loading, settings.critic.path)
    if module.algorithm.needs_reference:
        outlines["reference"] = actor()
    return outlines


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """This process is rank 0 of `ranks`, and the others' part of every collective is left out."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
