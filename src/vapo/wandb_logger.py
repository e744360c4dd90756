"""Weights & Biases with one row per RL step: its step is the RL step, so a resumed run goes on where the curves ended."""

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from vapo.run.record import public


class WandB(WandbLogger):
    """Lightning's logger makes a row of each call, and counts rows; several callbacks log a step."""

    @property
    def experiment(self) -> Any:
        """W&B's run. W&B keeps the command line, so the run starts without the secrets in it."""
        words, sys.argv = sys.argv, [public(word) for word in sys.argv]
        try:
            return super().experiment
        finally:
            sys.argv = words

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)  # the name that Lightning makes the x-axis
