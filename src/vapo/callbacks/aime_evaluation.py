"""Scores the policy on the benchmark as AIME is scored: avg@k at temperature 1.0 and top-p 0.7 (VAPO section 5.1)."""

from typing import Any

from lightning import Callback, Trainer

from vapo.analysis.benchmark import samples_frame, summarize
from vapo.module import RLModule
from vapo.types import Rollout, SamplingParams

EVALUATION_STEP = -1  # keys the sampling seeds: the same random numbers at every evaluation, so that only the policy differs


def scores(rollouts: list[Rollout], k: int) -> dict[str, float]:
    """avg@k with a bootstrap interval over problems, pass@k and maj@k, all from the same k samples per problem, and mean length."""
    summary = summarize(samples_frame(rollouts, 0, k), k)
    names = (f"avg@{k}", f"avg@{k}_low95", f"avg@{k}_high95", f"pass@{k}", f"maj@{k}", "length_mean")
    return {name: summary[name] for name in names}


class AIMEEvaluation(Callback):
    """Evaluates before the first step, every `every_n_steps` RL steps in which the actor trained, and after the last of all; not
    where an alarm or a signal ends the run sooner."""

    def __init__(self, k: int, every_n_steps: int, sampling: SamplingParams) -> None:
        """
        Args:
            k: samples per problem, >= 1; 32 in the paper.
            every_n_steps: RL steps of policy training between evaluations, >= 1.
            sampling: settings of the evaluation, not of the rollouts.
        """
        if k < 1 or every_n_steps < 1:
            raise ValueError(
                f"evaluation k is {k}, every_n_steps {every_n_steps}; set both callbacks.aime_evaluation values to 1 or more"
            )
        self.k, self.every_n_steps, self.sampling = k, every_n_steps, sampling
        self.evaluated = False  # whether the base policy was evaluated, before the first step

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        if not self.evaluated:
            self._evaluate(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        due = module.policy_step % self.every_n_steps == 0 or module.is_last_step
        if due and module.actor_trained:
            self._evaluate(trainer, module)

    def _evaluate(self, trainer: Trainer, module: RLModule) -> None:
        self.evaluated = True
        datamodule = module.datamodule
        rollouts = module.sample(datamodule.benchmark(), self.k, self.sampling, EVALUATION_STEP, "evaluation")
        prefix = f"{datamodule.source.benchmark_name}_t{self.sampling.temperature:g}_p{self.sampling.top_p:g}"
        module.record({f"{prefix}/{name}": value for name, value in scores(rollouts, self.k).items()})

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluated = state_dict["evaluated"]
