"""Loads Hugging Face models: weight precision, attention, activation checkpointing, LoRA."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

SIZES = Path(__file__).resolve().parents[1] / "assets" / "sizes"  # dimensions of published models, without weights


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


def check_same_tokens(vocabulary: Mapping[str, int], critic: str, trust_remote_code: bool = False) -> None:
    """Raises ValueError if a critic at `critic` would read other tokens than those of the policy. Without a tokenizer it passes:
    for some models transformers then makes one of a few tokens."""
    try:
        theirs = AutoTokenizer.from_pretrained(critic, trust_remote_code=trust_remote_code).get_vocab()
    except (OSError, ValueError):
        return
    differ = [token for token, number in vocabulary.items() if theirs.get(token) != number]
    if differ and len(theirs) >= len(vocabulary):
        raise ValueError(
            f"the critic at {critic} reads other tokens than the policy writes ({len(differ)} of {len(vocabulary)}, such as "
            f"{differ[0]!r}): set model.critic.path to a model with the policy's tokenizer"
        )


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on frozen weights (arXiv 2106.09685), with PEFT."""

    rank: int | None = None  # None trains all weights
    alpha: float = 32.0  # adapters are scaled by alpha / rank
    dropout: float = 0.0  # above 0 the ratio of new to old policy is noisy
    target_modules: str | list[str] = "all-linear"  # every linear layer but the output's, or names such as q_proj

    def __post_init__(self) -> None:
        if (self.rank is not None and self.rank < 1) or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"{self}: set model.lora.rank to 1 or more (null: no adapters), alpha above 0, dropout in [0, 1)")

    def inject(self, model: PreTrainedModel) -> None:
        """Adds adapters to `model`, which do not change its outputs at first, and freezes everything else."""
        if self.rank is None:
            return
        from peft import LoraConfig, inject_adapter_in_model

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)  # type: ignore[arg-type]
        inject_adapter_in_model(config, model)
        for parameter in model.parameters():
            if parameter.requires_grad:  # the adapters; the frozen weights may be of less precision
                parameter.data = parameter.data.float()


@dataclass(frozen=True)
class LoadOptions:
    """Options of `from_pretrained` that actor and critic share."""

    dtype: str = "float32"  # dtype of the weights; float32 does not round AdamW's small steps away
    attention: str = "sdpa"  # eager, sdpa or flash_attention_2
    activation_checkpointing: bool = False  # recompute activations in the backward pass, to save memory
    trust_remote_code: bool = False  # runs code that comes with the model
    lora: LoRA = LoRA()

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is {self.dtype}; set it to float32, or to bfloat16 for weights that do not train")

    def load(self, auto_class: Any, path: str, **options: Any) -> PreTrainedModel:
        """`auto_class.from_pretrained(path)` with these options."""
        return self._finish(auto_class.from_pretrained(path, **self._options(), **options))

    def on_meta_device(self, auto_class: Any, path: str) -> PreTrainedModel:
        """The same model on the meta device: names and shapes, no memory."""
        config = AutoConfig.from_pretrained(path, trust_remote_code=self.trust_remote_code)
        with torch.device("meta"):
            model = auto_class.from_config(config, **self._options())
        with suppress(OSError):  # not every model has one; its EOS tokens may differ from config.json
            model.generation_config = GenerationConfig.from_pretrained(path)
        with torch.device("meta"):
            return self._finish(model)

    def _options(self) -> dict[str, Any]:
        dtype = getattr(torch, self.dtype)
        return {"dtype": dtype, "attn_implementation": self.attention, "trust_remote_code": self.trust_remote_code}

    def _finish(self, model: PreTrainedModel) -> PreTrainedModel:
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) and self.attention == "sdpa":
            raise ValueError(
                f"{type(model).__name__} caps attention scores, which model.attention=sdpa silently leaves out: set it to eager"
            )
        self.lora.inject(model)
        if self.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model


def without_weights(size: str) -> PreTrainedModel:
    """A published model's architecture on the meta device: shapes, no memory, no download.

    Args:
        size: a folder of `vapo/assets/sizes`, such as `qwen2_5_7b`.
    """
    if not (SIZES / size / "config.json").exists():
        raise ValueError(f"no size {size}: choose one of {', '.join(sorted(folder.name for folder in SIZES.iterdir()))}")
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(SIZES / size))
    return model
