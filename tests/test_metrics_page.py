"""docs/metrics.md names every key that a run logs, and no other."""

import re
from pathlib import Path

import pandas as pd
from tests.runs import CREDIT, run

from vapo.metric_names import EXPLAINED_VARIANCES, GAUGES, MEANS, SHARES

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text()
PHASES = ("rollout", "annotate", "critic_update", "actor_update", "evaluation", "heldout")


def documented() -> set[str]:
    cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    keys = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    keys |= {f"critic/explained_variance_decile_{i}" for i in range(10)} | {f"speed/{p}_tokens_per_second" for p in PHASES}
    return keys - {"_9"}


def test_page_and_run_name_the_same_keys(tmp_path: Path) -> None:
    for experiment in ("vapo_full", "grpo"):  # between them a critic and a reference policy
        run(tmp_path / experiment, *CREDIT, "callbacks.self_test.equal_gap=null", experiment=experiment)
    logged = {key for path in tmp_path.glob("*/metrics.csv") for key in pd.read_csv(path).columns} - {"rl_step"}
    logged = {re.sub(r"^mini_aime_t1_p0.7/", "", key).replace("@2", "@k") for key in logged}
    assert logged - documented() == set()
    absent = {"response/length_correct_mean", "response/length_wrong_mean"}  # when there are none
    absent |= {"engine/probe_gap", "engine/servers"}  # vLLM's (tests/rollout/vllm/test_server.py)
    absent |= {f"credit/explained_variance_{when}_reveal" for when in ("before", "after")}  # where problems state a total
    absent |= {"memory/rollout_peak_gib"}  # a GPU's
    assert documented() - logged <= absent
    assert {*MEANS, *SHARES, *EXPLAINED_VARIANCES, *GAUGES} <= documented()
