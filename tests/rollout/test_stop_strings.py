"""Stop strings: a response ends, finished, with the token that completes the first of them in its text."""

import random

import pytest
import torch
from tests.tokenizers import QWEN, make_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from vapo.models.actor import Actor
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm.options import parameters
from vapo.rollout.vllm.server import Expected, read_completion
from vapo.types import Request, SamplingParams

EOS = 0


@pytest.fixture(scope="module")
def tokenizer():
    """One character a token, three special ones that decode to nothing, and `ab` as one token that completes more than one text."""
    tokenizer = make_tokenizer(**QWEN)
    tokenizer.add_tokens(["ab"])
    return tokenizer


@pytest.fixture(scope="module")
def engine(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **sizes))
    engine = TorchEngine([EOS], tokenizer=tokenizer)
    engine.load_weights(Actor(model), 0)
    return engine


def requests(count=40):
    rng = random.Random(0)
    return [Request(tuple(rng.randint(3, 90) for _ in range(rng.randint(1, 5))), seed) for seed in range(count)]


def cut(ids, tokenizer, stop):
    """The definition: the first prefix whose text has a stop string; None if there is none."""
    for length in range(1, len(ids) + 1):
        if any(text in tokenizer.decode(ids[:length], skip_special_tokens=True) for text in stop):
            return ids[:length]
    return None


@pytest.mark.parametrize("stop", [["a"], ["ab", "7"], ["b", "a"], ["not there"], ["\n", " ", "e", "o"]])
def test_a_response_ends_with_the_token_that_completes_a_stop_string(engine, tokenizer, stop):
    free = engine.generate(requests(), SamplingParams(max_new_tokens=60))
    stopped = engine.generate(requests(), SamplingParams(max_new_tokens=60, stop=stop))
    for long, short in zip(free, stopped, strict=True):
        ids = long.token_ids.tolist()
        expected = cut(ids, tokenizer, stop)
        assert short.token_ids.tolist() == (expected or ids)
        assert short.finished == (expected is not None or long.finished)
        assert short.logprobs == pytest.approx(long.logprobs[: len(short.logprobs)], abs=1e-5)
    assert stop == ["not there"] or sum(len(s.token_ids) < len(f.token_ids) for s, f in zip(stopped, free, strict=True)) > 5


def test_a_stop_string_over_several_tokens_with_a_special_one_within(engine, tokenizer):
    ids = [*tokenizer("xQuestio").input_ids, 2, *tokenizer("n:").input_ids]
    rows = torch.tensor([ids, ids[:-1] + tokenizer("!").input_ids])
    assert engine._stops(rows, ["Question:"]).tolist() == [True, False]


def test_without_stop_strings_nothing_is_decoded(engine, monkeypatch):
    monkeypatch.setattr(TorchEngine, "_stops", None)
    engine.generate(requests(2), SamplingParams(max_new_tokens=3))


def test_an_engine_without_tokenizer_says_what_to_set(engine):
    plain = TorchEngine([EOS])
    plain.language_model = engine.language_model
    with pytest.raises(ValueError, match=r"rollout.sampling.stop needs rollout.engine.tokenizer"):
        plain.generate(requests(1), SamplingParams(max_new_tokens=3, stop=["a"]))


@pytest.mark.parametrize("stop", ["Question:", [""], [3]])
def test_stop_is_a_list_of_texts(stop):
    with pytest.raises(ValueError, match=r"set it to a list of strings"):
        SamplingParams(stop=stop)


def test_stop_strings_leave_the_record_of_sampling_without_them_as_it_was():
    assert str(SamplingParams()) == "SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=1024)"


def test_what_vllm_is_asked_for():
    request = Request((1,), 5)
    without, with_stop = (parameters(request, SamplingParams(stop=stop), [0]) for stop in ([], ["a"]))
    assert without["detokenize"] is False and "stop" not in without
    assert with_stop == without | {"detokenize": True, "stop": ["a"], "include_stop_str_in_output": True}
    assert with_stop["stop_token_ids"] == [0]


def reply(ids, reason, stop_reason):
    content = [{"token_id": token, "logprob": -1.0} for token in ids]
    choice = {"token_ids": ids, "finish_reason": reason, "stop_reason": stop_reason, "logprobs": {"content": content}}
    return {"choices": [choice | {"weight_versions": [{"version": "w"}]}]}


def test_a_servers_reply_may_end_with_a_stop_string_that_was_asked_for():
    expected = Expected([0], 10, "w", ("a",))
    assert read_completion(reply([4, 5], "stop", "a"), 9, expected).finished
    for ids, reason, stop_reason in (([4, 5], "stop", "b"), ([4, 5], "length", "a"), ([0, 5], "stop", "a")):
        with pytest.raises(ValueError, match=r"finish reason"):
            read_completion(reply(ids, reason, stop_reason), 2, expected)
