"""Judges for the worker processes: functions that make one, (answer, reference) -> bool. A judge may hang, fail or eat memory."""

import base64
import json
import logging
import pickle
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

Judge = Callable[[str, str], bool]
SIZE = 10**9  # problems of a generator: each is made from its number on request


FORBIDDEN = (
    "os.",
    "subprocess.",
    "shutil.",
    "socket.",
    "ctypes.",
    "webbrowser.",
    "pty.",
    "signal.",
    "sys.addaudithook",
    "tempfile.",
)
ALLOWED = ("os.listdir", "os.scandir")


def guard(event: str, arguments: tuple[object, ...]) -> None:
    """Blocks operations that no judgment needs, because judges from libraries may evaluate text that a model wrote. Not a sandbox,
    but files, processes and the network are out of reach of code that does not set out to break the interpreter."""
    if event == "open" and isinstance(arguments[1], str) and arguments[1].startswith("r") and "+" not in arguments[1]:
        return  # imports
    if event == "open" or (event.startswith(FORBIDDEN) and event not in ALLOWED):
        raise PermissionError(f"a judgment may not use {event}")


def _install_guard() -> None:
    """Installs `guard` for the rest of the process."""
    sys.dont_write_bytecode = True
    sys.addaudithook(guard)


def math_equal() -> Judge:
    """Mathematical equality of two LaTeX expressions, by math-verify. Only its LaTeX parser reads them: its other parser evaluates
    text as Python.

    Raises (from the judge):
        ValueError: the reference cannot be parsed; the problem set is wrong, not the response.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.WARNING)  # it warns that its own timeouts are off: this process has one

    def read(text: str) -> list[Any]:
        # no timeouts in math-verify: they are alarms too, and would cancel the worker's
        parsed: list[Any] = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)  # type: ignore[arg-type]
        return parsed

    gold = cache(read)

    def judge(answer: str, reference: str) -> bool:
        if not gold(reference):
            raise ValueError(f"the reference {reference!r} is not a mathematical expression")
        return bool(verify(gold(reference), read(answer), timeout_seconds=None))

    _install_guard()
    return judge


def reasoning_gym(name: str, settings: dict[str, Any]) -> Judge:
    """The library's own score of an answer to one of its generated problems; 1 is correct. Some scores evaluate the answer as
    Python: `guard` keeps that from reaching files, processes and the network."""
    from reasoning_gym import create_dataset

    dataset = create_dataset(name, seed=0, size=SIZE, **settings)

    def judge(answer: str, reference: str) -> bool:
        entry = pickle.loads(base64.b64decode(json.loads(reference)["entry"]))  # trusted: `vapo.data.gym` wrote it
        return bool(dataset.score_answer(answer, entry) >= 1.0)

    _install_guard()
    return judge
