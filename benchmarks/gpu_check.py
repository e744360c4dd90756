"""What a GPU has to show, in one command: make gpu-check. Under ten minutes on one GPU, without any download.

python benchmarks/gpu_check.py [--out FOLDER]           on a GPU: writes gpu_check.md there (default: logs/gpu_check)
python benchmarks/gpu_check.py --tiny                   the same commands with tiny models on a CPU, to test this script

Every part is a command of its own; a part that fails is named in the table with its last words, and the others still run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vapo.models.actor import load_tokenizer
from vapo.models.loading import SIZES
from vapo.run.record import provenance

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "src" / "vapo" / "assets" / "mini"
CPU_SCORE = 0.90  # MiniAIME avg@32 of the default run is 0.95 to 1.00 in 60 runs on CPUs (docs/mini.md)
PROMPT_TOKENS = 36  # of data=sums, mean of 200 problems
Rows = Iterator[tuple[str, str]]  # what was checked, what was found


class Failed(Exception):
    """A part of the check failed; its message goes into the table."""


def command(*words: str, seconds: float = 400.0) -> str:
    """Output of a command of this checkout. Raises Failed with its last line."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Failed(f"{' '.join(words[:2])}: {lines[-1][:300]}")
    return done.stdout


def train(folder: Path, *overrides: str) -> pd.DataFrame:
    """Trains; the run's metrics."""
    command("src/train.py", *overrides, f"hydra.run.dir={folder}")
    return pd.read_csv(folder / "metrics.csv")


def gpu_tests(tiny: bool, out: Path) -> Rows:
    """The tests with marker gpu; they skip themselves on a CPU."""
    said = command("-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py")
    yield "tests with marker gpu", said.strip().splitlines()[-1]


def mini(tiny: bool, out: Path) -> Rows:
    """The whole mini run, self-test included, in bfloat16."""
    started = time.monotonic()
    where = ("debug=fast", "trainer.precision=bf16-mixed") if tiny else ("trainer=gpu_bf16",)
    frame = train(out / "mini", "experiment=vapo_full", *where)
    scores = frame.filter(regex=r"/avg@\d+$").dropna().iloc[:, 0]
    yield "mini in bf16-mixed: MiniAIME before → after", f"{scores.iloc[0]:.3f} → {scores.iloc[-1]:.3f} (CPU: 0.98 ± 0.01)"
    yield "mini: seconds, evaluation included", f"{time.monotonic() - started:.0f}"
    yield "mini: mean log-probability gap of the engine, nats", f"{frame['engine/logprob_gap_mean'].dropna().mean():.2g}"
    if not tiny and scores.iloc[-1] < CPU_SCORE:
        raise Failed(f"mini ended at {scores.iloc[-1]:.3f}; 60 runs on CPUs reached 0.95 to 1.00")


def step(size: str) -> Callable[[bool, Path], Rows]:
    """One RL step of a randomly initialized model of a published size, and what the plan says about it."""

    def check(tiny: bool, out: Path) -> Rows:
        path = out / size
        config = AutoConfig.from_pretrained(SIZES / size)
        if tiny:
            config.update(
                {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "layer_types": ["full_attention"] * 2}
            )
            config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512})
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
        load_tokenizer(str(MINI / "base")).save_pretrained(path)
        # the task of mini, whose prompts any vocabulary has; random models write to the length limit
        model = [f"model={size}", f"model.path={path}", "data=sums", "~data.source.max_prompt_tokens", "model.eos_token_ids=[1]"]
        sizes = ["callbacks.aime_evaluation=null", "callbacks.export_hf=null", "callbacks.rl_checkpoint=null"]
        sizes += ["algorithm.value_pretraining_steps=0", "module.policy_steps=2"]
        if tiny:
            sizes += ["trainer=cpu", "trainer.precision=bf16-mixed", "data.rollouts_per_step=16", "module.minibatch_rollouts=8"]
            sizes += ["rollout.sampling.max_new_tokens=16", "module.microbatch_tokens=512"]
        frame = train(out / f"{size}_run", "experiment=vapo_full", "scale=small_gpu", *model, *sizes)
        row = frame.iloc[-1]
        (path / "model.safetensors").unlink()
        plan_folder = out / f"{size}_plan"
        limits = [word for word in sizes if word.startswith(("data.", "rollout.", "module.micro", "module.mini"))]
        cluster = ["cluster.gpus=1", "cluster.response_share=1", f"cluster.prompt_tokens={PROMPT_TOKENS}"]
        command("src/plan.py", "experiment=vapo_full", "scale=small_gpu", *model, *limits, *cluster, "remedies=false",
                f"hydra.run.dir={plan_folder}")  # fmt: skip
        plan = json.loads((plan_folder / "plan.json").read_text())
        gib = {phase: parts["total"] - parts["reserved"] for phase, parts in plan["gpu_gib"].items()}
        predicted = {
            "rollout": (gib["generate"], plan["seconds_per_step"]["generate"]),
            "annotate": (gib["annotate"], sum(s for name, s in plan["seconds_per_step"].items() if name.startswith("annotate"))),
            "critic_update": (gib["critic_backward"], plan["seconds_per_step"]["update critic"]),
            "actor_update": (gib["actor_backward"], plan["seconds_per_step"]["update actor"]),
        }
        for phase, (memory, seconds) in predicted.items():
            peak = row.get(f"memory/{phase}_peak_gib", float("nan"))
            measured = f"{row[f'time/{phase}_seconds']:.2f} s, {peak:.1f} GiB"
            yield f"{size}, {phase}: measured (plan for one H100)", f"{measured} ({seconds:.2f} s, {memory:.1f} GiB)"

    return check


def engines(tiny: bool, out: Path) -> Rows:
    """Tokens per second of the rollout engines."""
    small = ["--responses=8", "--tokens=8", "--repeats=1", "--models=mini"] if tiny else ["--device=cuda"]
    said = command("-m", "benchmarks.rollout", *small)
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in said.splitlines() if line.startswith("|")]
    for model, *speeds in rows:
        yield f"tokens/s, {model}", ", ".join(f"{name} {speed}" for name, speed in zip(head[1:], speeds, strict=False))


PARTS: dict[str, Callable[[bool, Path], Rows]] = {
    "gpu_tests": gpu_tests,
    "mini": mini,
    "0.5B": step("qwen2_5_0_5b"),
    "1.5B": step("qwen2_5_1_5b"),
    "engines": engines,
}


def check(tiny: bool, out: Path, parts: dict[str, Callable[[bool, Path], Rows]]) -> tuple[str, bool]:
    """The table, and whether every part passed."""
    found = provenance(str(ROOT))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [
        f"{device}, torch {torch.__version__}, commit {found['commit']}{', tiny' if tiny else ''}",
        "",
        "| check | found |",
        "|---|---|",
    ]
    passed = True
    for name, part in parts.items():
        print(f"{name} …", flush=True)
        try:
            for what, result in part(tiny, out):
                lines.append(f"| {what} | {result} |")
        except Exception as error:  # whatever a GPU brings: the other parts still run
            passed = False
            lines.append(f"| **{name} FAILED** | {' '.join(str(error).split()).replace('|', '/')} |")
    return "\n".join(lines) + "\n", passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "logs" / "gpu_check" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("error: no GPU here; --tiny runs the same commands with tiny models on the CPU")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, passed = check(arguments.tiny, arguments.out.resolve(), {name: PARTS[name] for name in arguments.only})
    (arguments.out / "gpu_check.md").write_text(table)
    print(f"\n{table}\nwritten to {arguments.out}/gpu_check.md")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
