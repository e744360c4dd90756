"""Turns problems into prompts: template, chat format, token ids."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

PLACE = "{problem}"
log = logging.getLogger(__name__)
Turns = list[dict[str, str]]


def read_turns(file: str) -> Turns:
    """A template's turns, the last of them the user's. A text file is one; a YAML file is a list of `{role, content}`: a system
    turn if there is one, worked examples as turns of user and assistant, the problem. The last newline of a turn is not part of it.

    Raises:
        ValueError, FileNotFoundError: it is no template; the message says what to set.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"no prompt template {file}: set data.source.template to a text file, such as configs/templates/boxed.txt"
        )
    text = path.read_text()
    try:
        turns: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else [{"role": "user", "content": text}]
        turns = [{"role": turn["role"], "content": turn["content"].removesuffix("\n")} for turn in turns]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the prompt template {file} is not a list of turns, each with a role and content") from error
    roles, wanted = [turn["role"] for turn in turns], ["user", "assistant"] * len(turns)
    talk = roles[roles[:1] == ["system"] :]
    if talk != wanted[: len(talk)] or roles[-1:] != ["user"]:
        raise ValueError(
            f"the prompt template {file} has turns of {', '.join(map(str, roles))}; write system (or none), then user and "
            "assistant by turns, user last"
        )
    places = [turn["content"].count(PLACE) for turn in turns]
    if sum(places) != 1 or places[-1] != 1:
        raise ValueError(f"the prompt template {file} has {sum(places)} places {PLACE}; it needs exactly one, in its last turn")
    return turns


class Template:
    """Inserts a problem into the last of some turns, and renders them in the tokenizer's chat format, or as plain text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, file: str, chat: bool, chat_options: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            tokenizer: the policy's tokenizer.
            file: see `read_turns`.
            chat: True for the tokenizer's chat format; False for the turns' contents with a blank line between, no roles.
            chat_options: what the chat format is given besides the turns, such as `{"enable_thinking": False}`. It must read them.
        """
        self.turns, self.tokenizer, self.chat, self.options = read_turns(file), tokenizer, chat, dict(chat_options or {})
        if chat and not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat format: set data.source.chat to false, or model.path to a model with one")
        unread = [name for name in self.options if not chat or name not in str(tokenizer.chat_template)]
        if unread:
            reader = "this tokenizer's chat format does not read it" if chat else "data.source.chat is false"
            raise ValueError(f"data.source.chat_options has {', '.join(unread)}, but {reader}: remove it")
        if chat:
            self._report_changes()

    @property
    def text(self) -> str:
        """The template as text, for records."""
        settings = {"turns": self.turns, "chat_options": self.options}
        return self.turns[0]["content"] if len(self.turns) == 1 and not self.options else json.dumps(settings, sort_keys=True)

    def apply(self, problem: str) -> str:
        """The text of the prompt."""
        *before, last = self.turns
        turns = [*before, {"role": "user", "content": last["content"].replace(PLACE, problem)}]
        return self._render(turns) if self.chat else "\n\n".join(turn["content"] for turn in turns)

    def encode(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Token ids of prompts. They begin with exactly one BOS if the tokenizer adds one, and have no EOS."""
        if not texts:
            return []
        tokenizer = self.tokenizer
        bos = tokenizer.bos_token_id
        wanted = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [(bos, *ids) if wanted and ids[:1] != [bos] else tuple(ids) for ids in encoded]

    def _render(self, turns: Turns) -> str:
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **self.options)
        except Exception as error:  # what a template written by others raises, jinja's or not
            roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
            raise ValueError(f"the chat format refuses turns of {roles} ({error}): change data.source.template") from error
        return str(text)

    def _report_changes(self) -> None:
        """Warns of what the chat format adds before the first turn, and of turns that it changes."""
        text = self._render(self.turns)
        for number, turn in enumerate(self.turns, 1):
            if turn["content"] not in text:
                log.warning(
                    f"the chat format changes or drops turn {number} of the template ({turn['role']}: {turn['content'][:40]!r} …): "
                    "look at a prompt in rollouts/, or change data.source.template"
                )
        added = "" if self.turns[0]["role"] == "system" else self._added_text()
        if added:
            log.warning(
                f"the chat format adds a text of its own to every prompt: {added[:200]!r}; to choose it, make data.source.template "
                "a YAML file with a system turn (docs/models.md)"
            )

    def _added_text(self) -> str:
        """What the chat format writes before a first user turn and not before a later one, without special tokens: its own system
        prompt; empty if it has none, or no second turns."""
        first, later = "a first question", "a second question"
        talk = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "an answer"},
            {"role": "user", "content": later},
        ]
        with suppress(ValueError):
            alone, after = self._render(talk[:1]).partition(first)[0], self._render(talk).partition(later)[0]
            header = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone[::-1], after[::-1], strict=False)))
            ids = self.tokenizer(alone[: len(alone) - header], add_special_tokens=False)["input_ids"]
            return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return ""
