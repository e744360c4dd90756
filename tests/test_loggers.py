"""What W&B and TensorBoard get, read back from their files: configuration, history, tables, figure, and the run after a resume."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.runs import config_for, metrics, resume, run
from tests.test_sweep import job, sweep
from wandb.proto.wandb_internal_pb2 import Record

from vapo.module import RLModule
from vapo.run.naming import name_run

BOTH = (
    "logger=[wandb,tensorboard]",
    "logger.wandb.offline=true",
    "callbacks.samples.every_n_steps=1",
    "callbacks.samples.responses=5",
    "seed=3",
)
KEPT_ELSEWHERE = ("_", "trainer/", "samples", "training_curves")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its third RL step, and resumed."""
    folder, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    improve = RLModule.improve

    def kill(self: RLModule, batch: Any) -> None:
        if self.rl_step == 2:
            raise Killed
        improve(self, batch)

    patch.setattr(RLModule, "improve", kill)
    with pytest.raises(Killed):
        run(folder, *BOTH, summary=True)
    patch.undo()
    resume(folder)
    wandb.teardown()  # ends its other process, which writes the files
    return folder


def records(file: Path) -> Iterator[Record]:
    """Of a log in LevelDB's format after a header of seven bytes: blocks of 32 KiB, of chunks of checksum, size and kind. A record
    is one whole chunk (kind 1) or several (the last has kind 4)."""
    content, at, data = file.read_bytes(), 7, b""
    while at < len(content):
        if (left := -at % 2**15) and left < 7:  # no chunk starts that close to the end of a block
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data, at = data + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(data)
            data = b""
            yield record


def read(file: Path) -> dict[str, Any]:
    """The parts of an offline W&B file that it would upload: run, configuration, and rows by step."""
    found: dict[str, Any] = {"config": {}, "rows": {}}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "name": record.run.display_name, "group": record.run.run_group}
            found["tags"] = list(record.run.tags)
        if kind in ("run", "config"):
            config = record.run.config if kind == "run" else record.config
            found["config"] |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in config.update}
        if kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["rows"][int(row["_step"])] = row
    return found


@pytest.fixture(scope="module")
def parts(resumed: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and content of both processes' offline runs, in order."""
    files = sorted(resumed.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len(files) == 2
    return [(file.parent, read(file)) for file in files]


def test_a_resumed_run_goes_on_in_its_wandb_run_where_its_curves_ended(resumed: Path, parts: Any) -> None:
    (_, first), (_, second) = parts
    assert first["id"] == second["id"] and first["name"] == second["name"] == "vapo_full-fast-mini-seed3"
    assert first["tags"] == second["tags"] == ["vapo_full", "fast", "mini"] and not first["group"]
    assert list(first["rows"]) == [0, 1, 2] and list(second["rows"]) == [3]
    assert all(row["trainer/global_step"] == step for _, part in parts for step, row in part["rows"].items())


def test_wandb_has_the_numbers_of_metrics_csv_in_one_row_per_step(resumed: Path, parts: Any) -> None:
    rows = {step: row for _, part in parts for step, row in part["rows"].items()}
    for row in pd.read_csv(resumed / "metrics.csv").to_dict("records"):
        expected = {key: value for key, value in row.items() if value == value and key != "rl_step"}
        found = {key: value for key, value in rows[row["rl_step"]].items() if not key.startswith(KEPT_ELSEWHERE)}
        assert found == pytest.approx(expected)


def test_wandb_has_the_configuration(parts: Any) -> None:
    for _, part in parts:
        assert part["config"]["seed"] == 3 and part["config"]["algorithm"]["clip_high"] == 0.28
        assert part["config"]["callbacks"]["health"]["min_entropy"] == 0.2


def test_wandb_has_tables_of_responses_and_the_figure(resumed: Path, parts: Any) -> None:
    for folder, part in parts:
        for step in filter(None, part["rows"]):
            table = json.loads((folder / "files" / part["rows"][step]["samples/path"]).read_text())
            shown = pd.DataFrame(table["data"], columns=table["columns"])
            assert list(shown) == ["problem", "response", "reference", "answer", "verdict", "length", "mean V"]
            logged = pd.read_parquet(resumed / "rollouts" / f"step_{step:06d}.parquet").iloc[[0, 4, 8, 11, 15]]
            assert (
                shown["response"].tolist() == logged["response"].tolist() and shown["verdict"].tolist() == logged["status"].tolist()
            )
            assert shown["length"].tolist() == logged["length"].tolist()
            assert shown["mean V"].tolist() == pytest.approx([sum(v) / len(v) for v in logged["values"]], abs=1e-6)
    folder, last = parts[-1]
    (image,) = last["rows"][3]["training_curves/filenames"]
    assert (folder / "files" / image).read_bytes() == (resumed / "training_curves.png").read_bytes()


def test_tensorboard_has_the_same(resumed: Path) -> None:
    events = EventAccumulator(str(resumed / "tensorboard"))
    events.Reload()
    frame = metrics(resumed).set_index("rl_step")["critic/head_weight_norm"].dropna()
    found = {event.step: event.value for event in events.Scalars("critic/head_weight_norm")}
    assert found == pytest.approx(frame.to_dict())
    assert [event.step for event in events.Tensors("samples/text_summary")] == [1, 2, 3]
    assert [event.step for event in events.Images("training_curves")] == [3]
    assert "min_entropy" in (resumed / "tensorboard" / "hparams.yaml").read_text()


def test_names_of_runs(tmp_path: Path) -> None:
    def named(*overrides: str) -> tuple[str, str | None, list[str]]:
        config = config_for(tmp_path, *overrides)
        name_run(config)
        return config.run_name, config.run_group, list(config.tags)

    words = ["vapo_full", "no_clip_higher", "mini"]
    assert named("experiment=vapo_full", "ablation=no_clip_higher") == ("vapo_full-no_clip_higher-mini-seed0", None, words)
    assert named("algorithm=grpo", "scale=lab", "seed=7", "tags=[mine]") == ("grpo-lab-seed7", None, ["mine", "grpo", "lab"])
    assert named("run_name=mine", "run_group=ours")[:2] == ("mine", "ours")


def test_jobs_of_a_sweep_are_a_group(tmp_path: Path) -> None:
    done = sweep(
        tmp_path / "my_sweep",
        "seed=0,1",
        "logger=wandb",
        "logger.wandb.offline=true",
        "module.policy_steps=1",
        "~callbacks.export_hf",
    )
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        (file,) = job(tmp_path / "my_sweep", seed=seed).glob("wandb/offline-run-*/run-*.wandb")
        found = read(file)
        assert found["name"] == f"vapo_full-fast-mini-seed{seed}" and found["group"] == "my_sweep"
