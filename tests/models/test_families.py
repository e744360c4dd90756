"""Tiny random models of many families: actor and plain engine agree with the model's own logits, or the family is refused.

`FAMILIES` is what docs/models.md lists; tests/models/families.py prints the gaps.
"""

from pathlib import Path

import pytest
import torch
from tests.models.families import ENGINE_GAP, FAMILIES, build, gaps

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


def test_layers_without_a_cache_of_ours_are_refused() -> None:
    actor, _ = build("qwen2")
    actor.language_model.config.layer_types = ["linear_attention", "full_attention"]
    engine = TorchEngine([1])
    engine.load_weights(actor, 0)
    with pytest.raises(ValueError, match=r"layers of kind full_attention, linear_attention: set rollout=vllm"):
        engine.generate([Request((3, 4), 0)], SamplingParams(max_new_tokens=2))
