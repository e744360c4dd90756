"""Every problem set's loading path, from tiny files in the hub's schema; and the real ones where they are."""

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.problem_sets import FOLDER, needs_problem_sets
from tests.runs import CONFIGS, config_for

from vapo.data.problem_sets import Problem, ProblemSet
from vapo.types import Status

DAPO = "Do it step by step.\n\nThe last line is the answer.\n\nAre you sure?\n\nRemember: Answer:"
SCHEMAS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, {"question": "Big?", "answer": "#### 70,000"}],
    "gsm8k_test": [{"question": "Two and two?", "answer": "#### 4"}, {"question": "One #### one?", "answer": "one #### 1 #### 2"}],
    "dapo_math": [
        {
            "data_source": "m",
            "prompt": [{"role": "user", "content": DAPO}],
            "reward_model": {"ground_truth": "34", "style": "rule"},
        },
        {
            "data_source": "m",
            "prompt": [{"role": "user", "content": "a\n\nWhat?\n\nb"}],
            "reward_model": {"ground_truth": "-1", "style": "r"},
        },
    ],
    "aime24": [
        {"id": 60, "problem": "P?", "solution": "s", "answer": "033"},
        {"id": 61, "problem": "Q?", "solution": "s", "answer": "204"},
    ],
    "aime25": [{"id": "0", "problem": "P?", "answer": "70"}, {"id": "1", "problem": "Q?", "answer": "588"}],
    "amc23": [{"id": 0, "question": "P?", "answer": 27.0}, {"id": 1, "question": "Q?", "answer": 0.5}],
}
EXPECTED = {
    "gsm8k": [Problem("Two and two?", "4"), Problem("Big?", "70,000")],
    "gsm8k_test": [Problem("Two and two?", "4"), Problem("One #### one?", "2")],
    "dapo_math": [Problem("The last line is the answer.\n\nAre you sure?", "34"), Problem("What?", "-1")],
    "aime24": [Problem("P?", "033"), Problem("Q?", "204")],
    "aime25": [Problem("P?", "70"), Problem("Q?", "588")],
    "amc23": [Problem("P?", "27"), Problem("Q?", "0.5")],
}


def problem_set(name: str, **changes: Any) -> ProblemSet:
    """As configured, with another path."""
    register_free = OmegaConf.load(Path(CONFIGS, "problems", f"{name}.yaml"))
    assert OmegaConf.is_dict(register_free)
    parents = [
        OmegaConf.load(Path(CONFIGS, "problems", f"{parent}.yaml"))
        for parent in register_free.pop("defaults", [])
        if parent != "_self_"
    ]
    loaded: ProblemSet = instantiate(OmegaConf.merge(*parents, register_free, changes))
    return loaded


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_spacing_between_numbers_says_something() -> None:
    def key(text: str) -> str:
        return Problem(text, "").key

    assert key("Sort 1 23.") != key("Sort 12 3.") and key("Sort  1 23 .") == key("sort 1 23.")
    assert key(r"$\dfrac{1}{2} + 3$") == key(r"\(\frac{1}{2}+3\)")


