"""Verdicts per second, with a cold cache: answers that are numbers, and answers that need math-verify.

python -m benchmarks.scoring [--workers 2]
"""

import argparse
import random
import statistics
import time

from benchmarks.tables import machine, markdown, versions

from vapo.types import Status
from vapo.verifiers.math_answer import MathVerifier


def measure(verifier: MathVerifier, pairs: list[tuple[str, str]]) -> tuple[float, str]:
    """Verdicts per second, and how many there were of each kind."""
    started = time.perf_counter()
    verdicts = [verifier.submit(response, gold) for response, gold in pairs]
    statuses = [verdict.result().status for verdict in verdicts]
    seconds = time.perf_counter() - started
    return len(pairs) / seconds, ", ".join(f"{statuses.count(status)} {status}" for status in Status if status in statuses)


def pairs_of(kind: str, answers: int, rng: random.Random) -> list[tuple[str, str]]:
    """Different every time: verdicts are cached."""
    prose, first = "Let x be the number of apples. " * 30, rng.randrange(10**9)  # a response of a thousand characters
    if kind == "numbers":
        return [(f"{prose}Answer: ${first + i:,}$ apples", str(first + i - i % 2)) for i in range(10 * answers)]
    golds = ["\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "({a}, {b})", "{a}x^2+{b}x+{c}", "\\frac{{{a}\\pi}}{{{b}}}"]
    pairs = []
    for i in range(answers):
        gold = rng.choice(golds).format(a=first + i, b=rng.randrange(2, 99), c=rng.randrange(2, 99))
        pairs.append((f"{prose}\\boxed{{{gold.replace('frac', 'dfrac')} + {rng.randrange(2)}}}", gold))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--answers", type=int, default=1000, help="for math-verify; ten times as many numbers")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    verifier, rng, rows = MathVerifier(workers=arguments.workers), random.Random(0), []
    verifier("Answer: \\sqrt{2}", "\\sqrt{3}")  # the processes start
    for kind in ("numbers", "math-verify"):
        found = [measure(verifier, pairs_of(kind, arguments.answers, rng)) for _ in range(arguments.repeats)]
        rows.append([kind, f"{statistics.median(speed for speed, _ in found):,.0f}", found[-1][1]])
    print(markdown(("answers", "verdicts per second", "of the last turn"), rows))
    print(f"\nmedians of {arguments.repeats}, {arguments.workers} processes; {machine()}; {versions()}")


if __name__ == "__main__":
    main()
