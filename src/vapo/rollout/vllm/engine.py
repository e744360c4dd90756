"""Rollouts with vLLM in the training process. Only this file and worker.py import vllm.

vLLM has its own copy of the weights, so every weight sync is verified: a checksum of each tensor that was sent against the
trainer's, and a probe prompt on whose log-probabilities engine and trainer must agree.
"""

import gc
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vapo.distributed.ranks import raise_on_all_ranks, rank, world_size
from vapo.distributed.sharding import checksum, checksums
from vapo.models.actor import Actor
from vapo.models.export import merged_weights
from vapo.rollout.checks import check_length
from vapo.rollout.engine import check_eos, ignore
from vapo.rollout.vllm.options import check_version, environment, options, parameters
from vapo.rollout.vllm.weight_check import (
    PROBE_SAMPLING,
    WeightCheck,
    check_received,
    perturbations,
    perturbed,
    probe_gap,
    probe_requests,
)
from vapo.types import Completion, Request, SamplingParams


class VLLMEngine:
    """`Engine` with its own weights, memory and scheduler."""

    own_weights = True

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        path: str,
        dtype: str = "float32",
        max_tokens: int | None = None,
        kv_cache_mib: int = 1024,
        max_batch: int = 256,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        max_probe_gap: float | None = None,
        tensor_parallel: int = 1,
        sleep_level: int = 0,
        stop: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            eos_token_ids: tokens that end a response; they are kept in it.
            path: the policy's model, for its architecture; its weights are replaced before the first token.
            dtype: data type of the engine's weights.
            max_tokens: longest prompt and response together; None for the model's limit.
            kv_cache_mib: size of the KV cache in MiB.
            max_batch: maximum responses decoded at once.
            enforce_eager: True skips compilation and CUDA graphs: faster start, slower generation.
            max_probe_gap: largest mean difference of log-probabilities on the probe, in nats; None: see `WeightCheck`.
            tensor_parallel: neighboring ranks that share one engine, for models too large for one GPU.
            sleep_level: GPU memory freed while networks train: 0 none; 1 the cache, and weights are offloaded to the CPU; 2 both,
                and weights are loaded again from the actor.
            stop: stop strings that `generate` will be called with: vLLM then loads the tokenizer at `path`.
        """
        check_eos(eos_token_ids)
        if tensor_parallel < 1 or world_size() % tensor_parallel != 0:
            raise ValueError(
                f"rollout.engine.tensor_parallel is {tensor_parallel} and does not divide the {world_size()} ranks; set it to a "
                "divisor"
            )
        if sleep_level not in (0, 1, 2):
            raise ValueError(f"rollout.engine.sleep_level is {sleep_level}; set it to 0 (none), 1 or 2")
        if world_size() == 1 and torch.cuda.is_available() and torch.cuda.current_device() != 0:
            raise ValueError(
                f"vLLM in one process takes the first GPU, but trainer.devices chose number {torch.cuda.current_device()}: set "
                "CUDA_VISIBLE_DEVICES to it and trainer.devices=1"
            )
        check_version()
        self.ranks_per_engine = tensor_parallel
        self.sleep_level, self._asleep = sleep_level if torch.cuda.is_available() else 0, False  # vLLM cannot sleep on a CPU
        self.eos_token_ids, self.reads_text = list(eos_token_ids), bool(stop)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.check, self.tried = WeightCheck(self.dtype, max_probe_gap, "vLLM"), False
        self.weights_version = -1
        self.received: dict[str, int] = {}  # checksum of each tensor that was sent
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # vLLM's core runs in this process
        for name, value in environment().items():
            os.environ.setdefault(name, value)
        ranks_are_workers = tensor_parallel > 1 or (torch.cuda.is_available() and world_size() > 1)  # each on its rank's GPU
        if ranks_are_workers:
            os.environ["RANK"] = str(rank())
            os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        gc.collect()  # if an earlier run's engine were collected later, it would destroy this engine's process groups
        with _random_state_kept():  # vLLM seeds every generator of the process
            from vllm import LLM

            arguments = options(path, dtype, max_tokens, kv_cache_mib, max_batch, enforce_eager, trust_remote_code, bool(stop))
            self.llm = LLM(
                **arguments,
                disable_log_stats=True,
                tensor_parallel_size=tensor_parallel,
                distributed_executor_backend="external_launcher" if ranks_are_workers else None,
                enable_sleep_mode=self.sleep_level > 0,
            )
        self._requests = 0

    # --- weights -------------------------------------------------------------------------------------------------------

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        """Streams the state dict to vLLM and verifies the copy; the first time, also that the probe notices perturbed weights."""
        self._wake()
        gap = self._load(actor, set())
        with raise_on_all_ranks():
            self.check.check(gap, actor)
        if not self.tried:
            for what, names in perturbations(actor).items():
                moved = self._load(actor, names)
                with raise_on_all_ranks():
                    self.check.check_power(moved, actor, what)
            gap, self.tried = self._load(actor, set()), True
            with raise_on_all_ranks():
                self.check.check(gap, actor)
        self.weights_version = version
        return {"engine/probe_gap": gap}

    @torch.no_grad()
    def _load(self, actor: Actor, changed: set[str]) -> float:
        """Loads the actor's weights, those named in `changed` perturbed, one whole tensor at a time; empties the prefix cache of
        the old weights; compares checksums. Returns the gap on the probe."""
        model, self.received = actor.language_model, {}

        def stream() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in perturbed(merged_weights(model, dtype=self.dtype), changed):
                self.received[name] = checksum(tensor)
                yield name, tensor

        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream()})
        self._reset_prefix_cache()
        expected = checksums(perturbed(merged_weights(model, gather=False, dtype=self.dtype), changed))
        with raise_on_all_ranks():
            check_received(expected, self.received, "vLLM")
        requests = probe_requests(actor, self.llm.llm_engine.model_config.max_model_len)
        return probe_gap(actor, requests, self._generate(requests, PROBE_SAMPLING, [], ignore))

    def _reset_prefix_cache(self) -> None:
        self.llm.reset_prefix_cache()

    # --- memory --------------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        if self.sleep_level > 0 and not self._asleep:
            self.llm.sleep(level=self.sleep_level)
            self._asleep = True
            if self.sleep_level == 2:
                self.weights_version = -1  # its weights are gone

    def _wake(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False

    # --- generation ----------------------------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], sampling: SamplingParams, on_finish: Callable[[int, Completion], None] = ignore
    ) -> list[Completion]:
        if not self.received:
            raise RuntimeError("generate was called before load_weights")
        if sampling.stop and not self.reads_text:
            raise ValueError("vLLM was started without its tokenizer, which stop strings need: set rollout.engine.stop to them")
        check_length(requests, sampling, self.llm.llm_engine.model_config.max_model_len, "rollout.engine.max_tokens")
        self._wake()
        return self._generate(requests, sampling, self.eos_token_ids, on_finish)

    def _generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingParams,
        eos_token_ids: list[int],
        on_finish: Callable[[int, Completion], None],
    ) -> list[Completion]:
        from vllm.sampling_params import RequestOutputKind
        from vllm.sampling_params import SamplingParams as VLLMSamplingParams

        engine = self.llm.llm_engine
        index_of = {}
        for index, request in enumerate(requests):
            arguments = parameters(request, sampling, eos_token_ids)
            params = VLLMSamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
            name = str(self._requests)
            self._requests += 1
            index_of[name] = index
            engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
        completions: dict[int, Completion] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    index = index_of[output.request_id]
                    completions[index] = _completion(output.outputs[0])
                    on_finish(index, completions[index])
        return [completions[index] for index in range(len(requests))]


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    logprobs = [entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True)]
    return Completion(np.array(ids, np.int32), np.array(logprobs, np.float32), finished=output.finish_reason == "stop")


class _random_state_kept:
    """Restores the process's random states on exit, as if nothing had been drawn inside."""

    def __enter__(self) -> None:
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def __exit__(self, *error: object) -> None:
        python, numpy, torch_ = self.states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
