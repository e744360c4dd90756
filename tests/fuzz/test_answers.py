"""No response ends in an exception or a hang, and none with a changed number is right, however it is written."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vapo.types import Status
from vapo.verifiers.algebra import equal_expressions
from vapo.verifiers.compare import same_answer
from vapo.verifiers.extraction import MARKERS, find_answer
from vapo.verifiers.math_answer import MathVerifier
from vapo.verifiers.sums import SumsVerifier

WORDS = r"\frac { } ^ _ \sqrt \boxed{ Answer: #### <answer> </answer> \left( \\ & \begin{pmatrix} \end{pmatrix} \text{ $ $$ \[ \]"
WORDS += r" = , ; ! % x 17 1,234 0.5 \infty \cup [ ] ( ) km/h ^\circ \pi i - + / e 答案： ± \pm ∞ ²"
PIECES = st.sampled_from([*WORDS.split(), "**Answer**: ", "\n", " ", "\x00", "```"])
NOISE = st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join), NOISE)
GOLDS = ["18", "-7", "\\frac{1}{3}", "0.5", "1234", "(3, 4)", "\\{1, 2\\}", "[0, 1)", "x^2+1", "x=3", "50\\%", "\\text{yes}", "A"]
NUMBERS = st.one_of(st.integers(-2000, 2000), st.integers(-(10**12), 10**12), st.fractions(-50, 50, max_denominator=99)).map(
    Fraction
)


@given(TEXTS, st.sampled_from(GOLDS), st.lists(st.sampled_from(sorted(MARKERS)), min_size=1, unique=True))
def test_reading_never_fails(text: str, gold: str, markers: list[str]) -> None:
    """Without `submit`, which makes an ERROR of an exception."""
    verifier = MathVerifier()
    found = find_answer(text, tuple(markers))
    for answer in {text, found} - {None}:
        assert verifier.decide(answer, gold) in (Status.CORRECT, Status.WRONG, None)
        assert isinstance(verifier.show(answer), str)
        verifier.unreadable(answer) if len(answer) < 3 else None


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(workers=1, timeout=60.0)


@given(text=st.lists(PIECES, max_size=12).map("".join), gold=st.sampled_from(["18", "x^2+1", "\\frac{1}{3}"]))
def test_a_verdict_comes_for_any_text(text: str, gold: str, verifier: MathVerifier) -> None:
    """Through the worker, algebra included; one that hangs is a TIMEOUT after a minute."""
    assert verifier.submit(f"Answer: {text}", gold).result(timeout=600).status in (Status.CORRECT, Status.WRONG, Status.NO_ANSWER)


def decimal(x: Fraction) -> str:
    """Exact where twelve digits are enough; else it stays a fraction."""
    digits = next((d for d in range(12) if (x * 10**d).denominator == 1), None)
    if digits is None:
        return str(x)
    text = str(abs(x.numerator) * 10**digits // x.denominator).zfill(digits + 1)
    return ("-" if x < 0 else "") + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)


def grouped(x: Fraction) -> str:
    return f"{x.numerator:,}" if x.denominator == 1 else str(x)


WRITTEN: dict[str, Callable[[Fraction], str]] = {
    "plain": str,
    "fraction": lambda x: f"{'-' if x < 0 else ''}\\frac{{{abs(x.numerator)}}}{{{x.denominator}}}",
    "short fraction": lambda x: f"\\dfrac{{{x.numerator * 2}}}{{{x.denominator * 2}}}",
    "decimal": decimal,
    "grouped": grouped,
    "power": lambda x: f"{decimal(x / 1000)}\\times 10^{{3}}" if "/" not in decimal(x / 1000) else str(x),
    "named": lambda x: f"x = {x}",
    "math": lambda x: f"${x}$",
}
AROUND = [
    "\\boxed{%s}",
    "Answer: %s",
    "**Answer**: %s.",
    "so 1 + 1 = 2.\nAnswer: $%s$",
    "\\boxed{5} no, \\boxed{%s}",
    "#### %s",
    "Answer:\n$$%s$$",
]


@given(NUMBERS, NUMBERS, st.sampled_from(sorted(WRITTEN)), st.sampled_from(sorted(WRITTEN)), st.sampled_from(AROUND))
def test_a_number_is_right_if_and_only_if_it_is_the_golds(
    gold: Fraction, other: Fraction, how: str, golds: str, around: str
) -> None:
    verifier, reference = MathVerifier(), WRITTEN[golds](gold)
    assume(golds != "named" and not ("$" in around and how == "math"))
    for number in {gold, other}:
        found = find_answer(around.replace("%s", WRITTEN[how](number)))
        assert found is not None
        assert verifier.decide(found, reference) is (Status.CORRECT if number == gold else Status.WRONG)


SHAPES = [
    "(%s, %s)",
    "[%s, %s]",
    "\\{%s, %s\\}",
    "%s, %s",
    "[%s, %s)",
    "\\begin{pmatrix} %s \\\\ %s \\end{pmatrix}",
    "%s x + %s",
    "x^{2} - %s x + %s",
]
SHAPES += [
    "\\frac{%s + \\sqrt{%s}}{3}",
    "\\sqrt{%s} + \\pi^{%s}",
    "y = %s x + %s",
    "%s + %s i",
    "\\frac{%s}{%s} \\pi",
    "%s:%s",
    "%s^{\\circ} %s'",
]


@given(st.sampled_from(SHAPES), st.integers(1, 99), st.integers(100, 199), st.integers(1, 99), st.booleans())
def test_one_changed_number_in_an_answer_makes_it_wrong(shape: str, first: int, second: int, by: int, which: bool) -> None:
    def write(a: int, b: int) -> str:
        return shape.replace("%s", str(a), 1).replace("%s", str(b), 1)

    gold, changed = write(first, second), write(first + by * which, second + by * (not which))
    if shape == "%s:%s" or "frac{%s}{%s}" in shape:
        assume(Fraction(first, second) != Fraction(first + by * which, second + by * (not which)))
    assert same_answer(gold, gold, equal_expressions)
    assert not same_answer(changed, gold, equal_expressions), (changed, gold)


@given(st.one_of(st.text(alphabet="A0123456789+-=?;|:", max_size=20), st.text(max_size=9)), st.integers(0, 9))
@example("7-3=4;A4", 4)
def test_a_sum_is_right_if_its_one_answer_ends_the_response(text: str, gold: int) -> None:
    for response in (text, f"{text}A{gold}"):
        right = response.count("A") == 1 and response.endswith(f"A{gold}")
        assert (SumsVerifier()(response, str(gold)).status is Status.CORRECT) == right


def test_the_examples_are_read() -> None:
    """Else the tests above would say nothing."""
    some: Any = MathVerifier()
    assert [some.decide(WRITTEN[how](Fraction(5, 2)), "2.5") for how in WRITTEN] == [Status.CORRECT] * 8
