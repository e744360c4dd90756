"""The actor (policy): a Hugging Face causal LM whose forward returns log-probabilities and entropies of response tokens."""

from functools import partial

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vapo.distributed.sharding import Sharding, read_safetensors
from vapo.models.loading import LoadOptions, check_model_path
from vapo.models.logprobs import chunked_logprobs
from vapo.types import MicroBatch


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy at `path`."""
    check_model_path(path, "model.path")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    return tokenizer


class Actor(nn.Module):
    """The policy network. All uses go through `forward`, so that a sharding wrapper sees every use of the parameters."""

    def __init__(self, language_model: PreTrainedModel, logits_chunk_tokens: int = 4096) -> None:
        """
        Args:
            language_model: a causal LM with `base_model` and output embeddings.
            logits_chunk_tokens: tokens whose logits are in memory at once, >= 1; affects memory only.
        """
        super().__init__()
        self.language_model = language_model
        self.logits_chunk_tokens = logits_chunk_tokens

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        loading: LoadOptions | None = None,
        logits_chunk_tokens: int = 4096,
        mesh: DeviceMesh | None = None,
        sharding: Sharding | None = None,
    ) -> "Actor":
        """Loads an actor, whole or sharded.

        Args:
            path: folder or hub name of a causal LM.
            mesh, sharding: the ranks to shard over, and how; without a mesh the model is loaded whole.
        """
        check_model_path(path, "model.path")
        loading = loading or LoadOptions()
        if mesh is None:
            return cls(loading.load(AutoModelForCausalLM, path), logits_chunk_tokens)
        outline = partial(loading.on_meta_device, AutoModelForCausalLM, path)
        actor = (sharding or Sharding()).build(lambda: cls(outline(), logits_chunk_tokens), mesh)
        read_safetensors(actor.language_model, path)
        return actor

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end a response, from the model's generation config; empty if it has none."""
        eos = getattr(self.language_model.generation_config, "eos_token_id", None)
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def forward(self, micro: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Evaluates the policy at the response tokens of a micro-batch.

        Returns:
            logprob_R of the tokens at `temperature`, with gradient, and entropy_R of their distributions in nats, without gradient.
        """
        hidden_BLD = self.language_model.base_model(input_ids=micro.token_BL, use_cache=False).last_hidden_state
        head = self.language_model.get_output_embeddings()
        return chunked_logprobs(hidden_BLD[micro.predicts_BL], head, micro.next_token_R, temperature, self.logits_chunk_tokens)
