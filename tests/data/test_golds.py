"""Every answer of a problem set is tried when it is loaded: what cannot be read is named with its row, and too much of it stops."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from tests.problem_sets import FOLDER, needs_problem_sets
from tests.tokenizers import QWEN, make_tokenizer

from vapo.data.dataset_prompts import DatasetPrompts
from vapo.data.problem_sets import ProblemSet
from vapo.verifiers.math_answer import MathVerifier


def write(path: Path, answers: list[Any]) -> ProblemSet:
    rows = [{"problem": f"problem {i}", "answer": answer} for i, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ProblemSet(path.stem, str(path), "problem", "answer")


def source(folder: Path, train: list[Any], benchmark: list[Any] | None = None, share: float = 0.01) -> DatasetPrompts:
    (folder / "template.txt").write_text("{problem}:")
    sets = write(folder / "train.jsonl", train), write(folder / "exam.jsonl", ["1", "2"] if benchmark is None else benchmark)
    template = str(folder / "template.txt")
    return DatasetPrompts(
        make_tokenizer(), *sets, template, False, 50, 3, verifier=MathVerifier(workers=1), max_unreadable_share=share
    )


NUMBERS = [str(i) for i in range(3, 33)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "it is empty"),
        ("\frac{1}{2}", "it holds a control character"),
        ("#### 6", "it is no answer that can be read"),
        ("8.112.5", "it is no answer that can be read"),
        ("6 + 6 = 12\n#### 12", "it is no answer that can be read"),
        ("\\frac{x}{", "algebra cannot read"),
    ],
)
def test_a_few_are_named_and_dropped_and_many_stop(answer: str, reason: str, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        prompts = source(tmp_path, [*NUMBERS, answer], share=0.1)
        trained = {prompts.prompt(i, 0).text for i in range(60)} | {prompts.held_out(i, 0).text for i in range(5)}
    assert trained == {f"problem {i}:" for i in range(2, 30)}  # the first two are the benchmark's
    assert "train: 1 of 31 answers cannot be compared" in caplog.text and "row 31: " in caplog.text and reason in caplog.text
    assert "1 with unreadable answers" in caplog.text
    with pytest.raises(ValueError, match=r"answer_after, or data.source.max_unreadable_share above 0.032 to go on"):
        source(tmp_path, [*NUMBERS, answer]).prompt(0, 0)
    with pytest.raises(ValueError, match=r"exam: 1 of 2 answers"):
        source(tmp_path, NUMBERS, ["1", answer]).benchmark()


def test_readable_ones_of_all_kinds_pass(tmp_path: Path) -> None:
    kinds = ["\\frac{3}{4}", "x^2+1", "(1, 2)", "\\{1,2\\}", "\\text{yes}", "12\\%", "1011_2", "y = 2x+1", "(B)", "\\sqrt{2}"]
    prompts = source(tmp_path, [*NUMBERS, *kinds])
    assert len({prompts.prompt(i, 0).reference for i in range(200)}) > 30


def test_answers_of_32_bits_are_read_as_they_were_meant(tmp_path: Path) -> None:
    columns = {"problem": pa.array(["a", "b"]), "answer": pa.array([0.3, 6.0], pa.float32())}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "set.parquet")
    loaded = ProblemSet("set", str(tmp_path / "set.parquet"), "problem", "answer").load()
    verifier = MathVerifier()
    assert loaded.problems[0].answer == "0.3" and verifier("\\boxed{6}", loaded.problems[1].answer).status == "correct"


def test_lists_and_mixed_columns(tmp_path: Path) -> None:
    assert [p.answer for p in write(tmp_path / "a.jsonl", [["6"], ["7"]]).load().problems] == ["6", "7"]
    with pytest.raises(ValueError, match="a row without one answer in column answer"):
        write(tmp_path / "b.jsonl", [["6", "7"]]).load()
    mixed = [p.answer for p in write(tmp_path / "c.jsonl", [6, "\\{1,2\\}", 2.5]).load().problems]
    assert mixed == ["6", "\\{1,2\\}", "2.5"]


def test_the_split_does_not_follow_the_chat_format(tmp_path: Path) -> None:
    """A chat format that writes today's date moves no problem between training and held out, nor changes what a problem is."""
    (tmp_path / "template.txt").write_text("{problem}:")
    sets = write(tmp_path / "train.jsonl", NUMBERS), write(tmp_path / "exam.jsonl", ["1"])
    found = []
    for day in ("Monday", "Tuesday"):
        tokenizer = make_tokenizer(**QWEN)
        tokenizer.chat_template = day + tokenizer.chat_template
        prompts = DatasetPrompts(tokenizer, *sets, str(tmp_path / "template.txt"), True, 100, 3)
        held_out, benchmark = [prompts.held_out(i, 0) for i in range(3)], prompts.benchmark()
        assert all(prompt.text.startswith(day) for prompt in held_out)
        found.append(([prompt.reference for prompt in held_out], [prompt.key for prompt in (*held_out, *benchmark)]))
    assert found[0] == found[1] and all(found[0][1])


@needs_problem_sets
def test_the_real_sets_need_no_judge_and_no_time() -> None:
    verifier = MathVerifier()
    for name, after in (("gsm8k_train", "####"), ("aime24", None), ("amc23", None)):
        column = "question" if name == "gsm8k_train" else "problem"
        loaded = ProblemSet(name, str(FOLDER / f"{name}.jsonl"), column, "answer", answer_after=after).load()
        assert [p.row for p in loaded.problems if verifier.unreadable(p.answer).result()] == []
    assert not verifier.pool._started
