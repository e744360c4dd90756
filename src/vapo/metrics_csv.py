"""The default logger: one `metrics.csv` in the run folder, one row per RL step; a resumed run continues the file."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vapo.whole_file import replacing


class MetricsCSV(Logger):
    """Writes `metrics.csv`. Unlike Lightning's CSVLogger, which starts a new file on resume, it continues the old one."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._lines: dict[int, str] = {}  # of each step, as it is in the file: a long run's rows are not written out anew

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
        if not self._columns:
            self._columns = ["rl_step"]
            if self.path.exists():
                header, *lines = self.path.read_text().splitlines()
                self._columns, self._lines = header.split(","), {int(line.split(",", 1)[0]): line for line in lines}
        new = [name for name in metrics if name not in self._columns]
        if new:
            self._columns += new
            self._lines = {step: line + "," * len(new) for step, line in self._lines.items()}
        row = dict(zip(self._columns, self._lines.get(step, "").split(","), strict=False))
        row |= {"rl_step": str(step)} | {name: repr(float(x)) if x == x else "" for name, x in metrics.items()}
        ordered = not self._lines or step >= next(reversed(self._lines))
        self._lines[step] = ",".join(row.get(name, "") for name in self._columns)
        if not ordered:
            self._lines = dict(sorted(self._lines.items()))
        _write("\n".join([",".join(self._columns), *self._lines.values(), ""]), self.path)


def _write(text: str, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def trim(path: Path, rl_step: int) -> None:
    """Removes the rows after `rl_step`: a resumed run writes them again."""
    if path.exists():
        frame = pd.read_csv(path)
        _write(frame[frame["rl_step"] <= rl_step].to_csv(index=False), path)
