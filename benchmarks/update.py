"""Seconds of one network's training passes: in padded rows, packed (each distinct prompt once), packed with minibatches of whole
groups.

python -m benchmarks.update                  mini, one thread: 4 minibatches of 64 responses, and all without gradient
python -m benchmarks.update --size 135M      a random Llama of SmolLM2-135M's size: 64 responses of 32 tokens to 8 prompts of 97
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.models import SIZES, folder_of, shape_of
from benchmarks.tables import machine, markdown, versions

from vapo.data.sums import problem_at
from vapo.micro_batches import SIMILAR, micro_batches, minibatches
from vapo.models.actor import Actor, load_tokenizer
from vapo.rollout.collate import collate
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import Batch, Prompt, Request, Rollout, SamplingParams, Status, Verdict


def sampled(path: Path, actor: Actor, shape: dict[str, int]) -> Batch:
    """Rollouts of the model itself: its own lengths."""
    tokenizer, engine = load_tokenizer(str(path)), TorchEngine(actor.eos_token_ids)
    engine.load_weights(actor, 0)
    prompts = []
    for index in range(shape["rollouts"] // shape["group"]):
        text = f"{problem_at(index, 0, shape['least'], shape['most'])}:"
        prompts.append(Prompt(index, text, "", tuple(tokenizer.encode(text))))
    groups = [prompt for prompt in prompts for _ in range(shape["group"])]
    requests = [Request(prompt.token_ids, seed) for seed, prompt in enumerate(groups)]
    completions = engine.generate(requests, SamplingParams(max_new_tokens=shape["tokens"]))
    return collate([Rollout(p, p.index, c, Verdict(Status.WRONG)) for p, c in zip(groups, completions, strict=True)])


def train(actor: Actor, batch: Batch, minibatch: int, budget: int, similar: float, keep_groups: bool) -> None:
    for index_B in minibatches(batch.group_B, minibatch, keep_groups, key=(0, 0, 0)):
        for micro in micro_batches(batch, budget, index_B=index_B, similar=similar):
            actor(micro, with_entropy=True)[0].sum().backward()
        actor.zero_grad()


@torch.no_grad()
def evaluate(actor: Actor, batch: Batch, budget: int, similar: float) -> None:
    for micro in micro_batches(batch, budget, similar=similar):
        actor(micro)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=(*SIZES, "tiny"), default="mini", help="tiny: a few tokens of mini")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = shape_of(arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        path = folder_of(arguments.size, Path(folder))
        actor = Actor.from_pretrained(str(path))
        batch = sampled(path, actor, shape)
    packed = (actor.language_model.config._attn_implementation, 16384, SIMILAR)
    forms = {"padded": ("sdpa", 4096, 0.0, False), "packed": (*packed, False), "whole groups": (*packed, True)}
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.repeats + 1):  # by turns; the first is not counted
        for name, (attention, budget, similar, keep_groups) in forms.items():
            actor.language_model.set_attn_implementation(attention)
            for kind in ("update", "no gradient"):
                started = time.perf_counter()
                if kind == "update":
                    train(actor, batch, shape["minibatch"], budget, similar, keep_groups)
                else:
                    evaluate(actor, batch, budget, similar)
                seconds.setdefault((kind, name), []).append(time.perf_counter() - started)
    rows = []
    for kind in ("update", "no gradient"):
        padded, *others = (statistics.median(seconds[kind, name][1:]) for name in forms)
        rows.append([kind, f"{padded:.2f}", *(cell for other in others for cell in (f"{other:.2f}", f"{padded / other:.2f}"))])
    print(markdown(("pass over all rollouts", "padded, s", "packed, s", "ratio", "whole groups, s", "ratio"), rows))
    tokens, response = len(batch.token_N), int(batch.response_length_B.sum())
    print(f"\n{arguments.size}, {tokens:,} tokens, {response:,} of responses; medians of {arguments.repeats}")
    print(f"{machine()}; {versions()}")


if __name__ == "__main__":
    main()
