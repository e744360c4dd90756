"""What is exported loads with from_pretrained and computes what was trained."""

import pytest
import torch
from tests.conftest import FAMILIES, spread
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.export import export_actor, export_critic
from vapo.models.loading import LoadOptions, LoRA
from vapo.rollout.torch_engine import TorchEngine


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path):
    spread(FAMILIES[request.param]()).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def move(network):
    """Stands for training: every weight that trains gets another value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_an_exported_actor_is_the_actor(base, rank, batch, tmp_path):
    torch.manual_seed(0)  # of the adapter: with some draws the rounding of W + BA alone moves a log-probability by 7e-5
    actor = Actor.from_pretrained(base, LoadOptions(lora=LoRA(rank=rank)))
    (micro,) = micro_batches(batch, 1000)
    before = actor(micro)[0]
    move(actor)
    export_actor(actor, tmp_path / "actor")
    assert_close(Actor.from_pretrained(str(tmp_path / "actor"))(micro)[0], actor(micro)[0], rtol=0, atol=1e-5)
    assert not torch.allclose(before, actor(micro)[0], atol=1e-2)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "actor")
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    assert plain.config.architectures == AutoModelForCausalLM.from_pretrained(base).config.architectures


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_an_exported_critic_is_the_critic_and_a_token_classifier(base, rank, batch, rollouts, tmp_path):
    critic = Critic.from_pretrained(base, "normal", LoadOptions(lora=LoRA(rank=rank)))
    move(critic)
    export_critic(critic, tmp_path / "critic")
    (micro,) = micro_batches(batch, 1000)
    value_R = critic(micro)
    assert critic.head.bias.item() != 0
    assert_close(Critic.from_pretrained(str(tmp_path / "critic"), "reward_model")(micro), value_R, rtol=0, atol=1e-5)
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic").eval()
    row = micro.index_B.tolist().index(0)
    value_T = value_R.split(micro.part.response_length_B.tolist())[row]
    prompt, response = rollouts[0].prompt.token_ids, rollouts[0].completion.token_ids
    scores_L = plain(input_ids=torch.tensor([[*prompt, *response]])).logits[0, :, 0]
    assert_close(value_T, scores_L[len(prompt) - 1 : -1], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("targets", "tied"), [(["embed_tokens"], False), (["q_proj"], True)])
def test_a_tied_embedding_with_an_adapter_is_exported_untied(targets, tied, batch, tmp_path):
    model = spread(FAMILIES["qwen2_gqa"]())
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "base")
    actor = Actor.from_pretrained(str(tmp_path / "base"), LoadOptions(lora=LoRA(rank=2, target_modules=targets)))
    assert actor.language_model.config.tie_word_embeddings
    move(actor)
    (micro,) = micro_batches(batch, 1000)
    export_actor(actor, tmp_path / "actor")
    loaded = Actor.from_pretrained(str(tmp_path / "actor"))
    assert_close(loaded(micro)[0], actor(micro)[0], rtol=0, atol=1e-5)
    assert loaded.language_model.config.tie_word_embeddings is tied
    engine = TorchEngine([1], own_weights=True)
    engine.load_weights(actor, 0)
    assert_close(Actor(engine.language_model)(micro)[0], actor(micro)[0], rtol=0, atol=1e-5)
