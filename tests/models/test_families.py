"""Tiny random models of many families: actor and plain engine agree with the model's own logits, or the family is refused.

`FAMILIES` is what docs/models.md lists; tests/models/families.py prints the gaps.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.models.families import ENGINE_GAP, FAMILIES, build, gaps
from transformers import AutoConfig, AutoModelForCausalLM

from vapo.distributed.sharding import Sharding
from vapo.models.actor import Actor
from vapo.models.loading import LoadOptions
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import Request, SamplingParams


@pytest.mark.parametrize("family", FAMILIES)
def test_actor_and_engine_have_the_models_own_log_probabilities(family: str) -> None:
    actor_gap, engine_gap = gaps(family)
    assert actor_gap < 1e-4 and engine_gap < ENGINE_GAP


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3_text"])
def test_every_attention_implementation_samples_from_the_same_distribution(family: str, attention: str) -> None:
    actor_gap, engine_gap = gaps(family, attention)
    assert actor_gap < 1e-4 and engine_gap < ENGINE_GAP


def test_gradients_go_through_what_the_model_does_after_its_head() -> None:
    """Soft-capping of Gemma 2: the gradient of the log-probability is that of a plain call."""
    actor, micro = build("gemma2")
    for whole in (True, False):
        actor.zero_grad()
        actor(micro, whole=whole)[0].sum().backward()
        found = torch.cat([p.grad.reshape(-1) for p in actor.parameters() if p.grad is not None])
        if whole:
            expected = found.clone()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max() and expected.abs().max() > 0.1


def test_capped_attention_scores_need_eager_attention(tmp_path: Path) -> None:
    build("gemma2")[0].language_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.attention=sdpa silently leaves out: set it to eager"):
        Actor.from_pretrained(str(tmp_path))
    assert Actor.from_pretrained(str(tmp_path), LoadOptions(attention="eager")).language_model.config.attn_logit_softcapping


def test_a_model_that_uses_its_base_in_parts_is_refused() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("opt", vocab_size=50, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2)
    actor = Actor(AutoModelForCausalLM.from_config(config))
    _, micro = build("qwen2")
    with pytest.raises(ValueError, match=r"used in parts by its language model \(decoder\).*set model.path to another family"):
        small = dataclasses.replace(micro.packed, token_S=micro.packed.token_S % 50)
        actor(dataclasses.replace(micro, packed=small, token_BL=micro.token_BL % 50, next_token_R=micro.next_token_R % 50))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3_text", "olmo2"])
def test_a_sharded_actor_has_the_weights_of_the_files(family: str, tmp_path: Path) -> None:
    """On one rank. Gemma's embedding owns a buffer that is computed, and must not be drawn again when that is."""
    whole, micro = build(family)
    whole.language_model.save_pretrained(tmp_path / "model")
    options = LoadOptions(attention=whole.language_model.config._attn_implementation)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharding = Sharding("float32")
        sharded = Actor.from_pretrained(str(tmp_path / "model"), options, mesh=sharding.mesh("cpu", 1), sharding=sharding).eval()
        with torch.no_grad():
            assert (sharded(micro)[0] - whole(micro)[0]).abs().max() < 1e-4
    finally:
        dist.destroy_process_group()


def test_layers_without_a_cache_of_ours_are_refused() -> None:
    actor, _ = build("qwen2")
    actor.language_model.config.layer_types = ["linear_attention", "full_attention"]
    engine = TorchEngine([1])
    engine.load_weights(actor, 0)
    with pytest.raises(ValueError, match=r"layers of kind full_attention, linear_attention: set rollout=vllm"):
        engine.generate([Request((3, 4), 0)], SamplingParams(max_new_tokens=2))