def test_every_problem_set_has_an_example_here() -> None:
    assert {path.stem for path in Path(CONFIGS, "problems").glob("*.yaml")} == {*SCHEMAS, "file"}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_each_schema_is_read_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    loaded = problem_set(name, path=write(tmp_path / f"rows{suffix}", SCHEMAS[name])).load()
    assert loaded.problems == EXPECTED[name]
    assert (loaded.rows, loaded.duplicates, loaded.conflicting) == (2, 0, 0)


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_read_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, subset: str | None, split: str) -> datasets.Dataset:
        asked.append((path, subset, split))
        return datasets.Dataset.from_list(SCHEMAS[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    configured = problem_set(name)
    assert configured.load().problems == EXPECTED[name]
    assert asked == [(configured.path, configured.subset, configured.split)] and configured.path and "/" in configured.path


def test_duplicates_are_dropped_and_counted_and_other_answers_noticed(tmp_path: Path) -> None:
    rows = [SCHEMAS["dapo_math"][i % 2] for i in range(500)]
    rows.append(rows[0] | {"reward_model": {"ground_truth": "35", "style": "rule"}})
    loaded = problem_set("dapo_math", path=write(tmp_path / "rows.parquet", rows)).load()
    assert loaded.problems == EXPECTED["dapo_math"]  # the first answer is kept
    assert (loaded.rows, loaded.duplicates, loaded.conflicting) == (501, 499, 1)


def test_a_file_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are asked for one after another, and what is held is the different ones."""
    original, opened = datasets.load_dataset, []

    def load_dataset(*args: Any, **options: Any) -> Any:
        opened.append(original(*args, **options))
        return opened[-1]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    path = write(tmp_path / "rows.jsonl", SCHEMAS["aime24"] * 20_000)
    loaded = problem_set("aime24", path=path).load()
    assert (loaded.rows, len(loaded.problems)) == (40_000, 2)
    assert [type(table) for table in opened] == [datasets.IterableDataset]


def test_a_wrong_column_of_the_hub_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(SCHEMAS["aime24"]))
    with pytest.raises(ValueError, match="no column question; set it to one of answer"):
        problem_set("aime24", problem="question").load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "text"}, "no column text; set it to one of answer, id, problem, solution"),
        ({"answer": "answer.value"}, "no column answer.value"),
        ({"problem": "id"}, "column id holds 60, neither a text nor a chat"),
        ({"answer_after": "####"}, "no '####' in the answer '033'"),
        ({"problem_between": ["<", ">"]}, "no text between '<' and '>'"),
    ],
)
def test_wrong_columns_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", SCHEMAS["aime24"])
    with pytest.raises(ValueError, match=message):
        problem_set("aime24", path=path, **changes).load()


def test_a_path_that_is_nothing_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"aime24: no file .*x.jsonl; set its path to an existing one"):
        problem_set("aime24", path=str(tmp_path / "x.jsonl")).load()
    with pytest.raises(ValueError, match=r"cannot read .*; set its path to a .jsonl"):
        problem_set("aime24", path=str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"set data.path and data.benchmark_path"):
        problem_set("file").load()
    with pytest.raises(ValueError, match="no problems in"):
        problem_set("aime24", path=write(tmp_path / "empty.jsonl", [])).load()


def test_without_a_hub_the_message_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match=r"cannot load HuggingFaceH4/aime_2024 from the hub \(ConnectionError: no route\); set its path"
    ):
        problem_set("aime24").load()


@needs_problem_sets
@pytest.mark.parametrize(
    ("name", "file", "changes", "size"),
    [
        ("gsm8k", "gsm8k_train.jsonl", {}, 7473),
        ("gsm8k_test", "gsm8k_test.jsonl", {}, 1319),
        ("aime24", "aime24.jsonl", {}, 30),
        ("amc23", "amc23.jsonl", {}, 40),
    ],
)
def test_the_real_sets_load_whole(name: str, file: str, changes: dict[str, Any], size: int) -> None:
    loaded = problem_set(name, path=str(FOLDER / file), **changes).load()
    assert loaded.rows == size and loaded.conflicting == 0 and len(loaded.problems) >= size - 10
    assert all(problem.text and problem.answer for problem in loaded.problems)


def test_your_own_columns_by_the_command_line(tmp_path: Path) -> None:
    rows = [{"q": f"What is {i}?", "a": {"value": i}} for i in range(30)]
    columns = [f"data.source.{part}.{key}" for part in ("train", "benchmark") for key in ("problem=q", "answer=a.value")]
    paths = [
        f"data.path={write(tmp_path / 'train.jsonl', rows)}",
        f"data.benchmark_path={write(tmp_path / 'test.jsonl', rows[:5])}",
    ]
    datamodule = instantiate(config_for(tmp_path, "data=file", "data.source.chat=false", *columns, *paths).data)
    benchmark = datamodule.benchmark()
    assert [prompt.reference for prompt in benchmark] == list("01234")
    trained = {datamodule.source.prompt(i, 0).reference for i in range(100)}
    assert len(trained) == 23 and not trained & set("01234")  # 30 less the benchmark's 5 less a tenth held out
    assert datamodule.verifier(f"so \\boxed{{{benchmark[3].reference}}}", "3").status is Status.CORRECT
