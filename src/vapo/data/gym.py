"""Prompts from reasoning-gym's problem generators. `vapo.verifiers.judges.reasoning_gym` scores the answers."""

import base64
import json
import pickle
import random
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from vapo.data.prompts import digest
from vapo.data.templates import Template
from vapo.types import Prompt
from vapo.verifiers.judges import SIZE

HELD_OUT = 10**6  # problem numbers set aside after the benchmark's
FINGERPRINT = 32  # training problems


class GymPrompts:
    """A `PromptSource` over one generator. Benchmark, held-out and training problems have separate ranges of numbers, and no
    training problem has the text of a benchmark problem.

    A problem depends only on its number, except for a few generators that iterate over sets; PYTHONHASHSEED=0 fixes those, and
    without it several ranks, or a resumed run, refuse.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        settings: dict[str, Any],
        template: str,
        chat: bool,
        problems: int,
        chat_options: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            tokenizer: the policy's tokenizer.
            name: name of the generator, such as `basic_arithmetic`.
            settings: options of the generator; `{}` for the library's defaults.
            problems: number of benchmark problems, >= 1.
            template, chat, chat_options: see `Template`.
        """
        import reasoning_gym  # imported here: it takes seconds

        if problems < 1:
            raise ValueError(f"data.source.problems is {problems}; set it to 1 or more problems of the benchmark")
        try:
            self.dataset = reasoning_gym.create_dataset(name, seed=0, size=SIZE, **settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"reasoning-gym's {name} with {settings}: {error}; set data.source.name and settings") from error
        self.name, self.settings, self.problems = name, dict(settings), problems
        self.asked = {self.dataset[number]["question"] for number in range(problems)}
        self.template, self.benchmark_name = Template(tokenizer, template, chat, chat_options), f"gym_{name}"

    def prompt(self, index: int, seed: int) -> Prompt:
        rng = random.Random(f"{seed}/{index}")
        for _ in range(1000):  # a small generator repeats itself: what the benchmark asks is not trained on
            number = rng.randrange(self.problems + HELD_OUT, SIZE)
            if self.dataset[number]["question"] not in self.asked:
                return self._make(index, number)
        raise ValueError(
            f"reasoning-gym's {self.name} has hardly a problem that is not one of the benchmark's {self.problems}; lower "
            "data.source.problems, or widen data.source.settings"
        )

    def held_out(self, index: int, seed: int) -> Prompt:
        return self._make(index, self.problems + index % HELD_OUT)

    def benchmark(self) -> list[Prompt]:
        return [self._make(index, index) for index in range(self.problems)]

    def fingerprint(self) -> str:
        """Of the benchmark and the first training problems: another order of sets changes nearly every problem."""
        sample = [*self.benchmark(), *(self.prompt(index, 0) for index in range(FINGERPRINT))]
        return digest(replace(prompt, reference="") for prompt in sample)  # the text: an entry may hold sets

    def describe(self) -> dict[str, str | int]:
        return {
            "benchmark_name": self.benchmark_name,
            "settings": json.dumps(self.settings, sort_keys=True),
            "template": self.template.text,
            "chat": self.template.chat,
            "problems": self.problems,
        }

    def _make(self, index: int, number: int) -> Prompt:
        entry = self.dataset[number]
        text = self.template.apply(entry["question"])
        whole = base64.b64encode(pickle.dumps(dict(entry))).decode()  # the judge needs the whole entry
        reference = json.dumps({"answer": entry["answer"], "number": number, "entry": whole}, default=str)
        return Prompt(index, text, reference, self.template.encode([text])[0])
