"""Two sharded ranks, an engine on each (`make test-vllm`)."""

import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.ranks import SETTINGS, SHARDED, output, run_on_ranks, train_on_ranks
from tests.runs import CONFIGS, metrics
from transformers import Qwen2Config, Qwen2ForCausalLM

from vapo.data.prompts import SumsPrompts
from vapo.distributed.sharding import Sharding
from vapo.models.actor import Actor, load_tokenizer
from vapo.models.export import merged_weights
from vapo.rollout.sampler import Sampler
from vapo.types import Request, SamplingParams
from vapo.verifiers.sums import SumsVerifier

pytestmark = [pytest.mark.vllm, pytest.mark.distributed]
pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")

MINI = str(Path(CONFIGS).parent / "src" / "vapo" / "assets" / "mini" / "base")
VLLM = ("rollout=vllm", "rollout.engine.kv_cache_mib=64", "rollout.engine.max_tokens=512", "rollout.engine.max_probe_gap=1e-4")


def weight_sync(folder: Path, model: str) -> None:
    """On each rank: moves the sharded actor and hands it over; notes what the engine read, and the most that lived at once."""
    import vapo.rollout.vllm.engine as vllm_engine

    sharding = Sharding("float32")
    actor = Actor.from_pretrained(model, mesh=sharding.mesh("cpu", 2), sharding=sharding)
    engine = vllm_engine.VLLMEngine([1], model, max_tokens=512, kv_cache_mib=64, max_batch=8)
    with torch.no_grad():
        for number, parameter in enumerate(actor.parameters()):
            parameter.add_(0.01 * (number + 1))
    read, living, most = {}, [], 0

    def watched(model: Any, gather: bool = True, dtype: Any = None) -> Any:
        nonlocal most
        for name, tensor in merged_weights(model, gather, dtype):
            if gather:
                read[name] = tensor.clone()
                living.append((weakref.ref(tensor.untyped_storage()), tensor.nbytes))
                most = max(most, sum(size for storage, size in living if storage() is not None))
            yield name, tensor

    vllm_engine.merged_weights = watched
    gap = engine.load_weights(actor, 1)["engine/probe_gap"]
    (completion,) = engine.generate([Request((3, 4, 5, 6), seed=5)], SamplingParams(max_new_tokens=20))
    rank = torch.distributed.get_rank()
    torch.save({"read": read, "most": most, "gap": gap, "tokens": completion.token_ids.tolist()}, folder / f"{rank}.pt")


@pytest.mark.parametrize("tied", [True, False])
def test_each_ranks_engine_gets_the_whole_new_weights_a_tensor_at_a_time(tied: bool, tmp_path: Path) -> None:
    """In proportion as real models are: the embedding is larger than the matrices that vLLM joins two or three at a time."""
    model = str(tmp_path / "model")
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    Qwen2ForCausalLM(Qwen2Config(vocab_size=512, tie_word_embeddings=tied, eos_token_id=1, **sizes)).save_pretrained(model)
    run_on_ranks(2, tmp_path, weight_sync, model)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    actor = Actor.from_pretrained(model)
    with torch.no_grad():
        for number, parameter in enumerate(actor.parameters()):
            parameter.add_(0.01 * (number + 1))
    expected = dict(actor.language_model.state_dict())
    largest = max(tensor.nbytes for tensor in expected.values())
    for found in ranks:
        assert found["read"].keys() == expected.keys()
        assert [name for name, tensor in expected.items() if not torch.equal(found["read"][name], tensor)] == []
        assert found["gap"] < 1e-4
        assert largest <= found["most"] < 2 * largest < 0.3 * sum(tensor.nbytes for tensor in expected.values())
    assert ranks[0]["tokens"] == ranks[1]["tokens"]


def test_two_ranks_with_vllm_train_as_one(tmp_path: Path) -> None:
    for ranks, trainer in ((1, ("trainer=cpu",)), (2, SHARDED)):
        said = train_on_ranks(ranks, tmp_path / str(ranks), *SETTINGS, *VLLM, *trainer)
        assert "tokens" in said, output(tmp_path)
    pd.testing.assert_frame_equal(metrics(tmp_path / "1"), metrics(tmp_path / "2"), rtol=1e-3, atol=1e-3)


def shared_engine(folder: Path) -> None:
    """Two ranks hold one engine together: half of each matrix on each."""
    from vapo.rollout.vllm.engine import VLLMEngine

    sharding = Sharding("float32")
    actor = Actor.from_pretrained(MINI, mesh=sharding.mesh("cpu", 2), sharding=sharding)
    engine = VLLMEngine([1], MINI, max_tokens=512, kv_cache_mib=64, max_batch=8, tensor_parallel=2)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(1.01)
    gap = engine.load_weights(actor, 1)["engine/probe_gap"]
    source = SumsPrompts(load_tokenizer(MINI), "{problem}:", 4, 9)
    sampling = SamplingParams(max_new_tokens=30)
    sampler = Sampler(engine, load_tokenizer(MINI), SumsVerifier())
    rollouts = sampler.sample([source.prompt(i, 0) for i in range(3)], 2, sampling, seed=0, rl_step=0)
    torch.save(
        {"gap": gap, "tokens": [r.completion.token_ids.tolist() for r in rollouts]}, folder / f"{torch.distributed.get_rank()}.pt"
    )


def test_an_engine_over_two_ranks_samples_alike_on_both(tmp_path: Path) -> None:
    for left_behind in Path("/dev/shm").glob("-tp:*-cpushm_*"):  # by an earlier run: vLLM 0.32 never removes these
        left_behind.unlink()
    run_on_ranks(2, tmp_path, shared_engine)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert ranks[0]["gap"] < 1e-4 and ranks[0]["tokens"] == ranks[1]["tokens"]
    assert len(ranks[0]["tokens"]) == 6 and len(set(map(tuple, ranks[0]["tokens"]))) > 3
