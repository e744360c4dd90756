"""Weights & Biases with one row per RL step: its step is the RL step, so a resumed run goes on where the curves ended."""

from collections.abc import Mapping

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class WandB(WandbLogger):
    """Lightning's logger makes a row of each call, and counts rows; several callbacks log a step."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)  # the name that Lightning makes the x-axis
