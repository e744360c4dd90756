"""Two trainer ranks and two servers: rank 0 sends the weights, each rank gets its own responses, and a fault stops both alike."""

import pytest
import torch
import torch.distributed as dist
from tests.conftest import spread
from tests.ranks import run_on_ranks
from tests.rollout.vllm.fake_server import EOS, FakeServer

from vapo.models.actor import Actor
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm import server_engine
from vapo.rollout.vllm.server_engine import ServerEngine
from vapo.run.pretrain import build_model, build_tokenizer
from vapo.types import Request, SamplingParams

SAMPLING = SamplingParams(max_new_tokens=8)


def make_model():
    return spread(build_model(build_tokenizer(), hidden=16, layers=2, heads=2))


def requests(rank):
    return [Request((2 + i, 5, 9), seed=100 * rank + i) for i in range(6)]


def rank_main(folder, urls):
    rank = dist.get_rank()
    model = make_model()
    engine = ServerEngine([EOS], urls, deadline_seconds=60, start_seconds=60)
    found = {"proof": engine.load_weights(Actor(model), 0), "label": engine.label}
    found["tokens"] = [c.token_ids.tolist() for c in engine.generate(requests(rank), SAMPLING)]
    original = server_engine.bucket_body
    server_engine.bucket_body = lambda bucket, folder: original({name: t for name, t in bucket.items() if "norm" not in name})
    try:
        engine.load_weights(Actor(model), 1)
    except ValueError as error:
        found["error"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.distributed
def test_two_ranks_share_servers_and_stop_alike(tmp_path):
    fakes = [FakeServer(make_model()) for _ in range(2)]
    try:
        run_on_ranks(2, tmp_path, rank_main, [fake.url for fake in fakes])
    finally:
        for fake in fakes:
            fake.die()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["label"] == other["label"] and one["proof"] == other["proof"] and one["proof"]["engine/servers"] == 2
    assert one["error"] in other["error"] and "tensors are stale or missing" in one["error"]
    plain = TorchEngine([EOS])
    plain.load_weights(Actor(make_model()), 0)
    for rank, found in enumerate((one, other)):
        assert found["tokens"] == [c.token_ids.tolist() for c in plain.generate(requests(rank), SAMPLING)]
    sent = (0, "the head", "a layer", 0, 1)  # the first sync tries itself with perturbed weights
    labels = [one["label"].replace("/0", f"/{what}") for what in sent]
    assert [fake.labels for fake in fakes] == [labels] * 2  # sent once, not by each rank
