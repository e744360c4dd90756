"""The actor (policy): a Hugging Face causal LM whose forward returns log-probabilities and entropies of response tokens."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vapo.distributed.sharding import Sharding, read_safetensors
from vapo.models.attention import predicting_states, use_packed_attention
from vapo.models.loading import LoadOptions, check_model_path
from vapo.models.logprobs import LOGITS_BYTES, chunked_logprobs, own_head
from vapo.types import MicroBatch


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy at `path`."""
    check_model_path(path, "model.path")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    return tokenizer


class Actor(nn.Module):
    """The policy. Everything goes through `forward`, so that a sharding wrapper around it sees every use of its parameters."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        logits_chunk_tokens: int | None = None,
        float32_head: bool = False,
        eos_token_ids: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            language_model: a causal LM with `base_model` and output embeddings.
            logits_chunk_tokens: tokens whose logits are in memory at once, >= 1; None: as many as fit into `LOGITS_BYTES`.
            float32_head: computes logits in float32, also under autocast.
            eos_token_ids: tokens that end a response; None for those that `vapo.models.ends` finds.
        """
        super().__init__()
        self.packs = use_packed_attention(language_model)
        if float32_head and language_model.dtype != torch.float32:
            raise ValueError(f"model.float32_head=true needs model.dtype=float32, not {language_model.dtype}")
        self.language_model, self.float32_head = language_model, float32_head
        self.compute_dtype: torch.dtype = language_model.dtype  # of forward passes outside of autocast
        vocabulary = language_model.config.get_text_config().vocab_size
        self.logits_chunk_tokens = logits_chunk_tokens or max(1, LOGITS_BYTES // (4 * vocabulary))
        self.eos_is_chosen = eos_token_ids is not None
        if eos_token_ids is not None:
            language_model.generation_config.eos_token_id = list(eos_token_ids)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        loading: LoadOptions | None = None,
        mesh: DeviceMesh | None = None,
        sharding: Sharding | None = None,
        **options: Any,
    ) -> "Actor":
        """Loads an actor, whole or sharded.

        Args:
            path: folder or hub name of a causal LM.
            mesh, sharding: the ranks to shard over, and how; without a mesh the model is loaded whole.
            options: of `Actor`.
        """
        check_model_path(path, "model.path")
        loading, sharding = loading or LoadOptions(), sharding or Sharding()
        if mesh is None:
            return cls(loading.load(AutoModelForCausalLM, path), **options)
        if options.get("float32_head") and sharding.compute_dtype != "float32":
            raise ValueError(
                "model.float32_head=true does not work with trainer=fsdp, whose output embedding is gathered in "
                f"module.sharding.compute_dtype={sharding.compute_dtype}: set that to float32, or model.float32_head to false"
            )
        outline = partial(loading.on_meta_device, AutoModelForCausalLM, path)
        actor = sharding.build(lambda: cls(outline(), **options), mesh)
        actor.compute_dtype = getattr(torch, sharding.compute_dtype)
        read_safetensors(actor.language_model, path)
        return actor

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end a response, from the model's generation config; empty if it has none."""
        eos = getattr(self.language_model.generation_config, "eos_token_id", None)
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def forward(
        self, micro: MicroBatch, temperature: float = 1.0, with_entropy: bool = False, whole: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluates the policy at the response tokens of a micro-batch.

        Args:
            with_entropy: computes entropies too.
            whole: the logits are those of a plain call of the language model, in one piece: what the self-test compares with.

        Returns:
            logprob_R of the tokens at `temperature`, with gradient; entropy_R of their distributions in nats without, or None.
        """
        if whole:
            logits_BLV = self.language_model(input_ids=micro.token_BL, use_cache=False).logits
            logits_RV = logits_BLV[micro.predicts_BL].float() / temperature
            return logits_RV.log_softmax(-1).gather(-1, micro.next_token_R[:, None])[:, 0], None
        hidden_RD = predicting_states(self.language_model.base_model, micro)
        head, chunk = own_head(self.language_model), self.logits_chunk_tokens
        with torch.autocast(hidden_RD.device.type, enabled=False) if self.float32_head else nullcontext():
            hidden_RD = hidden_RD.float() if self.float32_head else hidden_RD
            return chunked_logprobs(hidden_RD, head, micro.next_token_R, temperature, chunk, with_entropy)
