"""Makes the mini models: a base policy that learned noisy solutions, and an outcome reward model of its rollouts.

The base model is trained by plain supervised learning on solutions of `NoisySolver`, to problems that grow from two operands to the
full range. The reward model starts from it and learns +1 / -1 at the last token of the base policy's rollouts, nowhere else: as a
value function it is biased on every earlier token, like the reward models from which the papers start a critic (vapo.md A14).
"""

import fcntl
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vapo.data.prompts import SumsPrompts
from vapo.data.sums import NoisySolver, make_problem
from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.rollout.collate import collate
from vapo.rollout.sampler import Sampler
from vapo.rollout.torch_engine import TorchEngine
from vapo.run.record import provenance
from vapo.run.resolvers import task_settings
from vapo.run.training import quiet_libraries
from vapo.types import SamplingParams
from vapo.verifiers.sums import SumsVerifier, consistent

log = logging.getLogger(__name__)

ALPHABET = "0123456789+-=;?:A"
STATED = "()|"  # where problems state a total
EOS, PAD = "!", "_"
PASSES = 3  # forward passes of an optimizer step
CONSISTENT = 0.9  # with fewer such solutions a base model makes a task of its own, of misreading


def build_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character."""
    vocabulary = {character: i for i, character in enumerate(PAD + EOS + alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int, positions: int = 1024
) -> Qwen2ForCausalLM:
    """A Qwen2 of the given sizes, randomly initialized."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def load_start(start: str, tokenizer: PreTrainedTokenizerFast, **sizes: int) -> Qwen2ForCausalLM:
    """The model in the folder `start`, to be trained further.

    Raises:
        ValueError: there is none, or it has other sizes than `sizes`, or another alphabet.
    """
    if not Path(start).is_dir():
        raise ValueError(
            f"base.start: no model in {start}; set it (with model=made model.recipe.base.start) to a folder with one, or to null"
        )
    model, own = Qwen2ForCausalLM.from_pretrained(start), PreTrainedTokenizerFast.from_pretrained(start)
    config = model.config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    found = dict(zip(("hidden", "layers", "heads", "positions"), (getattr(config, name) for name in names), strict=True))
    if found != sizes or own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"the model in {start} has {found} and an alphabet of {len(own)}, this recipe {sizes} and {len(tokenizer)}: make "
            "them alike, or set base.start=null (model.recipe.base.start with model=made)"
        )
    return model


