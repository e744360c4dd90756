"""Real vLLM on a CPU (`make test-vllm`): the same tokens as the plain engine, and no stale weight goes unnoticed."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.runs import CONFIGS, config_for, metrics, run
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

import vapo.rollout.vllm.engine as vllm_engine
from vapo.data.prompts import SumsPrompts
from vapo.models.actor import Actor, load_tokenizer
from vapo.models.export import merged_weights
from vapo.models.loading import LoRA
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm.engine import VLLMEngine
from vapo.rollout.vllm.weight_check import PROBE_SAMPLING, probe_gap, probe_requests
from vapo.types import Request, SamplingParams

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")

BASE = str(Path(CONFIGS).parent / "src" / "vapo" / "assets" / "mini" / "base")
EOS = [1]


def requests(count=8, seed=0):
    source = SumsPrompts(load_tokenizer(BASE), "{problem}:", 4, 20)
    return [Request(source.prompt(i // 2, seed).token_ids, seed=1000 * seed + i) for i in range(count)]


def make(path):
    engine = VLLMEngine(EOS, path, max_tokens=512, kv_cache_mib=64, max_batch=64, stop=["7="] if path == BASE else None)
    model = AutoModelForCausalLM.from_pretrained(path)
    engine.load_weights(Actor(model), 0)
    return engine, model


@pytest.fixture(scope="module")
def tied():
    return make(BASE)


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untied")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=19, tie_word_embeddings=False, eos_token_id=1, pad_token_id=0, bos_token_id=None, **sizes)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    return make(str(folder))


@pytest.fixture(params=["tied", "untied"])
def pair(request):
    engine, model = request.getfixturevalue(request.param)
    with torch.no_grad():
        before = {name: p.clone() for name, p in model.named_parameters()}
    yield engine, model
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    engine.load_weights(Actor(model), 0)


def move(model, scale):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def plain(model, sampling, asked):
    engine = TorchEngine(EOS)
    engine.load_weights(Actor(model), 0)
    return engine.generate(asked, sampling)


def test_greedy_tokens_are_the_plain_engines(pair):
    engine, model = pair
    sampling, asked = SamplingParams(temperature=0.0, max_new_tokens=60), requests(12)
    ours, theirs = engine.generate(asked, sampling), plain(model, sampling, asked)
    assert [c.token_ids.tolist() for c in ours] == [c.token_ids.tolist() for c in theirs]
    assert [c.finished for c in ours] == [c.finished for c in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.7), (0.7, 0.8)])
def test_log_probabilities_are_of_the_distribution_sampled_from(pair, temperature, top_p):
    engine, model = pair
    asked = requests(8)
    for request, completion in zip(asked, engine.generate(asked, SamplingParams(temperature, top_p, 40)), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            logits_TV = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1] / temperature
        for logits_V, token, logprob in zip(logits_TV, completion.token_ids, completion.logprobs, strict=True):
            probability_V, order_V = logits_V.softmax(-1).sort(descending=True)
            kept = int((probability_V.cumsum(0) - probability_V < top_p).sum())
            nucleus = probability_V[:kept] / probability_V[:kept].sum()
            place = order_V.tolist().index(token)
            assert place < kept and logprob == pytest.approx(nucleus[place].log().item(), abs=1e-4)


def test_equal_seeds_give_equal_tokens_whatever_else_is_asked(tied):
    engine, _ = tied
    sampling, asked = SamplingParams(max_new_tokens=40), requests(8)
    together = [tuple(c.token_ids.tolist()) for c in engine.generate(asked, sampling)]
    assert together == [tuple(c.token_ids.tolist()) for c in engine.generate(asked, sampling)]
    assert together[3:4] == [tuple(c.token_ids.tolist()) for c in engine.generate(asked[3:4], sampling)]
    assert len(set(together)) > 4


def test_more_prompt_tokens_than_fit_into_one_step(tied):
    """vLLM 0.32 reads what is left of a prompt in the next step, and on a CPU fails there if the request has a seed."""
    engine, _ = tied
    source = SumsPrompts(load_tokenizer(BASE), "{problem}:", 100, 120)
    asked = [Request(source.prompt(i, 0).token_ids, seed=i) for i in range(64)]
    assert sum(len(request.prompt_ids) for request in asked) > 12_000
    assert len(engine.generate(asked, SamplingParams(max_new_tokens=5))) == 64


def test_the_eos_is_kept_and_a_cut_response_has_none(tied):
    engine, _ = tied
    for completion in engine.generate(requests(16), SamplingParams(max_new_tokens=30)):
        assert completion.finished == (completion.token_ids[-1] == 1) and 1 not in completion.token_ids[:-1]
        assert len(completion.logprobs) == len(completion.token_ids) <= 30 and (
            completion.finished or len(completion.token_ids) == 30
        )


def test_a_stop_string_ends_a_response_as_in_the_plain_engine(tied, untied):
    engine, model = tied
    ours = TorchEngine(EOS, tokenizer=load_tokenizer(BASE))
    ours.load_weights(Actor(model), 0)
    sampling = SamplingParams(temperature=0.0, max_new_tokens=80, stop=["7=", "4"])
    found = [c.token_ids.tolist() for c in engine.generate(requests(12), sampling)]
    expected = ours.generate(requests(12), sampling)
    assert found == [c.token_ids.tolist() for c in expected]
    assert [c.finished for c in engine.generate(requests(12), sampling)] == [c.finished for c in expected]
    assert sum(ids[-1] != EOS[0] and len(ids) < 80 for ids in found) > 2
    with pytest.raises(ValueError, match=r"set rollout.engine.stop to them"):
        untied[0].generate(requests(1), sampling)


def test_each_completion_is_handed_over_once_and_early(tied):
    engine, _ = tied
    handed = []
    completions = engine.generate(requests(16), SamplingParams(max_new_tokens=200), lambda i, c: handed.append((i, c)))
    assert dict(handed) == dict(enumerate(completions)) and len(handed) == 16
    lengths = [len(c.token_ids) for _, c in handed]
    assert lengths == sorted(lengths) and len(set(lengths)) > 2


def test_after_each_of_fifty_updates_engine_and_trainer_agree(pair):
    engine, model = pair
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(2, 19, (4, 30), generator=torch.Generator().manual_seed(0))
    gaps = []
    for update in range(50):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(engine.load_weights(Actor(model), update + 1)["engine/probe_gap"])
    assert engine.weights_version == 50 and max(gaps) < 1e-4


def test_a_skipped_weight_sync_is_found(pair, monkeypatch):
    engine, model = pair
    monkeypatch.setattr(engine.llm, "collective_rpc", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match=r"(\d+) of \1 tensors are stale"):
        engine.load_weights(Actor(model), 1)


def sending(monkeypatch, change):
    """The weight sync sends what `change` makes of the entries; the trainer's weights are what they are."""

    def changed(model, gather=True, dtype=None):
        entries = merged_weights(model, gather, dtype)
        return change(entries) if gather else entries

    monkeypatch.setattr(vllm_engine, "merged_weights", changed)


