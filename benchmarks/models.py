"""Models that benchmarks measure, as Hugging Face folders: mini, which ships, and random ones with mini's tokenizer."""

from pathlib import Path

import torch
from benchmarks.tables import ROOT
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from vapo.run.pretrain import build_model, build_tokenizer

SIZES = ("mini", "10M", "135M")


def folder_of(size: str, folder: Path) -> Path:
    """The model's folder, made in `folder` if it does not ship: `135M` has the sizes of SmolLM2-135M."""
    if size == "mini":
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
