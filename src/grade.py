"""Grades a person's own answers: python src/grade.py answers.jsonl [--markers answer boxed hashes]

The file is JSONL or CSV with the columns response and gold, and correct (true or false) if precision and recall are wanted. One
line for each: the verdict, the text that was read as the answer, and the layer that decided.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSONL or CSV: response, gold, and perhaps correct")
    parser.add_argument("--markers", nargs="+", default=["answer", "boxed", "hashes"], help="what may precede an answer")
    arguments = parser.parse_args()

    from vapo.analysis.grading import grade_file  # here: `--help` should not wait for torch

    try:
        for line in grade_file(arguments.file, arguments.markers):
            print(line)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