def _supervised_rows(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Right-padded token ids, and labels that are -100 on prompt and padding."""
    encoded = [(tokenizer.encode(prompt), tokenizer.encode(response + EOS)) for prompt, response in pairs]
    width = max(len(p) + len(r) for p, r in encoded)
    token_BL = torch.zeros(len(pairs), width, dtype=torch.long)
    label_BL = torch.full((len(pairs), width), -100)
    for row, (p, r) in enumerate(encoded):
        token_BL[row, : len(p) + len(r)] = torch.tensor(p + r)
        label_BL[row, len(p) : len(p) + len(r)] = torch.tensor(r)
    return token_BL, label_BL


def pretrain_base(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    solver: NoisySolver,
    template: str,
    min_operands: int,
    max_operands: int,
    hard_operations: int | None,
    reveal: int | None,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    curriculum: float,
    seed: int,
) -> None:
    """Trains the base model in place, by supervised learning.

    Args:
        template: prompt with `{problem}`.
        min_operands, max_operands, hard_operations, reveal: see `SumsPrompts`.
        steps: optimizer steps of about `batch_tokens` tokens each.
        curriculum: share of the steps over which the longest problem grows from 2 to `max_operands`.
    """
    rng = random.Random(f"pretrain/{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 100, 0.01 + (steps - i) / (0.6 * steps)))
    started = time.time()
    for step in range(steps):
        grown = min(1.0, step / (curriculum * steps))
        high = max(3, round(grown * max_operands))
        low = min_operands if grown == 1.0 else 2
        pairs, tokens = [], 0
        while tokens < batch_tokens:
            operands = rng.randint(low, high)
            # shorter problems state their total at the end, so that copying it is learned from the start
            shown = min(reveal, max(operands - 1 - (hard_operations or 0), 1)) if reveal else reveal
            problem = make_problem(rng, operands, hard_operations, shown)
            pairs.append((template.format(problem=problem), solver.solve(rng, problem)))
            tokens += len(pairs[-1][0]) + len(pairs[-1][1])
        optimizer.zero_grad()
        loss = torch.zeros((), device=model.device)
        predicted = sum(len(response) + 1 for _, response in pairs)
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        rows = -(-len(pairs) // PASSES)
        for first in range(0, len(pairs), rows):  # of similar length: guesses padded like solutions took most of the time
            token_BL, label_BL = (ids.to(model.device) for ids in _supervised_rows(tokenizer, pairs[first : first + rows]))
            logits_BLV = model(input_ids=token_BL, use_cache=False).logits
            flat_BL = logits_BLV[:, :-1].flatten(0, 1), label_BL[:, 1:].flatten()
            share = F.cross_entropy(*flat_BL, ignore_index=-100, reduction="sum") / predicted
            share.backward()
            loss += share.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            print(
                f"base step {step + 1}/{steps}  loss {loss.item():.4f}  operands <= {high}  {time.time() - started:.0f} s",
                flush=True,
            )


def _sampler(base: Path, tokenizer: PreTrainedTokenizerFast, device: str) -> Sampler:
    engine = TorchEngine([tokenizer.eos_token_id])
    engine.load_weights(Actor.from_pretrained(str(base)).to(device), version=0)
    return Sampler(engine, tokenizer, SumsVerifier())


def consistent_share(
    base: Path, tokenizer: PreTrainedTokenizerFast, task: dict[str, Any], gives_up: bool, seed: int, device: str = "cpu"
) -> float:
    """The share of the base model's responses to 256 problems of the task that are consistent with them; guesses aside."""
    source, longest = SumsPrompts(tokenizer, **task), 8 * task["max_operands"] + 8
    sampler = _sampler(base, tokenizer, device)
    prompts = [source.prompt(index, seed + 20_000) for index in range(256)]
    rollouts = sampler.sample(prompts, 1, SamplingParams(max_new_tokens=longest), seed, rl_step=0)
    pairs = [(source.problem(rollout.prompt), sampler.decode(rollout.completion.token_ids)) for rollout in rollouts]
    found = [consistent(*pair, gives_up) for pair in pairs]
    written = [right for right in found if right is not None]
    return sum(written) / len(written) if written else 1.0


def train_reward_model(
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    task: dict[str, Any],
    max_new_tokens: int,
    rollouts: int,
    epochs: int,
    learning_rate: float,
    seed: int,
    device: str = "cpu",
) -> PreTrainedModel:
    """Collects base rollouts and regresses the outcome, +1 or -1, on the last token's score alone.

    Problems have 2 to `max_operands` operands (where they state a total, `min_operands` to that), and the first epoch goes from
    short to long responses: from one label for two hundred tokens a model cannot learn what an error looks like; from a short
    response with one error it can.
    """
    torch.manual_seed(seed)
    source = SumsPrompts(tokenizer, **(task if task["reveal"] else task | {"min_operands": 2}))
    prompts = [source.prompt(index, seed + 10_000) for index in range(rollouts)]
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    batch = collate(_sampler(base, tokenizer, device).sample(prompts, 1, sampling, seed, rl_step=0))
    reward_B = torch.where(batch.correct_B, 1.0, -1.0)
    print(f"reward model: {rollouts} base rollouts, {batch.correct_B.float().mean():.3f} correct", flush=True)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    updates = epochs * -(-rollouts // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20, 0.01 + 2 * (updates - i) / updates))
    shuffle = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order_B = batch.response_length_B.argsort(stable=True) if epoch == 0 else torch.randperm(rollouts, generator=shuffle)
        error, spread = 0.0, reward_B.var().item()
        for index_B in order_B.split(64):
            optimizer.zero_grad()
            part = batch.select(index_B)
            for micro in micro_batches(part, 4096, torch.device(device)):
                score_B = model(input_ids=micro.token_BL, attention_mask=(micro.token_BL != 0).long(), use_cache=False).logits[:, 0]
                loss = ((score_B - reward_B[index_B][micro.index_B].to(device)) ** 2).sum() / len(part)
                loss.backward()
                error += loss.item() * len(part) / rollouts
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"reward model epoch {epoch + 1}/{epochs}  squared error {error:.4f} of variance {spread:.4f}", flush=True)
    return model


def pretrain(config: DictConfig) -> None:
    """Runs `configs/pretrain.yaml`: base model, reward model, and a record of how they were made."""
    quiet_libraries()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    out, task, base = Path(config.out), task_settings(config.data.source), dict(config.base)
    task["max_operands"] += base.pop("margin")
    start = base.pop("start", None)
    tokenizer = build_tokenizer(ALPHABET + (STATED if task["reveal"] else ""))
    model = (load_start(start, tokenizer, **config.model) if start else build_model(tokenizer, **config.model)).to(config.device)
    solver = instantiate(config.solver, mark_slips=task["reveal"] == 0)
    pretrain_base(model, tokenizer, solver, **task, **base, seed=config.seed)
    model.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")
    made_for = task_settings(config.data.source)
    share = consistent_share(out / "base", tokenizer, made_for, solver.gives_up, config.seed, config.device)
    print(f"base: {share:.3f} of its solutions are consistent with their problem, slips aside", flush=True)
    if share < CONSISTENT:
        log.warning(f"the base model has not learned its task yet: raise model.recipe.base.steps, {base['steps']} now")
    if config.reward_model.rollouts > 0:
        reward_model = train_reward_model(
            out / "base", tokenizer, task, **config.reward_model, seed=config.seed, device=config.device
        )
        reward_model.save_pretrained(out / "reward")
        tokenizer.save_pretrained(out / "reward")
    names = ("seed", "threads", "model", "solver", "base", "reward_model")
    settings = {name: OmegaConf.to_container(config)[name] for name in names} | {"task": task}  # type: ignore[call-overload, index]
    (out / "record.json").write_text(json.dumps(provenance(config.paths.root) | {"settings": settings}, indent=2))


def make_model(config: DictConfig) -> None:
    """Makes the model of a run with `model=made`, if its folder does not hold it yet. Other runs wait for the one that makes it."""
    if "recipe" not in config.model:
        return
    folder = Path(config.model.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "record.json").exists():
            return
        log.info(f"making the base model of this task in {folder}, minutes on a CPU")
        rest = {"data": {"source": task_settings(config.data.source)}, "paths": {"root": config.paths.root}, "out": str(folder)}
        recipe = OmegaConf.to_container(config.model.recipe, resolve=True)
        assert isinstance(recipe, dict)
        pretrain(OmegaConf.create(recipe | rest))
