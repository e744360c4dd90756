"""What graders of mathematics get wrong: no wrong answer is right, and every right one is, by kind; also in other surroundings."""

import pytest
from tests.verifiers.answer_cases import KINDS

from vapo.types import Status
from vapo.verifiers.math_answer import MathVerifier

MARKED = ("boxed", "fbox", "nswer", "####", "答", "Respuesta", "Réponse", "Antwort", "Ответ")


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(workers=1)


def in_a_box(text: str) -> str:
    return text if any(marker in text for marker in MARKED) else f"So the result is $\\boxed{{{text}}}$."


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_are_right(kind: str, verifier: MathVerifier) -> None:
    refused = [pair for pair in KINDS[kind][0] if verifier(in_a_box(pair[0]), pair[1]).status is not Status.CORRECT]
    assert refused == []


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_answers_are_not(kind: str, verifier: MathVerifier) -> None:
    statuses = {pair: verifier(in_a_box(pair[0]), pair[1]).status for pair in KINDS[kind][1]}
    assert {pair: status for pair, status in statuses.items() if status not in (Status.WRONG, Status.NO_ANSWER)} == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "markers"])
def test_a_line_is_read_like_a_box(kind: str, verifier: MathVerifier) -> None:
    for right, pairs in zip((True, False), KINDS[kind], strict=True):
        for text, gold in pairs:
            if in_a_box(text) != text:
                correct = verifier(f"I am done.\n\n**Answer:** ${text}$", gold).status is Status.CORRECT
                assert correct is right, (text, gold)


def test_every_reference_is_readable_and_equals_itself(verifier: MathVerifier) -> None:
    golds = {gold for right, wrong in KINDS.values() for _, gold in (*right, *wrong)}
    assert {gold: reason for gold in golds if (reason := verifier.unreadable(gold).result())} == {}
    assert [gold for gold in golds if verifier(in_a_box(gold), gold).status is not Status.CORRECT] == []
