"""Judges for the worker processes: functions that make one, (answer, reference) -> bool. A judge may hang, fail or eat memory."""

import base64
import json
import pickle
import sys
from collections.abc import Callable
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
    """The layers of `vapo.verifiers.compare` with algebra: math-verify's LaTeX parser, which does not evaluate text as Python.

    Raises (from the judge):
        UnreadableError: the reference cannot be parsed; the problem set is wrong, not the response.
    """
    import latex2sympy2_extended  # noqa: F401, now: the guard lets nothing be opened later but for reading
    import sympy  # noqa: F401

    from vapo.verifiers.algebra import equal_expressions
    from vapo.verifiers.compare import same_answer

    def judge(answer: str, reference: str) -> bool:
        return same_answer(answer, reference, equal_expressions)

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
