"""The table of docs/arms.md, from the configurations: `PYTHONPATH=src python -m tests.arms` prints it."""

from pathlib import Path

from tests.runs import CONFIGS, config_for

from vapo.analysis.sweep import PAPER

SWITCHES = (
    "value_pretraining_steps",
    "critic_lambda",
    "length_adaptive_alpha",
    "clip_high",
    "loss_aggregation",
    "positive_lm_coef",
    "group_size",
)
OTHERS = ("kl_coef", "dynamic_sampling", "overlong_buffer")
EXPERIMENTS = ("vapo_full", "vc_ppo", "ppo_vanilla", "grpo", "dapo")


def arms() -> dict[str, list[str]]:
    """The overrides of every experiment, and of every ablation in the order of VAPO's switches."""
    removals = [path.stem for path in Path(CONFIGS, "ablation").glob("no_*.yaml")]
    removals.sort(key=lambda name: SWITCHES.index(switch(name)))
    experiments = {name: [f"experiment={name}"] for name in EXPERIMENTS}
    return experiments | {name: ["experiment=vapo_full", f"ablation={name}"] for name in removals}


def switch(ablation: str) -> str:
    """The one switch that an ablation sets."""
    (line,) = [row for row in Path(CONFIGS, "ablation", f"{ablation}.yaml").read_text().splitlines() if row.startswith("  ")]
    return line.split(":")[0].strip()


def table() -> str:
    rows, reference = [], []
    for name, overrides in arms().items():
        algorithm = config_for(Path("unused"), *overrides, "~scale_overrides").algorithm
        shown = ["–" if key not in algorithm else str(algorithm[key]).replace("None", "null") for key in SWITCHES]
        reference = reference or shown
        cells = [cell if cell == wanted else f"**{cell}**" for cell, wanted in zip(shown, reference, strict=True)]
        others = ", ".join(f"`{key}: {str(algorithm[key]).lower()}`" for key in OTHERS if algorithm.get(key))
        rows.append(f"| `{name}` | {' | '.join(cells)} | {others} | {PAPER.get(name, '–')} |")
    names = [f"{number}. {key.replace('_', ' ')}" for number, key in enumerate(SWITCHES, 1)]
    head = f"| arm | {' | '.join(names)} | also | paper |"
    return "\n".join([head, "|---" * (len(SWITCHES) + 3) + "|", *rows])


if __name__ == "__main__":
    print(table())
