"""Server mode against servers that fail in every way: complete batches, nothing lost or doubled, or a clear stop in time."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.rollout.vllm.fake_server import EOS, FAULTS, MAX_TOKENS, FakeServer, slow, when

from vapo.models.actor import Actor
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm.server import Server, buckets
from vapo.rollout.vllm.server_engine import ServerEngine
from vapo.types import Request, SamplingParams

SAMPLING = SamplingParams(max_new_tokens=12)
REQUESTS = [Request((2 + i // 3, 5, 9), seed=i) for i in range(12)]  # four prompts, three responses each


@pytest.fixture
def fakes(mini_model):
    started = []

    def start(count, token=None):
        started.extend(FakeServer(mini_model, token) for _ in range(count))
        return started[-count:]

    yield start
    for fake in started:
        fake.die()


@pytest.fixture
def engine(fakes, mini_model):
    """Makes an engine with the model's weights on `count` fakes."""

    def make(count, **limits):
        servers = fakes(count, limits.get("token"))
        limits = {"deadline_seconds": 60.0, "start_seconds": 60.0, "max_batch": 4} | limits
        engine = ServerEngine([EOS], [fake.url for fake in servers], **limits | {"deadline_seconds": 60.0})
        engine.load_weights(Actor(mini_model), 0)
        engine.deadline_seconds = limits["deadline_seconds"]
        for fake in servers:
            fake.asked.clear()
        return engine, servers

    return make


@pytest.fixture
def undisturbed(mini_model):
    engine = TorchEngine([EOS])
    engine.load_weights(Actor(mini_model), 0)
    return engine.generate(REQUESTS, SAMPLING)


def generate(engine, requests=REQUESTS, sampling=SAMPLING):
    """Completions; each was handed over once, in this thread, and no thread of the engine's is left."""
    handed, threads = [], set(threading.enumerate())

    def on_finish(index, completion):
        assert threading.current_thread() is threading.main_thread()
        handed.append((index, completion))

    completions = engine.generate(requests, sampling, on_finish)
    assert len(handed) == len(requests) and dict(handed) == dict(enumerate(completions))
    new = {thread.name for thread in set(threading.enumerate()) - threads}
    assert all("process_request_thread" in name or "fake" in name for name in new), new
    return completions


