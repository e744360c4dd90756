"""Draws the training curves of runs over each other: python src/curves.py RUN... [--out curves.png]

A RUN is the folder of a run, or of a multirun. Runs that differ only in their seed are one curve, their mean, with a band.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run, or of a multirun")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="PNG file to write; default: curves.png")
    arguments = parser.parse_args()

    from vapo.analysis.arms import load_arms  # here: `--help` should not wait for pandas
    from vapo.analysis.curves import plot_runs

    try:
        arms = load_arms(arguments.run)
        plot_runs(arms).savefig(arguments.out, dpi=120)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(*(f"{arm}: {len(runs)} run{'s' * (len(runs) > 1)}" for arm, runs in arms.items()), arguments.out, sep="\n")


if __name__ == "__main__":
    main()
