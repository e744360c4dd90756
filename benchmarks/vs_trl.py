"""An RL step of VAPO here and of GRPO in TRL, which has no critic: the same model, prompts and sizes, by turns in one run.

python -m benchmarks.vs_trl                  mini (16 prompts x 16, 4 updates), on one core and on two (TRL: as many threads)
python -m benchmarks.vs_trl --size 135M      a random Llama of SmolLM2-135M's size (8 prompts of 97 tokens x 8)
python -m benchmarks.vs_trl --precision bf16-mixed   both in bfloat16, TRL's own default; where a processor multiplies in it

The first call makes .venv-trl, with TRL and the locked torch and transformers. TRL generates with HF generate. Settings:

    VAPO                 as they come
    VAPO, keep_groups    minibatches of whole groups
    TRL GRPO, default    as they come, but for the precision, which is that of VAPO's runs
    TRL GRPO, best       without gradient checkpointing, which saves memory that a CPU has
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.models import SIZES, folder_of, shape_of
from benchmarks.step import run
from benchmarks.tables import ROOT, machine, markdown, output_of, versions

from vapo.data.sums import problem_at
from vapo.verifiers.sums import answer

TRL = "1.16.0"
ENVIRONMENT = ROOT / ".venv-trl"
VAPO = {"VAPO": "module.keep_groups=false", "VAPO, keep_groups": "module.keep_groups=true"}
GRPO: dict[str, dict[str, object]] = {"TRL GRPO, default": {}, "TRL GRPO, best": {"gradient_checkpointing": False}}
Steps = list[dict[str, float]]


def trl_python() -> str:
    """The environment's interpreter; makes the environment if it is missing."""
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / f"trl-{TRL}"
    if not done.exists():
        pins = [
            line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith(("torch==", "transformers=="))
        ]
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        for wanted in (pins[:1], [*pins[1:], f"trl=={TRL}"]):  # torch alone first: a CPU build where there is one
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        done.touch()
    return str(python)


def write_prompts(file: Path, shape: dict[str, int], count: int) -> None:
    problems = [problem_at(index, 0, shape["least"], shape["most"]) for index in range(count)]
    rows = [{"prompt": f"{problem}:", "reference": str(answer(problem))} for problem in problems]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_trl(model: Path, shape: dict[str, int], threads: int, steps: int, folder: Path, settings: dict[str, object]) -> Steps:
    """Seconds and mean response length of each RL step but the first."""
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, shape, (steps + 1) * shape["rollouts"] // shape["group"])
    sizes = {name: shape[name] for name in ("rollouts", "group", "minibatch", "tokens")} | {"threads": threads, "steps": steps + 1}
    words = {"model": model, "prompts": prompts, "out": folder / "trl", "settings": json.dumps(settings), **sizes}
    command = [trl_python(), "benchmarks/trl_grpo.py", *(str(x) for name, value in words.items() for x in (f"--{name}", value))]
    return list(json.loads(output_of(command).strip().splitlines()[-1])[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=(*SIZES, "tiny"), default="mini", help="tiny: a few tokens of mini")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=3, help="of each turn, after a first, uncounted one")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    arguments = parser.parse_args()
    shape = shape_of(arguments.size)
    trl_python()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = folder_of(arguments.size, Path(folder))
        for cores in arguments.cores:
            found: dict[str, Steps] = {name: [] for name in (*VAPO, *GRPO)}
            for turn in range(arguments.turns):
                for number, (name, setting) in enumerate(VAPO.items()):
                    words = (setting, f"trainer.precision={arguments.precision}")
                    out = Path(folder) / f"{cores}_{turn}_{number}"
                    found[name] += run(model, shape, cores, arguments.steps, out, *words)
                for name, settings in GRPO.items():
                    precision = {"bf16": arguments.precision == "bf16-mixed"}
                    found[name] += run_trl(model, shape, cores, arguments.steps, Path(folder), precision | settings)
            seconds = {name: statistics.median(step["step"] for step in steps) for name, steps in found.items()}
            lengths = {name: statistics.mean(step["length"] for step in steps) for name, steps in found.items()}
            ratio = {name: f"{second / seconds['VAPO']:.2f}" for name, second in seconds.items()}
            rows += [[cores, name, f"{seconds[name]:.2f}", ratio[name], f"{lengths[name]:.0f}"] for name in found]
            print(f"{cores} cores: " + ", ".join(f"{name} {second:.2f} s" for name, second in seconds.items()), file=sys.stderr)
    print(markdown(("cores", "", "RL step, s", "times VAPO's", "tokens per response"), rows))
    said = f"{arguments.size}, {arguments.precision}, medians of {arguments.steps * arguments.turns} steps"
    print(f"\n{said}; {machine()}; {versions()}, TRL {TRL}")


if __name__ == "__main__":
    main()
