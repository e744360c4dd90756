"""`python src/grade.py`: verdicts with their reasons, and errors that say where."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.commands import run_python
from tests.problem_sets import FOLDER, needs_problem_sets, read

from vapo.analysis.grading import grade, grade_file
from vapo.types import Status
from vapo.verifiers.math_answer import MathVerifier

ROWS = [
    {"response": "\\boxed{5\\text{ cm}}", "gold": "5", "correct": True},
    {"response": "Answer: $\\sqrt{8}$", "gold": "2\\sqrt{2}", "correct": True},
    {"response": "Answer: 6", "gold": "5", "correct": True},
    {"response": "no idea", "gold": "5", "correct": False},
]


def test_a_line_for_each_and_a_summary(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    lines = list(grade_file(path, ["answer", "boxed"]))
    assert lines[0] == "    1  correct    '5\\\\text{ cm}' for '5'  (form: number against number)"
    assert lines[1].endswith("(algebra)") and lines[2].endswith("<- a mistake") and "(extraction: no answer)" in lines[3]
    assert lines[-2:] == [
        "4 responses: 2 correct, 1 wrong, 1 no_answer",
        "precision 1.000 (2 of 2 accepted are right), recall 0.667 (2 of 3 right are accepted)",
    ]


def test_a_table_without_truths_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('response,gold\n"Answer: 5, in total",5\n')
    root = Path(__file__).resolve().parents[2]
    done = run_python("src/grade.py", str(path), cwd=root)
    assert done.returncode == 0 and "correct" in done.stdout and "1 responses: 1 correct" in done.stdout
    done = run_python("src/grade.py", str(tmp_path / "x.csv"), cwd=root)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "neither a .jsonl nor a .csv"),
        ("a.jsonl", "", "has no rows"),
        ("a.jsonl", '{"response": "5", "gold": "5"}\n{', "line 2 is not JSON"),
        ("a.jsonl", '{"response": "5"}', "row 1 has no gold"),
        ("a.jsonl", "[5]", "row 1 has no response"),
        ("a.jsonl", '{"response": "5", "gold": "5", "correct": "perhaps"}', "correct is 'perhaps'; write true or false"),
        ("a.csv", "response,answer\n5,5\n", "row 1 has no gold"),
        ("a.csv", "response,gold\n5,5\n5\n", "row 2 has no gold"),
        ("a.csv", "response,gold,correct\n5,5,true\n5,5,perhaps\n", "a.csv, row 2: correct is 'perhaps'"),
    ],
)
def test_a_bad_file_is_explained(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(grade_file(tmp_path / name, ["boxed"]))


def test_a_csv_may_have_form_feeds_long_responses_and_rows_without_a_truth(tmp_path: Path) -> None:
    rows = [
        {"response": "\x0crac{1}{2}\x85 Answer: 5", "gold": "5", "correct": True},
        {"response": "so " * 100_000 + "Answer: NA", "gold": "NA", "correct": None},
        {"response": "Answer: 6", "gold": "5", "correct": False},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    lines = list(grade_file(tmp_path / "mine.csv", ["answer"]))
    assert [line.split()[1] for line in lines[:3]] == ["correct", "correct", "wrong"]
    assert lines[-1].startswith("of the 2 that say whether they are correct: precision 1.000 (1 of 1")


def test_an_answer_is_looked_for_where_the_preset_says(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"response": "9*2=18\\n#### 18", "gold": "18"}')
    root = Path(__file__).resolve().parents[2]

    def graded(*words: str) -> str:
        return run_python("src/grade.py", str(tmp_path / "mine.jsonl"), *words, cwd=root).stdout

    assert "1 responses: 1 no_answer" in graded()  # as training with data=file has it
    assert "1 responses: 1 correct" in graded("--preset", "gsm8k")


@needs_problem_sets
@pytest.mark.skipif(not (FOLDER / "answers.jsonl").exists(), reason="no graded answers")
def test_graded_answers_without_a_wrong_acceptance_and_with_few_refusals() -> None:
    rows = read("answers.jsonl")
    graded = grade(MathVerifier(), [(row["response"], row["gold"]) for row in rows])
    accepted = [result.status is Status.CORRECT for result in graded]
    assert [row["response"] for row, said in zip(rows, accepted, strict=True) if said and not row["correct"]] == []
    right = [said for row, said in zip(rows, accepted, strict=True) if row["correct"]]
    assert sum(right) / len(right) > 0.97