def same(completions, others):
    """Equal but for the rounding of another batch."""
    assert [c.token_ids.tolist() for c in completions] == [c.token_ids.tolist() for c in others]
    assert [c.finished for c in completions] == [c.finished for c in others]
    for one, other in zip(completions, others, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def move(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)


# --- well servers --------------------------------------------------------------------------------------------------------


def test_completions_come_in_order_with_each_requests_own_seed(engine, undisturbed):
    same(generate(engine(2)[0]), undisturbed)


def test_the_work_is_shared_and_a_prompts_responses_stay_together(engine):
    made, servers = engine(2, max_batch=1)

    def keeps_step(other: FakeServer, answered: int) -> Callable[..., Any]:
        """Answers when the other server has been asked as often, or nothing is left to ask."""
        return when(lambda: len(other.asked) >= answered or sum(len(fake.asked) for fake in servers) == 12)

    for fake, other in (servers, servers[::-1]):
        fake.script = [keeps_step(other, answered) for answered in range(12)]
    generate(made)
    prompts = [Counter(prompt for prompt, _ in fake.asked) for fake in servers]
    assert sum(len(fake.asked) for fake in servers) == 12 and min(len(fake.asked) for fake in servers) >= 3
    assert len(set(prompts[0]) & set(prompts[1])) <= 1  # the last group may be shared by who is free


def test_a_response_that_might_not_fit_into_the_servers_context_is_refused(engine):
    made, _ = engine(1, deadline_seconds=30)
    requests = [Request((2, 3), 0), Request(tuple(2 + i % 15 for i in range(MAX_TOKENS - 5)), 1)]
    assert len(generate(made, requests, SamplingParams(max_new_tokens=5))) == 2
    with pytest.raises(ValueError, match=r"set max_tokens of serve\.py to 445 or more, or max_new_tokens to 5 or less"):
        generate(made, requests, SamplingParams(max_new_tokens=50))


def test_a_proxy_of_the_environment_is_not_used(engine, undisturbed, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    same(generate(engine(1)[0]), undisturbed)


# --- servers that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_server_leaves_a_complete_batch(fault, engine, undisturbed, caplog):
    made, (ill, _) = engine(2, deadline_seconds=3.0 if fault == "slow" else 60.0)
    ill.script = [None, FAULTS[fault]]
    same(generate(made), undisturbed)
    assert f"{ill.url} gets no requests for now" in caplog.text or f"{ill.url}/inference" in caplog.text
    assert ill.script == []


def test_a_single_server_that_fails_once_goes_on(engine, undisturbed):
    made, (fake,) = engine(1, start_seconds=30)
    fake.script = [None, None, FAULTS["error"], None, FAULTS["no json"]]
    same(generate(made), undisturbed)


def test_a_server_that_always_replies_garbage_is_left_alone_for_longer_and_longer(engine, undisturbed):
    made, (ill, _) = engine(2)
    ill.script = [FAULTS["no tokens"]] * 1000
    begin = time.monotonic()
    same(generate(made), undisturbed)
    assert len(ill.asked) <= 4 * (2 + math.log2(1 + time.monotonic() - begin))  # 4 at once, again after 1 s, 2 s, 4 s


def test_a_server_back_from_a_stall_is_used_again(engine, undisturbed, caplog):
    made, servers = engine(2, deadline_seconds=2.0)
    servers[0].script = [slow(4.0)]
    same(generate(made), undisturbed)
    assert f"{servers[0].url} gets no requests for now" in caplog.text
    limit = time.monotonic() + 1800
    while made.fleet.live != set(made.fleet.servers):
        assert time.monotonic() < limit
        same(generate(made, REQUESTS * 3, SamplingParams(max_new_tokens=12)), undisturbed * 3)


def test_all_servers_dead_is_a_clear_stop_in_time(engine):
    made, servers = engine(2, start_seconds=1.5)
    for fake in servers:
        fake.script = [None, FAULTS["dead"]]
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no generation server is left, and none came back within 1\.5 s.*urls") as raised:
        generate(made)
    assert time.monotonic() - begin < 600 and all(fake.url in str(raised.value) for fake in servers)


def test_a_request_that_fails_everywhere_is_a_clear_stop(engine):
    made, (fake,) = engine(1, retries=1, start_seconds=30)
    fake.script = [FAULTS["error"]] * 1000
    with pytest.raises(ValueError, match=r"a request failed 2 times, the last time .*HTTP 500 engine is dead.*retries"):
        generate(made, REQUESTS[:1])


def test_what_a_server_refuses_is_not_asked_again(engine):
    made, servers = engine(2)
    for fake in servers:
        fake.script = [lambda server, reply: (400, "prompt is too long")] * 99
    with pytest.raises(ValueError, match=r"refuses \(HTTP 400\): prompt is too long"):
        generate(made)


def test_an_error_of_the_callers_comes_through_and_leaves_nothing_behind(engine):
    made, _ = engine(2)

    def on_finish(index, completion):
        raise TimeoutError("the verifier's own")

    with pytest.raises(TimeoutError, match="the verifier's own"):
        made.generate(REQUESTS, SAMPLING, on_finish)
    same(generate(made, REQUESTS[:2]), generate(made, REQUESTS[:2]))


# --- weights -------------------------------------------------------------------------------------------------------------


def test_a_weight_sync_is_proved_and_counted(engine, mini_model):
    made, servers = engine(2)
    move(mini_model)
    proof = made.load_weights(Actor(mini_model), 7)
    assert proof["engine/probe_gap"] < 1e-5 and proof["engine/servers"] == 2 and made.weights_version == 7
    assert servers[0].label == servers[1].label and servers[0].label.endswith("/7")


def test_an_address_may_end_in_a_slash(fakes, mini_model):
    (fake,) = fakes(1)
    made = ServerEngine([EOS], [f"{fake.url}/"], deadline_seconds=60.0)
    assert made.load_weights(Actor(mini_model), 0)["engine/servers"] == 1


def test_weights_go_through_a_shared_folder(engine, mini_model, tmp_path):
    made, _ = engine(2, bucket_folder=str(tmp_path))
    move(mini_model)
    assert made.load_weights(Actor(mini_model), 1)["engine/probe_gap"] < 1e-5
    assert list(tmp_path.iterdir()) == []


def test_a_restarted_server_gets_the_weights_before_it_may_serve(engine, undisturbed):
    made, (fake,) = engine(1, start_seconds=20)
    fake.die()
    fake.restart()
    assert fake.label == "default"
    same(generate(made), undisturbed)
    assert fake.labels[-2:] == [made.label] * 2 and len(fake.labels) == 5  # the first sync, with two perturbed ones in between


def test_a_server_that_dies_in_a_weight_sync_is_left_out(engine, mini_model):
    made, (ill, _) = engine(2)
    ill.drop = lambda route: route == "update_weights"
    move(mini_model)
    assert made.load_weights(Actor(mini_model), 1)["engine/servers"] == 1
    asked = len(ill.asked)
    generate(made)
    assert len(ill.asked) == asked and ill.label.endswith("/0")  # it has old weights and was not asked


def test_a_server_whose_sync_broke_off_is_not_trusted_by_its_label(engine, mini_model):
    """It has the weights and their label, but keeps the prompts of the old ones in its cache."""
    made, (ill, well) = engine(2)
    ill.empties_its_cache = False
    move(mini_model)
    assert made.load_weights(Actor(mini_model), 1)["engine/servers"] == 1 and ill.label == well.label == made.label
    asked = len(ill.asked)
    well.script = [when(lambda: ill.labels.count(made.label) == 2)]  # it is tried again, and fails again
    generate(made)
    assert len(ill.asked) == asked and ill.labels.count(made.label) == 2
    ill.empties_its_cache = True
    made.fleet.due = dict.fromkeys(made.fleet.due, 0.0)
    well.script = [when(lambda: len(made.fleet.live) == 2)]
    generate(made)
    assert len(ill.asked) > asked and ill.labels.count(made.label) == 3


def test_a_weight_sync_that_reaches_no_server_stops(engine, mini_model):
    made, servers = engine(2)
    for fake in servers:
        fake.empties_its_cache = False
    with pytest.raises(OSError, match=r"the weights reached no generation server.*could not empty its prefix cache"):
        made.load_weights(Actor(mini_model), 1)
    with pytest.raises(RuntimeError, match="before load_weights"):
        made.generate(REQUESTS, SAMPLING)


def test_a_skipped_weight_sync_is_found(engine, mini_model, monkeypatch):
    made, _ = engine(2)

    async def nothing(self, session, body, seconds):
        pass

    monkeypatch.setattr(Server, "send", nothing)
    with pytest.raises(ValueError, match=r"the server http://127.* has other weights than the actor: (\d+) of \1 tensors"):
        made.load_weights(Actor(mini_model), 1)


def test_one_stale_tensor_is_named(engine, mini_model, monkeypatch):
    made, _ = engine(2)
    name = "model.layers.1.mlp.up_proj.weight"
    old = dict(mini_model.named_parameters())[name].detach().clone()
    from vapo.rollout.vllm import server_engine

    original = server_engine.bucket_body
    monkeypatch.setattr(
        server_engine, "bucket_body", lambda bucket, folder: original(bucket | ({name: old} if name in bucket else {}))
    )
    move(mini_model)
    with pytest.raises(ValueError, match=rf"1 of \d+ tensors are stale or missing, {name}"):
        made.load_weights(Actor(mini_model), 1)


def test_an_engine_that_happens_to_have_the_weights_but_ignores_what_it_is_sent_is_found(fakes, mini_model):
    """The probe agrees at the first sync; without a perturbed one nothing would be noticed until the actor has moved far."""
    (fake,) = fakes(1)
    fake.own.load_state_dict(mini_model.state_dict())
    fake.own.load_state_dict = lambda tensors, strict: None
    made = ServerEngine([EOS], [fake.url], deadline_seconds=60.0, start_seconds=60.0)
    with pytest.raises(ValueError, match=r"does not use the head that it was sent: with those weights perturbed"):
        made.load_weights(Actor(mini_model), 0)


def test_a_layer_that_is_not_used_is_found(fakes, mini_model):
    (fake,) = fakes(1)
    fake.own.load_state_dict(mini_model.state_dict())
    original = fake.own.load_state_dict
    fake.own.load_state_dict = lambda tensors, strict: original({n: t for n, t in tensors.items() if "layers.1." not in n}, strict)
    made = ServerEngine([EOS], [fake.url], deadline_seconds=60.0, start_seconds=60.0)
    with pytest.raises(ValueError, match=r"does not use a layer that it was sent"):
        made.load_weights(Actor(mini_model), 0)


def test_a_later_gap_far_above_the_first_one_is_an_error_although_it_is_below_the_limit(engine, mini_model):
    """An engine that is a small update behind: the gap is below the limit of the first sync, and far above its rounding."""
    made, (fake,) = engine(1)
    check = made.checks[fake.url]
    assert check.floor is not None and check.floor < 1e-5
    fake.own.load_state_dict = lambda tensors, strict: None
    with torch.no_grad():
        for parameter in mini_model.parameters():
            parameter.mul_(1.0005)
    with pytest.raises(ValueError, match=r"log-probabilities differ by \S+ nats") as raised:
        made.load_weights(Actor(mini_model), 1)
    assert "the limit was 4e-05" in str(raised.value)


def test_weights_that_arrived_but_are_not_used_are_found(engine, mini_model):
    made, (fake,) = engine(1)
    fake.own.load_state_dict = lambda tensors, strict: None
    move(mini_model)
    with pytest.raises(ValueError, match=r"the server http://127.*'s log-probabilities differ by .* nats"):
        made.load_weights(Actor(mini_model), 1)


def test_a_servers_token_is_sent_with_every_request(engine, undisturbed, mini_model):
    made, servers = engine(2, token="d0f1c2")
    same(generate(made), undisturbed)
    servers[0].die()
    servers[0].restart()
    move(mini_model)
    assert made.load_weights(Actor(mini_model), 1)["engine/servers"] == 2


@pytest.mark.parametrize("token", [None, "12345"])
def test_a_server_that_wants_another_token_is_a_clear_stop_that_does_not_show_it(fakes, mini_model, token):
    (fake,) = fakes(1, token="d0f1c2")
    engine = ServerEngine([EOS], [fake.url], start_seconds=30, token=token)
    message = r"wants another token \(HTTP 401\): set rollout\.engine\.token, or VAPO_SERVER_TOKEN"
    with pytest.raises(ValueError, match=rf"^{fake.url}/v1/models {message}") as raised:
        engine.load_weights(Actor(mini_model), 0)
    assert "d0f1c2" not in str(raised.value)


def test_a_token_that_changes_while_a_run_is_going_stops_it(engine):
    made, servers = engine(2, token="d0f1c2")
    for fake in servers:
        fake.token = "changed"
    with pytest.raises(ValueError, match=r"/inference/v1/generate wants another token \(HTTP 401\)"):
        generate(made)


def test_servers_that_never_come_up_are_named(fakes, mini_model):
    (fake,) = fakes(1)
    engine = ServerEngine([EOS], [fake.url, "http://127.0.0.1:9"], start_seconds=5)
    with pytest.raises(TimeoutError, match=r"1 of 2 generation servers were not up within 5 s: http://127\.0\.0\.1:9/.*src/serve"):
        engine.load_weights(Actor(mini_model), 0)


def test_nothing_is_generated_before_the_weights_are_there(fakes):
    with pytest.raises(RuntimeError, match="before load_weights"):
        ServerEngine([EOS], ["http://127.0.0.1:9"]).generate(REQUESTS, SAMPLING)


def test_buckets_are_bounded_and_complete():
    weights = {str(i): torch.zeros(size) for i, size in enumerate([10, 10, 10, 100, 1, 1])}
    made = list(buckets(iter(weights.items()), 100))
    assert [[*bucket] for bucket in made] == [["0", "1"], ["2"], ["3"], ["4", "5"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos_token_ids": []}, "no EOS token"),
        ({"urls": []}, "list each server once"),
        ({"urls": ["http://a", "http://a"]}, "list each server once"),
        ({"urls": ["127.0.0.1:8000"]}, "list each server once"),
        ({"deadline_seconds": 0}, r"rollout\.engine\.deadline_seconds is 0"),
        ({"retries": -1}, r"rollout\.engine\.retries is -1"),
        ({"bucket_folder": "/nowhere"}, r"rollout\.engine\.bucket_folder is /nowhere"),
        ({"max_batch": 10**9}, "ulimit -n"),
        ({"token": ""}, r"rollout\.engine\.token is empty or has"),
        ({"token": "a b"}, r"rollout\.engine\.token is empty or has"),
        ({"token": "a\nb"}, r"rollout\.engine\.token is empty or has"),
        ({"token": "ä"}, r"rollout\.engine\.token is empty or has"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ServerEngine(**{"eos_token_ids": [EOS], "urls": ["http://127.0.0.1:9"]} | arguments)
