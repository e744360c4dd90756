"""Settings drawn at random: a run with them trains, or is refused in one line that names the setting."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from tests.runs import FAST, config_for

from vapo.run.entry import USER_ERRORS, one_line
from vapo.run.settings import check_training
from vapo.run.training import train
from vapo.run.value_types import check_defaults

TINY = (
    *("debug=fast", "threads=1", "module.policy_steps=2", "rollout.sampling.max_new_tokens=24", "data.source.max_operands=3"),
    *("algorithm.max_draws=2", "module.value_pretraining_epochs=1", *FAST),
)
VAPO = {
    "algorithm.length_adaptive_alpha": [None, 0.01, 0.4, 5.0],
    "algorithm.critic_lambda": [None, 0.0, 0.9, 1.0],
    "algorithm.actor_lambda": [0.0, 0.95, 1.0],
    "algorithm.gamma": [0.0, 0.99, 1.0],
    "algorithm.clip_value": [None, 0.1],
    "algorithm.whiten_advantages": [True, False],
    "algorithm.value_pretraining_steps": [0, 1],
    "model.critic.head_init": ["reward_model", "zero", "normal"],
    "module.overlap": [True, False],
}
GRPO = {"algorithm.divide_by_std": [True, False], "algorithm.kl_coef": [0.0, 0.1], "algorithm.kl_estimator": ["k1", "k2", "k3"]}
SHARED = {
    "algorithm.group_size": [2, 4, 8],
    "algorithm.clip_low": [0.0, 0.2],
    "algorithm.clip_high": [0.2, 3.0],
    "algorithm.dual_clip": [None, 3.0],
    "algorithm.loss_aggregation": ["token", "sequence"],
    "algorithm.positive_lm_coef": [0.0, 0.5],
    "algorithm.overlong_buffer": [0, 1, 24],
    "algorithm.mismatch": [None, "truncate", "mask", "sequence_truncate", "sequence_mask"],
    "algorithm.dynamic_sampling": [False, True],
    "module.epochs": [1, 2],
    "module.keep_groups": [False, True],
    "module.minibatch_rollouts": [4, 16],
    "module.microbatch_tokens": [60, 10000],
    "module.max_grad_norm": [None, 1e-3, 1.0],
    "rollout.sampling.temperature": [0.5, 1.0],
    "rollout.sampling.top_p": [0.5, 1.0],
    "model.logits_chunk_tokens": [None, 1, 100],
    "model.lora.rank": [None, 2],
    "model.activation_checkpointing": [False, True],
}


AS_DRAWN = [Phase.explicit, Phase.generate]  # to shrink a setting would take minutes, and says no more


def combinations(experiment: str, choices: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    drawn = st.fixed_dictionaries({"experiment": st.just(experiment)}, optional={k: st.sampled_from(v) for k, v in choices.items()})
    return drawn.filter(goes_together)


def goes_together(values: dict[str, Any]) -> bool:
    whole = values.get("module.minibatch_rollouts", 8) % values.get("algorithm.group_size", 16) == 0
    top_p_alone = "rollout.sampling.top_p" not in values or values.get("algorithm.mismatch") is None
    return top_p_alone and (whole or not values.get("module.keep_groups"))


CONFIGURATIONS = st.one_of(combinations("vapo_full", SHARED | VAPO), combinations("grpo", SHARED | GRPO))


def overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in values.items()]


def trained(folder: Path, *words: str) -> pd.DataFrame:
    """The metrics of a run, started as `train.py` does."""
    config = config_for(folder, *words)
    check_defaults(config)
    check_training(config)
    train(config)
    return pd.read_csv(folder / "metrics.csv")


def check_run(values: dict[str, Any], folder: Path) -> None:
    steps = 2 + (values.get("algorithm.value_pretraining_steps", 1) if values["experiment"] == "vapo_full" else 0)
    frame = trained(folder, *TINY, *overrides(values))
    assert len(frame) == steps and frame["clock/policy_step"].iloc[-1] == 2
    losses = frame[[name for name in frame if name.endswith(("loss", "grad_norm", "reward/mean"))]].iloc[-1]
    assert len(losses) > 2 and losses.map(math.isfinite).all(), losses
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(x.isfinite().all() for x in state.values())


@settings(max_examples=5, phases=AS_DRAWN)
@given(CONFIGURATIONS)
def test_any_valid_configuration_trains(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    check_run(values, tmp_path_factory.mktemp("run"))


@pytest.mark.slow
@settings(max_examples=100, phases=AS_DRAWN)
@given(CONFIGURATIONS)
def test_many_valid_configurations_train(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    check_run(values, tmp_path_factory.mktemp("run"))


def numbers(config: DictConfig, prefix: str = "") -> list[str]:
    """The settings of a configuration that are numbers or switches, and no copies of others."""
    found: list[str] = []
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    for name, value in raw.items():
        if isinstance(value, dict):
            found += numbers(config[name], f"{prefix}{name}.")
        elif isinstance(value, int | float) and not str(name).startswith("_"):
            found.append(f"{prefix}{name}")
    return found


LEFT_OUT = ("scale_overrides.", "trainer.", "rollout.engine.own_weights", "paths.")
with_config = config_for(Path("nowhere"), "experiment=vapo_full", *TINY)
KEYS = [key for key in numbers(with_config) if not key.startswith(LEFT_OUT)]
WORDS = ["-1", "0", "1", "2", "-0.5", "0.5", "1.5", "nan", "inf", "-inf", "1e-30", "word", "null", "true", "[1]", "{a: 1}", "''"]


def check_refusal(folder: Path, key: str, word: str) -> None:
    try:
        frame = trained(folder, "experiment=vapo_full", *TINY, f"{key}={word}")
    except USER_ERRORS as error:
        line = one_line(error, "src/train.py")
        assert "\n" not in line and key.rpartition(".")[2] in line, line
        assert not (folder / "record.json").exists()  # before anything is written
    else:
        assert len(frame) >= 1


@settings(max_examples=8, phases=AS_DRAWN)
@given(st.sampled_from(KEYS), st.sampled_from(WORDS))
def test_a_number_is_taken_or_refused_by_its_key(tmp_path_factory: pytest.TempPathFactory, key: str, word: str) -> None:
    check_refusal(tmp_path_factory.mktemp("run"), key, word)


@pytest.mark.slow
@settings(max_examples=150, phases=AS_DRAWN)
@given(st.sampled_from(KEYS), st.sampled_from(WORDS))
def test_many_numbers_are_taken_or_refused_by_their_keys(tmp_path_factory: pytest.TempPathFactory, key: str, word: str) -> None:
    check_refusal(tmp_path_factory.mktemp("run"), key, word)
