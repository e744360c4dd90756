import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from vapo.models.actor import Actor
from vapo.rollout import torch_engine
from vapo.rollout.torch_engine import TorchEngine, likeliest
from vapo.types import Request, SamplingParams

EOS = (1, 5, 6)  # several, so that a random model ends some responses early


def ragged_requests(count=12, seed=0):
    rng = random.Random(seed)
    return [Request(tuple(rng.randint(2, 18) for _ in range(rng.randint(1, 7))), rng.getrandbits(63)) for _ in range(count)]


def make_engine(model, eos=EOS, **kwargs):
    engine = TorchEngine(eos, **kwargs)
    engine.load_weights(Actor(model), version=1)
    return engine


def generate(model, requests, eos=EOS, max_batch=1024, **sampling):
    return make_engine(model, eos, max_batch=max_batch).generate(requests, SamplingParams(**{"max_new_tokens": 16} | sampling))


def tokens(completions):
    return [tuple(completion.token_ids.tolist()) for completion in completions]


def assert_same(some, others):
    assert tokens(some) == tokens(others)
    assert [c.finished for c in some] == [c.finished for c in others]
    for one, other in zip(some, others, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.fixture
def forward_shapes(mini_model):
    """Shapes of `input_ids` of every forward of the mini model."""
    shapes = []
    mini_model.register_forward_pre_hook(lambda _, args, kw: shapes.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    return shapes


def full_logprobs(model, request, completion, temperature):
    """From one forward over prompt and response, without padding or cache."""
    row = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logits_TV = model(input_ids=row, use_cache=False).logits[0, len(request.prompt_ids) - 1 : -1]
    logprob_TV = (logits_TV / temperature).log_softmax(-1)
    return [logprob_TV[t, token].item() for t, token in enumerate(completion.token_ids)]


def test_greedy_tokens_are_those_of_generate(language_model):
    requests = ragged_requests()
    completions = generate(language_model, requests, temperature=0.0)
    for request, completion in zip(requests, completions, strict=True):
        row = torch.tensor([request.prompt_ids])
        expected = language_model.generate(
            row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=16, eos_token_id=list(EOS), pad_token_id=0
        )
        assert completion.token_ids.tolist() == expected[0, row.shape[1] :].tolist()
        assert completion.logprobs == pytest.approx(full_logprobs(language_model, request, completion, 1.0), abs=1e-4)
    assert len(set(map(len, tokens(completions)))) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logprobs_are_those_of_a_full_forward(language_model, temperature):
    requests = ragged_requests()
    for request, completion in zip(requests, generate(language_model, requests, temperature=temperature), strict=True):
        expected = full_logprobs(language_model, request, completion, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_response_depends_on_its_seed_and_not_on_its_neighbours(mini_model, top_p):
    requests = ragged_requests()
    together = generate(mini_model, requests, top_p=top_p)
    alone = [generate(mini_model, [request], top_p=top_p)[0] for request in requests]
    assert_same(together, alone)
    assert_same(together[::-1], generate(mini_model, requests[::-1], top_p=top_p))


def test_seeds_decide(mini_model):
    responses = tokens(generate(mini_model, [Request((3, 4, 5), seed) for seed in [11, 12, 13, 14, 11]], eos=[1]))
    assert responses[0] == responses[4]
    assert len(set(responses)) == 4


def test_a_longer_limit_continues_the_same_response(mini_model):
    requests = ragged_requests()
    short, long = (tokens(generate(mini_model, requests, max_new_tokens=limit)) for limit in (5, 40))
    assert short == [response[:5] for response in long]
    assert max(map(len, long)) > 5


def test_each_distinct_prompt_is_read_once(mini_model, forward_shapes):
    requests = [Request(prompt_ids, seed) for prompt_ids in [(3, 4, 5), (9,)] for seed in range(6)]
    generate(mini_model, requests, eos=[0], max_new_tokens=3)
    assert forward_shapes[0] == (2, 3)
    assert forward_shapes[1] == (12, 1)


def test_eos_is_kept_and_only_unfinished_responses_reach_the_limit(mini_model):
    completions = generate(mini_model, ragged_requests(40), max_new_tokens=8)
    for completion in completions:
        assert completion.finished == (completion.token_ids[-1] in EOS)
        assert not set(completion.token_ids[:-1]) & set(EOS)
        assert len(completion.token_ids) == len(completion.logprobs)
        assert completion.finished or len(completion.token_ids) == 8
        assert len(completion.token_ids) <= 8
    assert {completion.finished for completion in completions} == {True, False}


def test_an_eos_at_the_limit_is_finished(mini_model):
    (request,) = ragged_requests(1)
    (first,) = tokens(generate(mini_model, [request], eos=[1], temperature=0.0, max_new_tokens=1))
    assert generate(mini_model, [request], eos=first, temperature=0.0, max_new_tokens=1)[0].finished
    assert not generate(mini_model, [request], eos=[first[0] + 1], temperature=0.0, max_new_tokens=1)[0].finished


@pytest.mark.parametrize("limit", [1, 4, 200])
def test_it_stops_when_all_are_done(mini_model, forward_shapes, limit):
    completions = generate(mini_model, ragged_requests(), max_new_tokens=limit)
    longest = max(map(len, tokens(completions)))
    assert len(forward_shapes) == longest  # the prompts, then every token but the last
    assert all(shape[1] == 1 for shape in forward_shapes[1:])
    assert longest < 200


def test_equally_likely_tokens_have_one_order_whatever_else_is_in_the_batch():
    """In bfloat16 many are equal; a flat row makes the whole batch sort its vocabulary."""
    logits = (3 * torch.randn(8, 4000, generator=torch.Generator().manual_seed(0))).bfloat16()
    probability = logits.float().softmax(-1)
    few, few_tokens = likeliest(probability, 0.7)
    all_, all_tokens = likeliest(torch.cat([probability, torch.full((1, 4000), 1 / 4000)]), 0.7)
    assert few.shape[1] == torch_engine.TOP and all_.shape[1] == 4000
    nucleus = few.cumsum(-1) < 0.7
    assert (few[:, 1:] == few[:, :-1])[nucleus[:, 1:]].any()
    assert torch.equal(few_tokens[nucleus], all_tokens[:8, : torch_engine.TOP][nucleus])
    assert torch.equal(few, all_[:8, : torch_engine.TOP])


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_dropping_finished_rows_changes_nothing(mini_model, forward_shapes, monkeypatch, top_p):
    results, rows = [], []
    for below in (0.0, 0.8, 1.0):
        monkeypatch.setattr(torch_engine, "COMPACT_BELOW", below)
        forward_shapes.clear()
        results.append(generate(mini_model, ragged_requests(24), top_p=top_p, max_new_tokens=40))
        rows.append([shape[0] for shape in forward_shapes[1:]])
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    lengths = [len(response) for response in tokens(results[0])]
    assert set(rows[0]) == {24}
    assert len(set(rows[1])) > 1
    assert rows[2] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


@pytest.mark.parametrize("max_batch", [1, 5, 12])
def test_max_batch_changes_nothing(mini_model, forward_shapes, max_batch):
    whole = generate(mini_model, ragged_requests())
    forward_shapes.clear()
    assert_same(whole, generate(mini_model, ragged_requests(), max_batch=max_batch))
    assert max(shape[0] for shape in forward_shapes) <= max_batch


def test_sampling_runs_without_dropout_and_puts_the_mode_back(mini_model):
    expected = generate(mini_model, ragged_requests())
    for layer in mini_model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    mini_model.train()
    assert_same(expected, generate(mini_model, ragged_requests()))
    assert mini_model.training
    generate(mini_model.eval(), ragged_requests(1))
    assert not mini_model.training


def test_it_generates_with_the_weights_loaded_last(mini_model):
    engine, requests, sampling = make_engine(mini_model), ragged_requests(), SamplingParams(max_new_tokens=6)
    before = engine.generate(requests, sampling)
    with torch.no_grad():
        mini_model.model.embed_tokens.weight.mul_(-1.0)
    engine.load_weights(Actor(mini_model), version=9)
    after = engine.generate(requests, sampling)
    assert engine.weights_version == 9
    assert tokens(before) != tokens(after)
    assert_same(after, generate(mini_model, requests, max_new_tokens=6))


def test_a_bfloat16_model_attends_in_float32_on_a_cpu(mini_model, monkeypatch):
    product, seen, model, requests = torch.baddbmm, set(), mini_model.bfloat16(), ragged_requests()

    def noted(*inputs):
        output = product(*inputs)
        seen.update(x.dtype for x in (*inputs, output))
        return output

    monkeypatch.setattr(torch, "baddbmm", noted)
    with torch.autocast("cpu", torch.bfloat16):
        completions = generate(model, requests)
    assert seen == {torch.float32}
    for request, completion in zip(requests, completions, strict=True):
        assert completion.logprobs == pytest.approx(full_logprobs(model, request, completion, 1.0), abs=0.1)


def test_misuse_says_what_to_do(mini_model):
    with pytest.raises(ValueError, match="set eos_token_id"):
        TorchEngine([])
    with pytest.raises(ValueError, match=r"rollout\.engine\.max_batch is 0"):
        TorchEngine([1], max_batch=0)
    engine = TorchEngine([1])
    assert engine.weights_version == -1
    with pytest.raises(RuntimeError, match="before load_weights"):
        engine.generate(ragged_requests(1), SamplingParams())


def test_each_completion_is_handed_over_once_when_it_is_finished(mini_model):
    handed = []
    requests, sampling = ragged_requests(24), SamplingParams(max_new_tokens=16)
    engine = make_engine(mini_model, [1, 2, 3], max_batch=10)
    completions = engine.generate(requests, sampling, lambda index, completion: handed.append((index, completion)))
    assert dict(handed) == dict(enumerate(completions)) and len(handed) == 24
    for start in (0, 10, 20):
        lengths = [len(completion.token_ids) for index, completion in handed if start <= index < start + 10]
        assert lengths == sorted(lengths) and len(set(lengths)) > 1


def test_it_generates_from_a_copy_in_its_own_dtype_which_follows_the_actor(mini_model, tmp_path):
    """The copy gives what a model loaded in that dtype gives; the actor keeps its dtype and its configuration."""
    actor, asked, sampling = Actor(mini_model), ragged_requests(), SamplingParams(max_new_tokens=12)
    engine = TorchEngine(EOS, dtype="bfloat16")
    for version in range(2):
        with torch.no_grad():
            actor.language_model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
        state, configured = torch.get_rng_state(), mini_model.config.dtype
        engine.load_weights(actor, version)
        assert torch.equal(state, torch.get_rng_state())
        found = engine.generate(asked, sampling)
        assert engine.dtype == torch.bfloat16 and mini_model.dtype == torch.float32 and mini_model.config.dtype == configured
        mini_model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)  # rotary frequencies stay in float32
        expected = make_engine(loaded).generate(asked, sampling)
        assert tokens(found) == tokens(expected)
        assert [c.logprobs.tolist() for c in found] == [c.logprobs.tolist() for c in expected]


def test_no_weight_is_cast_while_it_generates(mini_model):
    """Under autocast as Lightning enters it a float32 model casts every weight for every token; the copy needs no cast."""

    def casts(engine):
        engine.load_weights(Actor(mini_model), 0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.profiler.profile(record_shapes=True) as profile:
            engine.generate(ragged_requests()[:2], SamplingParams(max_new_tokens=8))
        shapes = {tuple(p.shape) for p in mini_model.parameters() if p.dim() == 2}
        events = [e for e in profile.events() if e.name == "aten::_to_copy"]
        return sum(bool(e.input_shapes) and tuple(e.input_shapes[0]) in shapes for e in events)

    assert casts(TorchEngine(EOS)) > 50 > 5 > casts(TorchEngine(EOS, dtype="bfloat16"))
