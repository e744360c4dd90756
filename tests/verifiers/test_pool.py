"""Judges in processes that hang, die, eat memory or fail: each pair gets its verdict, and the others theirs."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vapo.types import Status
from vapo.verifiers.pool import JudgePool

HERE = "tests.verifiers.test_pool:make_judge"


def make_judge(folder):
    """Runs in the worker. Does what the answer says; counts its calls in files."""

    kept: list[bytearray] = []

    def judge(answer, reference):
        calls = Path(folder, f"{answer}.calls")
        calls.write_text(calls.read_text() + f"{os.getpid()}\n" if calls.exists() else f"{os.getpid()}\n")
        first = len(calls.read_text().splitlines()) == 1
        if answer == "hang":
            while True:
                pass
        if answer.startswith("grow"):
            kept.append(bytearray(120 * 2**20))
        if answer == "swallow":
            try:
                bytearray(3 * 2**30)
                kept.extend(bytearray(2**24) for _ in range(1000))
            except MemoryError:
                kept.clear()
            try:
                kept.extend(bytearray(2**24) for _ in range(1000))
            except MemoryError:
                kept.clear()
        if answer == "sleep":
            time.sleep(0.4)
        if answer == "raise":
            raise KeyError("no such thing")
        if answer == "recurse":
            return judge(answer, reference)
        if answer == "memory":
            return bytearray(3 * 2**30) == b""
        if answer == "die" or (answer == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer == reference or answer == "die once"

    return judge


def calls(folder, answer):
    return len((folder / f"{answer}.calls").read_text().splitlines())


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return JudgePool(HERE, {"folder": str(tmp_path)}, workers=2, timeout=1.0, memory_gib=1.0)


def test_every_pair_has_its_verdict_whatever_happens_to_the_workers(pool, tmp_path):
    expected = {
        ("1", "1"): Status.CORRECT,
        ("1", "2"): Status.WRONG,
        ("hang", "1"): Status.TIMEOUT,
        ("raise", "1"): Status.ERROR,
        ("memory", "1"): Status.ERROR,
        ("die", "1"): Status.ERROR,
        ("die once", "1"): Status.CORRECT,
        ("2", "2"): Status.CORRECT,
    }
    futures = {pair: pool.submit(*pair) for pair in expected}
    assert {pair: future.result(timeout=600) for pair, future in futures.items()} == expected
    assert calls(tmp_path, "die once") == calls(tmp_path, "die") == 2 and calls(tmp_path, "hang") == 1


def test_a_fault_says_what_it_was(pool):
    pool.submit("raise", "1").result(timeout=600)
    assert pool.last_fault == "error on answer 'raise' with reference '1': KeyError: 'no such thing'"
    pool.submit("hang", "1").result(timeout=600)
    assert "no verdict within 1 s of processor time" in pool.last_fault
    pool.submit("die", "1").result(timeout=600)
    assert "the worker process died" in pool.last_fault


def test_a_verdict_is_remembered_and_a_fault_is_not(pool, tmp_path):
    for _ in range(3):
        assert pool.submit("1", "1").result(timeout=600) is Status.CORRECT
        assert pool.submit("raise", "1").result(timeout=600) is Status.ERROR
    assert calls(tmp_path, "1") == 1 and calls(tmp_path, "raise") == 3
    pool.submit("1", "2").result(timeout=600)
    assert calls(tmp_path, "1") == 2  # another reference is another question


def test_the_clock_starts_with_the_judgment_not_with_its_place_in_the_queue(pool, tmp_path):
    """Ten judgments of 0.4 s in two processes take 2 s, twice the limit of one; none is late."""
    futures = [pool.submit("sleep", str(i)) for i in range(10)]
    assert [future.result(timeout=600) for future in futures] == [Status.WRONG] * 10


def test_killing_every_worker_loses_no_verdict(pool, tmp_path):
    futures = [pool.submit("sleep", str(i)) for i in range(6)]
    while not (tmp_path / "sleep.calls").exists():
        time.sleep(0.05)
    for pid in {int(line) for line in (tmp_path / "sleep.calls").read_text().split()}:
        os.kill(pid, signal.SIGKILL)
    assert [future.result(timeout=600) for future in futures] == [Status.WRONG] * 6


def test_processes_start_with_the_first_pair_and_end_with_the_pool(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pool = JudgePool(HERE, {"folder": str(tmp_path)}, workers=1, timeout=1.0, memory_gib=1.0)
    assert not list(tmp_path.iterdir())
    assert pool.submit("1", "1").result(timeout=600) is Status.CORRECT
    pid = int((tmp_path / "1.calls").read_text())
    os.kill(pid, 0)  # it lives
    del pool
    gc.collect()
    for _ in range(3000):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its pool")


def test_a_process_that_cannot_be_started_is_an_error_and_not_a_hang(pool, monkeypatch):
    original, refused = subprocess.Popen, []

    def popen(*args, **kwargs):
        if len(refused) < 2:
            refused.append(args)
            raise OSError("no more processes")
        return original(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert pool.submit("1", "1").result(timeout=600) is Status.ERROR
    assert "no more processes" in pool.last_fault
    assert pool.submit("1", "1").result(timeout=600) is Status.CORRECT


@pytest.mark.parametrize("name", ["workers", "timeout", "memory_gib"])
def test_settings_out_of_range_are_named(name):
    settings = {"workers": 1, "timeout": 1.0, "memory_gib": 1.0} | {name: 0}
    with pytest.raises(ValueError, match=rf"set data.verifier.{name} above 0"):
        JudgePool(HERE, {}, **settings)


def test_the_clock_is_the_processors_and_the_walls_only_ends_a_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pool = JudgePool(HERE, {"folder": str(tmp_path)}, workers=1, timeout=0.1, memory_gib=4.0)
    assert pool.submit("sleep", "1").result(timeout=600) is Status.WRONG  # 0.4 s, without work
    monkeypatch.setattr("vapo.verifiers.pool.HANG", 2.0)
    hasty = JudgePool(HERE, {"folder": str(tmp_path)}, workers=1, timeout=0.1, memory_gib=4.0)
    assert hasty.submit("sleep", "2").result(timeout=600) is Status.TIMEOUT and "on the wall clock" in hasty.last_fault


def test_a_process_is_replaced_before_its_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pool = JudgePool(HERE, {"folder": str(tmp_path)}, workers=1, timeout=5.0, memory_gib=size_of_a_judge() + 0.5)
    assert [pool.submit(f"grow {i}", f"grow {i}").result(timeout=600) for i in range(8)] == [Status.CORRECT] * 8
    assert len({path.read_text() for path in tmp_path.glob("grow*.calls")}) > 1


def test_a_verdict_at_the_memory_limit_is_an_error_even_where_a_library_hides_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pool = JudgePool(HERE, {"folder": str(tmp_path)}, workers=1, timeout=5.0, memory_gib=size_of_a_judge() + 0.5)
    assert pool.submit("swallow", "1").result(timeout=600) is Status.ERROR and "MemoryError" in pool.last_fault
    assert pool.submit("1", "1").result(timeout=600) is Status.CORRECT


def size_of_a_judge():
    """GiB of address space of a process that has imported this module."""
    code = "import tests.verifiers.test_pool; print(open('/proc/self/status').read())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    lines = found.stdout.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmPeak")) / 2**20
