"""Every config composes and instantiates, and says what it does."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from tests.runs import CONFIGS, config_for

GROUPS = ("experiment", "scale", "debug", "logger", "trainer")
EVERY = [f"{group}={path.stem}" for group in GROUPS for path in sorted(Path(CONFIGS, group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", EVERY)
def test_every_choice_instantiates(choice: str, tmp_path: Path) -> None:
    config = config_for(tmp_path, choice)
    instantiate(config.data)
    instantiate(config.module)
    for callback in config.callbacks.values():
        instantiate(callback)
    if choice not in ("trainer=gpu", "logger=wandb"):  # one needs a GPU, the other opens a run
        for logger in config.logger.values():
            instantiate(logger)
        instantiate(config.trainer)


def test_every_key_has_a_comment_with_its_unit_or_meaning() -> None:
    """Leaves only; `_target_`, interpolations and lists of defaults explain themselves."""
    bare = []
    for path in sorted(Path(CONFIGS).rglob("*.yaml")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            leaf = re.match(r"\s*[a-z_0-9]+: (?!\$\{)[^#]*$", line)
            overlay = path.parent.name in ("debug", "hydra", "logger", "local")
            if leaf and not overlay and "_target_" not in line and "_partial_" not in line and "defaults" not in line:
                bare.append(f"{path.name}:{number}: {line.strip()}")
    assert bare == []


def test_ppo_has_none_of_the_seven_techniques_at_any_scale(tmp_path: Path) -> None:
    for scale in [path.stem for path in Path(CONFIGS, "scale").glob("*.yaml")]:
        algorithm = config_for(tmp_path, "experiment=ppo_vanilla", f"scale={scale}").algorithm
        assert algorithm.value_pretraining_steps == 0
        assert algorithm.critic_lambda is None and algorithm.length_adaptive_alpha is None
        assert algorithm.clip_high == algorithm.clip_low == 0.2
        assert (algorithm.loss_aggregation, algorithm.positive_lm_coef, algorithm.group_size) == ("sequence", 0.0, 1)


def test_vapo_has_the_papers_numbers(tmp_path: Path) -> None:
    config = config_for(tmp_path, "experiment=vapo_full", "~at_scale")
    algorithm = config.algorithm
    assert (algorithm.value_pretraining_steps, algorithm.critic_lambda, algorithm.length_adaptive_alpha) == (50, 1.0, 0.05)
    assert (algorithm.clip_low, algorithm.clip_high, algorithm.loss_aggregation) == (0.2, 0.28, "token")
    assert (algorithm.positive_lm_coef, algorithm.group_size, algorithm.gamma) == (0.1, 16, 1.0)
