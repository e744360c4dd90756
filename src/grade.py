"""Grades a person's own answers: python src/grade.py answers.jsonl [--preset gsm8k]

The file is JSONL or CSV with the columns response and gold, and correct (true or false) if precision and recall are wanted. One
line for each: the verdict, the text that was read as the answer, and the layer that decided.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSONL or CSV: response, gold, and perhaps correct")
    presets = Path(__file__).resolve().parents[1] / "configs" / "verifier"
    names = sorted(path.stem for path in presets.glob("*.yaml"))
    parser.add_argument(
        "--preset", default="dapo", choices=names, help="where the answer is, as verifier@data.verifier; default: dapo"
    )
    arguments = parser.parse_args()

    import yaml

    from vapo.analysis.grading import grade_file  # here: `--help` should not wait for torch

    try:
        markers = yaml.safe_load((presets / f"{arguments.preset}.yaml").read_text())["markers"]
        for line in grade_file(arguments.file, markers):
            print(line)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
