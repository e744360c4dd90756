"""Right answers refused and wrong ones accepted, by kind, on files of graded answers and on the golds of problem sets.

python -m benchmarks.answers [FILE ...] [--sets FOLDER] [--all]

A file is JSONL with response, gold, correct, and perhaps kind. Every gold of a set (FOLDER/*.jsonl with a column answer) is put
into several styles of response, which must be right, and so must none of its neighbours (one more, ten times, negative, half).
The same is done with golds in LaTeX, as MATH has them, which are written here with answers that are near and wrong.
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

LATEX = {  # by kind: a gold, and what is near and wrong
    "fraction": {
        r"\frac{3}{4}": [r"\frac{4}{3}", r"\frac{3}{40}"],
        r"-\frac{5}{12}": [r"\frac{5}{12}", r"\frac{-5}{-12}"],
        r"\dfrac{22}{7}": [r"\pi"],
    },
    "root": {
        r"3\sqrt{2}": [r"2\sqrt{3}", r"3+\sqrt{2}"],
        r"\sqrt[3]{7}": [r"\sqrt{7}", r"3\sqrt{7}"],
        r"\frac{\sqrt{6}}{4}": [r"\sqrt{\frac{6}{4}}"],
    },
    "closed form": {
        r"2+\sqrt{5}": [r"2-\sqrt{5}"],
        r"\frac{\pi}{6}": [r"\frac{6}{\pi}", r"\frac{1}{6}"],
        r"e^{2}": [r"2e"],
        r"\log_2 3": [r"\log_3 2"],
    },
    "complex number": {r"3-4i": [r"3+4i", r"-4+3i"], r"\frac{1}{2}+\frac{\sqrt{3}}{2}i": [r"\frac{1}{2}-\frac{\sqrt{3}}{2}i"]},
    "polynomial": {
        r"x^2-5x+6": [r"x^2+5x+6", r"x^2-6x+5"],
        r"(x-2)(x+3)": [r"(x+2)(x-3)"],
        r"4a^3b": [r"4ab^3"],
        r"\frac{x+1}{x-1}": [r"\frac{x-1}{x+1}"],
    },
    "tuple": {r"(3,-1)": [r"(-1,3)", r"(3,1)"], r"\left(\frac{1}{2},2,0\right)": [r"\left(2,\frac{1}{2},0\right)"]},
    "interval": {
        r"[2,5)": [r"(2,5]", r"[2,5]"],
        r"(-\infty,3]": [r"(-\infty,3)", r"[3,\infty)"],
        r"(0,1)\cup(1,\infty)": [r"(0,\infty)"],
    },
    "set": {r"\{1,2,4\}": [r"\{1,2\}", r"\{1,2,3,4\}"], r"-3, 3": [r"3", r"-3, -3, 0"]},
    "matrix": {
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": [r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}"]
    },
    "units": {
        r"12\text{ cm}^2": [r"12\text{ cm}", r"21\text{ cm}^2"],
        r"45^\circ": [r"54^\circ"],
        r"35\%": [r"53\%"],
        r"\$18.50": [r"\$18.05"],
    },
    "word": {
        r"\text{odd}": [r"\text{even}"],
        r"\text{(C)}": [r"\text{(D)}"],
        r"\text{Evelyn}": [r"\text{Carla}"],
        r"\text{June 8}": [r"\text{July 8}"],
    },
}


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


def of_latex() -> list[Pair]:
    pairs: list[Pair] = []
    for kind, golds in LATEX.items():
        for gold, wrong in golds.items():
            pairs += [(style % gold, gold, True, kind) for style in STYLES]
            pairs += [(style % other, gold, False, kind) for other in wrong for style in STYLES]
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
    print(f"golds in LaTeX\n\n{markdown(header, rows_of(of_latex(), True))}\n")
    if arguments.sets:
        sets = [path for path in sorted(arguments.sets.glob("*.jsonl")) if '"gold"' not in path.read_text()[:5000]]
        started, pairs = time.perf_counter(), [pair for path in sets for pair in of_set(path)]
        print(f"golds of problem sets\n\n{markdown(header, rows_of(pairs, True))}\n")
        print(f"{len(pairs)} pairs in {time.perf_counter() - started:.0f} s")
    print(f"{machine()}; {versions()}")


if __name__ == "__main__":
    main()
