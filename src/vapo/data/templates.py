"""Turns problems into prompts: template, chat format, token ids."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

PLACE = "{problem}"


class Template:
    """Inserts a problem into a text, and optionally the text into the tokenizer's chat format."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, file: str, chat: bool) -> None:
        """
        Args:
            tokenizer: the policy's tokenizer.
            file: a text file with `{problem}` in it once; its last newline is not part of the template.
            chat: True for one user turn in the tokenizer's chat format, False for the bare text.
        """
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"no prompt template {file}: set data.source.template to a text file, such as configs/templates/boxed.txt"
            )
        self.text = path.read_text().removesuffix("\n")
        if self.text.count(PLACE) != 1:
            raise ValueError(f"the prompt template {file} has {self.text.count(PLACE)} places {PLACE}; it needs exactly one")
        if chat and not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat format: set data.source.chat to false, or model.path to a model with one")
        self.tokenizer, self.chat = tokenizer, chat

    def apply(self, problem: str) -> str:
        """The text of the prompt."""
        text = self.text.replace(PLACE, problem)
        if not self.chat:
            return text
        message = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def encode(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Token ids of prompts. They begin with exactly one BOS if the tokenizer adds one, and have no EOS."""
        tokenizer = self.tokenizer
        bos = tokenizer.bos_token_id
        wanted = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [(bos, *ids) if wanted and ids[:1] != [bos] else tuple(ids) for ids in encoded]
