"""Verdicts on answers in a file, and why: which text was read, which layer decided."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vapo.types import Status
from vapo.verifiers.extraction import find_answer
from vapo.verifiers.forms import read
from vapo.verifiers.math_answer import MathVerifier

RIGHT, WRONG, UNKNOWN = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no"), ("", "none", "nan")  # spellings of `correct`


@dataclass(frozen=True)
class Graded:
    """A response's verdict, and how it came about."""

    status: Status
    found: str | None  # the text read as the answer
    layer: str  # that decided: extraction, the two forms that were compared, or algebra


def grade(verifier: MathVerifier, pairs: Sequence[tuple[str, str]]) -> list[Graded]:
    """Grades (response, reference) pairs, in their order."""
    verdicts = [verifier.submit(response, reference) for response, reference in pairs]
    graded = []
    for (response, reference), verdict in zip(pairs, verdicts, strict=True):
        found = find_answer(response, verifier.markers)
        if found is None or len(found) > verifier.most_characters:
            layer = "extraction: no answer" if found is None else "extraction: too long"
        elif verifier.decide(found, reference) is None:
            layer = "algebra"
        else:
            layer = f"form: {read(found).kind} against {read(reference).kind}"
        graded.append(Graded(verdict.result().status, found, layer))
    return graded


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a JSONL or CSV file with columns response, gold, and perhaps correct.

    Raises:
        FileNotFoundError, ValueError: the file is something else; the message says where.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path} is neither a .jsonl nor a .csv file")
    rows: list[dict[str, str]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    if path.suffix == ".csv":
        rows = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False).to_dict("records")
    else:
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    for number, row in enumerate(rows, 1):
        known = row if isinstance(row, dict) else {}
        missing = [name for name in ("response", "gold") if known.get(name) is None or (name == "gold" and known[name] == "")]
        if missing:
            raise ValueError(f"{path}, row {number} has no {missing[0]}; each row needs response and gold")
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def truth(row: dict[str, str]) -> bool | None:
    """What the row says of the response: right, wrong, or nothing."""
    said = str(row.get("correct", "")).strip().lower()
    if said not in (*RIGHT, *WRONG, *UNKNOWN):
        raise ValueError(f"correct is {said!r}; write true or false")
    return None if said in UNKNOWN else said in RIGHT


def grade_file(path: Path, markers: Sequence[str]) -> Iterator[str]:
    """One line for each row, then a summary."""
    rows, truths = rows_of(path), []
    for number, row in enumerate(rows, 1):
        try:
            truths.append(truth(row))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    verifier = MathVerifier(markers)
    graded = grade(verifier, [(str(row["response"]), str(row["gold"])) for row in rows])
    for number, (row, known, result) in enumerate(zip(rows, truths, graded, strict=True), 1):
        mistake = known is not None and known is not (result.status is Status.CORRECT)
        yield f"{number:5d}  {result.status:9s}  {result.found!r:.60} for {str(row['gold'])!r:.40}  ({result.layer})" + (
            "  <- a mistake" if mistake else ""
        )
    yield ""
    yield f"{len(rows)} responses: " + ", ".join(
        f"{count} {status}" for status in Status if (count := sum(result.status is status for result in graded))
    )
    judged = [(known, result.status is Status.CORRECT) for known, result in zip(truths, graded, strict=True) if known is not None]
    if judged:
        of = "" if len(judged) == len(rows) else f"of the {len(judged)} that say whether they are correct: "
        yield of + precision_and_recall(*zip(*judged, strict=True))


def precision_and_recall(truths: Sequence[bool], accepted: Sequence[bool]) -> str:
    """Of the accepted, how many are right; of the right, how many are accepted.

    >>> precision_and_recall([True, True, False, False], [True, False, True, False])
    'precision 0.500 (1 of 2 accepted are right), recall 0.500 (1 of 2 right are accepted)'
    """
    both = sum(bool(known) and said for known, said in zip(truths, accepted, strict=True))
    right, said = sum(map(bool, truths)), sum(accepted)
    return (
        f"precision {both / max(said, 1):.3f} ({both} of {said} accepted are right), "
        f"recall {both / max(right, 1):.3f} ({both} of {right} right are accepted)"
    )
