"""Prompts from problem sets: an endless, shuffled training set, and a benchmark."""

import logging
import random
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from vapo.data.problem_sets import Loaded, Problem, ProblemSet
from vapo.data.prompts import digest
from vapo.data.templates import Template
from vapo.types import Prompt
from vapo.verifiers.base import Verifier

log = logging.getLogger(__name__)


class DatasetPrompts:
    """A `PromptSource` over two problem sets, read when the first prompt is requested."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: ProblemSet,
        benchmark: ProblemSet,
        template: str,
        chat: bool,
        max_prompt_tokens: int,
        held_out_problems: int,
        train_path: str | None = None,
        benchmark_path: str | None = None,
        chat_options: dict[str, Any] | None = None,
        verifier: Verifier | None = None,
        max_unreadable_share: float = 0.01,
    ) -> None:
        """
        Args:
            tokenizer: the policy's tokenizer.
            train: problems to train on; benchmark problems are removed.
            benchmark: evaluation problems; all of them are scored.
            template, chat, chat_options: see `Template`.
            max_prompt_tokens: longer training problems are dropped and counted; a longer benchmark problem is an error.
            held_out_problems: training problems set aside to evaluate the critic, at most a tenth of them.
            train_path, benchmark_path: override the paths of the problem sets.
            verifier: tries every answer when the problems are loaded; None: none is tried. Training problems whose answers it
                cannot read are named and dropped, those of the benchmark are named and kept.
            max_unreadable_share: share of a set's problems; with more of them the run stops.
        """
        if max_prompt_tokens < 1 or held_out_problems < 1:
            raise ValueError(
                f"data.source.max_prompt_tokens is {max_prompt_tokens}, held_out_problems {held_out_problems}; set both to 1 "
                "or more"
            )
        self.train = train if train_path is None else replace(train, path=train_path)
        self.benchmark_set = benchmark if benchmark_path is None else replace(benchmark, path=benchmark_path)
        self.template = Template(tokenizer, template, chat, chat_options)
        self.benchmark_name = benchmark.name
        self.max_prompt_tokens, self.held_out_problems = max_prompt_tokens, held_out_problems
        self.verifier, self.max_unreadable_share = verifier, max_unreadable_share
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def prompt(self, index: int, seed: int) -> Prompt:
        """Each problem once per pass over them, in a different order in every pass."""
        training = self._training
        round_, place = divmod(index, len(training))
        return self._numbered(training[self._order(seed, round_)[place]], index)

    def held_out(self, index: int, seed: int) -> Prompt:
        return self._numbered(self._split[0][index % len(self._split[0])], index)

    def benchmark(self) -> list[Prompt]:
        return [self._numbered(prompt, index) for index, prompt in enumerate(self._benchmark)]

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt, of training or benchmark."""
        return max(len(prompt.token_ids) for prompt in (*self._split[0], *self._training, *self._benchmark))

    def fingerprint(self) -> str:
        """Of all problems and answers, in training, set aside or scored."""
        return digest([*self._split[0], *self._training, *self._benchmark])

    def describe(self) -> dict[str, str | int]:
        return {
            "benchmark_name": self.benchmark_name,
            "train": str(self.train),
            "template": self.template.text,
            "chat": self.template.chat,
            "max_prompt_tokens": self.max_prompt_tokens,
        }

    @staticmethod
    def _numbered(prompt: Prompt, index: int) -> Prompt:
        return replace(prompt, index=index)

    def _shuffled(self, seed: int, round_: int) -> list[int]:
        order = list(range(len(self._training)))
        random.Random(f"{seed}/{round_}").shuffle(order)
        return order

    def _prompts(self, problems: list[Problem]) -> list[Prompt]:
        texts = [self.template.apply(problem.text) for problem in problems]
        encoded = self.template.encode(texts)
        asked = f"{self.template.chat} {self.template.text} "
        return [
            Prompt(0, text, problem.answer, ids, asked + problem.key)
            for text, problem, ids in zip(texts, problems, encoded, strict=True)
        ]

    @cached_property
    def _scored(self) -> list[Problem]:
        problems = self.benchmark_set.load().problems
        self._unreadable(self.benchmark_name, problems)
        return problems

    @cached_property
    def _benchmark(self) -> list[Prompt]:
        prompts = self._prompts(self._scored)
        longest = max(len(prompt.token_ids) for prompt in prompts)
        if longest > self.max_prompt_tokens:
            raise ValueError(
                f"{self.benchmark_name} has a prompt of {longest} tokens; set data.source.max_prompt_tokens to that or more"
            )
        return prompts

    @property
    def _training(self) -> list[Prompt]:
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[list[Prompt], list[Prompt]]:
        """Held-out and training prompts. The split depends only on the problems, so no run trains on another's held-out ones."""
        loaded = self.train.load()
        unreadable = self._unreadable(self.train.name, loaded.problems)
        scored = {problem.key for problem in self._scored}
        unscored = [problem for problem in loaded.problems if problem.key not in scored]
        readable = [problem for problem in unscored if problem.row not in unreadable]
        prompts = zip(self._prompts(readable), readable, strict=True)
        fitting = [(prompt, problem) for prompt, problem in prompts if len(prompt.token_ids) <= self.max_prompt_tokens]
        kept = [prompt for prompt, _ in fitting]
        self._report(loaded, len(loaded.problems) - len(unscored), len(unscored) - len(readable), len(kept))
        if len(kept) < 2:
            raise ValueError(
                f"{self.train.name} has {len(kept)} problems of at most {self.max_prompt_tokens} tokens that are not of the "
                "benchmark; set data.source.max_prompt_tokens higher, or data.path and data.benchmark_path to different problems"
            )
        order = sorted(range(len(kept)), key=lambda i: random.Random(fitting[i][1].key).random())
        cut = max(1, min(self.held_out_problems, len(kept) // 10))
        return [kept[i] for i in order[:cut]], [kept[i] for i in sorted(order[cut:])]

    def _unreadable(self, name: str, problems: list[Problem]) -> set[int]:
        """The rows whose answers the verifier cannot read; it names the first of them.

        Raises:
            ValueError: they are more than `max_unreadable_share` of the problems.
        """
        if self.verifier is None:
            return set()
        reasons = [self.verifier.unreadable(problem.answer) for problem in problems]  # none is awaited before all are submitted
        rows = {problem.row: reason for problem, future in zip(problems, reasons, strict=True) if (reason := future.result())}
        if rows:
            answers = {problem.row: problem.answer for problem in problems}
            named = "; ".join(f"row {row}: {answers[row][:40]!r}, {rows[row]}" for row in list(rows)[:5])
            said = f"{name}: {len(rows)} of {len(problems)} answers cannot be compared with anything ({named})"
            if len(rows) > self.max_unreadable_share * len(problems):
                raise ValueError(
                    f"{said}; set the set's answer column or answer_after, or data.source.max_unreadable_share above "
                    f"{len(rows) / len(problems):.3f} to go on without them"
                )
            log.warning(said)
        return set(rows)

    def _report(self, loaded: Loaded, scored: int, unreadable: int, kept: int) -> None:
        long = len(loaded.problems) - scored - unreadable - kept
        log.info(
            f"{self.train.name}: {kept} problems of {loaded.rows} rows ({loaded.duplicates} duplicates, {long} too long, "
            f"{scored} of the benchmark{f', {unreadable} with unreadable answers' if unreadable else ''})"
        )
        if loaded.conflicting:
            log.warning(f"{self.train.name}: {loaded.conflicting} duplicates have another answer than the first; the first is kept")
