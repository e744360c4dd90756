"""Tiny random models of several families, and ragged rollouts written by hand."""

import random

import pytest
import torch
from tests.completions import completion_of
from tests.runs import FAST, run
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from vapo.rollout.collate import collate
from vapo.run.pretrain import build_model, build_tokenizer
from vapo.types import Prompt, Rollout, Status, Verdict

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "qwen2_gqa": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters={"rope_theta": 100.0})),
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Of torch, whichever tests ran before. Fixtures of a module or session are made earlier, and seed what they draw."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


def spread(model):
    """Random weights large enough that attention, biases and norms all show in the logits."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.4 * noise if parameter.dim() > 1 else parameter + 0.2 * noise)
    return model.eval()


@pytest.fixture
def mini_model(tokenizer):
    """The project's own tied Qwen2, tiny."""
    return spread(build_model(tokenizer, hidden=16, layers=2, heads=2))


@pytest.fixture(params=["mini", *FAMILIES])
def language_model(request):
    """Each family in turn; tied and untied, with and without grouped queries."""
    return request.getfixturevalue("mini_model") if request.param == "mini" else spread(FAMILIES[request.param]())


def write_rollout(rng, prompt_length, response_length, correct, group, finished=True):
    """Random ids of the mini vocabulary without padding and EOS."""
    prompt_ids = tuple(rng.randint(2, 18) for _ in range(prompt_length))
    token_ids = tuple(rng.randint(2, 18) for _ in range(response_length))
    logprobs = tuple(-rng.random() for _ in token_ids)
    verdict = Verdict(Status.CORRECT if correct else Status.WRONG, "1")
    return Rollout(Prompt(group, "", "1", prompt_ids), group, completion_of(token_ids, logprobs, finished), verdict)


@pytest.fixture
def make_rollout():
    return write_rollout


@pytest.fixture
def rollouts():
    """Eight ragged rollouts, two to a group: prompt length, response length, correct, group."""
    rng = random.Random(0)
    table = [(3, 5, 1, 0), (3, 1, 0, 0), (1, 9, 0, 1), (1, 2, 1, 1), (6, 4, 0, 2), (6, 7, 0, 2), (2, 3, 1, 3), (2, 3, 1, 3)]
    return [write_rollout(rng, p, r, correct, group, finished=r != 9) for p, r, correct, group in table]


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory):
    """A finished run of three RL steps, to compare others with."""
    folder = tmp_path_factory.mktemp("fast_run")
    run(folder, *FAST)
    return folder


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory):
    """A multirun's folder: VAPO, PPO and GRPO, a run of seconds each, with rollouts of their last step."""
    folder = tmp_path_factory.mktemp("sweep")
    for experiment in ("vapo_full", "ppo_vanilla", "grpo"):
        run(folder / experiment, "data.source.max_operands=9", experiment=experiment)
        (folder / experiment).rename(folder / f"experiment={experiment},seed=0")  # Hydra would want the = quoted
    return folder


@pytest.fixture
def batch(rollouts):
    return collate(rollouts)


@pytest.fixture
def annotated(batch):
    """The batch with random values, old log-probabilities, advantages and targets."""
    generator = torch.Generator().manual_seed(3)
    names = ("value_R", "old_logprob_R", "advantage_R", "target_R")
    drawn = {name: torch.randn(len(batch.sampler_logprob_R), generator=generator) for name in names}
    return batch.replace(**drawn | {"old_logprob_R": -drawn["old_logprob_R"].abs()})
