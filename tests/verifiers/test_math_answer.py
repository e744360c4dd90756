"""Answers are found, cleaned and compared: right phrasings pass, near misses do not, and nothing a model writes hurts."""

import os
import random
import string
import time
from pathlib import Path

import pytest

from vapo.types import Status
from vapo.verifiers.answers import clean, find_answer, number
from vapo.verifiers.math_answer import MathVerifier

CORRECT, WRONG, NO_ANSWER = Status.CORRECT, Status.WRONG, Status.NO_ANSWER


@pytest.fixture(scope="module")
def verifier():
    return MathVerifier(workers=1, timeout=2.0)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("Answer: 12", "12"),
        ("ANSWER : 12\nbye", "12"),
        ("Answer: 12\nWait. Answer: 13", "13"),
        ("Answer: 12, so \\boxed{13}", "13"),
        ("\\boxed{13}. Answer: 12", "12"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed 7.", "7."),
        ("\\fbox{7}", "7"),
        ("\\boxed{7", None),
        ("####", None),
        ("Answer:   \n7", "7"),
        ("**Answer:**\n\n7", "7"),
        ("\\boxed{18}\n\nAnswer:", "18"),
        ("Answer: 5\n####", "5"),
        ("the result is 7", None),
        ("", None),
        ("Answer: 7" + " " * 5000, None),  # an answer so far from the end is not the final one
        ("x" * 5000 + "Answer: 7", "7"),
    ],
)
def test_the_answer_is_what_follows_the_last_marker(response, found):
    assert find_answer(response) == found


def test_a_box_may_span_lines(verifier):
    assert verifier("\\boxed{\n\\frac{1}\n{2}\n}", "0.5").status is CORRECT


def test_only_the_chosen_markers_count():
    assert MathVerifier(["boxed"])("\\boxed{1} Answer: 2", "1").status is CORRECT
    assert MathVerifier(["text"])("Answer: 1\n+ 2", "1\n+ 2").status is CORRECT
    with pytest.raises(ValueError, match=r"set it to some of answer, boxed, hashes, text"):
        MathVerifier(["box"])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1,250", "1250"),
        ("$1{,}250.00", "1250"),
        ("\\$1250", "1250"),
        ("−3", "-3"),
        ("+3", "3"),
        ("033", "33"),
        (".5", "0.5"),
        ("18 dollars per week.", "18"),
        ("18\\text{ cm}^2", "18"),
        ("18^\\circ", "18"),
        ("x = 18", "18"),
        ("\\mathbf{18}", "18"),
        ("**18**", "18"),
        ("50\\%", "50"),
        ("50 percent", "50"),
        ("1000000007", "1000000007.0"),
        ("\\dfrac{3}{4}", "0.75"),
        ("3/4", "\\frac{3}{4}"),
        ("\\frac34", "3/4"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("\\{2,1\\}", "\\{1,2\\}"),
        ("2\\pi", "\\pi \\cdot 2"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x \\in [1,2]", "[1,2]"),
        ("10^{3}", "1000"),
        ("x^2+y^2", "y^2+x^2"),
        ("2^3 \\cdot 5^2", "200"),
        ("5 1/2", "5.5"),
        ("–5", "-5"),
        ("18 cm²", "18"),
        ("18 cm^{2}", "18"),
        ("18\\text{ cm}^{2}", "18"),
        ("18^\\circ\\text{C}", "18"),
        ("18 L", "18"),
        ("18 (dollars)", "18"),
        ("18 bolts of fabric", "18"),
        ("18 miles per hour", "18"),
        ("(C) 18", "18"),
        ("\\textbf{(C) }18", "18"),
        ("The final answer is 18.", "18"),
        ("approximately 18", "18"),
        ("\\underline{18}", "18"),
        ("36\\pi\\text{ cm}^2", "36\\pi"),
        ("10!", "3628800"),
    ],
)
def test_equal_answers_in_other_words_are_correct(answer, gold, verifier):
    assert verifier(f"Answer: {answer}", gold).status is CORRECT


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1249", "1250"),
        ("1,25", "125"),
        ("12 50", "1250"),
        ("1250 thousand", "1250"),
        ("125", "1250"),
        ("-18", "18"),
        ("18.5", "18"),
        ("18.0000001", "18"),
        ("1000000007", "1000000008"),
        ("18 or 19", "18"),
        ("18, 19", "18"),
        ("18x", "18"),
        ("0.5", "50"),
        ("\\frac{3}{5}", "3/4"),
        ("(2,1)", "(1,2)"),
        ("[1,2)", "[1,2]"),
        ("\\sqrt{7}", "\\sqrt{8}"),
        ("eighteen", "18"),
        ("?", "18"),
        ("18xy", "18"),
        ("2a", "2"),
        ("2", "2xy"),
        ("2xy", "2ab"),
        ("5 hours 23 minutes", "5"),
        ("3 feet 2 inches", "3"),
        ("18 remainder 3", "18"),
        ("3 fifths", "3"),
        ("3 halves", "3"),
        ("10 choose 3", "10"),
        ("5 factorial", "5"),
        ("2 lakh", "2"),
        ("4 tens", "4"),
        ("2**3", "23"),
        ("10", "10!"),
        ("10!", "10"),
        ("12\\ 50", "1250"),
        ("1\\quad2", "12"),
        ("1/0", "1"),
    ],
)
def test_near_misses_are_wrong(answer, gold, verifier):
    assert verifier(f"Answer: {answer}", gold).status is WRONG


def test_equal_numbers_vote_as_one(verifier):
    assert [verifier(f"Answer: {text}", "7").answer for text in ("18", "18.00", "$18$", "1{,}800")] == ["18", "18", "18", "1800"]


def test_a_response_without_an_answer_says_so(verifier):
    assert verifier("I do not know", "7").status is NO_ANSWER and verifier("I do not know", "7").answer is None


@pytest.mark.parametrize("text", ["18 dollars and 20 cents", "18 hundred", "7 or 8 cm", "x+1", "(1,250)", "1,25", "1/2/3", "1.2.3"])
def test_cleaning_makes_no_number_of_what_is_none(text):
    assert number(clean(text)) is None


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
    "__import__('os').system('touch PWNED')",
    "exec(\"open('PWNED','w')\")",
    "().__class__.__bases__[0].__subclasses__()",
    "lambda: open('PWNED', 'w')",
    "\\operatorname{eval}(open('PWNED','w'))",
    "\\input{/etc/passwd}",
]


@pytest.mark.parametrize("gold", ["18", "\\frac{1}{3}"])
def test_hostile_answers_are_never_right_and_nothing_runs(gold, verifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdicts = [verifier.submit(f"Answer: {text}", gold) for text in HOSTILE]
    assert all(verdict.result(timeout=120).status is not CORRECT for verdict in verdicts)
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
    started = time.perf_counter()
    for marker in ("Answer: ", "\\boxed{", ""):
        found = find_answer(marker + body)
        MathVerifier.decide(MathVerifier(), clean((found or "")[:401]), "18")
    assert time.perf_counter() - started < 0.5


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
    return [verdict.result(timeout=300).status for verdict in verdicts]


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
