"""Logs seconds and tokens per second of each phase of a step, and peak memory."""

import resource
from typing import Any

import torch
from lightning import Callback, Trainer

from vapo.module import RLModule


class Throughput(Callback):
    """Logs `time/<phase>_seconds`, `speed/<phase>_tokens_per_second`, `memory/peak_gib`; on a GPU `memory/<phase>_peak_gib`."""

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        clock, values = module.clock, {}
        for phase, seconds in clock.seconds.items():
            values[f"time/{phase}_seconds"] = seconds
            if clock.tokens[phase] > 0:
                values[f"speed/{phase}_tokens_per_second"] = clock.tokens[phase] / seconds
        for phase, peak in clock.peak_bytes.items():
            values[f"memory/{phase}_peak_gib"] = peak / 2**30
        values["memory/peak_gib"] = max(clock.peak_bytes.values(), default=0) / 2**30
        if not torch.cuda.is_available():
            values["memory/peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        clock.seconds, clock.tokens, clock.peak_bytes = {}, {}, {}
        module.record(values)
