"""The trainer's client for one vLLM server: its HTTP routes, each with a timeout, and the checks of its replies."""

import asyncio
import base64
import json
import math
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import safetensors.torch
from torch import Tensor

from vapo.rollout.vllm.middleware import VARIABLE, authorization
from vapo.rollout.vllm.options import parameters
from vapo.types import Completion, Request, SamplingParams

PROBE_SECONDS = 5.0  # timeout of routes that a healthy server answers immediately


class ServerFault(OSError):
    """A server failed a request; another one may succeed. The message names the server, the request and the reply."""


@dataclass(frozen=True)
class Expected:
    """Properties of every valid completion."""

    eos_token_ids: Collection[int]
    vocabulary: int  # size; all token ids are below it
    label: str  # label of the weights that sample it
    stop: Collection[str] = ()  # texts that end it


class Server:
    """Client of the server at `url`. All methods raise ServerFault, or ValueError if the server refuses the request."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.max_tokens = 0  # longest prompt and response together, as last reported

    async def label(self, session: aiohttp.ClientSession) -> str:
        """Label of the server's weights: the one given to `finish_update`, or vLLM's default after a start."""
        models = await self._call(session, "v1/models", None, PROBE_SECONDS)
        self.max_tokens = int(self._read(models, "v1/models", lambda reply: reply["data"][0]["max_model_len"]))
        reply = await self._call(session, "weight_info", None, PROBE_SECONDS)
        return str(self._read(reply, "weight_info", lambda reply: reply["weight_version"]))

    # --- weights -------------------------------------------------------------------------------------------------------

    async def start_update(self, session: aiohttp.ClientSession, seconds: float) -> None:
        """Aborts the running requests and starts a weight update; buckets follow."""
        await self._call(session, "pause?mode=abort", {}, seconds)
        await self._call(session, "collective_rpc", {"method": "end_unfinished_update"}, seconds)
        await self._call(session, "start_weight_update", {}, seconds)

    async def send(self, session: aiohttp.ClientSession, body: bytes, seconds: float) -> None:
        """Sends one bucket, made by `bucket_body`."""
        await self._call(session, "update_weights", body, seconds)

    async def finish_update(self, session: aiohttp.ClientSession, label: str, seconds: float) -> list[dict[str, int]]:
        """Ends the update, empties the prefix cache, which belongs to the old weights, and resumes generation.

        Returns:
            for each GPU of the server, the checksum of every tensor that it received.
        """
        await self._call(session, "finish_weight_update", {"weight_version": label}, seconds)
        reply = await self._call(session, "reset_prefix_cache", {}, seconds)
        if not self._read(reply, "reset_prefix_cache", lambda reply: reply["success"]):
            raise ServerFault(f"{self.url} could not empty its prefix cache")
        await self._call(session, "resume", {}, seconds)
        reply = await self._call(session, "collective_rpc", {"method": "received_checksums"}, seconds)
        return list(self._read(reply, "collective_rpc", lambda reply: [dict(worker) for worker in reply["results"]]))

    # --- generation ----------------------------------------------------------------------------------------------------

    async def generate(
        self, session: aiohttp.ClientSession, request: Request, sampling: SamplingParams, expected: Expected, seconds: float
    ) -> Completion:
        """Generates one completion and checks it."""
        body = {
            "token_ids": list(request.prompt_ids),
            "sampling_params": parameters(request, sampling, list(expected.eos_token_ids)),
        }
        route = "inference/v1/generate"
        reply = await self._call(session, route, body, seconds)
        return self._read(reply, route, lambda reply: read_completion(reply, sampling.max_new_tokens, expected))  # type: ignore[no-any-return]

    # --- HTTP ----------------------------------------------------------------------------------------------------------

    async def _call(self, session: aiohttp.ClientSession, route: str, body: dict[str, Any] | bytes | None, seconds: float) -> Any:
        """Calls a route and parses its reply; GET without a body, else POST."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            address, method = f"{self.url}/{route}", "POST" if data else "GET"
            async with session.request(method, address, data=data, headers=headers, timeout=timeout) as response:
                text = await response.text()
        except TimeoutError as error:
            raise ServerFault(f"{self.url}/{route} gave no reply within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, UnicodeDecodeError, ValueError) as error:
            raise ServerFault(f"{self.url}/{route}: {type(error).__name__} {error}") from error
        if response.status == 401:
            raise ValueError(
                f"{self.url}/{route} wants another token (HTTP 401): set rollout.engine.token, or {VARIABLE}, to the one that the "
                "server was started with"
            )
        if 400 <= response.status < 500 and response.status not in (408, 429):
            raise ValueError(
                f"{self.url}/{route} refuses (HTTP {response.status}): {text[:300]}; start it with python src/serve.py"
            )
        if response.status != 200:
            raise ServerFault(f"{self.url}/{route}: HTTP {response.status} {text[:300]}")
        return self._read(text, route, json.loads)

    def _read(self, reply: Any, route: str, read: Any) -> Any:
        try:
            return read(reply)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ServerFault(f"{self.url}/{route} gave an invalid reply, {type(error).__name__}: {str(error)[:200]}") from error


def read_completion(reply: Mapping[str, Any], longest: int, expected: Expected) -> Completion:
    """Reads and checks the completion in a reply.

    Args:
        longest: maximum response tokens; a truncated response has exactly as many.

    Raises:
        ValueError, KeyError, TypeError: the reply is not a valid one.
    """
    (choice,) = reply["choices"]
    ids, reason = list(choice["token_ids"]), choice["finish_reason"]
    entries = choice["logprobs"]["content"]
    logprobs = [float(entry["logprob"]) for entry in entries]
    labels = {span["version"] for span in choice["weight_versions"]}
    if labels != {expected.label}:
        raise ValueError(f"sampled with the weights {sorted(labels)}, not with {expected.label}")
    if not all(type(token) is int and 0 <= token < expected.vocabulary for token in ids):
        raise ValueError(f"token ids outside the vocabulary of {expected.vocabulary}")
    if [entry["token_id"] for entry in entries] != ids:
        raise ValueError(f"{len(entries)} log-probabilities that do not belong to the {len(ids)} tokens")
    if not all(-9999 < logprob < 1e-4 and math.isfinite(logprob) for logprob in logprobs):  # -9999: vLLM's placeholder
        raise ValueError("log-probabilities that are not valid")
    if not 1 <= len(ids) <= longest:
        raise ValueError(f"{len(ids)} tokens, but 1 to {longest} were requested")
    ends = [token in expected.eos_token_ids for token in ids]
    ended = ends[-1] or choice.get("stop_reason") in expected.stop
    if any(ends[:-1]) or (reason, ended) not in {("stop", True), ("length", False)}:
        raise ValueError(f"finish reason {reason!r} does not match the tokens")
    if reason == "length" and len(ids) < longest:
        raise ValueError(f"cut after {len(ids)} tokens, but {longest} were allowed")
    return Completion(np.array(ids, np.int32), np.array(logprobs, np.float32), finished=reason == "stop")


@contextmanager
def bucket_body(tensors: Mapping[str, Tensor], folder: str | None = None) -> Iterator[bytes]:
    """The body that `Server.send` posts, a `Bucket` for the worker: the tensors in base64, or the path of a file in `folder`, which
    exists until the end of the context."""
    if folder is None:
        yield b'{"update_info": {"safetensors": "' + base64.b64encode(safetensors.torch.save(dict(tensors))) + b'"}}'
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix="vapo-", suffix=".safetensors") as file:
        safetensors.torch.save_file(dict(tensors), file.name)
        os.chmod(file.name, 0o644)  # the server may run as another user
        yield json.dumps({"update_info": {"path": file.name}}).encode()


async def each(servers: Sequence[Server], call: Callable[[Server], Awaitable[Any]]) -> dict[Server, Any]:
    """Awaits `call` for all servers at once and returns its results; a ServerFault is a result too, other errors are raised."""
    results = await asyncio.gather(*map(call, servers), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ServerFault):
            raise result
    return dict(zip(servers, results, strict=True))


def buckets(weights: Iterator[tuple[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    """Groups tensors into buckets of up to `size` bytes; a larger tensor gets its own bucket."""
    bucket: dict[str, Tensor] = {}
    for name, tensor in weights:
        if bucket and sum(other.nbytes for other in bucket.values()) + tensor.nbytes > size:
            yield bucket
            bucket = {}
        bucket[name] = tensor
    if bucket:
        yield bucket


@asynccontextmanager
async def open_session(token: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without proxy or connection limit. Each request gets a new connection, because a server may close idle ones.

    Args:
        token: sent with every request, for servers that were started with one.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers = None if token is None else {"Authorization": authorization(token)}
    async with aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session:
        yield session
