"""Networks that wait elsewhere while they are not in use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.runs import metrics, run

from vapo.module import RLModule

USES = {"backward_critic": {"critic"}, "backward_actor": {"actor"}}


@pytest.mark.parametrize("experiment", ["vapo_full", "grpo"])
def test_only_what_is_in_use_is_at_hand_and_no_number_changes(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU the move itself does nothing; who is where is what this follows."""
    run(tmp_path / "without", experiment=experiment)
    here: set[str] = set()
    moves, at_hand = [], RLModule.at_hand

    @contextmanager
    def watched_at_hand(self: RLModule, name: str) -> Iterator[None]:
        here.add(name)
        with at_hand(self, name):
            yield
        here.remove(name)

    monkeypatch.setattr(RLModule, "at_hand", watched_at_hand)
    monkeypatch.setattr(RLModule, "_move", lambda self, name, device: moves.append((name, device.type)))
    for verb in ("backward_critic", "backward_actor"):
        original = getattr(RLModule, verb)

        def watched(self: RLModule, minibatch: Any, original: Any = original, verb: str = verb) -> None:
            assert here == USES[verb], verb
            original(self, minibatch)

        monkeypatch.setattr(RLModule, verb, watched)
    forward = RLModule.per_token

    def per_token(self: RLModule, batch: Any, function: Any) -> torch.Tensor:
        assert len(here) == 1
        return forward(self, batch, function)

    monkeypatch.setattr(RLModule, "per_token", per_token)
    run(tmp_path / "with", "module.offload=true", experiment=experiment)
    assert here == set() and {name for name, _ in moves} == {"actor", "reference" if experiment == "grpo" else "critic"}
    pd.testing.assert_frame_equal(metrics(tmp_path / "with"), metrics(tmp_path / "without"), check_exact=True)
