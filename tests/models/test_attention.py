"""Packed passes: each distinct prompt is read once, and no number changes."""

import copy
import dataclasses
import random

import pytest
import torch
from tests.conftest import write_rollout
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.attention import PACKED, is_packed
from vapo.models.critic import Critic
from vapo.rollout.collate import collate


def grouped_batch(groups=3, size=5):
    """Shuffled groups of ragged responses; two groups have the same prompt, and one prompt is a prefix of another."""
    rng = random.Random(1)
    rollouts = []
    for group in range(groups):
        prompt = write_rollout(random.Random(0), 3 + 4 * (group // 2), 1, True, group).prompt
        for _ in range(size):
            rollout = write_rollout(rng, 1, rng.choice([1, 2, 3, 9, 14, 30]), rng.random() < 0.5, group)
            rollouts.append(dataclasses.replace(rollout, prompt=prompt))
    rng.shuffle(rollouts)
    return collate(rollouts)


def blocks(packed):
    """index_BL of each block."""
    pieces = packed.index_X.split([rows * width for rows, width in packed.blocks])
    return [piece.view(block) for piece, block in zip(pieces, packed.blocks, strict=True)]


def unpacked(model):
    """The same network with the model's own attention over padded rows."""
    plain = copy.deepcopy(model)
    (plain.language_model if isinstance(plain, Actor) else plain.backbone).set_attn_implementation("sdpa")
    return plain


@pytest.mark.parametrize("common", [0, 1, 3])
def test_packed_tokens_are_what_prompts_share_then_the_rest_of_each_distinct_one_then_the_responses(common):
    batch = grouped_batch()
    for group in (0, 1):  # the short prompts are three tokens, the long one begins with them
        rows_B = batch.group_B == group
        starts = (batch.total_length_B.cumsum(0) - batch.total_length_B)[rows_B]
        batch.token_N[starts[:, None] + torch.arange(common, 3)] = 1
    (micro,) = micro_batches(batch, 10**6)
    packed, part = micro.packed, micro.part
    lengths = list(zip(part.prompt_length_B.tolist(), part.response_length_B.tolist(), strict=True))
    texts = [token_L[: p + r].tolist() for token_L, (p, r) in zip(micro.token_BL, lengths, strict=True)]
    distinct = list(dict.fromkeys(tuple(text[:p]) for text, (p, _) in zip(texts, lengths, strict=True)))
    assert len(distinct) == 2  # of three groups
    rests, responses = [prompt[common:] for prompt in distinct], [text[p:] for text, (p, _) in zip(texts, lengths, strict=True)]
    assert packed.token_S.tolist() == [token for piece in [distinct[0][:common], *rests, *responses] for token in piece]

    rows = [index_L for index_BL in blocks(packed) for index_L in index_BL]
    assert len(packed.blocks) > 1
    for index_L, text in zip(rows, texts, strict=True):
        assert packed.token_S[index_L[: len(text)]].tolist() == text
        assert packed.position_S[index_L[: len(text)]].tolist() == list(range(len(text)))
        assert index_L[len(text) :].tolist() == [0] * (len(index_L) - len(text))
    assert packed.index_X[packed.slot_S].tolist() == list(range(len(packed.token_S)))
    before = [index for index_L, (p, r) in zip(rows, lengths, strict=True) for index in index_L[p - 1 : p + r - 1].tolist()]
    assert packed.predicts_R.tolist() == before


@pytest.mark.parametrize("similar", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_attention_blocks_hold_similar_lengths_within_the_budget(budget, similar):
    batch = grouped_batch(6)
    length_B = batch.total_length_B
    for micro in micro_batches(batch, budget, similar=similar):
        lengths = length_B[micro.index_B].tolist()
        assert len(micro.packed.index_X) <= budget or len(lengths) == 1
        for block in blocks(micro.packed):
            rows, lengths = lengths[: len(block)], lengths[len(block) :]
            assert block.shape[1] == rows[0] and min(rows) >= similar * rows[0]
        assert not lengths and (similar > 0 or len(micro.packed.blocks) == 1)


@pytest.mark.parametrize("budget", [10**6, 100])
def test_packed_log_probabilities_and_gradients_are_those_of_padded_rows(language_model, budget):
    batch, actor = grouped_batch(), Actor(language_model)
    assert actor.packs
    weight_R = torch.randn(len(batch.sampler_logprob_R), generator=torch.Generator().manual_seed(0))
    found = []
    for network in (actor, unpacked(actor)):
        total = []
        for micro in micro_batches(batch, budget):
            logprob_R, entropy_R = network(micro, 0.7, with_entropy=True)
            (logprob_R * weight_R[: len(logprob_R)]).sum().backward()
            total += [logprob_R, entropy_R]
        found.append((torch.cat(total), {name: p.grad for name, p in network.named_parameters()}))
    assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    for name, gradient in found[1][1].items():
        assert_close(found[0][1][name], gradient, atol=1e-5 * gradient.abs().max().item() + 1e-6, rtol=0)


def test_packed_values_are_those_of_padded_rows(language_model):
    critic = Critic(language_model.base_model, torch.nn.Linear(16, 1))
    (micro,) = micro_batches(grouped_batch(), 10**6)
    assert critic.packs
    assert_close(critic(micro), unpacked(critic)(micro), atol=1e-5, rtol=0)


@pytest.mark.parametrize("autocast", [True, False])
def test_only_under_autocast_attention_of_bfloat16_is_float32_on_a_cpu(autocast, mini_model, monkeypatch):
    (micro,) = micro_batches(grouped_batch(), 10**6)
    attention, seen, products = torch.nn.functional.scaled_dot_product_attention, set(), set()

    def noted(*inputs, **options):
        output = attention(*inputs, **options)
        seen.update(x.dtype for x in (*inputs, output))
        return output

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    projection = mini_model.base_model.layers[0].self_attn.o_proj
    projection.register_forward_hook(lambda _, inputs, output: products.update((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        Actor(mini_model if autocast else mini_model.bfloat16())(micro)[0].sum().backward()
    assert seen == {torch.float32 if autocast else torch.bfloat16} and products == {torch.bfloat16}


def test_activation_checkpointing_changes_no_gradient(mini_model):
    (micro,) = micro_batches(grouped_batch(), 10**6)
    gradients = []
    for checkpointing in (False, True):
        actor = Actor(copy.deepcopy(mini_model)).train()
        if checkpointing:
            actor.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        actor(micro)[0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in actor.parameters()]))
    assert_close(gradients[1], gradients[0])


def test_the_network_reads_what_prompts_share_once_and_no_padding(mini_model):
    (micro,) = micro_batches(grouped_batch(), 10**6)
    actor, read = Actor(mini_model), []
    actor.language_model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    actor(micro)
    assert read == [7 + len(micro.next_token_R)]  # the long prompt begins with the short one


def test_what_stands_in_the_padding_of_attention_changes_nothing(mini_model):
    (micro,) = micro_batches(grouped_batch(), 10**6)
    actor = Actor(mini_model)
    used = torch.zeros_like(micro.packed.index_X, dtype=torch.bool)
    lengths = micro.part.total_length_B.tolist()
    start = 0
    for rows, width in micro.packed.blocks:
        for _ in range(rows):
            used[start : start + lengths.pop(0)] = True
            start += width
    junk_X = torch.where(used, micro.packed.index_X, len(micro.packed.token_S) - 1)
    assert not torch.equal(junk_X, micro.packed.index_X)
    other = dataclasses.replace(micro, packed=dataclasses.replace(micro.packed, index_X=junk_X))
    assert torch.equal(actor(other)[0], actor(micro)[0])


@pytest.mark.parametrize(
    ("family", "attention", "packs"),
    [("qwen2", "sdpa", True), ("qwen2", "eager", False), ("mistral", "sdpa", False), ("gemma3_text", "sdpa", False)],
)
def test_models_with_windows_or_other_attention_keep_theirs(family, attention, packs):
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(family, **sizes, num_key_value_heads=2, head_dim=8)
    actor = Actor(AutoModelForCausalLM.from_config(config, attn_implementation=attention))
    assert actor.packs == is_packed(actor.language_model) == packs
    assert actor.language_model.config._attn_implementation == (PACKED if packs else attention)
