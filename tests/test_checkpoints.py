"""Checkpoints without a run: what of the random state they keep, and what finding one reads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vapo.checkpoints import LAST, find_checkpoint, random_state, restore_random_state


class GPUs:
    """torch.cuda of a machine with `visible` GPUs, each with a generator; the process computes on number `current`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, visible: int, current: int) -> None:
        self.states, self.current = [torch.tensor([index], dtype=torch.uint8) for index in range(visible)], current
        for name, replacement in {
            "is_available": lambda: True,
            "current_device": lambda: current,
            "get_rng_state": lambda device="cuda": self.states[self.index(device)],
            "set_rng_state": lambda state, device="cuda": self.states.__setitem__(self.index(device), state),
            "get_rng_state_all": lambda: list(self.states),
            "set_rng_state_all": lambda states: [self.states.__setitem__(i, state) for i, state in enumerate(states)],
        }.items():
            monkeypatch.setattr(torch.cuda, name, replacement)

    def index(self, device: Any) -> int:
        return self.current if device == "cuda" else int(device)

    @property
    def values(self) -> list[int]:
        return [int(state) for state in self.states]


def test_only_the_generator_of_the_current_gpu_is_kept_so_fewer_gpus_may_be_visible_later(monkeypatch: pytest.MonkeyPatch) -> None:
    GPUs(monkeypatch, visible=8, current=5)
    saved = random_state()
    assert [int(state) for state in saved["cuda"]] == [5]
    later = GPUs(monkeypatch, visible=2, current=1)
    restore_random_state(saved)
    assert later.values == [0, 5]


@pytest.mark.parametrize(("current", "expected"), [(1, [0, 11, 2, 3]), (3, [0, 1, 2, 12])])
def test_an_older_checkpoint_has_a_generator_for_each_gpu(
    current: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This GPU's is taken; the last one's if there were fewer GPUs."""
    old = random_state() | {"cuda": [torch.tensor([10 + index], dtype=torch.uint8) for index in range(3)]}
    here = GPUs(monkeypatch, visible=4, current=current)
    restore_random_state(old)
    assert here.values == expected


def test_a_random_state_without_gpus_is_restored_with_them_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    here = GPUs(monkeypatch, visible=2, current=0)
    with_gpus = random_state()
    drawn = torch.rand(3)
    restore_random_state(with_gpus | {"cuda": []})
    assert here.values == [0, 1] and torch.equal(torch.rand(3), drawn)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert random_state()["cuda"] == []
    restore_random_state(with_gpus)
    assert torch.equal(torch.rand(3), drawn)


def test_finding_a_checkpoint_reads_its_step_and_leaves_its_tensors_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load, loaded = tmp_path / "step_000007.ckpt", torch.load, []

    def watch(*arguments: Any, **options: Any) -> Any:
        before = resident_bytes()
        state = load(*arguments, **options)
        loaded.append((resident_bytes() - before, state["state_dict"]["weight"].nbytes, options["weights_only"]))
        return state

    torch.save({"vapo": {"rl_step": 7}, "state_dict": {"weight": torch.ones(2**24)}}, path)
    (tmp_path / LAST).symlink_to(path.name)
    monkeypatch.setattr(torch, "load", watch)
    assert find_checkpoint(tmp_path, LAST) == (path.resolve(), 7)
    ((grown, size, weights_only),) = loaded
    assert size == 2**26 and grown < size / 8 and weights_only


def resident_bytes() -> int:
    """Memory of this process, with the parts of mapped files that it has read."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("needs /proc")
    return int(pages.read_text().split()[1]) * 4096
