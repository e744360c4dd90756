"""Models that benchmarks measure, as Hugging Face folders (mini, which ships, and random ones with mini's tokenizer), and how much
of what an RL step of each has."""

from pathlib import Path

import torch
from benchmarks.tables import ROOT
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from vapo.run.pretrain import build_model, build_tokenizer

SIZES = ("mini", "10M", "135M")
# Mini as it was measured: the task itself ends at 24 operands now.
MINI = {"rollouts": 256, "group": 16, "minibatch": 64, "tokens": 256, "least": 12, "most": 28}  # operands of a problem
LONG_PROMPTS = {"rollouts": 64, "group": 8, "minibatch": 16, "tokens": 32, "least": 48, "most": 48}
TINY = {"rollouts": 8, "group": 4, "minibatch": 4, "tokens": 8, "least": 4, "most": 4}


def shape_of(size: str) -> dict[str, int]:
    """Rollouts of a step, of a group and of a minibatch, tokens of a response, operands of a problem."""
    return {"mini": MINI, "tiny": TINY}.get(size, LONG_PROMPTS)


def folder_of(size: str, folder: Path) -> Path:
    """The model's folder, made in `folder` if it does not ship: `135M` has the sizes of SmolLM2-135M, `tiny` is mini."""
    if size in ("mini", "tiny"):
        return ROOT / "src" / "vapo" / "assets" / "mini" / "base"
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    if size == "10M":
        model: PreTrainedModel = build_model(tokenizer, hidden=384, layers=6, heads=6)
    else:
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids))
    model.save_pretrained(folder / size)
    tokenizer.save_pretrained(folder / size)
    return folder / size
