"""Nothing that a model writes is right by accident, runs, hangs, crashes or takes memory without bound."""

import os
import random
import string
import time
from pathlib import Path

import pytest

from vapo.types import Status
from vapo.verifiers.algebra import UnreadableError, parse_expression
from vapo.verifiers.extraction import find_answer
from vapo.verifiers.math_answer import MathVerifier

CORRECT, WRONG, NO_ANSWER = Status.CORRECT, Status.WRONG, Status.NO_ANSWER


@pytest.fixture(scope="module")
def verifier():
    return MathVerifier(workers=1, timeout=10.0)


HOSTILE = [
    "9^{9^{9}}",
    "9^9^9^9",
    "10^{10000000}",
    "99999999!",
    "(9999)!",
    "((9!)!)!",
    "\\binom{10000000}{5000000}",
    "\\sum_{n=1}^{99999999} \\frac{1}{n^{3}+n}",
    "\\prod_{n=1}^{999} n^{n}",
    "\\int_0^1 x^x \\sin(x^x) dx",
    "2^{99}^{99}",
    "\\frac{1",
    "\\sqrt{" * 200,
    "(" * 300,
    "{" * 300 + "}" * 300,
    "\\left(" * 60,
    "\x00",
    "1\x00",
    "\ud800",
    "١٢",
    "1" * 390,
    "0." + "1" * 390,
    "1e999999999",
    "().__class__.__bases__[0].__subclasses__()",
    "\\input{/etc/passwd}",
]
CODE = [
    "__import__('os').system('touch {}')",
    "exec(\"open('{}','w')\")",
    "open('{}', 'w')",
    "lambda: open('{}', 'w')",
    "\\operatorname{{eval}}(open('{}','w'))",
]


@pytest.mark.parametrize("gold", ["18", "\\frac{1}{3}"])
def test_hostile_answers_are_never_right(gold, verifier):
    verdicts = [verifier.submit(f"Answer: {text}", gold) for text in HOSTILE]
    assert all(verdict.result(timeout=600).status is not CORRECT for verdict in verdicts)


@pytest.mark.parametrize("code", CODE)
def test_code_is_not_run_by_any_layer(code, verifier, tmp_path):
    text = code.format(tmp_path / "ran")
    assert verifier(f"Answer: {text}", "18").status is WRONG
    with pytest.raises(UnreadableError):  # nor by the parser, which is never asked about it
        parse_expression(text)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        *(
            "1^" + " " * 3900 + "x}",
            "1" * 1900 + " " * 1900 + "x",
            "{" * 3900,
            "\\boxed{" * 600,
            "answer:" * 500,
            "Answer: a " * 390,
        ),
        *("\\text{" * 600, "1 m/" * 900, " cm" * 1200, "1," * 1900, "(" * 3900, "\\left" * 700, "x = " * 950, "$" * 3900),
    ],
    ids=lambda body: body[:8],
)
def test_reading_a_long_answer_takes_no_time(body):
    """All this happens in the training process."""
    started = time.process_time()
    for marker in ("Answer: ", "\\boxed{", ""):
        found = find_answer(marker + body)
        MathVerifier.decide(MathVerifier(), (found or "")[:401], "18")
    assert time.process_time() - started < 2


PIECES = [
    "a ",
    "ab ",
    "1 ",
    "x_1",
    "'",
    "\\prime}",
    "\\pm ",
    "\\frac",
    "{",
    "}",
    "(a)",
    "[",
    "%",
    "=",
    " and ",
    " is ",
    "\n",
    ">",
    "*",
    "so my ",
]


@pytest.mark.parametrize("first", PIECES)
def test_nor_does_a_text_that_repeats_itself(first):
    """Patterns that can match a text in many ways try them all: 14 pieces took 1.7 s, each one more three times as long."""
    for second in PIECES:
        body = (first + second) * 2000
        for end in ("", "^2 = 17"):
            started = time.process_time()
            find_answer(body[:3900] + end)
            MathVerifier.decide(MathVerifier(), body[:390] + end, "18")
            assert time.process_time() - started < 2, (second, end)


def test_a_sentence_with_a_formula_at_its_end_takes_no_time():
    started = time.process_time()
    text = "the number of all the ways to get to the top of the hill that is behind the house of the old man in 2.5 min = 17"
    assert MathVerifier.decide(MathVerifier(), text, "17") is WRONG
    assert time.process_time() - started < 2


def random_response(rng: random.Random) -> str:
    """Noise, LaTeX in pieces, or one of the hostile ones, with a marker before it more often than not."""
    pieces = [
        "\\frac",
        "{",
        "}",
        "^",
        "_",
        "\\sqrt",
        "\\boxed",
        "(",
        ")",
        "[",
        "\\left",
        "\\right",
        "!",
        "+",
        "9",
        "x",
        "\\sum",
        "=",
        ",",
        "\\text",
    ]
    kind = rng.randrange(5)
    if kind == 0:
        body = bytes(rng.randrange(256) for _ in range(rng.randrange(300))).decode("utf-8", "replace")
    elif kind == 1:
        body = "".join(rng.choice(pieces) for _ in range(rng.randrange(40)))
    elif kind == 2:
        body = "".join(rng.choice(string.printable) for _ in range(rng.randrange(200)))
    elif kind == 3:
        body = rng.choice(HOSTILE) + rng.choice(["", " cm", "}", "$"])
    else:
        body = rng.choice("9x({\\\n ") * rng.choice([10, 1000, 1_000_000])
    return rng.choice(["Answer: ", "\\boxed{", "#### ", "", "Answer: $", "\\boxed"]) + body + rng.choice(["", "}", "$"])


def fuzz(count: int) -> list[Status]:
    rng, judged = random.Random(0), MathVerifier(workers=2, timeout=1.0, memory_gib=2.0)
    verdicts = [judged.submit(random_response(rng), rng.choice(["18", "\\frac{1}{3}", "x+1"])) for _ in range(count)]
    return [verdict.result(timeout=600).status for verdict in verdicts]


def test_a_few_hundred_fuzzed_responses_all_get_a_verdict():
    statuses = fuzz(300)
    assert CORRECT not in statuses and {WRONG, NO_ANSWER} <= set(statuses)


@pytest.mark.slow
def test_ten_thousand_fuzzed_responses_all_get_a_verdict():
    statuses = fuzz(10_000)
    assert CORRECT not in statuses and len(statuses) == 10_000
    assert statuses.count(Status.ERROR) + statuses.count(Status.TIMEOUT) < 500
    peak = max(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert peak < 8 * 2**20  # KiB
