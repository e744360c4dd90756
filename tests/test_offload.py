"""Networks that wait elsewhere while they are not in use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from tests.runs import metrics, run

from vapo.learner import Learner
from vapo.types import Batch, MicroBatch


@pytest.mark.parametrize("experiment", ["vapo_full", "grpo"])
def test_only_the_network_in_use_is_on_the_device_and_no_number_changes(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU the move itself does nothing; this follows which network is where."""
    run(tmp_path / "without", experiment=experiment)
    here: set[str] = set()
    moves, on_device = [], Learner.on_device

    @contextmanager
    def watched_on_device(self: Learner) -> Iterator[None]:
        here.add(self.name)
        with on_device(self):
            yield
        here.remove(self.name)

    monkeypatch.setattr(Learner, "on_device", watched_on_device)
    monkeypatch.setattr(Learner, "move", lambda self, device: moves.append((self.name, device.type)))
    original = Learner.micro_batches

    def micro_batches(self: Learner, batch: Batch) -> list[MicroBatch]:  # before every pass, with gradient or without
        assert here == {self.name}
        return original(self, batch)

    monkeypatch.setattr(Learner, "micro_batches", micro_batches)
    run(tmp_path / "with", "module.offload=true", experiment=experiment)
    assert here == set() and {name for name, _ in moves} == {"actor", "reference" if experiment == "grpo" else "critic"}
    pd.testing.assert_frame_equal(metrics(tmp_path / "with"), metrics(tmp_path / "without"), check_exact=True)
