"""docs/extending.md: its files, taken from the page and put where it says, train with its commands."""

import importlib
import random
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.runs import CONFIGS, config_for

from vapo.rollout.collate import collate
from vapo.run.training import train

PAGE = (Path(CONFIGS).parent / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^python src/train\.py (.*)$", PAGE, re.MULTILINE)
SMALL = ("threads=1", "algorithm.group_size=4", "module.policy_steps=1")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, which the package and Hydra see as if they were in the repository."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix == ".py":
            package = importlib.import_module(".".join(path.relative_to(tmp_path / "src").parts[:-1]))
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
    return tmp_path


def run(repository: Path, words: str, *more: str) -> pd.DataFrame:
    """What the page's command does, in a folder of the test; returns the rollouts of the last RL step."""
    command = next(command for command in COMMANDS if words in command)
    searchpath = f"hydra.searchpath=[file://{repository / 'configs'}]"
    train(config_for(repository / "run", *shlex.split(command), *SMALL, searchpath, *more))
    return pd.read_parquet(sorted((repository / "run" / "rollouts").glob("*.parquet"))[-1])


def test_every_block_of_the_page_is_used() -> None:
    assert PAGE.count("```python") + PAGE.count("```yaml") == len(FILES) == 7
    assert PAGE.count("```bash") == len(COMMANDS) == 4


def test_algorithm(repository: Path) -> None:
    rollouts = run(repository, "rloo", "data.source.max_operands=3")
    assert rollouts["group"].value_counts().unique().tolist() == [4] and rollouts["reward"].nunique() == 2
    for _, group in rollouts.groupby("group"):
        for place, (reward, advantages) in enumerate(zip(group["reward"], group["advantages"], strict=True)):
            others = [other for i, other in enumerate(group["reward"]) if i != place]
            assert advantages.tolist() == pytest.approx([reward - sum(others) / 3] * len(advantages))


def test_algorithm_refuses_a_group_of_one_and_takes_what_is_left_of_a_group(repository: Path, make_rollout) -> None:
    algorithm = importlib.import_module("vapo.algorithms.rloo").LeaveOneOut
    with pytest.raises(ValueError, match="group_size is 1"):
        algorithm(group_size=1)
    alone = collate([make_rollout(random.Random(0), 2, 3, True, 0)])
    assert torch.isfinite(algorithm().credit(alone).advantage_R).all()


def test_task(repository: Path) -> None:
    rollouts = run(repository, "largest", "data.source.min_operands=4")
    for prompt, reference in zip(rollouts["prompt"], rollouts["reference"], strict=True):
        assert reference == max(re.findall(r"\d", prompt))
    assert "largest_t1_p0.7/avg@2" in pd.read_csv(repository / "run" / "metrics.csv")


def test_verifier(repository: Path) -> None:
    rollouts = run(repository, "close")
    answered = rollouts[rollouts["answer"].notna()]
    close = (answered["answer"].astype(int) - answered["reference"].astype(int)).abs() <= 1
    assert answered["status"].tolist() == ["correct" if right else "wrong" for right in close]
    assert close.any() and not close.all() and (answered["answer"] != answered["reference"])[close].any()
    verifier = importlib.import_module("vapo.verifiers.close").CloseVerifier(1)
    assert verifier("none", "3").status == "no_answer"
    with pytest.raises(ValueError, match="tolerance is -1"):
        type(verifier)(-1)


def test_engine_samples_what_the_shipped_one_samples(repository: Path) -> None:
    plain = run(repository, "plain", "callbacks.aime_evaluation=null")
    (repository / "run").rename(repository / "plain")
    train(config_for(repository / "run", "debug=fast", *SMALL, "callbacks.aime_evaluation=null"))
    shipped = pd.read_parquet(sorted((repository / "run" / "rollouts").glob("*.parquet"))[-1])
    assert plain["response"].tolist() == shipped["response"].tolist()
