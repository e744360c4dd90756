"""Tiny tokenizers as model families have them: one character a token, with or without BOS, with or without a chat format."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHARACTERS = "".join(chr(i) for i in range(32, 127)) + "\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_CHAT = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


def make_tokenizer(
    bos: str | None = None, eos: str = "<|endoftext|>", pad: str | None = None, chat: str | None = None
) -> PreTrainedTokenizerFast:
    """Ids: special tokens first, in the order they are named here, then the printable characters."""
    special = [token for token in dict.fromkeys([bos, eos, pad, "<|im_start|>", "<|im_end|>"]) if token]
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad or eos)
    fast.chat_template = chat
    return fast


QWEN = {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "chat": CHATML}  # no BOS; pad is eos
LLAMA = {"bos": "<s>", "eos": "</s>", "chat": LLAMA_CHAT}  # its chat format writes the BOS itself
