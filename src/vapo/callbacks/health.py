"""Alarms: a line on the terminal when one starts, and a column `alarm/<name>` of 0 and 1 in the logs. They can hold the actor or
stop the run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console

from vapo.algorithms import PolicyGradient
from vapo.analysis.curves import score_column
from vapo.module import RLModule

ALARMS = (
    *("entropy_collapse", "entropy_explosion", "length_collapse", "explained_variance", "truncation"),
    *("logprob_gap", "verifier_faults", "score_fall", "zero_loss"),
)


class Health(Callback):
    """Compares each step with bounds that no healthy run of docs/results crosses. What it compares with is in checkpoints."""

    def __init__(
        self,
        min_entropy: float = 0.2,
        max_entropy: float = 2.0,
        min_length: float = 0.5,
        min_explained_variance: float = 0.0,
        explained_variance_steps: int = 2,
        max_truncated: float = 0.1,
        max_logprob_gap: float = 0.05,
        max_faults: float = 0.01,
        max_score_fall: float = 0.1,
        hold_actor: bool = False,
        max_held_steps: int = 10,
        stop: Sequence[str] = (),
    ) -> None:
        """
        Args:
            min_entropy, max_entropy, min_length: of the first step's entropy and mean response length.
            min_explained_variance, explained_variance_steps: below the bound in so many steps in a row after value pretraining.
            max_truncated, max_faults: shares of a step's responses. max_logprob_gap: nats, mean over a step's tokens.
            max_score_fall: below the best score of the run.
            hold_actor: while explained variance is below its bound, only the critic trains, at most `max_held_steps` RL steps in a
                row; then the run stops.
            stop: alarms that stop the run, with a checkpoint.
        """
        for name, value in (("min_entropy", min_entropy), ("min_length", min_length)):
            if not 0 <= value < 1:
                raise ValueError(f"callbacks.health.{name} is {value}; set it in [0, 1), a share of the first step's")
        if max_entropy <= 1:
            raise ValueError(f"callbacks.health.max_entropy is {max_entropy}; set it above 1, times the first step's")
        if explained_variance_steps < 1 or max_held_steps < 1:
            raise ValueError(
                f"callbacks.health.explained_variance_steps is {explained_variance_steps}, max_held_steps {max_held_steps}; "
                "set both to 1 or more"
            )
        if unknown := set(stop) - set(ALARMS):
            raise ValueError(f"callbacks.health.stop has {sorted(unknown)}; set it to a list of {', '.join(ALARMS)}")
        self.min_entropy, self.max_entropy, self.min_length = min_entropy, max_entropy, min_length
        self.min_explained_variance, self.explained_variance_steps = min_explained_variance, explained_variance_steps
        self.max_truncated, self.max_logprob_gap, self.max_faults = max_truncated, max_logprob_gap, max_faults
        self.max_score_fall, self.stop = max_score_fall, tuple(stop)
        self.hold_actor, self.max_held_steps = hold_actor, max_held_steps
        self.first: dict[str, float] = {}  # entropy and length of the first step that had them
        self.score: float | None = None  # the newest on the benchmark
        self.best_score: float | None = None
        self.low_steps, self.held_steps = 0, 0  # in a row: explained variance too low; the actor held
        self.active: dict[str, str] = {}  # alarms of the last step, and what they say
        self.last_words = ""  # why the run stopped

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        self.last_words = ""
        self.held_steps = self.held_steps if self.hold_actor else 0  # a resumed run may have it switched off
        self.held_steps = 1 if self.held_steps >= self.max_held_steps else self.held_steps  # stopped for it, and resumed
        module.actor_frozen |= self.held_steps > 0

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        step, name = module.metrics.values, score_column(module.latest)
        self.score = self.score if name is None else module.latest[name]
        if module.sampling.top_p < 1:  # the engine's log-probabilities are of another distribution, by design
            step = {key: value for key, value in step.items() if key != "engine/logprob_gap_mean"}
        found = dict(self.alarms(step, self.score, module.policy_step))
        if zero := zero_terms(step, module.algorithm, module.policy_step):
            found["zero_loss"] = f"{' and '.join(zero)} exactly 0"
        new = [name for name in found if name not in self.active]
        for name in new:
            self._say(trainer, f"ALARM at RL step {module.rl_step}: {name}: {found[name]}")
        self.active = found
        module.record({f"alarm/{name}": float(name in found) for name in ALARMS})
        if not module.is_last_step:
            self._act(trainer, module, [name for name in new if name in self.stop])

    def alarms(self, step: Mapping[str, float], score: float | None, policy_step: int) -> Iterator[tuple[str, str]]:
        """Name and reason of each alarm that this step gives cause for, except of loss terms.

        Args:
            step: the metrics of a step, those that it has.
            score: the newest score on the benchmark.
            policy_step: steps in which the actor trained so far.
        """
        for name, key, what in (("entropy", "actor/entropy_mean", "nats"), ("length", "response/length_mean", "tokens")):
            if key not in step:
                continue
            first = self.first.setdefault(key, step[key])
            reason = f"{step[key]:.3g} {what}, {first:.3g} in the first step (bounds: {{}})"
            if step[key] < first * (low := self.min_entropy if name == "entropy" else self.min_length):
                yield f"{name}_collapse", reason.format(f"{low:g} of it")
            if name == "entropy" and step[key] > first * self.max_entropy:
                yield "entropy_explosion", reason.format(f"{self.max_entropy:g} times it")
        if policy_step > 0 and "critic/explained_variance" in step:
            explained = step["critic/explained_variance"]
            if explained != 0:  # 0 where all returns were equal, which says nothing about the critic
                self.low_steps = self.low_steps + 1 if explained < self.min_explained_variance else 0
            if self.low_steps >= self.explained_variance_steps:
                yield "explained_variance", f"{explained:.2f}, step {self.low_steps} below {self.min_explained_variance:g}"
        faults = sum(step.get(f"verifier/{status}_fraction", 0.0) for status in ("timeout", "error"))
        truncated, gap = step.get("response/truncated_fraction", 0.0), step.get("engine/logprob_gap_mean", 0.0)
        for name, value, bound, remedy in (
            ("truncation", truncated, self.max_truncated, "raise rollout.sampling.max_new_tokens"),
            ("logprob_gap", gap, self.max_logprob_gap, "see docs/metrics.md, alarms"),
            ("verifier_faults", faults, self.max_faults, "raise data.verifier.timeout"),
        ):
            if value > bound:
                yield name, f"{value:.3g} (bound {bound:g}): {remedy}"
        if score is not None:
            self.best_score = score if self.best_score is None else max(score, self.best_score)
            if score < self.best_score - self.max_score_fall:
                yield "score_fall", f"{score:.3f}, {self.best_score:.3f} at best (bound {self.max_score_fall:g} below)"

    def _act(self, trainer: Trainer, module: RLModule, causes: list[str]) -> None:
        """Holds the actor, lets it go, or stops the run: for the alarms `causes`, which a resumed run had not been stopped for."""
        if self.hold_actor and "explained_variance" in self.active:
            if self.held_steps >= self.max_held_steps:
                causes.append("explained_variance")
            else:
                if self.held_steps == 0:
                    self._say(trainer, "the actor is held until the critic has recovered")
                module.actor_frozen, self.held_steps = True, self.held_steps + 1
        elif self.held_steps > 0:
            self._say(trainer, f"the critic has recovered in {self.held_steps} RL steps: the actor trains again")
            module.actor_frozen, self.held_steps = False, 0
        if causes:
            trainer.should_stop = True  # RLCheckpoint saves
            self.last_words = f"stopped at RL step {module.rl_step} by callbacks.health ({', '.join(dict.fromkeys(causes))})"

    def teardown(self, trainer: Trainer, module: RLModule, stage: str) -> None:
        if self.last_words:
            self._say(trainer, f"{self.last_words}: docs/metrics.md says what to do; resume={trainer.default_root_dir} goes on")
            self.last_words = ""

    def _say(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            Console().print(text, highlight=False, soft_wrap=True, markup=False)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("first", "score", "best_score", "low_steps", "held_steps", "active")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


def zero_terms(step: Mapping[str, float], algorithm: PolicyGradient, policy_step: int) -> list[str]:
    """Loss terms that are switched on and were exactly 0 for the whole step, in words."""
    actor_trained = "actor/entropy_mean" in step
    lm = actor_trained and algorithm.positive_lm_coef > 0
    terms = {  # the surrogate's value may be 0 where its gradient is not, so its advantages count
        "the advantage of every token is": actor_trained and step["advantage/abs_mean"] == 0,
        "the LM loss (algorithm.positive_lm_coef) is": lm and step.get("actor/positive_nll", 0.0) == 0,  # none: no correct response
        # without an update before, the policy is the reference
        "the KL loss (algorithm.kl_coef) is": policy_step > 1 and step.get("actor/kl_reference") == 0,
        "the value loss is": step.get("critic/value_loss") == 0,
        "the gradient of the critic's head is": step.get("critic/head_grad_norm") == 0,
    }
    return [term for term, zero in terms.items() if zero]
