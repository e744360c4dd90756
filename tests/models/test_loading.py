"""Real loading code on tiny models of each family: what comes out equals a plain Hugging Face forward."""

from pathlib import Path

import pytest
import torch
from tests.conftest import FAMILIES, spread
from tests.runs import CONFIGS
from tests.tokenizers import CHATML, make_tokenizer
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.loading import SIZES, LoadOptions, LoRA, check_same_tokens, without_weights
from vapo.rollout.collate import collate

REWARD_FORMATS = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    """A tiny language model of each family, saved."""
    spread(FAMILIES[request.param]()).save_pretrained(tmp_path / "base")
    return tmp_path


def reward_folder(folder, format_):
    model = spread(REWARD_FORMATS[format_].from_pretrained(folder / "base", num_labels=1))
    model.save_pretrained(folder / format_)
    return model


def alone(rollout):
    return torch.tensor([[*rollout.prompt.token_ids, *rollout.completion.token_ids]])


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"attention": "eager"}, {"activation_checkpointing": True}])
def test_logprobs_equal_a_plain_forward_of_each_response_alone(folder, rollouts, options):
    plain = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    actor = Actor.from_pretrained(str(folder / "base"), LoadOptions(**options), logits_chunk_tokens=7)
    for micro in micro_batches(collate(rollouts), 40):
        logprobs = actor(micro, 0.7)[0].split(micro.part.response_length_B.tolist())
        for row, logprob_T in zip(micro.index_B.tolist(), logprobs, strict=True):
            rollout = rollouts[row]
            start = len(rollout.prompt.token_ids)
            all_LV = (plain(input_ids=alone(rollout)).logits[0] / 0.7).log_softmax(-1)
            expected = [all_LV[start - 1 + t, token] for t, token in enumerate(rollout.completion.token_ids)]
            assert_close(logprob_T, torch.stack(expected), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("format_", REWARD_FORMATS)
def test_values_equal_a_plain_forward_of_the_reward_model(folder, rollouts, format_):
    plain = reward_folder(folder, format_).eval()
    critic = Critic.from_pretrained(str(folder / format_), "reward_model")
    for micro in micro_batches(collate(rollouts), 40):
        values = critic(micro).split(micro.part.response_length_B.tolist())
        for row, value_T in zip(micro.index_B.tolist(), values, strict=True):
            ids, start = alone(rollouts[row]), len(rollouts[row].prompt.token_ids)
            if format_ == "token":
                expected_T = plain(input_ids=ids).logits[0, start - 1 : -1, 0]
            else:
                expected_T = torch.stack([plain(input_ids=ids[:, :end]).logits[0, 0] for end in range(start, ids.shape[1])])
            assert_close(value_T, expected_T, rtol=0, atol=1e-5)


def actor_gradients(actor, batch):
    actor.train().zero_grad()
    (micro,) = micro_batches(batch, 1000)
    actor(micro)[0].sum().backward()
    return {name: p.grad.clone() for name, p in actor.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_no_gradient(folder, batch):
    path = str(folder / "base")
    plain, checkpointed = (
        actor_gradients(Actor.from_pretrained(path, LoadOptions(activation_checkpointing=on)), batch) for on in (False, True)
    )
    assert plain.keys() == checkpointed.keys() and len(plain) > 10
    for name in plain:
        assert_close(plain[name], checkpointed[name], rtol=1e-5, atol=1e-6)
    actor = Actor.from_pretrained(path, LoadOptions(activation_checkpointing=True))
    assert actor.language_model.is_gradient_checkpointing


def test_lora_starts_as_the_model_and_trains_only_adapters(folder, batch):
    path, (micro,) = str(folder / "base"), micro_batches(batch, 1000)
    torch.manual_seed(0)
    plain, adapted = Actor.from_pretrained(path), Actor.from_pretrained(path, LoadOptions(lora=LoRA(rank=2)))
    assert_close(plain(micro)[0], adapted(micro)[0])
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    assert sum("lora_A" in name for name in trainable) == 2 * 7  # layers x linear modules of a layer, the output's left out
    assert {p.shape[0] for name, p in trainable.items() if "lora_A" in name} == {2}
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(2):  # B starts at 0, so A has no gradient in the first step
        actor_gradients(adapted, batch)
        optimizer.step()
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(trainable)
    assert not torch.allclose(plain(micro)[0], adapted(micro)[0], atol=1e-3)


@torch.no_grad()
def test_alpha_over_rank_scales_the_adapters(folder):
    actor = Actor.from_pretrained(str(folder / "base"), LoadOptions(lora=LoRA(rank=2, alpha=5.0, target_modules=["o_proj"])))
    adapted = [module for name, module in actor.named_modules() if name.endswith("o_proj")]
    assert len(adapted) == 2 == sum("lora_A" in name for name, _ in actor.named_parameters())
    layer = adapted[0]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    up.normal_()
    x = torch.randn(3, down.shape[1])
    assert_close(layer(x) - layer.base_layer(x), 5.0 / 2 * x @ down.T @ up.T, rtol=1e-4, atol=1e-4)


def test_a_critic_with_lora_trains_adapters_and_its_head(folder, batch):
    critic = Critic.from_pretrained(str(folder / "base"), "zero", LoadOptions(lora=LoRA(rank=2)))
    trainable = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} < trainable and all("lora_" in name for name in trainable if not name.startswith("head"))


def test_remote_code_runs_only_if_asked_for(folder):
    asked = []
    original = AutoModelForCausalLM.from_pretrained

    class Spy:
        @staticmethod
        def from_pretrained(path, **options):
            asked.append(options.pop("trust_remote_code"))
            return original(path, **options)

    LoadOptions().load(Spy, str(folder / "base"))
    LoadOptions(trust_remote_code=True).load(Spy, str(folder / "base"))
    assert asked == [False, True]


def test_adapters_and_critics_heads_are_float32_on_frozen_bfloat16_weights(folder, batch):
    options = LoadOptions(dtype="bfloat16", lora=LoRA(rank=2))
    path = str(folder / "base")
    actor, critic = Actor.from_pretrained(path, loading=options), Critic.from_pretrained(path, "zero", loading=options)
    for network in (actor, critic):
        trained = {p.dtype for p in network.parameters() if p.requires_grad}
        assert trained == {torch.float32} and torch.bfloat16 in {p.dtype for p in network.parameters()}
    actor_gradients(actor, batch)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in actor.parameters() if p.requires_grad)


