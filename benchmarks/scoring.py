"""Verdicts per second, with a cold cache: answers that are numbers, and answers that need math-verify.

.venv/bin/python benchmarks/scoring.py [--workers 2]
"""

import argparse
import random
import time

from vapo.types import Status
from vapo.verifiers.math_answer import MathVerifier


def measure(verifier: MathVerifier, pairs: list[tuple[str, str]]) -> str:
    started = time.perf_counter()
    verdicts = [verifier.submit(response, gold) for response, gold in pairs]
    statuses = [verdict.result().status for verdict in verdicts]
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in Status if status in statuses)
    return f"{len(pairs) / seconds:,.0f} a second ({len(pairs)} in {seconds:.1f} s: {counts})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    verifier, rng = MathVerifier(workers=parser.parse_args().workers), random.Random(0)
    prose = "Let x be the number of apples. " * 30  # a response of a thousand characters
    numbers = [(f"{prose}Answer: ${i % 1000:,}$ apples", str(i % 997)) for i in range(20_000)]
    print("numbers:", measure(verifier, numbers))
    verifier("Answer: \\sqrt{2}", "\\sqrt{3}")  # the processes start
    golds = ["\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "({a}, {b})", "{a}x^2+{b}x+{c}", "\\frac{{{a}\\pi}}{{{b}}}"]
    algebra = []
    for i in range(2_000):
        gold = rng.choice(golds).format(a=i + 2, b=rng.randrange(2, 99), c=rng.randrange(2, 99))
        algebra.append((f"{prose}\\boxed{{{gold.replace('frac', 'dfrac')} + {rng.randrange(2)}}}", gold))
    print("math-verify:", measure(verifier, algebra))


if __name__ == "__main__":
    main()
