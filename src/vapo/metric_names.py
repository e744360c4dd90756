"""The names of all metrics of an RL step. docs/metrics.md explains every one; a test checks that it lists them all."""

from collections.abc import Mapping

# means, each with the states (sum, count)
MEANS = (
    "reward/mean",
    "response/accuracy",
    "response/length_mean",
    "response/length_correct_mean",
    "response/length_wrong_mean",
    "response/truncated_fraction",
    "response/no_answer_fraction",
    "verifier/timeout_fraction",
    "verifier/error_fraction",
    "group/frac_all_wrong",
    "group/frac_mixed",
    "group/frac_all_correct",
    "actor/entropy_mean",
    "actor/positive_token_fraction",
    "actor/clip_fraction_low",
    "actor/clip_fraction_high",
    "actor/kl_k1",
    "actor/kl_k3",
    "actor/kl_reference",
    "actor/grad_norm",
    "actor/skipped_fraction",
    "actor/lambda_mean",
    "critic/value_mean",
    "critic/value_outside_share",
    "critic/grad_norm",
    "critic/head_grad_norm",
    "critic/skipped_fraction",
    "advantage/abs_mean",
    "engine/logprob_gap_mean",
    "engine/probe_gap",
    "engine/servers",
)
# means over minibatches, to which each micro-batch adds its share
SHARES = ("actor/surrogate_loss", "actor/positive_nll", "critic/value_loss")
EXPLAINED_VARIANCES = (
    "critic/explained_variance",
    "critic/explained_variance_within_problems",
    *(f"critic/explained_variance_decile_{i}" for i in range(10)),
)
GAUGES = (
    "actor/learning_rate",
    "critic/learning_rate",
    "critic/value_std",
    "critic/head_weight_norm",
    "clock/rl_step",
    "clock/policy_step",
    "clock/actor_updates",
    "clock/critic_updates",
    "clock/rollouts",
    "clock/staleness",
)
MEASURED = ("time/", "speed/", "memory/")  # metrics of the machine, not of the run


def repeatable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that another run of the same seed has too."""
    return {name: value for name, value in metrics.items() if not name.startswith(MEASURED)}
