"""A progress bar with accuracy, reward, length, entropy and speed; without a terminal, one line per RL step."""

import re
import time
from functools import partial
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from vapo.callbacks.value_pretraining import ValuePretraining
from vapo.module import RLModule

QUIET_SECONDS = 10.0  # without a terminal: of a phase that takes longer, a line so often
PHASES = {"evaluation": "scoring the policy", "heldout": "held-out rollouts", "rollout": "rollouts"}


class Progress(Callback):
    """Shows what was loaded, the base policy's score, then the RL steps: value pretraining first, then policy training."""

    def __init__(self) -> None:
        self.console = Console()
        self.bar: RichProgress | None = None
        self.values, self.shown, self.last_line = "", "", 0.0  # the last step's values, the last phase, when a line was printed

    def on_fit_start(self, trainer: Trainer, module: RLModule) -> None:
        """The networks are built: says what they are, and starts to show how many responses are there."""
        pretraining = next((c.steps for c in trainer.callbacks if isinstance(c, ValuePretraining)), 0)  # type: ignore[attr-defined]
        self.total = pretraining + module.policy_steps
        if not trainer.is_global_zero:
            return
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[watch]}"),
            )
            self.bar = RichProgress(*columns, console=self.console)
            self.task = self.bar.add_task("before training", total=self.total, completed=module.rl_step, watch="")
            self.bar.start()
        networks = [f"{n} {sum(p.numel() for p in x.network.parameters()) / 1e6:,.1f} M" for n, x in module.learners.items()]
        problems, name = len(module.datamodule.benchmark()), module.datamodule.source.benchmark_name
        family = type(module.actor.language_model).__name__
        self._say(f"loaded {family} (parameters: {', '.join(networks)}); benchmark {name}, {problems} problems")
        module.sampler.watch = partial(self._generated, module)

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        seconds, score = module.clock.seconds.get("evaluation", 0.0), self._score(module)
        if trainer.is_global_zero and seconds > 0 and score:
            self._say(f"base policy: {score}  tokens/s {module.clock.tokens['evaluation'] / seconds:.0f}")

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        latest = module.latest
        phase = "policy training" if module.policy_step else "value pretraining"
        watch = "  ".join(
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
        self.values = "  ".join(filter(None, (watch, self._score(module))))
        if self.bar is not None:
            self.bar.update(self.task, description=phase, completed=module.rl_step, watch=self.values)
        elif trainer.is_global_zero:
            self._say(f"{phase} {module.rl_step}/{self.total}  {self.values}")

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
            self.bar.update(self.task, watch=f"{self.values}  {text}".strip())
        elif now - self.last_line > QUIET_SECONDS or (module.rl_step == 0 and phase not in (self.shown, "rollouts")):
            self.shown = phase
            self._say(text)

    def _say(self, text: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _score(self, module: RLModule) -> str:
        """The newest benchmark score, such as `mini_aime avg@32 0.113`; empty before the first."""
        name = next((name for name in module.latest if re.search(r"/avg@\d+$", name)), None)
        return "" if name is None else f"{module.datamodule.source.benchmark_name} {name.split('/')[1]} {module.latest[name]:.3f}"
