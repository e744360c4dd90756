"""The rollout log of one step, token by token: what other algorithms would make of it, and where the slips are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vapo.algorithms import ActorCritic, GroupRelative, PolicyGradient
from vapo.analysis.sweep_figures import COLORS, NAMES
from vapo.types import FAULTS, Batch
from vapo.view.steps import sums_truth

ALGORITHMS = {"vapo.algorithms.ActorCritic": ActorCritic, "vapo.algorithms.GroupRelative": GroupRelative}


def load_rollouts(run: Path | str) -> pd.DataFrame:
    """The newest step that a run logged, one row per response, without those that the verifier failed on.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(Path(run, "rollouts").glob("step_*.parquet"))
    if not files:
        raise FileNotFoundError(f"no rollouts in {run}: a run logs them every callbacks.rollout_log.every_n_steps")
    rollouts = pd.read_parquet(files[-1])
    return rollouts[~rollouts["status"].isin(FAULTS)].reset_index(drop=True)


def load_algorithm(run: Path | str) -> PolicyGradient:
    """The algorithm that a run was trained with, from its resolved configuration."""
    settings: dict[str, Any] = yaml.safe_load(Path(run, "resolved.yaml").read_text())["algorithm"]
    return ALGORITHMS[settings.pop("_target_")](**settings)


def as_batch(rollouts: pd.DataFrame) -> Batch:
    """Logged responses as the batch that they were, without prompts; `value_R` where there was a critic."""

    def flat(name: str) -> Tensor:
        return torch.cat([torch.as_tensor(x_T.copy()) for x_T in rollouts[name]])

    length_B = torch.tensor(rollouts["length"].tolist())
    return Batch(
        token_N=flat("token_ids").int(),
        prompt_length_B=torch.zeros_like(length_B),
        response_length_B=length_B,
        group_B=torch.as_tensor(pd.factorize(rollouts["group"])[0]).long(),
        correct_B=torch.tensor((rollouts["status"] == "correct").tolist()),
        truncated_B=torch.tensor((~rollouts["finished"]).tolist()),
        sampler_logprob_R=flat("sampler_logprobs").float(),
        value_R=flat("values").float() if "values" in rollouts else None,
    )


def advantages(rollouts: pd.DataFrame, algorithm: PolicyGradient) -> list[list[float]]:
    """What `algorithm` makes of each response, with the values that were logged. Equal to what a run logged if it trained with this
    algorithm and logged the whole step: whitening is over all of its tokens."""
    advantage_R = algorithm.credit(as_batch(rollouts)).advantage_R
    assert advantage_R is not None
    return [x_T.tolist() for x_T in advantage_R.split(rollouts["length"].tolist())]


def slips(response: Mapping[str, Any]) -> dict[int, bool]:
    """Token index of each slip in a response to a running sum, and whether it is repaired; empty for other tasks."""
    found = sums_truth(response["prompt"], response["reference"], response["response"])
    return {index: kind == 2 for index, kind in (found[0] if found else []) if kind > 0}


def instructive(rollouts: pd.DataFrame) -> int:
    """Index of the wrong response in which most is written after the first slip that stays; without slips, of the longest wrong
    one, or of the longest."""
    wrong = rollouts[rollouts["status"] == "wrong"] if (rollouts["status"] == "wrong").any() else rollouts

    def written_after(index: int) -> tuple[int, int]:
        stays = [at for at, repaired in slips(rollouts.loc[index].to_dict()).items() if not repaired]
        length = int(rollouts.loc[index, "length"])
        return (length - stays[0] if stays else 0), length

    return max(wrong.index, key=written_after)


def plot_credit(response: Mapping[str, Any], credit: Mapping[str, Sequence[float]]) -> Figure:
    """V over the tokens of a response, where there was a critic, and below it the advantages that algorithms give them.

    Args:
        response: a row of `load_rollouts`.
        credit: advantages of the response's tokens, by the name of the experiment.
    """
    has_values = response.get("values") is not None
    figure = Figure(figsize=(13, 5.2 if has_values else 3), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1 + has_values, 1, sharex=True, squeeze=False)[:, 0])
    if has_values:
        axes[0].step(range(response["length"]), response["values"], where="mid", color="black", label="V before the token")
        axes[0].plot(response["length"], response["reward"], "o", color="black", label="reward")
    prompt = " ".join(response["prompt"].split())[-200:]  # the question stands last
    axes[0].set_title(f"{prompt}  {response['status']}, the answer is {response['reference']}", parse_math=False, wrap=True)
    for name, advantage_T in credit.items():
        axes[-1].step(range(len(advantage_T)), advantage_T, where="mid", color=COLORS.get(name), label=NAMES.get(name, name))
    axes[-1].axhline(0, color="0.6", linewidth=0.8)
    axes[-1].set(ylabel="advantage", xlabel="token; red: a slip that stays, green: one that is repaired")
    letters = list(response["response"])
    if abs(response["length"] - len(letters)) <= 1:  # a token is a character
        axes[-1].set_xticks(range(len(letters)), letters, fontsize=6)
    for axis in axes:
        for index, repaired in slips(response).items():
            axis.axvline(index, color="tab:green" if repaired else "tab:red", linewidth=4, alpha=0.25)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
