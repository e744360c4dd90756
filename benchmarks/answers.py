"""Right answers refused and wrong ones accepted, by kind, on files of graded answers and on the golds of problem sets.

python -m benchmarks.answers [FILE ...] [--sets FOLDER] [--all]

A file is JSONL with response, gold, correct, and perhaps kind. Every gold of a set (FOLDER/*.jsonl with a column answer) is put
into several styles of response, which must be right, and so must none of its neighbours (one more, ten times, negative, half).
"""

import argparse
import json
import re
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from benchmarks.tables import machine, markdown, versions

from vapo.types import Status
from vapo.verifiers.math_answer import MathVerifier

Pair = tuple[str, str, bool, str]  # response, gold, whether it is right, kind
STYLES = (
    "So the result is $\\boxed{%s}$.",
    "Some steps.\n\nAnswer: %s",
    "**Answer**: %s.",
    "Thus\n\n**Final Answer:**\n\\[\n\\boxed{%s}\n\\]",
    "Answer:\n$$\n%s\n$$",
    "5 + 3 = 8\n#### %s",
    "\\boxed{x = %s}",
    "答案：%s。",
    "Answer: $%s$ (by the table above)",
    "Answer: %s, since nothing else is possible.",
)


def of_file(path: Path) -> list[Pair]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["response"], row["gold"], bool(row["correct"]), row.get("kind", "all")) for row in rows]


def of_set(path: Path) -> list[Pair]:
    """Numbers only, as GSM8K, AIME and AMC have them."""
    pairs: list[Pair] = []
    for line in path.read_text().splitlines():
        gold = str(json.loads(line)["answer"]).rsplit("####", 1)[-1].strip()
        value = Fraction(re.sub(r"[$,]", "", gold))
        for style in STYLES:
            pairs.append((style % gold, gold, True, path.stem))
        for other in {value + 1, value * 10, -value, value / 2} - {value}:
            written = str(other) if other.denominator == 1 else str(float(other))
            pairs += [(style % written, gold, False, path.stem) for style in STYLES[:3]]
    return pairs


def rows_of(pairs: Sequence[Pair], everything: bool) -> Iterable[Sequence[object]]:
    """A row for each kind in which there is a mistake, and for all of them."""
    verifier = MathVerifier()
    verdicts = [verifier.submit(response, gold) for response, gold, _, _ in pairs]
    accepted = [verdict.result().status is Status.CORRECT for verdict in verdicts]
    for kind in [*sorted({pair[3] for pair in pairs}), "all"]:
        chosen = [(pair[2], said) for pair, said in zip(pairs, accepted, strict=True) if kind in (pair[3], "all")]
        right, wrong = sum(known for known, _ in chosen), sum(not known for known, _ in chosen)
        refused, false = sum(known and not said for known, said in chosen), sum(said and not known for known, said in chosen)
        if refused or false or everything or kind == "all":
            taken = right - refused + false
            shares = [f"{(right - refused) / count:.3f}" if count else "" for count in (taken, right)]
            yield kind, right, refused, wrong, false, *shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="graded answers")
    parser.add_argument("--sets", type=Path, help="folder with problem sets")
    parser.add_argument("--all", action="store_true", help="kinds without a mistake too")
    arguments = parser.parse_args()
    header = ("kind", "right", "refused", "wrong", "accepted", "precision", "recall")
    for path in arguments.files:
        print(f"{path.name}\n\n{markdown(header, rows_of(of_file(path), arguments.all))}\n")
    if arguments.sets:
        sets = [path for path in sorted(arguments.sets.glob("*.jsonl")) if '"gold"' not in path.read_text()[:5000]]
        started, pairs = time.perf_counter(), [pair for path in sets for pair in of_set(path)]
        print(f"golds of problem sets\n\n{markdown(header, rows_of(pairs, True))}\n")
        print(f"{len(pairs)} pairs in {time.perf_counter() - started:.0f} s")
    print(f"{machine()}; {versions()}")


if __name__ == "__main__":
    main()
