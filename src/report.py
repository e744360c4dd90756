"""Gathers a sweep: python src/report.py logs/train/multiruns/<time> [--out folder]

Writes report.md, table.csv, curves.csv and figures, by default into the sweep's folder. Instead of a folder it takes a
curves.csv that an earlier report kept: python src/report.py docs/results/main/curves.csv --out docs/results/main
Of several, also of both kinds, it makes one report: as when seeds were added on another machine.
With --dose SETTING the report begins with what each arm loses at each value of that setting.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="+", help="folder of a multirun, or a curves.csv")
    parser.add_argument("--out", type=Path, help="folder for the report; default: the first sweep's")
    parser.add_argument("--dose", help="a setting that the sweep varies beside its arms, such as data.source.reveal")
    arguments = parser.parse_args()

    from vapo.analysis.report import write_report  # here: `--help` should not wait for pandas

    first: Path = arguments.sweep[0]
    out = arguments.out or (first.parent if first.suffix == ".csv" else first)
    try:
        print(write_report(arguments.sweep, out, arguments.dose).read_text())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
