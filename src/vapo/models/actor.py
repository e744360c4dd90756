"""The policy: a Hugging Face causal LM behind a forward that returns what training needs, log-probabilities and entropies."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vapo.models.logprobs import chunked_logprobs
from vapo.types import MicroBatch


def check_model_path(path: str, setting: str) -> None:
    """Raises if `path` looks like a folder but holds no model; a plain hub name `owner/name` passes.

    Args:
        setting: the config key to name in the error.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise FileNotFoundError(f"no config.json in {path}: set {setting} to a folder with a Hugging Face model")
    if not folder.is_dir() and (folder.is_absolute() or path.startswith(".") or path.count("/") != 1):
        raise FileNotFoundError(f"model folder {path} does not exist: set {setting} to an existing folder or a hub name owner/name")


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy at `path`."""
    check_model_path(path, "model.path")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    return tokenizer


class Actor(nn.Module):
    """Everything goes through `forward`, so that a sharding wrapper around the module sees every use of its parameters."""

    def __init__(self, language_model: PreTrainedModel, logits_chunk_tokens: int = 4096) -> None:
        """
        Args:
            language_model: a causal LM with `base_model` and output embeddings.
            logits_chunk_tokens: tokens whose logits exist at once, >= 1; bounds memory, changes no number.
        """
        super().__init__()
        self.language_model = language_model
        self.logits_chunk_tokens = logits_chunk_tokens

    @classmethod
    def from_pretrained(cls, path: str, dtype: str = "float32", logits_chunk_tokens: int = 4096) -> "Actor":
        check_model_path(path, "model.path")
        return cls(AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)), logits_chunk_tokens)

    def forward(self, micro: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """
        Returns:
            logprob_R of the response tokens at `temperature`, with gradient, and entropy_R in nats of the distributions they
            were drawn from, without.
        """
        hidden_BLD = self.language_model.base_model(input_ids=micro.token_BL, use_cache=False).last_hidden_state
        head = self.language_model.get_output_embeddings()
        return chunked_logprobs(hidden_BLD[micro.predicts_BL], head, micro.next_token_R, temperature, self.logits_chunk_tokens)