def test_one_stale_tensor_is_named(pair, monkeypatch):
    engine, model = pair
    name, old = "model.layers.1.mlp.up_proj.weight", model.model.layers[1].mlp.up_proj.weight.detach().clone()
    move(model, 1e-7)  # the smallest learning rates
    sending(monkeypatch, lambda entries: ((n, old if n == name else t) for n, t in entries))
    with pytest.raises(ValueError, match=rf"1 of \d+ tensors are stale or missing, {name}"):
        engine.load_weights(Actor(model), 1)


def test_a_head_that_was_not_sent_is_named(tied, monkeypatch):
    """The trap of tied embeddings: without its own entry the head keeps the old weights."""
    engine, model = tied
    sending(monkeypatch, lambda entries: ((n, t) for n, t in entries if n != "lm_head.weight"))
    with pytest.raises(ValueError, match=r"stale or missing, lm_head.weight"):
        engine.load_weights(Actor(model), 1)
    monkeypatch.undo()
    engine.load_weights(Actor(model), 0)


def test_a_prefix_cache_that_was_not_emptied_is_found(pair, monkeypatch):
    engine, model = pair
    engine.load_weights(Actor(model), 0)  # the probe's keys and values are cached now
    move(model, 0.05)
    monkeypatch.setattr(VLLMEngine, "_reset_prefix_cache", lambda self: None)
    with pytest.raises(ValueError, match="its prefix cache or a tied head is stale"):
        engine.load_weights(Actor(model), 1)


