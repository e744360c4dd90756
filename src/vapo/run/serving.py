"""Starts a vLLM server for one model (`python src/serve.py`), with the options that `ServerEngine` relies on."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from vapo.rollout.vllm.middleware import VARIABLE
from vapo.rollout.vllm.options import check_version, checked_token, environment, options

EXTENSION = "vapo.rollout.vllm.worker.WorkerExtension"
MIDDLEWARE = "vapo.rollout.vllm.middleware.RequireToken"
LOCAL = ("127.0.0.1", "localhost", "::1")


def command(config: DictConfig) -> list[str]:
    """The server's program and arguments."""
    if not 0 < config.port < 2**16:
        raise ValueError(f"port is {config.port}; set it between 1 and 65535")
    if config.tensor_parallel_size < 1:
        raise ValueError(f"tensor_parallel_size is {config.tensor_parallel_size}; set it to 1 or more GPUs")
    token = checked_token(config.token, "token")
    if token is None and config.host not in LOCAL:
        raise ValueError(
            f"host is {config.host}, and without a token anyone who reaches the server can replace its weights: set "
            f"{VARIABLE} for the server and the training run, or host to {LOCAL[0]}"
        )
    shared = options(
        config.model.path,
        config.dtype,
        config.max_tokens,
        config.kv_cache_mib,
        config.max_batch,
        config.enforce_eager,
        config.model.trust_remote_code,
        reads_text=True,  # a request may have stop strings
    )
    ours = {
        "host": config.host,
        "port": config.port,
        "tensor_parallel_size": config.tensor_parallel_size,
        "generation_config": "vllm",  # no sampling defaults of the model: requests are complete
        "enable_scale_out": True,  # the route that takes and returns token ids
        "worker_extension_cls": EXTENSION,
        "weight_transfer_config": json.dumps({"backend": "vapo_http"}),
        "middleware": None if token is None else MIDDLEWARE,
        "enable_log_requests": False,
        "disable_uvicorn_access_log": True,
    }
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags(shared | ours)]


def flags(arguments: dict[str, Any]) -> list[str]:
    """`{"max_num_seqs": 8, "enforce_eager": False}` -> `["--max-num-seqs=8", "--no-enforce-eager"]`; None is left out."""
    words = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words.append(f"--{flag}={value}")
    return words


def server_environment(token: str | None) -> dict[str, str]:
    """This process's environment plus the variables that vLLM and `MIDDLEWARE` need."""
    source = str(Path(__file__).parents[2])  # the workers import `EXTENSION`
    ours = {
        "PYTHONPATH": os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for weights
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # the server's engine runs in a separate process
    }
    return environment() | os.environ | ours | ({} if token is None else {VARIABLE: token})


def serve(config: DictConfig) -> NoReturn:
    """Replaces this process with the server, so that a signal to it is a signal to the server."""
    check_version()
    words = command(config)
    os.execve(words[0], words, server_environment(checked_token(config.token, "token")))
