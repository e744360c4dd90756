"""Server mode with real vLLM servers on loopback (`make test-vllm`): the same tokens, proved weights, and servers that die."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pandas as pd
import pytest
import torch
from tests.runs import CONFIGS, metrics, run
from transformers import AutoModelForCausalLM

from vapo.data.prompts import SumsPrompts
from vapo.models.actor import Actor, load_tokenizer
from vapo.models.loading import LoRA
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm import server_engine
from vapo.rollout.vllm.middleware import VARIABLE
from vapo.rollout.vllm.server import Server, open_session
from vapo.rollout.vllm.server_engine import ServerEngine
from vapo.types import Request, SamplingParams

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")

ROOT = Path(CONFIGS).parent
BASE = str(ROOT / "src" / "vapo" / "assets" / "mini" / "base")
EOS = [1]
LONG = SamplingParams(max_new_tokens=250)
START_SECONDS = 200
TOKEN = "d0f1c2"


class Process:
    """A server that our command started, with all its processes in one group."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.start()

    def start(self):
        settings = [f"port={self.port}", "kv_cache_mib=64", "max_tokens=512", "max_batch=64", f"hydra.run.dir={self.folder}"]
        with (self.folder / "log.txt").open("a") as log:
            words = [sys.executable, "src/serve.py", *settings]
            variables = os.environ | {VARIABLE: TOKEN}
            self.process = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True)

    def signal(self, number):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(600)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    started = []
    try:
        started += [Process(tmp_path_factory.mktemp("server")) for _ in range(2)]
        yield started
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="module")
def engine(servers):
    limits = {"deadline_seconds": 30, "start_seconds": START_SECONDS, "max_batch": 32}
    return ServerEngine(EOS, [server.url for server in servers], **limits, token=TOKEN)


@pytest.fixture(scope="module")
def current():
    """From test to test: tokens of the weights that a restarted server must have. The tests that kill servers run in order."""
    return {}


