import random
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from tests.completions import completion_of
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from vapo.micro_batches import micro_batches
from vapo.models import critic as critic_file
from vapo.models.critic import Critic
from vapo.models.loading import LoadOptions
from vapo.rollout.collate import collate
from vapo.types import Rollout


@pytest.fixture
def critic(mini_model):
    torch.manual_seed(0)
    return Critic(mini_model.base_model, nn.Linear(16, 1))


@pytest.fixture
def reward_model(mini_model, tmp_path):
    """A saved reward model with the mini backbone and a head that is not small."""
    mini_model.save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path / "reward")
    return model.eval()


def values(critic, rollouts, budget=1000):
    """One list of values a rollout."""
    batch, rows = collate(rollouts), {}
    with torch.no_grad():
        for micro in micro_batches(batch, budget):
            pieces = critic(micro).split(micro.part.response_length_B.tolist())
            rows |= {row: piece.tolist() for row, piece in zip(micro.index_B.tolist(), pieces, strict=True)}
    return [rows[row] for row in range(len(rollouts))]


def test_a_value_is_of_the_state_before_its_token(critic, make_rollout):
    rollout = make_rollout(random.Random(0), 4, 6, True, 0)
    before = values(critic, [rollout])[0]
    for t in range(6):
        ids = rollout.completion.token_ids.tolist()
        ids[t] = 2 + (ids[t] + 1) % 18
        changed = Rollout(rollout.prompt, 0, completion_of(ids), rollout.verdict)
        after = values(critic, [changed])[0]
        assert after[: t + 1] == pytest.approx(before[: t + 1], abs=1e-6)
        assert all(abs(new - old) > 1e-3 for new, old in zip(after[t + 1 : t + 2], before[t + 1 : t + 2], strict=True))


def test_values_are_the_head_on_the_hidden_states_alone(critic, rollouts):
    for rollout, value_T in zip(rollouts, values(critic, rollouts, budget=40), strict=True):
        prompt, response = rollout.prompt.token_ids, rollout.completion.token_ids
        with torch.no_grad():
            hidden_LD = critic.backbone(input_ids=torch.tensor([[*prompt, *response]])).last_hidden_state[0]
        state_TD = hidden_LD[len(prompt) - 1 : len(prompt) - 1 + len(response)]
        expected = [(critic.head.weight[0] @ state_D + critic.head.bias[0]).item() for state_D in state_TD]
        assert value_T == pytest.approx(expected, abs=1e-5)


def test_the_budget_changes_no_value(critic, rollouts):
    one, *many = [list(chain.from_iterable(values(critic, rollouts, budget))) for budget in (1000, 40, 13, 1)]
    for other in many:
        assert other == pytest.approx(one, abs=1e-5)


def test_reward_model_init_values_a_state_as_the_reward_model_scores_it(reward_model, rollouts, tmp_path):
    critic = Critic.from_pretrained(str(tmp_path / "reward"), "reward_model").eval()
    for rollout, value_T in zip(rollouts, values(critic, rollouts), strict=True):
        state = list(rollout.prompt.token_ids)
        for value, token in zip(value_T, rollout.completion.token_ids, strict=True):
            with torch.no_grad():
                score = reward_model(input_ids=torch.tensor([state])).logits.item()
            assert value == pytest.approx(score, abs=1e-5)
            state.append(token)


@pytest.mark.parametrize("folder", ["base", "reward"])
def test_zero_init_values_everything_0(reward_model, rollouts, tmp_path, folder):
    critic = Critic.from_pretrained(str(tmp_path / folder), "zero")
    assert list(chain.from_iterable(values(critic, rollouts))) == [0.0] * 34


def test_normal_init_has_the_standard_deviation_of_its_docstring(mini_model, monkeypatch, tmp_path):
    monkeypatch.setattr(critic_file, "check_model_path", lambda path, setting: None)
    monkeypatch.setattr(critic_file, "AutoModel", SimpleNamespace(from_pretrained=lambda path, **options: mini_model.base_model))
    torch.manual_seed(0)
    heads = [Critic.from_pretrained("", "normal").head for _ in range(1000)]
    weights = torch.stack([head.weight for head in heads])
    assert weights.std().item() == pytest.approx(1 / 17, rel=0.02)
    assert abs(weights.mean().item()) < 0.002
    assert not any(head.bias.item() for head in heads)


@pytest.mark.parametrize("head_init", ["reward_model", "zero", "normal"])
def test_the_head_of_a_bfloat16_backbone_is_float32(reward_model, batch, tmp_path, head_init):
    critic = Critic.from_pretrained(str(tmp_path / "reward"), head_init, loading=LoadOptions(dtype="bfloat16"))
    assert critic.backbone.dtype == torch.bfloat16
    assert critic.head.weight.dtype == critic.head.bias.dtype == torch.float32
    value_R = critic(next(micro_batches(batch, 1000)))
    assert value_R.dtype == torch.float32
    assert value_R.shape == (34,)


def test_backbone_and_head_both_learn(critic, batch):
    (micro,) = micro_batches(batch, 1000)
    critic(micro).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in critic.named_parameters() if "k_proj.bias" not in name)


def test_the_critic_does_not_share_the_actors_backbone(mini_model, tmp_path):
    mini_model.save_pretrained(tmp_path)
    critic = Critic.from_pretrained(str(tmp_path), "zero")
    assert_close(critic.backbone.norm.weight, mini_model.base_model.norm.weight)
    assert not {p.data_ptr() for p in critic.parameters()} & {p.data_ptr() for p in mini_model.parameters()}


def test_an_unknown_head_init_names_its_setting(tmp_path):
    with pytest.raises(ValueError, match=r"'random'; set model\.critic\.head_init to one of reward_model, zero, normal"):
        Critic.from_pretrained(str(tmp_path), "random")


@pytest.mark.parametrize("head_init", ["reward_model", "zero"])
def test_a_path_without_a_model_names_its_setting(tmp_path, head_init):
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .* set model\.critic\.path to"):
        Critic.from_pretrained(str(tmp_path), head_init)
    with pytest.raises(FileNotFoundError, match=r"does not exist: set model\.critic\.path to"):
        Critic.from_pretrained(str(tmp_path / "missing"), head_init)


def test_a_language_model_is_not_a_reward_model(reward_model, tmp_path):
    message = r"Qwen2ForCausalLM.*set model\.critic\.path to one, or model\.critic\.head_init to zero"
    with pytest.raises(ValueError, match=message):
        Critic.from_pretrained(str(tmp_path / "base"), "reward_model")


def test_under_autocast_the_head_still_computes_in_float32(critic, batch):
    """As with trainer.precision=bf16-mixed: the backbone's arithmetic is bfloat16, the head's is not."""
    (micro,) = micro_batches(batch, 1000)
    hidden = []
    critic.backbone.register_forward_hook(lambda module, args, output: hidden.append(output.last_hidden_state))
    with torch.autocast("cpu", torch.bfloat16):
        value_R = critic(micro)
    assert value_R.dtype == torch.float32
    assert_close(value_R, critic.head(hidden[0][0][micro.packed.predicts_R].float())[:, 0], rtol=0, atol=0)
