"""Nothing from outside is unpickled or evaluated, apart from one guarded place, which is tried."""

import ast
import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from vapo.types import Status
from vapo.verifiers.math_answer import AnswerVerifier

SOURCE = Path(__file__).parents[1] / "src"
GUARDED = {("vapo/verifiers/judges.py", "pickle.loads")}  # what `vapo.data.gym` has pickled; the test below
RUNS_CODE = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "joblib.load", "os.system", "np.load", "pd.read_pickle"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), node) for node in found]


def test_no_call_runs_code_from_data() -> None:
    files = {str(path.relative_to(SOURCE)): calls(path) for path in sorted(SOURCE.rglob("*.py"))}
    assert {(name, call) for name, found in files.items() for call, _ in found if call in RUNS_CODE} == GUARDED
    loads = [(name, node) for name, found in files.items() for call, node in found if call == "torch.load"]
    assert len(loads) >= 4
    for name, node in loads:
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}.get("weights_only")
        assert given == "True" or (name, given) == ("vapo/distributed/strategy.py", "weights_only"), f"{name}:{node.lineno}"


class Attack:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_a_pickle_in_a_problems_answer_reaches_no_file_and_no_process(tmp_path: Path) -> None:
    """Answers of reasoning-gym are pickled by this run itself; a file of problems could name the same judge."""
    pytest.importorskip("reasoning_gym")
    import os

    verifier = AnswerVerifier(workers=1, timeout=30.0, judge="reasoning_gym", settings={"name": "chain_sum", "settings": {}})
    target = tmp_path / "PWNED"
    for attack in (Attack(os.system, f"touch {target}"), Attack(open, str(target), "w"), Attack(os.mkdir, str(target))):
        reference = json.dumps({"entry": base64.b64encode(pickle.dumps(attack)).decode()})
        assert verifier("Answer: 1", reference).status is Status.ERROR
    assert not target.exists()
