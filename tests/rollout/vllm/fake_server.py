"""vLLM's routes over a tiny model, in threads of the test. It takes weights and generates with them, and fails by script."""

import base64
import copy
import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import safetensors.torch
import torch

from vapo.distributed.sharding import checksum
from vapo.models.actor import Actor
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import Request, SamplingParams

EOS = 1
MAX_TOKENS = 400
KNOWN = {}  # completions by request and weights: many tests ask the same


def edit(change):
    """A fault: the reply after `change` was applied to its only choice."""

    def fault(server, reply):
        change(reply["choices"][0])
        return 200, json.dumps(reply)

    return fault


def put(choice, place, **values):
    choice["logprobs"]["content"][place] |= values


def slow(seconds):
    def fault(server, reply):
        time.sleep(seconds)
        return 200, json.dumps(reply)

    return fault


def when(condition):
    """Answers only then; the limit ends a test that failed."""

    def fault(server, reply):
        limit = time.monotonic() + 300
        while not condition() and time.monotonic() < limit:
            time.sleep(0.01)
        return 200, json.dumps(reply)

    return fault


def die(server, reply):
    server.die()
    raise ConnectionError


MORE = [{"token_id": 2, "logprob": -1.0}] * 99
FAULTS = {
    "error": lambda server, reply: (500, "engine is dead"),
    "overload": lambda server, reply: (503, "later"),
    "no json": lambda server, reply: (200, "<html>"),
    "other json": lambda server, reply: (200, "[1, 2]"),
    "no choice": lambda server, reply: (200, json.dumps(reply | {"choices": []})),
    "two choices": lambda server, reply: (200, json.dumps(reply | {"choices": reply["choices"] * 2})),
    "half a reply": lambda server, reply: (200, json.dumps(reply), 1000),
    "no log-probabilities": edit(lambda choice: choice.update(logprobs=None)),
    "one log-probability less": edit(lambda choice: choice["logprobs"]["content"].pop()),
    "log-probability of another token": edit(lambda choice: put(choice, 0, token_id=7 + choice["token_ids"][0])),
    "no number": edit(lambda choice: put(choice, 0, logprob=float("nan"))),
    "vllm's word for none": edit(lambda choice: put(choice, 0, logprob=-9999.0)),
    "outside the vocabulary": edit(lambda choice: (choice["token_ids"].__setitem__(0, 99), put(choice, 0, token_id=99))),
    "no tokens": edit(lambda choice: choice.update(token_ids=[], logprobs={"content": []})),
    "too many tokens": edit(lambda choice: (choice["token_ids"].extend([2] * 99), choice["logprobs"]["content"].extend(MORE))),
    "wrong end": edit(lambda choice: choice.update(finish_reason={"stop": "length", "length": "stop"}[choice["finish_reason"]])),
    "aborted": edit(lambda choice: choice.update(finish_reason="abort")),
    "other weights": edit(lambda choice: choice["weight_versions"].append({"version": "default", "start": 0, "end": 1})),
    "slow": slow(6.0),
    "dead": die,
}  # fmt: skip


class FakeServer:
    """Serves from construction to `die`; `restart` is a new process at the same address, with weights of its own."""

    def __init__(self, model, token=None):
        self.port, self.model = 0, model
        self.token = token  # that every request must have
        self.script = []  # faults of the next generations, None for none
        self.asked = []  # (prompt_ids, seed) of all generations
        self.labels = []  # of all finished updates
        self.empties_its_cache = True
        self.drop = lambda route: False  # True: the connection is closed without a reply
        self.restart()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def restart(self):
        self.label, self.received, self.lock = "default", {}, threading.Lock()
        self.own = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter in self.own.parameters():
                parameter.zero_()
        self.connections = []
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.http.daemon_threads, self.http.block_on_close = True, False
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, name="fake serve_forever").start()

    def die(self):
        """Like kill -9: no more connections, and those there are end."""
        self.http.shutdown()
        self.http.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(fake):
        class Handler(BaseHTTPRequestHandler):
            def setup(self):
                super().setup()
                fake.connections.append(self.request)

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                self._reply(None)

            def do_POST(self):
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _reply(self, body):
                try:
                    route = self.path[1:].split("?")[0]
                    if fake.drop(route):
                        self.request.shutdown(socket.SHUT_RDWR)
                        return
                    allowed = fake.token is None or self.headers["Authorization"] == f"Bearer {fake.token}"
                    status, text, *missing = fake.answer(route, body) if allowed else (401, "no")
                    data = text.encode()
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data) + sum(missing)))
                    self.end_headers()
                    self.wfile.write(data)
                    self.close_connection = True
                except (ConnectionError, OSError):
                    self.close_connection = True

        return Handler

    def answer(self, route, body):
        if route == "inference/v1/generate":
            return self._generate(body["token_ids"], body["sampling_params"])
        with self.lock:
            return 200, json.dumps(self._control(route, body))

    def _control(self, route, body):
        if route == "v1/models":
            return {"data": [{"max_model_len": MAX_TOKENS}]}
        if route == "weight_info":
            return {"weight_version": self.label}
        if route == "start_weight_update":
            self.received = {}
        if route == "update_weights":
            info = body["update_info"]
            load, load_file = safetensors.torch.load, safetensors.torch.load_file
            tensors = load_file(info["path"]) if "path" in info else load(base64.b64decode(info["safetensors"]))
            self.received |= {name: checksum(tensor) for name, tensor in tensors.items()}
            self.own.load_state_dict(tensors, strict=False)
        if route == "finish_weight_update":
            self.label = body["weight_version"]
            self.labels.append(self.label)
        if route == "reset_prefix_cache":
            return {"success": self.empties_its_cache}
        if route == "collective_rpc" and body["method"] == "received_checksums":
            return {"results": [self.received]}
        return {}

    def _generate(self, prompt_ids, parameters):
        with self.lock:
            self.asked.append((tuple(prompt_ids), parameters["seed"]))
            fault = self.script.pop(0) if self.script else None
            assert parameters["stop_token_ids"] in ([EOS], []) and parameters["ignore_eos"] and parameters["logprobs"] == 0
            longest = min(parameters["max_tokens"], MAX_TOKENS - len(prompt_ids))
            sampling = SamplingParams(parameters["temperature"], parameters["top_p"], longest)
            eos = parameters["stop_token_ids"] or [10**6]  # a token that is never sampled: the probe has no end
            completion = self._completion(Request(tuple(prompt_ids), parameters["seed"]), sampling, eos)
            ids = completion.token_ids.tolist()
            pairs = zip(ids, completion.logprobs.tolist(), strict=True)
            choice = {
                "token_ids": ids,
                "logprobs": {"content": [{"token_id": token, "logprob": logprob} for token, logprob in pairs]},
                "finish_reason": "stop" if completion.finished else "length",
                "weight_versions": [{"version": self.label, "start": 0, "end": len(ids)}],
            }
        reply = {"choices": [choice]}
        return fault(self, reply) if fault else (200, json.dumps(reply))

    def _completion(self, request, sampling, eos):
        key = request, sampling, *eos, *(checksum(tensor) for tensor in self.own.state_dict().values())
        if key not in KNOWN:
            engine = TorchEngine(eos)
            engine.load_weights(Actor(self.own), 0)
            (KNOWN[key],) = engine.generate([request], sampling)
        return KNOWN[key]
