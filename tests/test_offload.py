"""Networks that wait elsewhere while they are not in use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.runs import metrics, run

from vapo.learner import Learner
from vapo.types import MicroBatch


@pytest.mark.parametrize("experiment", ["vapo_full", "grpo"])
def test_only_the_network_in_use_is_on_the_device_and_no_number_changes(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU the move itself does nothing; this follows which network is where."""
    run(tmp_path / "without", experiment=experiment)
    here: set[str] = set()
    moves, on_device = [], Learner.on_device

    @contextmanager
    def watched_on_device(self: Learner, train: bool = False) -> Iterator[None]:
        here.add(self.name)
        with on_device(self, train):
            yield
        here.remove(self.name)

    monkeypatch.setattr(Learner, "on_device", watched_on_device)
    monkeypatch.setattr(Learner, "move", lambda self, device, states: moves.append((self.name, device.type, states)))
    original = Learner.micro_batches

    def micro_batches(self: Learner, *rollouts: Any) -> list[MicroBatch]:  # before every pass, with gradient or without
        assert here == {self.name}
        return original(self, *rollouts)

    monkeypatch.setattr(Learner, "micro_batches", micro_batches)
    run(tmp_path / "with", "module.offload=true", "module.overlap=false", experiment=experiment)
    other = "reference" if experiment == "grpo" else "critic"
    assert here == set() and {name for name, _, _ in moves} == {"actor", other}
    with_states = [name for name, _, states in moves if states]  # at the start, then around updates only
    updates = {"actor": 2 * 2, "critic": 3 * 2, "reference": 0}
    assert with_states.count("actor") == 1 + updates["actor"] and with_states.count(other) == 1 + updates[other]
    assert len(moves) > 2 * len(with_states)
    pd.testing.assert_frame_equal(metrics(tmp_path / "with"), metrics(tmp_path / "without"), check_exact=True)
