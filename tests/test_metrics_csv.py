import random
from math import isnan

import pandas as pd

from vapo.metrics_csv import MetricsCSV, trim


def rows(folder):
    """The file as a list of dicts, empty cells left out."""
    records = pd.read_csv(folder / "metrics.csv").to_dict("records")
    return [{key: value for key, value in record.items() if not isnan(value)} for record in records]


def log(folder, *steps):
    logger = MetricsCSV(str(folder))
    for step, metrics in steps:
        logger.log_metrics(metrics, step)


def test_each_step_is_a_row(tmp_path):
    log(tmp_path, (0, {"a/x": 1.0}), (1, {"a/x": 2.5}))
    assert rows(tmp_path) == [{"rl_step": 0, "a/x": 1.0}, {"rl_step": 1, "a/x": 2.5}]


def test_a_step_logged_twice_is_one_row(tmp_path):
    log(tmp_path, (1, {"a": 1.0, "b": 2.0}), (1, {"b": 3.0, "c": 4.0}))
    assert rows(tmp_path) == [{"rl_step": 1, "a": 1.0, "b": 3.0, "c": 4.0}]


def test_a_column_that_appears_late_is_kept(tmp_path):
    log(tmp_path, (1, {"a": 1.0}), (2, {"a": 2.0, "b": 20.0}), (3, {"b": 30.0}))
    assert rows(tmp_path) == [{"rl_step": 1, "a": 1.0}, {"rl_step": 2, "a": 2.0, "b": 20.0}, {"rl_step": 3, "b": 30.0}]


def test_reopening_goes_on_with_the_file(tmp_path):
    log(tmp_path, (1, {"a": 1.0, "b": 0.5}), (2, {"a": 2.0}))
    before = rows(tmp_path)
    log(tmp_path, (3, {"a": 3.0, "c": 9.0}))
    assert rows(tmp_path) == [*before, {"rl_step": 3, "a": 3.0, "c": 9.0}]


def test_reopening_merges_into_the_last_row(tmp_path):
    log(tmp_path, (1, {"a": 1.0, "b": 0.5}))
    log(tmp_path, (1, {"b": 0.7, "c": 2.0}))
    assert rows(tmp_path) == [{"rl_step": 1, "a": 1.0, "b": 0.7, "c": 2.0}]


def test_rows_are_in_the_order_of_the_steps(tmp_path):
    log(tmp_path, (10, {"a": 1.0}), (9, {"a": 2.0}))
    assert [row["rl_step"] for row in rows(tmp_path)] == [9, 10]


def test_reopening_many_times_does_not_drift(tmp_path):
    rng = random.Random(0)
    numbers = {f"x{i}": rng.gauss(0, 1) * 10 ** rng.randint(-12, 6) for i in range(200)}
    log(tmp_path, (1, numbers))
    for step in range(2, 6):
        log(tmp_path, (step, {"x0": 0.0}))
        trim(tmp_path / "metrics.csv", step)
    header, row, *_ = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {name: float(x) for name, x in zip(header.split(","), row.split(","), strict=True)} == {"rl_step": 1, **numbers}


def test_the_file_is_replaced_whole(tmp_path):
    log(tmp_path, (1, {"a": 1.0}))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_trim_removes_later_rows_and_the_run_goes_on(tmp_path):
    log(tmp_path, *[(step, {"a": float(step)}) for step in range(5)])
    trim(tmp_path / "metrics.csv", 2)
    assert [row["rl_step"] for row in rows(tmp_path)] == [0, 1, 2]
    log(tmp_path, (3, {"a": 30.0}))
    assert [row["a"] for row in rows(tmp_path)] == [0, 1, 2, 30]


def test_trim_of_everything_and_of_nothing(tmp_path):
    trim(tmp_path / "metrics.csv", 3)
    assert not (tmp_path / "metrics.csv").exists()
    log(tmp_path, (4, {"a": 1.0}))
    trim(tmp_path / "metrics.csv", 3)
    assert rows(tmp_path) == []
    log(tmp_path, (4, {"a": 2.0}))
    assert rows(tmp_path) == [{"rl_step": 4, "a": 2.0}]


def test_the_cost_of_a_step_does_not_grow_with_the_run(tmp_path, monkeypatch):
    """Earlier rows are texts: no number of them is written out anew, as pandas would."""
    names = [f"x{i}" for i in range(50)]
    logger = MetricsCSV(str(tmp_path))
    for step in range(300):
        logger.log_metrics(dict.fromkeys(names, 1.0 / 3), step)
    reads = []

    class Number(float):
        def __float__(self):
            reads.append(1)
            return 0.5

    monkeypatch.setattr(pd, "DataFrame", None)
    logger.log_metrics({name: Number(1.0) for name in names}, 300)
    assert len(reads) <= len(names)
    monkeypatch.undo()
    assert len(rows(tmp_path)) == 301 and rows(tmp_path)[-1]["x0"] == 0.5