def test_adapters_are_added_to_the_weights_that_are_sent(tied):
    engine, _ = tied
    model = AutoModelForCausalLM.from_pretrained(BASE)
    LoRA(rank=2).inject(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert engine.load_weights(Actor(model), 1)["engine/probe_gap"] < 1e-4


def test_nothing_is_generated_before_the_weights_are_there(tied, monkeypatch):
    engine, _ = tied
    monkeypatch.setattr(engine, "received", {})
    with pytest.raises(RuntimeError, match="before load_weights"):
        engine.generate(requests(1), SamplingParams())


def test_making_an_engine_leaves_the_random_generators_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    VLLMEngine(EOS, BASE, max_tokens=256, kv_cache_mib=64, max_batch=8)
    assert torch.equal(state, torch.get_rng_state())


def test_training_on_mini_with_vllm(tmp_path):
    run(tmp_path, "rollout=vllm", "rollout.engine.kv_cache_mib=64", "module.policy_steps=2")
    frame = pd.read_csv(tmp_path / "metrics.csv")
    steps = frame[frame["rl_step"] > 0]
    assert steps["clock/policy_step"].tolist() == [0, 1, 2]
    assert steps["engine/logprob_gap_mean"].dropna().max() < 1e-4
    assert steps["engine/probe_gap"].dropna().max() < 1e-4 and len(steps["engine/probe_gap"].dropna()) >= 2
    exported = str(tmp_path / "export" / "actor")  # vLLM loads it by itself, without a weight sync
    engine = VLLMEngine(EOS, exported, max_tokens=512, kv_cache_mib=64, max_batch=8)
    engine.received = {"from the folder": 0}
    actor = Actor.from_pretrained(exported)
    requests = probe_requests(actor, 512)
    completions = engine.generate(requests, PROBE_SAMPLING)
    assert probe_gap(actor, requests, completions) < 1e-4 < 1e-3 < probe_gap(Actor.from_pretrained(BASE), requests, completions)


def test_a_bfloat16_trainer_trains_with_a_bfloat16_engine(tmp_path):
    """Syncs before the first step (outside of the step's autocast) and within steps agree to rounding of bfloat16."""
    settings = ("trainer.precision=bf16-mixed", "module.policy_steps=5", "callbacks.aime_evaluation.every_n_steps=9")
    config = config_for(tmp_path, "experiment=vapo_full", "rollout=vllm", settings[0])
    assert config.rollout.engine.dtype == "bfloat16"
    run(tmp_path, "rollout=vllm", "rollout.engine.kv_cache_mib=64", *settings)
    frame = metrics(tmp_path)
    assert frame["clock/policy_step"].max() == 5 and frame["engine/probe_gap"].dropna().max() < 0.1


def test_a_float32_engine_of_a_bfloat16_trainer_is_probed_outside_of_autocast(tmp_path):
    settings = ("trainer.precision=bf16-mixed", "rollout.engine.dtype=float32", "callbacks.aime_evaluation.every_n_steps=9")
    run(tmp_path, "rollout=vllm", "rollout.engine.kv_cache_mib=64", *settings)
    assert metrics(tmp_path)["engine/probe_gap"].dropna().max() < 1e-4


DEVICE_ONLY = """
import torch.distributed as dist
real = dist.init_process_group
dist.init_process_group = lambda backend=None, **options: real("cuda:gloo", **options)  # as NCCL's: no backend for CPU tensors
from vapo.models.actor import Actor
from vapo.rollout.vllm.engine import VLLMEngine
from vapo.types import Request, SamplingParams
import sys
actor = Actor.from_pretrained(sys.argv[1])
engine = VLLMEngine(actor.eos_token_ids, sys.argv[1], max_tokens=512, kv_cache_mib=64)
assert dist.is_initialized() and dist.get_world_size() == 1
engine.load_weights(actor, 0)
print(len(engine.generate([Request((2, 3), 0)], SamplingParams(max_new_tokens=4))), "completion")
"""


def test_a_process_group_that_vllm_makes_for_its_device_only_is_not_ours():
    """On one GPU vLLM makes a group with NCCL alone."""
    done = subprocess.run([sys.executable, "-c", DEVICE_ONLY, BASE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "1 completion" in done.stdout, done.stderr[-2000:]
