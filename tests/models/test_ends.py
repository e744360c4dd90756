"""Which tokens end a response, and that responses fit into a model's positions."""

import logging
from types import SimpleNamespace

import pytest
from tests.tokenizers import LLAMA, QWEN, make_tokenizer
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from vapo.models.actor import Actor
from vapo.models.ends import check_positions, end_tokens, positions, turn_end
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import Request, SamplingParams

TRIMMED = "{% for m in messages %}<|im_start|>{{ m['content'] }} \n<|im_end|>{% endfor %}"
REFUSES = "{{ raise_exception('only one turn') }}"


@pytest.mark.parametrize(
    ("settings", "token"),
    [(QWEN, "<|im_end|>"), (LLAMA, None), ({}, None), ({"chat": TRIMMED}, "<|im_end|>"), ({"chat": REFUSES}, None)],
)
def test_the_token_after_an_assistants_turn(settings, token):
    tokenizer = make_tokenizer(**settings)
    assert turn_end(tokenizer) == (None if token is None else tokenizer.convert_tokens_to_ids(token))


def test_sources_that_differ_count_together_and_are_named_in_one_line(mini_model, caplog):
    """Qwen2.5's base: the generation config and the tokenizer say <|endoftext|>, the chat format <|im_end|>."""
    tokenizer, actor = make_tokenizer(**QWEN), Actor(mini_model)
    mini_model.generation_config.eos_token_id = tokenizer.eos_token_id
    expected = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with caplog.at_level(logging.WARNING):
        assert end_tokens(actor, tokenizer) == expected
    (record,) = caplog.records
    assert "<|endoftext|> (0: generation config, tokenizer), <|im_end|> (2: chat format)" in record.message
    assert "model.eos_token_ids" in record.message and "\n" not in record.message
    assert actor.eos_token_ids == mini_model.generation_config.eos_token_id == expected  # exports have them


def test_a_model_that_writes_the_turns_end_finishes(mini_model):
    tokenizer, requests = make_tokenizer(**QWEN), [Request((3, 4, 5), seed) for seed in range(20)]
    mini_model.generation_config.eos_token_id, end = 0, tokenizer.convert_tokens_to_ids("<|im_end|>")
    limit, seen = SamplingParams(max_new_tokens=30), 0
    free = engine_of(mini_model, [0]).generate(requests, limit)
    for long, short in zip(
        free, engine_of(mini_model, end_tokens(Actor(mini_model), tokenizer)).generate(requests, limit), strict=True
    ):
        ids = long.token_ids.tolist()
        expected = ids[: ids.index(end) + 1] if end in ids else ids
        assert short.token_ids.tolist() == expected and short.finished == (end in ids or long.finished)
        seen += end in ids
    assert seen > 3


def engine_of(model, eos):
    engine = TorchEngine(eos)
    engine.load_weights(Actor(model), 0)
    return engine


def test_equal_sources_say_nothing_and_chosen_tokens_are_taken_alone(mini_model, caplog):
    plain, chat = make_tokenizer(), make_tokenizer(**QWEN)
    mini_model.generation_config.eos_token_id = plain.eos_token_id
    assert end_tokens(Actor(mini_model), plain) == [0] and mini_model.generation_config.eos_token_id == 0
    assert end_tokens(Actor(mini_model, eos_token_ids=[7, 8]), chat) == [7, 8]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 100),
        ({"rope_type": "default"}, 100),
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 50}, 100),
    ],
)
def test_positions_of_a_model(rope, expected):
    assert positions(SimpleNamespace(max_position_embeddings=100, rope_parameters=rope)) == expected
    assert positions(SimpleNamespace(max_position_embeddings=100, rope_scaling=rope)) == expected


def test_positions_of_real_configurations():
    assert (
        positions(Qwen2Config(max_position_embeddings=64)) == 64 and positions(SimpleNamespace(max_position_embeddings=-1)) is None
    )
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    assert positions(LlamaConfig(max_position_embeddings=64, rope_parameters=yarn)) == 128
    assert positions(AutoConfig.for_model("bloom")) is None  # it states none


def test_responses_beyond_the_positions_are_refused_by_the_settings_names(tmp_path):
    Qwen2Config(max_position_embeddings=64).save_pretrained(tmp_path)
    check_positions({"path": str(tmp_path)}, 40, 24, "rollout.sampling.max_new_tokens")
    with pytest.raises(ValueError, match=r"64 positions: set rollout.sampling.max_new_tokens to 24 or less, or data.source.max"):
        check_positions({"path": str(tmp_path)}, 40, 25, "rollout.sampling.max_new_tokens")
    with pytest.raises(ValueError, match=r"64 positions: set data.source.max_prompt_tokens lower, or model.path"):
        check_positions({"path": str(tmp_path)}, 64, 1, "rollout.sampling.max_new_tokens")
