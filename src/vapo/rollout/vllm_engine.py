"""Rollouts by vLLM, in the training process. Only this file and vllm_worker.py import vllm.

vLLM keeps weights of its own, so every hand-over is proved: a checksum of each tensor that was sent against the trainer's, and a
probe prompt whose log-probabilities engine and trainer must agree on.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vapo.models.export import merged_weights
from vapo.rollout.engine import ignore
from vapo.rollout.proof import MAX_PROBE_GAP, PROBE_SAMPLING, check_gap, check_received, checksum, probe_gap, probe_request
from vapo.rollout.vllm_options import check_version, environment, options, parameters
from vapo.types import Completion, Request, SamplingParams


class VLLMEngine:
    """`Engine` with weights, memory and scheduler of its own."""

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
    ) -> None:
        """
        Args:
            eos_token_ids: tokens that end a response; they are kept in it.
            path: the policy's model, for its architecture; its weights are replaced before the first token.
            dtype: of the engine's weights.
            max_tokens: longest prompt and response together; None for what the model allows.
            kv_cache_mib: memory of the cache of keys and values, in MiB.
            max_batch: most responses decoded at once.
            enforce_eager: True skips compilation and CUDA graphs: a quick start, slower tokens.
            max_probe_gap: nats, see the module's docstring; None takes `MAX_PROBE_GAP` of the dtype.
        """
        if not eos_token_ids:
            raise ValueError("the model names no EOS token, so no response could end; set eos_token_id in its generation config")
        check_version()
        self.eos_token_ids = list(eos_token_ids)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.max_probe_gap = MAX_PROBE_GAP[dtype] if max_probe_gap is None else max_probe_gap
        self.weights_version = -1
        self.received: dict[str, int] = {}  # checksum of each tensor in the engine
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process
        for name, value in environment().items():
            os.environ.setdefault(name, value)
        with _random_state_kept():  # vLLM seeds every generator of the process
            from vllm import LLM

            arguments = options(path, dtype, max_tokens, kv_cache_mib, max_batch, enforce_eager, trust_remote_code)
            self.llm = LLM(**arguments, disable_log_stats=True)
        self._requests = 0

    # --- weights -------------------------------------------------------------------------------------------------------

    def load_weights(self, language_model: PreTrainedModel, version: int) -> None:
        """Streams the state dict through, one tensor at a time, and empties the prefix cache: its keys and values are the old
        weights'."""
        self.received = {}
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._stream(language_model)})
        self._reset_prefix_cache()
        self.weights_version = version

    def _stream(self, language_model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights(language_model):
            self.received[name] = checksum(tensor)
            yield name, tensor

    def _weights(self, language_model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in merged_weights(language_model):
            yield name, tensor.detach().to(self.dtype)

    def _reset_prefix_cache(self) -> None:
        self.llm.reset_prefix_cache()

    @torch.no_grad()
    def check_weights(self, language_model: PreTrainedModel) -> dict[str, float]:
        expected = {name: checksum(tensor.to(self.dtype)) for name, tensor in merged_weights(language_model)}
        check_received(expected, self.received, "vLLM")
        gap = self._probe(language_model)
        check_gap(gap, self.max_probe_gap, "vLLM")
        return {"engine/probe_gap_max": gap}

    def _probe(self, language_model: PreTrainedModel) -> float:
        """Largest difference of log-probabilities on the continuation of a fixed prompt."""
        request = probe_request(language_model, self.llm.llm_engine.model_config.max_model_len)
        (completion,) = self.generate([request], PROBE_SAMPLING)
        return probe_gap(language_model, request, completion)

    # --- generation ----------------------------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], sampling: SamplingParams, on_finish: Callable[[int, Completion], None] = ignore
    ) -> list[Completion]:
        from vllm.sampling_params import RequestOutputKind
        from vllm.sampling_params import SamplingParams as VLLMSamplingParams

        if not self.received:
            raise RuntimeError("generate was called before load_weights")
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
    """The process's random generators go on as if nothing had happened inside."""

    def __enter__(self) -> None:
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def __exit__(self, *error: object) -> None:
        python, numpy, torch_ = self.states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)