def test_a_critic_that_reads_other_tokens_is_refused(tmp_path):
    for name, special in (("same", {"chat": CHATML}), ("other", {"bos": "<s>"})):
        make_tokenizer(**special).save_pretrained(tmp_path / name)
    vocabulary = make_tokenizer().get_vocab()
    check_same_tokens(vocabulary, str(tmp_path / "same"))
    with pytest.raises(ValueError, match=r"reads other tokens than the policy .* set model.critic.path"):
        check_same_tokens(vocabulary, str(tmp_path / "other"))


def test_a_critic_without_a_tokenizer_passes(folder):
    """As benchmarks/shifted_head.py writes one; transformers makes a tokenizer of a few tokens for some of these."""
    check_same_tokens(make_tokenizer().get_vocab(), str(folder / "base"))
    check_same_tokens(make_tokenizer().get_vocab(), str(folder / "nothing"))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("qwen2_5_0_5b", 494_032_768),
        ("qwen2_5_1_5b", 1_543_714_304),
        ("qwen2_5_7b", 7_615_616_512),
        ("qwen2_5_32b", 32_763_876_352),
        ("smollm2_135m", 134_515_008),
    ],
)
def test_published_sizes_are_built_without_weights(size, parameters):
    """Parameter counts of the models on the hub."""
    model = without_weights(size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_every_size_has_a_model_config():
    minis = {"mini", "mini_fresh_critic", "mini_shifted_critic"}
    configs = {path.stem for path in Path(CONFIGS, "model").glob("*.yaml")} - minis - {"default", "made"}
    assert configs == {folder.name for folder in SIZES.iterdir()}
    with pytest.raises(ValueError, match="choose one of qwen2_5_0_5b"):
        without_weights("qwen")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoadOptions(dtype="float16"), "set it to float32, or to bfloat16"),
        (lambda: LoRA(rank=0), r"set model\.lora\.rank to 1 or more"),
        (lambda: LoRA(alpha=0), "alpha above 0"),
        (lambda: LoRA(dropout=1.0), r"dropout in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
