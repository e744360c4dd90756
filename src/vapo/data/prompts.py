"""Sources of prompts: the interface, and running sums."""

import hashlib
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from vapo.data.sums import mini_aime, problem_at
from vapo.types import Prompt
from vapo.verifiers.sums import Step, answer, trace


def digest(prompts: Iterable[Prompt]) -> str:
    """Changes with any problem, answer, or their order; not with a date in the chat format."""
    return hashlib.sha256(repr([(prompt.key or prompt.text, prompt.reference) for prompt in prompts]).encode()).hexdigest()[:16]


class PromptSource(Protocol):
    """An endless, seeded source of training prompts and a fixed benchmark."""

    benchmark_name: str

    def prompt(self, index: int, seed: int) -> Prompt:
        """The `index`-th training prompt of the stream `seed`, always the same."""

    def held_out(self, index: int, seed: int) -> Prompt:
        """A prompt that is never trained on, to evaluate the critic; prompts of a finite set repeat."""

    def benchmark(self) -> list[Prompt]:
        """The evaluation problems, none of which is ever a training prompt."""

    def describe(self) -> dict[str, str | int]:
        """The settings that determine the prompts, for records and keys."""


NO_ANSWER = "-"  # reference of a problem that has none


class SumsPrompts:
    """A `PromptSource` of running sums (`vapo.data.sums`), with MiniAIME as the benchmark."""

    benchmark_name = "mini_aime"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        min_operands: int,
        max_operands: int,
        hard_operations: int | None = None,
        reveal: int | None = 0,
        problems: int | None = None,
        unsolvable: float = 0.0,
    ) -> None:
        """
        Args:
            tokenizer: the policy's tokenizer.
            template: text with `{problem}` in it.
            min_operands, max_operands: difficulty range of training problems, 2 or more.
            hard_operations, reveal: see `make_problem`.
            problems: number of different training problems; None: endless.
            unsolvable: share of the problems outside of the benchmark that no response answers rightly, always the same ones.
        """
        if "{problem}" not in template:
            raise ValueError(f"data template is {template!r}; set data.source.template to a text that contains {{problem}}")
        if not 2 <= min_operands <= max_operands:
            raise ValueError(
                f"data operands range from {min_operands} to {max_operands}; set 2 <= min_operands <= max_operands in data.source"
            )
        if reveal and (hard_operations is None or not 0 < hard_operations + reveal < min_operands):
            raise ValueError(
                f"the true total would be stated after {hard_operations} + {reveal} operations; set data.source.hard_operations, "
                f"and data.source.reveal so that both together are below min_operands ({min_operands})"
            )
        if problems is not None and problems < 1:
            raise ValueError(f"data.source.problems is {problems}; set it to 1 or more different problems, or null (endless)")
        if not 0 <= unsolvable < 1:
            raise ValueError(f"data.source.unsolvable is {unsolvable}; set it to 0 (none) or more, below 1")
        self.tokenizer, self.template, self.problems, self.unsolvable = tokenizer, template, problems, unsolvable
        self.range = (min_operands, max_operands, hard_operations, reveal)

    def prompt(self, index: int, seed: int) -> Prompt:
        """With a number of `problems`, the stream repeats them."""
        return self._drawn(index, problem_at(index if self.problems is None else index % self.problems, seed, *self.range))

    def held_out(self, index: int, seed: int) -> Prompt:
        return self._drawn(index, problem_at(index, seed + 1_000_003, *self.range))  # another stream

    def benchmark(self) -> list[Prompt]:
        return [self._make(index, problem) for index, problem in enumerate(mini_aime(*self.range))]

    def problem(self, prompt: Prompt) -> str:
        """The problem in a prompt's text."""
        before, after = self.template.split("{problem}")
        return prompt.text[len(before) : len(prompt.text) - len(after)]

    def trace(self, prompt: Prompt, response: str) -> list[Step]:
        """Ground truth of each step of a response, which only a generated task has."""
        return trace(self.problem(prompt), response)

    def describe(self) -> dict[str, str | int]:
        low, high, hard_operations, reveal = self.range
        record: dict[str, str | int] = {"benchmark_name": self.benchmark_name, "template": self.template}
        record |= {"min_operands": low, "max_operands": high}
        turned: dict[str, tuple[object, object]] = {
            "hard_operations": (hard_operations, None),
            "reveal": (reveal, 0),
            "problems": (self.problems, None),
            "unsolvable": (self.unsolvable, 0.0),
        }
        return record | {name: str(value) for name, (value, default) in turned.items() if value != default}

    def _drawn(self, index: int, problem: str) -> Prompt:
        prompt = self._make(index, problem)
        unsolvable = self.unsolvable > 0 and random.Random(problem).random() < self.unsolvable  # which ones, a prompt does not say
        return replace(prompt, reference=NO_ANSWER) if unsolvable else prompt

    def _make(self, index: int, problem: str) -> Prompt:
        text = self.template.format(problem=problem)
        return Prompt(index, text, str(answer(problem)), tuple(self.tokenizer.encode(text, add_special_tokens=False)))
