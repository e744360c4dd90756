"""Says where two runs first differ: python src/compare.py RUN RUN

Compares their metrics.csv (without what a clock or the machine measures), rollouts and checkpoints, value by value, and names the
first RL step and column or tensor that differs. Ends with 0 if the runs are equal, with 1 if not. What only one of them has kept is
said, and not compared.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs=2, help="folder of a run")
    runs = parser.parse_args().run

    from vapo.analysis.compare import compare  # here: `--help` should not wait for torch

    try:
        found = compare(*runs)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(found.text())
    sys.exit(found.first is not None)


if __name__ == "__main__":
    main()
