"""A live display of phase, step, score, the step's numbers, time left and alarms; without a terminal, one line per RL step."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from lightning import Callback, Trainer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from vapo.analysis.curves import score_column
from vapo.callbacks.health import Health
from vapo.callbacks.value_pretraining import ValuePretraining
from vapo.module import RLModule

QUIET_SECONDS = 10.0  # without a terminal: of a phase that takes longer, a line so often
PHASES = {"evaluation": "scoring the policy", "heldout": "held-out rollouts", "rollout": "rollouts"}


C = TypeVar("C", bound=Callback)


class Display(RichProgress):
    """A bar, below it the last step's numbers, what is being generated, and the alarms."""

    numbers, watch, alarms = "", "", ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.numbers)
        yield Text.assemble(self.watch, "  " if self.watch and self.alarms else "", (self.alarms, "bold red"))


class Progress(Callback):
    """Shows what was loaded, the base policy's score, then the RL steps: value pretraining first, then policy training."""

    def __init__(self) -> None:
        self.console = Console()
        self.bar: Display | None = None
        self.shown, self.last_line = "", 0.0  # the last phase, when a line was printed

    def on_fit_start(self, trainer: Trainer, module: RLModule) -> None:
        """The networks are built: says what they are, and starts to show how many responses are there."""
        if not trainer.is_global_zero:
            return
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bar = Display(*columns, console=self.console, speed_estimate_period=3600.0)  # seconds; a step may take many
            self.task = self.bar.add_task("before training", total=total_steps(trainer, module), completed=module.rl_step)
            self.bar.start()
        networks = [f"{n} {sum(p.numel() for p in x.network.parameters()) / 1e6:,.1f} M" for n, x in module.learners.items()]
        problems, name = len(module.datamodule.benchmark()), module.datamodule.source.benchmark_name
        family = type(module.actor.language_model).__name__
        self._say(f"loaded {family} (parameters: {', '.join(networks)}); benchmark {name}, {problems} problems")
        module.sampler.watch = partial(self._generated, module)

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        seconds, score = module.clock.seconds.get("evaluation", 0.0), score_of(module)
        if trainer.is_global_zero and seconds > 0 and score:
            self._say(f"base policy: {score}  tokens/s {module.clock.tokens['evaluation'] / seconds:.0f}")

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        latest, health, total = module.latest, find(trainer, Health), total_steps(trainer, module)
        phase = "policy training" if module.actor_trained else "actor held" if module.policy_step else "value pretraining"
        numbers = "  ".join(
            f"{label} {latest[name]:{form}}"
            for label, name, form in (
                ("accuracy", "response/accuracy", ".3f"),
                ("reward", "reward/mean", "+.2f"),
                ("length", "response/length_mean", ".0f"),
                ("entropy", "actor/entropy_mean", ".3f"),
                ("explained variance", "critic/explained_variance", ".2f"),
                ("tokens/s", "speed/rollout_tokens_per_second", ".0f"),
            )
            if name in latest
        )
        best = f" (best {health.best_score:.3f})" if health is not None and health.best_score is not None else ""
        alarms = f"ALARM {', '.join(health.active)}" if health is not None and health.active else ""
        numbers = "  ".join(filter(None, (numbers, f"{score_of(module)}{best}".strip())))
        if self.bar is not None:
            self.bar.numbers, self.bar.watch, self.bar.alarms = numbers, "", alarms
            self.bar.update(self.task, description=phase, completed=module.rl_step, total=total)
        elif trainer.is_global_zero:
            self._say("  ".join(filter(None, (f"{phase} {module.rl_step}/{total}", numbers, alarms))))

    def on_train_end(self, trainer: Trainer, module: RLModule) -> None:
        self.teardown(trainer, module, "fit")  # before others print their last lines

    def on_exception(self, trainer: Trainer, module: RLModule, exception: BaseException) -> None:
        self.teardown(trainer, module, "fit")  # otherwise the terminal stays without a cursor

    def teardown(self, trainer: Trainer, module: RLModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _generated(self, module: RLModule, done: int, total: int) -> None:
        """Shows how many of a phase's responses are there; nothing for rollouts that are prefetched while networks train."""
        phase = PHASES.get(module.clock.current)
        if phase is None:
            return
        if module.rl_step == 0:
            phase = phase.replace("the policy", "the base policy")
        text, now = f"{phase}: {done} of {total}", time.monotonic()
        if self.bar is not None:
            self.bar.watch = text
        elif now - self.last_line > QUIET_SECONDS or (module.rl_step == 0 and phase not in (self.shown, "rollouts")):
            self.shown = phase
            self._say(text)

    def _say(self, text: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def find(trainer: Trainer, kind: type[C]) -> C | None:
    """The trainer's callback of this class."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]


def total_steps(trainer: Trainer, module: RLModule) -> int:
    """RL steps at the end of the run, as far as is known: value pretraining may end early, and a held actor adds steps."""
    pretraining = find(trainer, ValuePretraining)
    frozen = 0 if pretraining is None or pretraining.done else pretraining.steps - pretraining.steps_done
    return module.rl_step + frozen + module.policy_steps - module.policy_step


def score_of(module: RLModule) -> str:
    """The newest benchmark score, such as `mini_aime avg@32 0.113`; empty before the first of this process."""
    name = score_column(module.latest)
    return "" if name is None else f"{module.datamodule.source.benchmark_name} {name.split('/')[1]} {module.latest[name]:.3f}"
