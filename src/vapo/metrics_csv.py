"""The default logger: one `metrics.csv` in the run folder, one row per RL step; a resumed run continues the file."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Writes `metrics.csv`. Unlike Lightning's CSVLogger, which starts a new file on resume, it continues the old one."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, float]] | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `config.yaml` in the run folder is the record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        if self._rows is None:
            self._rows = {}
            if self.path.exists():
                for row in pd.read_csv(self.path).to_dict("records"):
                    self._rows[int(row["rl_step"])] = {k: v for k, v in row.items() if v == v and k != "rl_step"}
        self._rows.setdefault(step, {}).update(metrics)
        frame = pd.DataFrame([{"rl_step": step, **row} for step, row in sorted(self._rows.items())])
        _write(frame, self.path)


def _write(frame: pd.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    frame.to_csv(partial, index=False)
    partial.replace(path)


def trim(path: Path, rl_step: int) -> None:
    """Removes the rows after `rl_step`: a resumed run writes them again."""
    if path.exists():
        frame = pd.read_csv(path)
        _write(frame[frame["rl_step"] <= rl_step], path)
