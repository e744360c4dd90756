"""Reads problems with answers from the hub or a file, without duplicates."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Problem:
    """A problem's text, and its answer as the problem set has it."""

    text: str
    answer: str
    row: int = field(default=0, compare=False)  # in the problem set, from 1 on

    @property
    def key(self) -> str:
        """Equal for texts that differ only in spacing, case or equivalent LaTeX, to find duplicates."""
        text = re.sub(r"\\[dt]frac", r"\\frac", self.text)
        text = re.sub(r"\\[()\[\],;:!]|\$", "", text)
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).lower()  # 1 23 is not 12 3


@dataclass(frozen=True)
class Loaded:
    """The problems of a set, and counts of the rows left out."""

    problems: list[Problem]
    rows: int
    conflicting: int  # rows that repeat an earlier text with another answer

    @property
    def duplicates(self) -> int:
        return self.rows - len(self.problems)


@dataclass(frozen=True)
class ProblemSet:
    """Where problems are and how they are read. Rows that repeat an earlier text are dropped while reading, so a set may repeat
    itself a hundred times, as DAPO-Math-17k does."""

    name: str  # name in metrics, records and messages
    path: str | None  # hub name `owner/name`, or a JSONL, JSON, Parquet or CSV file
    problem: str  # column with the text, dots for nesting; in a list of chat messages, the last user message is used
    answer: str  # column with the answer, likewise
    split: str = "train"  # split of a set from the hub
    subset: str | None = None  # configuration of a set from the hub, such as gsm8k's `main`
    answer_after: str | None = None  # the answer follows the last occurrence of this text, such as `####` in GSM8K
    problem_between: tuple[str, str] | None = None  # the problem is between the first of the one and the last of the other

    def load(self) -> Loaded:
        """Reads all rows and drops duplicates.

        Raises:
            FileNotFoundError, ValueError: path, encoding or columns are wrong; the message says what to set.
        """
        try:
            return self._load()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: {self.path} is not UTF-8 ({error}): save it as UTF-8") from error

    def _load(self) -> Loaded:
        different: dict[str, Problem] = {}
        read: dict[str, str] = {}  # keys by text: each text of DAPO's set is read a hundred times
        rows = conflicting = 0
        for row in self._rows():
            rows += 1
            problem = Problem(self._problem(row), self._answer(row), rows)
            if problem.text not in read:
                read[problem.text] = problem.key
            key = read[problem.text]
            conflicting += different.setdefault(key, problem).answer != problem.answer
        if not different:
            raise ValueError(f"{self.name}: no problems in {self.path}; set its path to another file")
        return Loaded(list(different.values()), rows, conflicting)

    def _rows(self) -> Iterator[dict[str, Any]]:
        import datasets  # imported here: it takes a second, and the mini scale does not need it

        if self.path is None:
            raise ValueError(f"{self.name}: no path to its problems; set data.path and data.benchmark_path to files or hub names")
        path = Path(self.path)
        if path.suffix in FORMATS:
            if not path.is_file():
                raise FileNotFoundError(f"{self.name}: no file {self.path}; set its path to an existing one, or to a hub name")
            if path.stat().st_size == 0:
                return iter(())  # the library fails on it
            return self._read(datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", streaming=True))
        if path.exists() or self.path.count("/") > 1:
            raise ValueError(f"{self.name}: cannot read {self.path}; set its path to a {', '.join(FORMATS)} file or a hub name")
        try:
            table = datasets.load_dataset(self.path, self.subset, split=self.split)
        except Exception as error:
            raise ValueError(
                f"{self.name}: cannot load {self.path} from the hub ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "set its path to a local file if this machine has no access"
            ) from error
        return self._read(table)

    def _read(self, table: Any) -> Iterator[dict[str, Any]]:
        """Yields the rows with the two columns needed, read in batches: ten times as fast as one by one."""
        columns = list(dict.fromkeys(column.split(".")[0] for column in (self.problem, self.answer)))
        for batch in table.with_format("arrow").iter(batch_size=1000):
            missing = [column for column in columns if column not in batch.column_names]
            if missing:
                there = ", ".join(sorted(batch.column_names))
                raise ValueError(f"{self.name}: no column {missing[0]}; set it to one of {there}, dots for nesting")
            chosen = batch.select(columns)
            for i, column in enumerate(chosen.schema):
                if str(column.type) in ("float", "halffloat"):  # 0.3 in 32 bits is 0.30000001192092896 in 64
                    chosen = chosen.set_column(i, column.name, chosen.column(i).cast("string"))
            yield from chosen.to_pylist()

    def _problem(self, row: dict[str, Any]) -> str:
        text = self._column(row, self.problem)
        if isinstance(text, list):
            text = next((message["content"] for message in reversed(text) if message["role"] == "user"), None)
        if not isinstance(text, str):
            raise ValueError(
                f"{self.name}: column {self.problem} holds {text!r:.80}, neither a text nor a chat; set another column"
            )
        if self.problem_between is not None:
            first, last = self.problem_between
            match = re.search(f"{re.escape(first)}(.*){re.escape(last)}", text, re.DOTALL)
            if match is None:
                raise ValueError(f"{self.name}: no text between {first!r} and {last!r} in {text!r:.80}; set problem_between")
            text = match[1]
        return text.strip()

    def _answer(self, row: dict[str, Any]) -> str:
        answer = self._column(row, self.answer)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if answer is None or isinstance(answer, (list, dict)):
            raise ValueError(f"{self.name}: a row without one answer in column {self.answer}: {row!r:.120}; set another column")
        if isinstance(answer, float) and answer.is_integer():
            answer = int(answer)
        text = str(answer)
        if len(text) > 1 and text[0] == text[-1] == '"':  # the library's spelling of a text among numbers
            with suppress(ValueError):
                text = str(json.loads(text))
        if self.answer_after is not None:
            if self.answer_after not in text:
                raise ValueError(f"{self.name}: no {self.answer_after!r} in the answer {text!r:.80}; set answer_after")
            text = text.rsplit(self.answer_after, 1)[1]
        return text.strip(" \t\r\n")  # a form feed stays: it was once the "\\f" of "\\frac", and is to be noticed

    def _column(self, row: dict[str, Any], column: str) -> Any:
        value: Any = row
        for key in column.split("."):
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"{self.name}: no column {column}; set it to one of {', '.join(sorted(row))}, dots for nesting")
            value = value[key]
        return value
