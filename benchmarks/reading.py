"""How long a running sum a mini policy still reads: the share of written solutions that copy an operation of the problem wrongly.

python -m benchmarks.reading src/vapo/assets/mini/base logs/train/runs/<time>/export/actor ...

Problems of a length are the same for all policies. Sampled at top-p 0.3, so that what is counted is what the policy thinks.
"""

import argparse
import random
import re
from pathlib import Path

import torch
from benchmarks.tables import markdown, versions

from vapo.data.sums import make_problem
from vapo.models.actor import Actor, load_tokenizer
from vapo.rollout.sampler import Sampler
from vapo.rollout.torch_engine import TorchEngine
from vapo.run.training import quiet_libraries
from vapo.types import Prompt, SamplingParams
from vapo.verifiers.sums import SumsVerifier, answer, parse_problem

OPERATION = re.compile(r"[0-9]([+-])([0-9])=")


def miscopied(folder: Path, operands: int, problems: int, samples: int) -> float:
    """The share of solutions with steps whose operations are not the problem's, in order; nan if no solution has steps."""
    tokenizer, rng = load_tokenizer(str(folder)), random.Random(operands)
    engine = TorchEngine([tokenizer.eos_token_id])
    engine.load_weights(Actor.from_pretrained(str(folder)), version=0)
    texts = [make_problem(rng, operands) for _ in range(problems)]
    prompts = [
        Prompt(i, f"{text}:", str(answer(text)), tuple(tokenizer.encode(f"{text}:", add_special_tokens=False)))
        for i, text in enumerate(texts)
    ]
    sampler, sampling = Sampler(engine, tokenizer, SumsVerifier()), SamplingParams(top_p=0.3, max_new_tokens=8 * operands + 8)
    wrong = written = 0
    for rollout in sampler.sample(prompts, samples, sampling, seed=0, rl_step=-1):
        copied = [(operator, int(digit)) for operator, digit in OPERATION.findall(sampler.decode(rollout.completion.token_ids))]
        written += bool(copied)
        wrong += bool(copied) and copied != parse_problem(rollout.prompt.text[:-1])[1]
    return wrong / written if written else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of policies")
    parser.add_argument("--operands", nargs="+", type=int, default=[22, 23, 24, 25, 26, 27, 28])
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=2, help="per problem")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    rows = []
    for folder in arguments.folders:
        found = [miscopied(folder, operands, arguments.problems, arguments.samples) for operands in arguments.operands]
        rows.append((folder, *(f"{share:.2f}" for share in found)))
    print(markdown(("share miscopied, by operands", *map(str, arguments.operands)), rows))
    print(f"\n{arguments.problems} problems x {arguments.samples}; {versions()}")


if __name__ == "__main__":
    main()
