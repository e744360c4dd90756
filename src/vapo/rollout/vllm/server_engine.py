"""Rollouts with vLLM servers (`python src/serve.py`) on dedicated GPUs, on one node or several.

They have their own copies of the weights, so every weight sync is verified on every server: a checksum of each tensor that arrived
against the trainer's, and a probe prompt on whose log-probabilities both must agree. Weights have a label, and each reply names the
label it was sampled with, so that a restarted server is noticed. Every wait has a timeout.
"""

import asyncio
import os
import resource
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import aiohttp
import torch
from torch import Tensor

from vapo.distributed.ranks import barrier, gather_lists, raise_on_all_ranks, rank, world_size
from vapo.distributed.sharding import checksum
from vapo.models.actor import Actor
from vapo.models.export import merged_weights
from vapo.rollout.checks import check_length
from vapo.rollout.engine import check_eos, ignore
from vapo.rollout.vllm.dispatch import Dispatch, Fleet
from vapo.rollout.vllm.options import checked_token
from vapo.rollout.vllm.server import Expected, Server, ServerFault, bucket_body, buckets, each, open_session
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

Probes = dict[str, tuple[list[Request], list[Completion]]]  # by url: the probe of a server that just got its weights


class ServerEngine:
    """`Engine` over HTTP. With several trainer ranks, rank 0 sends the weights, and every rank requests its own responses."""

    ranks_per_engine = 1
    own_weights = True

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        urls: Sequence[str],
        dtype: str = "float32",
        deadline_seconds: float = 1800.0,
        start_seconds: float = 600.0,
        retries: int = 3,
        max_batch: int = 256,
        bucket_mib: int = 256,
        bucket_folder: str | None = None,
        max_probe_gap: float | None = None,
        token: str | int | None = None,
    ) -> None:
        """
        Args:
            eos_token_ids: tokens that end a response; they are kept in it.
            urls: addresses of the servers, such as http://127.0.0.1:8000.
            dtype: data type of the servers' weights.
            deadline_seconds: timeout for one response and for one bucket of weights; a server that takes longer counts as failed.
            start_seconds: timeout for servers to come up, when the run starts and when none is left.
            retries: maximum retries per request.
            max_batch: maximum concurrent requests per server from each trainer rank.
            bucket_mib: MiB of weights per message (a larger tensor is sent alone); needs about four times that much memory on the
                trainer and on the server.
            bucket_folder: shared by trainer and servers, /dev/shm on one node: weights go through files in it; None sends by HTTP.
            max_probe_gap: largest mean difference of log-probabilities on the probe, in nats; None: see `WeightCheck`.
            token: the one that the servers were started with; None for servers without.
        """
        check_eos(eos_token_ids)
        if not urls or len(set(urls)) < len(urls) or not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError(f"rollout.engine.urls is {list(urls)}; list each server once, such as [http://127.0.0.1:8000]")
        limits = dict(deadline_seconds=deadline_seconds, start_seconds=start_seconds, max_batch=max_batch, bucket_mib=bucket_mib)
        for name, value in limits.items():
            if value <= 0:
                raise ValueError(f"rollout.engine.{name} is {value}; set it above 0")
        if retries < 0:
            raise ValueError(f"rollout.engine.retries is {retries}; set it to 0 or more")
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files != resource.RLIM_INFINITY and len(urls) * max_batch > files - 128:
            raise ValueError(
                f"{len(urls)} servers with {max_batch} requests each need more connections than the {files} open files that a "
                "process may have here; call ulimit -n 65536 first, or lower rollout.engine.max_batch"
            )
        self.eos_token_ids = tuple(eos_token_ids)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.deadline_seconds, self.start_seconds = deadline_seconds, start_seconds
        self.retries, self.max_batch, self.bucket_bytes = retries, max_batch, bucket_mib * 2**20
        self.bucket_folder = bucket_folder
        if bucket_folder is not None and not os.path.isdir(bucket_folder):
            raise ValueError(
                f"rollout.engine.bucket_folder is {bucket_folder}, which is not a folder here; set it to null to send by HTTP"
            )
        self.token = checked_token(token, "rollout.engine.token")
        servers, first = [Server(url) for url in urls], rank() % len(urls)
        self.fleet = Fleet([*servers[first:], *servers[:first]])  # equally busy ones are asked in this order: not all by all ranks
        self.checks = {s.url: WeightCheck(self.dtype, max_probe_gap, f"the server {s.url}") for s in self.fleet.servers}
        self.weights_version = -1
        self.label = ""  # label of the current weights
        self.run = uuid.uuid4().hex[:12]  # part of the labels, so that no other run has the same ones
        self.actor: Actor | None = None
        self.sent: dict[str, int] = {}  # checksum of each tensor of the current weights; on rank 0

    # --- weights -------------------------------------------------------------------------------------------------------

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        """Sends the weights to all servers that are up, and verifies that they arrived.

        Returns:
            `engine/probe_gap` and `engine/servers`, how many have the weights.

        Raises:
            ValueError: a server has other weights; the message names the tensors.
            TimeoutError: at the first sync, a server is not up; at later ones, no server is up.
            ServerFault: the last server failed during the sync. Ranks that did not fail themselves raise ValueError.
        """
        barrier()  # a sync aborts the running requests: no rank may be waiting for one
        first, label = self.actor is None, f"{self.run}/{version}"
        gaps = self._sync(actor, label, set(), wait_for_all=first)
        if first:  # the probe has to notice perturbed weights
            for what, names in perturbations(actor).items():
                moved = self._sync(actor, f"{self.run}/{what}", names, wait_for_all=False)
                with raise_on_all_ranks():
                    for url, gap in moved.items():
                        if self.checks[url].floor is not None:  # else it came back only now
                            self.checks[url].check_power(gap, actor, what)
            gaps = self._sync(actor, label, set(), wait_for_all=False)
        self.weights_version = version
        return {"engine/probe_gap": max(gaps.values()), "engine/servers": float(len(gaps))}

    def _sync(self, actor: Actor, label: str, changed: set[str], wait_for_all: bool) -> dict[str, float]:
        """Sends the weights under a label, those named in `changed` perturbed. Returns the gap on the probe of each server that has
        them; unless weights are perturbed, it must be rounding."""
        self.weights_version, faults, probes = -1, dict[str, str](), Probes()
        weights = perturbed(self._weights(actor), changed)
        with raise_on_all_ranks():
            try:
                if rank() == 0:
                    probes, faults = asyncio.run(self._send_to_all(actor, weights, label, wait_for_all))
            finally:
                deque(weights, maxlen=0)  # gathering sharded tensors takes all ranks, even if rank 0 failed
        sizes = [server.max_tokens for server in self.fleet.servers]
        ((label, faults, probes, sizes),) = gather_lists([(label, faults, probes, sizes)] if rank() == 0 else [])
        for server, size in zip(self.fleet.servers, sizes, strict=True):
            server.max_tokens = size
        gaps = {url: probe_gap(actor, *probe) for url, probe in probes.items()}
        with raise_on_all_ranks():
            for url, gap in gaps.items() if not changed else ():
                self.checks[url].check(gap, actor)
        self.actor, self.label = actor, label
        self.fleet.reset([server for server in self.fleet.servers if server.url in probes], faults)
        return gaps

    def sleep(self) -> None:
        """Does nothing: servers have their own memory."""

    def _weights(self, actor: Actor) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in merged_weights(actor.language_model, dtype=self.dtype):
            yield name, tensor.detach().to(device="cpu", copy=True).contiguous()  # a copy of tied ones too

    async def _send_to_all(
        self, actor: Actor, weights: Iterator[tuple[str, Tensor]], label: str, wait_for_all: bool
    ) -> tuple[Probes, dict[str, str]]:
        """Sends the weights; returns the probes of the servers that have them now, and the faults of the others."""
        async with open_session(self.token) as session:
            up = await self._up(session, wait_for_all)
            self.sent = {}
            return await self._send(session, up, actor, weights, label)

    async def _up(self, session: aiohttp.ClientSession, wait_for_all: bool) -> list[Server]:
        """Waits until all servers answer, or at least one; returns those that answer."""
        servers, begin = self.fleet.servers, time.monotonic()
        while True:
            found = await each(servers, lambda server: server.label(session))
            faults = [str(result) for result in found.values() if isinstance(result, ServerFault)]
            if not faults or (len(faults) < len(servers) and not wait_for_all):
                return [server for server, result in found.items() if not isinstance(result, ServerFault)]
            if time.monotonic() - begin > self.start_seconds:
                raise TimeoutError(
                    f"{len(faults)} of {len(servers)} generation servers were not up within {self.start_seconds:g} s: "
                    f"{'; '.join(faults)}. Start them with python src/serve.py, correct rollout.engine.urls, or raise "
                    "rollout.engine.start_seconds"
                )
            await asyncio.sleep(1)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        servers: Sequence[Server],
        actor: Actor,
        weights: Iterator[tuple[str, Tensor]],
        label: str,
    ) -> tuple[Probes, dict[str, str]]:
        """Sends the weights, compares checksums, and generates the probe. A server that fails is left out.

        Raises:
            ServerFault: no server got the weights, or they are not `self.sent`, which the label names: the actor has moved on.
        """
        faults: dict[str, str] = {}
        expected: dict[str, int] = {}

        async def do(call: Callable[[Server], Coroutine[Any, Any, Any]]) -> dict[Server, Any]:
            asked = [server for server in servers if server.url not in faults]
            found = await each(asked, call)
            faults.update({server.url: str(result) for server, result in found.items() if isinstance(result, ServerFault)})
            if len(faults) == len(servers):
                raise ServerFault(f"the weights reached no generation server: {'; '.join(faults.values())}; see the servers' logs")
            return {server: result for server, result in found.items() if server.url not in faults}

        await do(lambda server: server.start_update(session, self.deadline_seconds))
        for bucket in buckets(weights, self.bucket_bytes):
            expected |= {name: checksum(tensor) for name, tensor in bucket.items()}
            with bucket_body(bucket, self.bucket_folder) as body:
                await do(lambda server, body=body: server.send(session, body, self.deadline_seconds))  # type: ignore[misc]
        if self.sent and self.sent != expected:
            raise ServerFault("the weights it should have are gone; it gets the next ones")
        self.sent = expected
        arrived = await do(lambda server: server.finish_update(session, label, self.deadline_seconds))
        for server, workers in arrived.items():
            for received in workers:
                check_received(expected, received, f"the server {server.url}")
        requests = {server: probe_requests(actor, server.max_tokens) for server in servers}
        ask = self._asks(session, actor, PROBE_SAMPLING, label, eos_token_ids=())

        async def probe(server: Server) -> list[Completion]:
            return list(await asyncio.gather(*(ask(server, request) for request in requests[server])))

        said = await do(probe)
        return {server.url: (requests[server], completions) for server, completions in said.items()}, faults

    # --- generation ----------------------------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], sampling: SamplingParams, on_finish: Callable[[int, Completion], None] = ignore
    ) -> list[Completion]:
        """See `Engine`. Raises TimeoutError if no server is left, ValueError if a request cannot be answered."""
        if self.actor is None or self.weights_version < 0:
            raise RuntimeError("generate was called before load_weights")
        for server in self.fleet.synced:
            check_length(requests, sampling, server.max_tokens, "max_tokens of serve.py")
        return asyncio.run(self._generate(self.actor, requests, sampling, on_finish))

    async def _generate(
        self,
        actor: Actor,
        requests: Sequence[Request],
        sampling: SamplingParams,
        on_finish: Callable[[int, Completion], None],
    ) -> list[Completion]:
        async with open_session(self.token) as session:

            async def revive(server: Server) -> None:
                label = await server.label(session)
                if label == self.label and server in self.fleet.synced:
                    return
                if world_size() > 1 or threading.current_thread() is not threading.main_thread():  # the actor may be training
                    raise ServerFault(f"{server.url} does not have the weights, and gets them at the next sync")
                probes, _ = await self._send(session, [server], actor, self._weights(actor), self.label)
                self.checks[server.url].check(probe_gap(actor, *probes[server.url]), actor)
                self.fleet.synced.add(server)

            ask, limits = (
                self._asks(session, actor, sampling, self.label),
                (self.max_batch, self.retries, self.start_seconds),
            )
            return await Dispatch(self.fleet, requests, ask, revive, on_finish, *limits).run()

    def _asks(
        self,
        session: aiohttp.ClientSession,
        actor: Actor,
        sampling: SamplingParams,
        label: str,
        eos_token_ids: Sequence[int] | None = None,
    ) -> Callable[[Server, Request], Coroutine[Any, Any, Completion]]:
        """Returns a function that gets one completion from a server."""
        eos_token_ids = self.eos_token_ids if eos_token_ids is None else eos_token_ids
        expected = Expected(eos_token_ids, actor.language_model.config.get_text_config().vocab_size, label, sampling.stop)
        return lambda server, request: server.generate(session, request, sampling, expected, self.deadline_seconds)
