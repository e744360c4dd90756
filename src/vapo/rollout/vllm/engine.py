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
from transformers import PreTrainedModel

from vapo.distributed.ranks import raise_on_all_ranks, rank, world_size
from vapo.distributed.sharding import checksum, checksums
from vapo.models.actor import Actor
from vapo.models.export import merged_weights
from vapo.rollout.engine import check_eos, ignore
from vapo.rollout.vllm.options import check_version, environment, options, parameters
from vapo.rollout.vllm.weight_check import MAX_PROBE_GAP, PROBE_SAMPLING, check_gap, check_received, probe_gap, probe_request
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
            max_probe_gap: largest difference of log-probabilities on the probe, in nats; None takes `MAX_PROBE_GAP` of the dtype.
            tensor_parallel: neighboring ranks that share one engine, for models too large for one GPU.
            sleep_level: GPU memory freed while networks train: 0 none; 1 the cache, and weights are offloaded to the CPU; 2 both,
                and weights are loaded again from the actor.
        """
        check_eos(eos_token_ids)
        if tensor_parallel < 1 or world_size() % tensor_parallel != 0:
            raise ValueError(
                f"rollout.engine.tensor_parallel is {tensor_parallel} and does not divide the {world_size()} ranks; set it to a "
                "divisor"
            )
        if sleep_level not in (0, 1, 2):
            raise ValueError(f"rollout.engine.sleep_level is {sleep_level}; set it to 0 (none), 1 or 2")
        check_version()
        self.ranks_per_engine = tensor_parallel
        self.sleep_level, self._asleep = sleep_level if torch.cuda.is_available() else 0, False  # vLLM cannot sleep on a CPU
        self.eos_token_ids = list(eos_token_ids)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.max_probe_gap = MAX_PROBE_GAP[dtype] if max_probe_gap is None else max_probe_gap
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

            arguments = options(path, dtype, max_tokens, kv_cache_mib, max_batch, enforce_eager, trust_remote_code)
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
        """Streams the state dict to vLLM, one whole tensor at a time, empties the prefix cache, which belongs to the old weights,
        and verifies the copy."""
        self._wake()
        model = actor.language_model
        self.received = {}
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._stream(model)})
        self._reset_prefix_cache()
        expected = checksums((name, tensor.to(self.dtype)) for name, tensor in merged_weights(model, gather=False))
        with raise_on_all_ranks():
            check_received(expected, self.received, "vLLM")
        request = probe_request(actor, self.llm.llm_engine.model_config.max_model_len)
        (completion,) = self.generate([request], PROBE_SAMPLING)
        gap = probe_gap(actor, request, completion)
        with raise_on_all_ranks():
            check_gap(gap, self.max_probe_gap, "vLLM")
        self.weights_version = version
        return {"engine/probe_gap": gap}

    @torch.no_grad()
    def _stream(self, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in merged_weights(model):
            tensor = tensor.to(self.dtype)
            self.received[name] = checksum(tensor)
            yield name, tensor

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
        from vllm.sampling_params import RequestOutputKind
        from vllm.sampling_params import SamplingParams as VLLMSamplingParams

        if not self.received:
            raise RuntimeError("generate was called before load_weights")
        self._wake()
        engine = self.llm.llm_engine
        index_of = {}
        for index, request in enumerate(requests):
            arguments = parameters(request, sampling, self.eos_token_ids)
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
    ids = tuple(output.token_ids)
    logprobs = tuple(entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True))
    return Completion(ids, logprobs, finished=output.finish_reason == "stop")


class _random_state_kept:
    """Restores the process's random states on exit, as if nothing had been drawn inside."""

    def __enter__(self) -> None:
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def __exit__(self, *error: object) -> None:
        python, numpy, torch_ = self.states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)
