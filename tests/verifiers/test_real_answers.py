"""Every gold answer of the real problem sets verifies against itself however it is phrased, and no near miss does."""

from fractions import Fraction

import pytest
from tests.problem_sets import golds, needs_problem_sets

from vapo.types import Status
from vapo.verifiers.arithmetic import number
from vapo.verifiers.math_answer import MathVerifier

PHRASINGS = [
    "So the answer is \\boxed{%s}.",
    "Answer: %s",
    "**Answer:** %s",
    "answer: $%s$.",
    "Answer: \\(%s\\)\nI checked it twice.",
    "Answer: \\boxed{%s}\n",
    "We get \\fbox{$%s$} at last",
    "#### %s",
    "Answer: %s dollars",
    "Answer: %s\\text{ cm}^2",
    "Answer: x = %s",
    "\\boxed{\\mathbf{%s}}",
    "First I thought \\boxed{-1}. No.\nAnswer: %s.",
]
SETS = ["gsm8k_test.jsonl", "gsm8k_train.jsonl", "aime24.jsonl", "amc23.jsonl"]


def with_commas(value: Fraction) -> str:
    return f"{int(value):,}" if value.denominator == 1 else f"{float(value):,}"


@needs_problem_sets
@pytest.mark.parametrize("name", SETS)
def test_every_gold_answer_verifies_against_itself(name):
    verifier = MathVerifier(workers=1)
    gold_answers = golds(name)
    assert len(gold_answers) >= 30
    for gold in gold_answers:
        value = number(gold.replace(",", ""))
        assert value is not None
        latex = f"{value.numerator}" if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
        for phrasing in [*PHRASINGS, "Answer: %s.00"]:
            text = with_commas(value) if "00" not in phrasing or value.denominator == 1 else gold
            response = (phrasing if value.denominator == 1 else phrasing.replace(".00", "")) % text
            assert verifier(response, gold).status is Status.CORRECT, (response, gold)
        assert verifier(f"\\boxed{{{latex}}}", gold).status is Status.CORRECT, (latex, gold)


@needs_problem_sets
@pytest.mark.parametrize("name", SETS)
def test_no_near_miss_of_a_gold_answer_verifies(name):
    verifier = MathVerifier(workers=1)
    for gold in golds(name):
        value = number(gold.replace(",", ""))
        assert value is not None
        misses = {value + 1, value - 1, value * 10, -value, value + Fraction(1, 10)} - {value}
        for miss in misses:
            text = str(float(miss)) if miss.denominator != 1 else str(miss)
            for phrasing in ("Answer: %s", "\\boxed{%s}", f"The answer is {gold}. #### %s"):
                assert verifier(phrasing % text, gold).status is Status.WRONG, (phrasing % text, gold)
        assert verifier(f"the answer is {gold}", gold).status is Status.NO_ANSWER
