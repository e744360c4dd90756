"""Answers are found, cleaned and compared: right phrasings pass, near misses do not."""

import pytest

from vapo.types import Status
from vapo.verifiers.extraction import find_answer
from vapo.verifiers.forms import read
from vapo.verifiers.math_answer import MathVerifier

CORRECT, WRONG, NO_ANSWER = Status.CORRECT, Status.WRONG, Status.NO_ANSWER


@pytest.fixture(scope="module")
def verifier():
    return MathVerifier(workers=1, timeout=10.0)


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
        ("18 pieces of fabric", "18"),
        ("eighteen", "18"),
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
        ("18 bolts of fabric", "18"),  # no listed unit
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


@pytest.mark.parametrize(
    ("answers", "votes"),
    [
        (("(1, 2)", "(1,2)", "(3, 4)", "(5, 6)"), 3),
        (("(0, 1]", "(0,1]", "[0, 1]", "(0, 2]"), 3),
        (("1, 2", "2 and 1", "1, 3", "1, 2, 3"), 3),
        (("x = 1, y = 2", "y=2, x=1", "x = 1, y = 3"), 2),
        (("1:2", "1 : 2", "1:3"), 2),
        (("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"), 1),
        (("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\\\ 3 \\\\ 4 \\end{pmatrix}"), 2),
        (("(0, 1) \\cup (2, 3)", "(0,1)\\cup(2,3)", "(0, 1) \\cup (2, 4)"), 2),
        (("(B)", "B: the median", "(C)"), 2),
    ],
)
def test_equal_answers_vote_as_one_and_others_do_not(answers, votes, verifier):
    assert len({verifier(f"\\boxed{{{text}}}", "7").answer for text in answers}) == votes


def test_a_response_without_an_answer_says_so(verifier):
    assert verifier("I do not know", "7").status is NO_ANSWER and verifier("I do not know", "7").answer is None


@pytest.mark.parametrize("text", ["18 dollars and 20 cents", "7 or 8 cm", "x+1", "(1,250)", "1,25", "1.2.3"])
def test_reading_makes_no_number_of_what_is_none(text):
    assert read(text).value is None


@pytest.mark.parametrize("answer", ["0.33 repeating", "1.25 repeating", "-0.33 repeating"])
def test_an_ambiguous_period_is_wrong_and_no_exception(answer):
    assert MathVerifier()(f"Answer: {answer}", "17").status is Status.WRONG


def test_a_mistake_in_reading_is_a_fault_that_is_named(monkeypatch):
    verifier = MathVerifier()
    monkeypatch.setattr(verifier, "decide", lambda answer, reference: int("None"))
    assert verifier("Answer: 17", "17").status is Status.ERROR
    assert "invalid literal" in verifier.last_fault() and "'Answer: 17'" in verifier.last_fault()
