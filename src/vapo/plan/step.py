"""Runs one RL step without rollouts: the training code itself, on fake tensors (for a plan) or real ones (to check a plan).

Fake tensors have shapes but no memory, and a fake process group has ranks but no processes: so one CPU runs one rank's step of any
cluster, and `LiveMemory` counts what would be allocated. The device is `cpu` throughout, where FSDP2 runs the same code.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from vapo.algorithms import ActorCritic, PolicyGradient
from vapo.distributed.ranks import world_size
from vapo.distributed.sharding import Sharding
from vapo.learner import Learner
from vapo.metrics import StepMetrics
from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.loading import LoadOptions
from vapo.plan.live_memory import FakeValues, LiveMemory, shapes_outside
from vapo.types import Batch, MicroBatch

MICRO_BATCHES = 2  # per rank and minibatch: from the second on, there are already gradients


@dataclass(frozen=True)
class StepMemory:
    """Bytes per rank from the second RL step on, when there are optimizer states. Networks: actor, critic, reference."""

    parameters: dict[str, int]  # elements of each whole network, a tied embedding counted once
    weights: dict[str, int]  # this rank's part of each network
    gradients: dict[str, int]
    optimizer: dict[str, int]
    peak: dict[str, int]  # peak of each phase: `annotate`, then `critic_backward`, `critic_optimizer`, and the actor's

    def persistent(self, phase: str, offload: bool = False) -> dict[str, int]:
        """Memory held throughout a phase: weights, optimizer states, and the gradients of the network it updates. With
        `module.offload` only of the network in use: the largest in `annotate`, which has one after the other."""
        name = {"generate": "actor", "annotate": max(self.weights, key=self.weights.__getitem__)}.get(phase, phase.split("_")[0])
        trained = {} if phase in ("generate", "annotate") else {name: self.optimizer.get(name, 0)}
        weights, optimizer = ({name: self.weights[name]}, trained) if offload else (self.weights, self.optimizer)
        gradients = self.gradients.get(phase.split("_")[0], 0)
        return {"weights": sum(weights.values()), "optimizer": sum(optimizer.values()), "gradients": gradients}

    def temporary(self, phase: str) -> int:
        """The rest of the peak: activations, gathered layers, and intermediate results of operations."""
        return self.peak[phase] - sum(self.persistent(phase).values())


@dataclass
class Step:
    """One RL step with fake or real networks: what `RLModule` does after sampling, run only to count memory."""

    algorithm: PolicyGradient
    learners: dict[str, Learner]
    micros: list[MicroBatch] | None  # micro-batches to use instead of cutting the batch
    starts_with_gradients: bool  # as if a micro-batch had come before

    def run(self, batch: Batch, memory: LiveMemory) -> StepMemory:
        """Annotates `batch`, and updates critic and actor on it once."""
        gradients: dict[str, int] = {}
        with memory.phase("annotate"), torch.no_grad():
            for name in ("critic", "reference", "actor"):
                if name in self.learners:
                    with self.learners[name].on_device():
                        for micro in self.micro_batches(name, batch):
                            self.learners[name].network(micro)
        for name, loss in losses(self.algorithm, self.learners, batch).items():
            learner = self.learners[name]
            if self.starts_with_gradients:
                zero_gradients(learner.network)
            with memory.phase(f"{name}_backward"):
                learner.backward_over(self.micro_batches(name, batch), loss)
            gradients[name] = held(p.grad for p in learner.network.parameters())
            with memory.phase(f"{name}_optimizer"):
                learner.step(batch, torch.arange(len(batch)), Path("nonfinite.pt"))
        networks = {name: learner.network for name, learner in self.learners.items()}
        states = {n: [x for state in self.learners[n].optimizer.state.values() for x in state.values()] for n in gradients}
        return StepMemory(
            parameters={name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()},
            weights={name: held(network.parameters()) for name, network in networks.items()},
            gradients=gradients,
            optimizer={name: held(tensors) for name, tensors in states.items()},
            peak={phase: peak for phase, peak in memory.peak.items() if phase != "start"},
        )

    def micro_batches(self, name: str, batch: Batch) -> list[MicroBatch]:
        return self.learners[name].micro_batches(batch) if self.micros is None else self.micros


def losses(algorithm: PolicyGradient, learners: dict[str, Learner], batch: Batch) -> Mapping[str, Callable[[MicroBatch], Tensor]]:
    """The losses of critic and actor as in `RLModule`, without metrics."""
    counts = algorithm.normalizers(batch)

    def critic_loss(micro: MicroBatch) -> Tensor:
        assert isinstance(algorithm, ActorCritic)
        return algorithm.critic_loss(learners["critic"].network(micro), micro, counts)

    def actor_loss(micro: MicroBatch) -> Tensor:
        logprob_R, _ = learners["actor"].network(micro, with_entropy=True)
        return algorithm.actor_loss(logprob_R, micro, counts)[0]

    return ({"critic": critic_loss} if algorithm.needs_critic else {}) | {"actor": actor_loss}


def build_learner(settings: DictConfig, name: str, outline: nn.Module, mesh: DeviceMesh) -> Learner:
    """A learner with a sharded network of made-up weights, and an optimizer that has its states.

    Args:
        outline: the network on the meta device.
    """
    sharding: Sharding = instantiate(settings.sharding)
    network = sharding.build(lambda: outline, mesh).train()
    with torch.no_grad():
        for parameter in network.parameters():
            local(parameter).fill_(0.01)
        for buffer in network.buffers():
            buffer.zero_()
    limits = (settings.microbatch_tokens, settings.max_grad_norm, settings.max_skipped_updates, settings.offload)
    learner = Learner(Tensor.backward, StepMetrics(), *limits, sharding.defer_gradient_sync, name=name, network=network)
    if name == "reference":
        network.eval().requires_grad_(False)
        return learner
    learner.configure(instantiate(settings[f"{name}_optimizer"]), instantiate(settings[f"{name}_schedule"]))
    zero_gradients(network)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    return learner


def zero_gradients(network: nn.Module) -> None:
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return cast(DTensor, tensor).to_local() if isinstance(tensor, DTensor) else tensor


def held(tensors: Any) -> int:
    """Bytes of this rank's parts; views of one storage, such as the gradients of a layer, count once."""
    storages = [local(x).untyped_storage() for x in tensors if isinstance(x, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def full_batch(microbatch_tokens: int, longest: int, micro_batches_in_all: int) -> Batch:
    """A minibatch whose micro-batches all have the maximum size.

    Args:
        longest: tokens of the longest prompt and response together; if above the budget, a micro-batch is one such rollout.
    """
    rows = -(-microbatch_tokens // longest)
    length = longest if rows == 1 else microbatch_tokens // rows
    size = rows * micro_batches_in_all
    response_B = torch.full((size,), length - 1)  # prompts of one token give the most logits
    per_token = {name: torch.zeros(size * (length - 1)) for name in ("value_R", "advantage_R", "target_R")}
    below_zero = torch.full((size * (length - 1),), -1.0)
    return Batch(
        token_N=torch.ones(size * length, dtype=torch.int32),
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


def step_memory(settings: DictConfig, longest: int, fake: bool) -> StepMemory:
    """Peak memory of one rank's step. There must be a process group already, a fake one for a `fake` step.

    Args:
        settings: `module` of the configuration.
        longest: tokens of the longest prompt and response together.
        fake: count without allocating.
    """
    algorithm: PolicyGradient = instantiate(settings.algorithm)
    sharding: Sharding = instantiate(settings.sharding)
    budget, memory, micros = settings.microbatch_tokens, LiveMemory(), None
    modes: list[AbstractContextManager[Any]] = [memory]
    starts_with_gradients = fake and not sharding.defer_gradient_sync  # a quicker way to get to the second micro-batch
    if fake:
        batch = full_batch(budget, longest, 1 if starts_with_gradients else MICRO_BATCHES)
        micros = [with_known_positions(micro) for micro in micro_batches(batch, budget)]
        modes = [shapes_outside(), FakeTensorMode(allow_non_fake_inputs=True), FakeValues(), memory]
    else:
        batch = full_batch(budget, longest, MICRO_BATCHES * world_size())
    mesh, outlines = sharding.mesh("cpu", world_size()), _outlines(settings, algorithm)
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        learners = {name: build_learner(settings, name, outline, mesh) for name, outline in outlines.items()}
        return Step(algorithm, learners, micros, starts_with_gradients).run(batch, memory)


def with_known_positions(micro: MicroBatch) -> MicroBatch:
    """Replaces the mask of predicting tokens by indices, because their number cannot be read from a fake mask."""
    indices: Any = micro.predicts_BL.nonzero(as_tuple=True)
    return replace(micro, predicts_BL=indices)


def _outlines(settings: DictConfig, algorithm: PolicyGradient) -> dict[str, nn.Module]:
    """Networks on the meta device."""
    loading: LoadOptions = instantiate(settings.actor.loading)

    def actor() -> Actor:
        model = loading.on_meta_device(AutoModelForCausalLM, settings.actor.path)
        return Actor(model, settings.actor.logits_chunk_tokens, settings.actor.float32_head)

    outlines: dict[str, nn.Module] = {"actor": actor()}
    if algorithm.needs_critic:
        outlines["critic"] = Critic._on_meta_device(loading, settings.critic.path)
    if algorithm.needs_reference:
        outlines["reference"] = actor()
    return outlines


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Makes this process rank 0 of a fake process group of `ranks`, whose collectives do not communicate."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