@pytest.fixture
def model(engine):
    """The mini model; engine and model have its weights."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    engine.load_weights(Actor(model), 0)
    return model


def requests(count=8, seed=0):
    source = SumsPrompts(load_tokenizer(BASE), "{problem}:", 4, 20)
    return [Request(source.prompt(i // 4, seed).token_ids, seed=1000 * seed + i) for i in range(count)]


def move(model, scale):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def tokens(completions):
    return [tuple(completion.token_ids.tolist()) for completion in completions]


def disturbed(engine, asked, disturb):
    """Completions of a run in which `disturb` is called once the first response is there; each was handed over once."""
    handed = []

    def on_finish(index, completion):
        handed.append((index, completion))
        if len(handed) == 1:
            disturb()

    completions = engine.generate(asked, LONG, on_finish)
    assert len(handed) == len(asked) and dict(handed) == dict(enumerate(completions))
    return completions


def test_greedy_tokens_are_the_plain_engines(engine, model):
    sampling, asked = SamplingParams(temperature=0.0, max_new_tokens=60), requests(12)
    plain = TorchEngine(EOS)
    plain.load_weights(Actor(model), 0)
    ours, theirs = engine.generate(asked, sampling), plain.generate(asked, sampling)
    assert tokens(ours) == tokens(theirs) and [c.finished for c in ours] == [c.finished for c in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_stop_string_ends_a_response_as_in_the_plain_engine(engine, model):
    sampling, plain = (
        SamplingParams(temperature=0.0, max_new_tokens=80, stop=["7=", "4"]),
        TorchEngine(EOS, tokenizer=load_tokenizer(BASE)),
    )
    plain.load_weights(Actor(model), 0)
    found, expected = engine.generate(requests(12), sampling), plain.generate(requests(12), sampling)
    assert tokens(found) == tokens(expected) and [c.finished for c in found] == [c.finished for c in expected]
    assert sum(c.token_ids[-1] != EOS[0] and len(c.token_ids) < 80 for c in found) > 2


def test_equal_seeds_give_equal_tokens_on_whichever_server(engine, model, servers):
    asked = requests(16)
    together = tokens(engine.generate(asked, LONG))
    for server in servers:
        alone = ServerEngine(EOS, [server.url], deadline_seconds=30, token=TOKEN)
        alone.load_weights(Actor(model), 0)
        assert tokens(alone.generate(asked[5:9], LONG)) == together[5:9]
    assert len(set(together)) > 8


def test_without_the_token_no_route_of_vllms_is_open(engine, model, servers):
    """Every route that its own description names, and a websocket."""

    async def statuses():
        async with open_session(TOKEN) as ours, open_session() as others:
            async with ours.get(f"{servers[0].url}/openapi.json") as reply:
                routes = {(route, method) for route, methods in (await reply.json())["paths"].items() for method in methods}
            found = {}
            for route, method in routes | {("/openapi.json", "get"), ("/metrics", "get"), ("/nowhere", "get")}:
                async with others.request(method.upper(), servers[0].url + route, json={}) as reply:
                    found[route] = reply.status
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await others.ws_connect(f"{servers[0].url}/v1/realtime")
            return found

    found = asyncio.run(statuses())
    assert {"/collective_rpc", "/update_weights", "/inference/v1/generate", "/health", "/pause", "/v1/models"} <= set(found)
    assert set(found.values()) == {401}
    with pytest.raises(ValueError, match=r"/v1/models wants another token \(HTTP 401\)"):
        ServerEngine(EOS, [servers[0].url]).load_weights(Actor(model), 0)
    assert engine.load_weights(Actor(model), 1)["engine/servers"] == 2


@pytest.mark.parametrize("through", ["http", "folder"])
def test_after_each_update_servers_and_trainer_agree(through, engine, model, monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "bucket_bytes", 100_000)  # many buckets: layers are cut by them
    monkeypatch.setattr(engine, "bucket_folder", str(tmp_path) if through == "folder" else None)
    for update in range(5):
        move(model, 0.01)
        proof = engine.load_weights(Actor(model), update + 1)
        assert proof["engine/probe_gap"] < 1e-4 and proof["engine/servers"] == 2


def test_adapters_are_added_to_the_weights_that_are_sent(engine, model):
    LoRA(rank=2).inject(model)
    before, generator = engine.load_weights(Actor(model), 1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    assert before["engine/probe_gap"] < 1e-4
    assert engine.load_weights(Actor(model), 2)["engine/probe_gap"] < 1e-4


def test_a_skipped_weight_sync_stops_the_run(engine, model, monkeypatch):
    async def nothing(self, session, body, seconds):
        pass

    move(model, 1e-7)
    monkeypatch.setattr(Server, "send", nothing)
    with pytest.raises(ValueError, match=r"(\d+) of \1 tensors are stale or missing"):
        engine.load_weights(Actor(model), 1)


def test_one_stale_tensor_is_named(engine, model, monkeypatch):
    name = "model.layers.1.mlp.up_proj.weight"
    old = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    move(model, 1e-6)
    original = server_engine.bucket_body
    monkeypatch.setattr(
        server_engine, "bucket_body", lambda bucket, folder: original(bucket | ({name: old} if name in bucket else {}))
    )
    with pytest.raises(ValueError, match=rf"1 of \d+ tensors are stale or missing, {name}"):
        engine.load_weights(Actor(model), 1)


def test_a_head_that_was_not_sent_is_named(engine, model, monkeypatch):
    """The trap of tied embeddings: without its own entry the head keeps the old weights."""
    original = server_engine.bucket_body
    without = lambda bucket, folder: original({name: tensor for name, tensor in bucket.items() if name != "lm_head.weight"})  # noqa: E731
    monkeypatch.setattr(server_engine, "bucket_body", without)
    with pytest.raises(ValueError, match=r"stale or missing, lm_head.weight"):
        engine.load_weights(Actor(model), 1)


def test_an_update_that_a_dead_trainer_left_unfinished_does_no_harm(engine, model):
    async def begin():
        async with open_session(TOKEN) as session:
            for server in engine.fleet.servers:
                await server.start_update(session, 10)
                name = "model.layers.0.self_attn.q_proj.weight"
                with server_engine.bucket_body({name: torch.zeros_like(model.state_dict()[name])}) as body:
                    await server.send(session, body, 10)

    asyncio.run(begin())
    assert engine.load_weights(Actor(model), 1)["engine/probe_gap"] < 1e-4


def test_a_slow_server_leaves_a_complete_batch_and_is_used_again(engine, model, servers, monkeypatch):
    asked = requests(64)
    undisturbed = tokens(engine.generate(asked, LONG))
    monkeypatch.setattr(engine, "deadline_seconds", 8)
    try:
        found = disturbed(engine, asked, lambda: servers[1].signal(signal.SIGSTOP))
    finally:
        servers[1].signal(signal.SIGCONT)
    assert tokens(found) == undisturbed
    assert [server.url for server in engine.fleet.live] == [servers[0].url]
    assert engine.load_weights(Actor(model), 1)["engine/servers"] == 2  # stalled, not gone: what it was still at is dropped
    assert tokens(engine.generate(asked, LONG)) == undisturbed


def test_a_server_killed_in_mid_generation_leaves_the_batch_of_an_undisturbed_run(engine, model, servers, current):
    asked = requests(64)
    undisturbed = tokens(engine.generate(asked, LONG))
    assert tokens(disturbed(engine, asked, servers[1].kill)) == undisturbed
    assert [server.url for server in engine.fleet.live] == [servers[0].url]
    assert tokens(engine.generate(asked, LONG)) == undisturbed
    move(model, 0.02)
    assert engine.load_weights(Actor(model), 1)["engine/servers"] == 1
    current["tokens"] = tokens(engine.generate(asked[:16], LONG))
    servers[1].start()  # it takes a minute; a test below uses it


def test_training_with_servers_is_training_with_vllm_in_process(tmp_path, servers):
    settings = [f"rollout.engine.urls=[{servers[0].url}]", "rollout.engine.deadline_seconds=60", f"rollout.engine.token={TOKEN}"]
    run(tmp_path / "servers", "rollout=vllm_server", *settings)
    run(tmp_path / "process", "rollout=vllm", "rollout.engine.kv_cache_mib=64")
    ours, theirs = (metrics(tmp_path / name) for name in ("servers", "process"))
    assert (ours["clock/policy_step"].dropna().max(), ours["engine/servers"].dropna().unique().tolist()) == (2, [1])
    assert ours["engine/probe_gap"].dropna().max() < 1e-4 and ours["engine/logprob_gap_mean"].dropna().max() < 1e-4
    names = sorted(path.name for path in (tmp_path / "process").rglob("step_*.parquet"))
    assert len(names) == 3
    for name in names:
        one, other = (pd.read_parquet(next((tmp_path / folder).rglob(name))) for folder in ("servers", "process"))
        assert one["response"].tolist() == other["response"].tolist()
    assert len(ours) == len(theirs)


def test_a_restarted_server_gets_the_current_weights_before_it_serves(engine, servers, current):
    """It started from the folder's weights, which are not the current ones; the other server is gone."""
    servers[0].kill()
    assert tokens(engine.generate(requests(64)[:16], LONG)) == current["tokens"]
    assert [server.url for server in engine.fleet.live] == [servers[1].url]


def test_all_servers_killed_is_a_clear_stop_in_time(engine, servers):
    engine.start_seconds, begin = 3, time.monotonic()
    with pytest.raises(TimeoutError, match=r"no generation server is left, and none came back within 3 s.*src/serve\.py") as raised:
        disturbed(engine, requests(64), servers[1].kill)
    assert time.monotonic() - begin < 600 and all(server.url in str(raised.value) for server in servers)
