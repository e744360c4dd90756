"""Plans of small models against runs of them: peak memory of a training step on 1, 2 and 4 gloo processes.

python benchmarks/plan_memory.py [FOLDER]    ten to fifteen minutes on two busy cores; writes plan_memory.md there (default: logs)
"""

import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from vapo.plan.check import measure, predict, small_model
from vapo.run.record import git_commit
from vapo.run.resolvers import register

ROOT = Path(__file__).resolve().parents[1]
# name, ranks, hidden, layers, vocabulary, tied, longest rollout, overrides
CASES = [
    ("wide", 1, 768, 4, 8192, True, 256, ["module.microbatch_tokens=1024"]),
    ("deep, float32", 1, 512, 8, 4096, False, 512, ["module.microbatch_tokens=2048", "module.sharding.compute_dtype=float32"]),
    ("deep, checkpointed", 2, 512, 8, 4096, False, 512, ["module.microbatch_tokens=2048", "model.activation_checkpointing=true"]),
    ("large vocabulary", 2, 256, 4, 65536, True, 512, ["module.microbatch_tokens=1024", "model.logits_chunk_tokens=512"]),
    (
        "wide, late gradient sums",
        4,
        768,
        4,
        8192,
        False,
        256,
        ["module.microbatch_tokens=512", "module.sharding.defer_gradient_sync=true"],
    ),
    ("wide, four ranks", 4, 768, 6, 8192, True, 256, ["module.microbatch_tokens=512"]),
]
MIB = 2**20


def main(folder: Path) -> None:
    register()
    lines = [
        "| case | ranks | phase of the peak | predicted MiB | tensors measured MiB | off by | process grew by MiB | off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, ranks, hidden, layers, vocabulary, tied, longest, overrides in CASES:
        with tempfile.TemporaryDirectory() as place, initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
            path = small_model(Path(place), hidden, layers, vocabulary, tied)
            overrides = [
                "experiment=vapo_full",
                f"model.path={path}",
                "model.critic.head_init=zero",
                f"model.critic.path={path}",
                *overrides,
            ]
            config = compose("train", [*overrides, f"paths.output_dir={place}"], return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            predicted, measured = predict(config.module, longest, ranks), measure(config.module, longest, ranks)
        phase = max(measured.tensors.peak, key=measured.tensors.peak.__getitem__)
        guess, fact = max(predicted.peak.values()), measured.tensors.peak[phase]
        lines.append(
            f"| {name} | {ranks} | {phase} | {guess / MIB:.0f} | {fact / MIB:.0f} | {guess / fact - 1:+.1%} | "
            f"{measured.process / MIB:.0f} | {guess / measured.process - 1:+.1%} |"
        )
        print(lines[-1], flush=True)
        if "-v" in sys.argv:
            for phase in predicted.peak:
                print(f"    {phase}: predicted {predicted.peak[phase] / MIB:.1f} measured {measured.tensors.peak[phase] / MIB:.1f}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan_memory.md").write_text("\n".join([*lines, "", f"Commit {git_commit(ROOT)}."]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] != "-v" else ROOT / "logs")
