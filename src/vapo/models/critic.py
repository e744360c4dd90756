"""The critic: a separate backbone with a scalar head (vapo.md A14, A25)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from vapo.distributed.sharding import Sharding, fill, read_entries, read_safetensors
from vapo.models.attention import predicting_states, use_packed_attention
from vapo.models.loading import LoadOptions, check_model_path
from vapo.types import MicroBatch

FORMATS = {"SequenceClassification": AutoModelForSequenceClassification, "TokenClassification": AutoModelForTokenClassification}
HEAD_INITS = ("reward_model", "zero", "normal")


class Critic(nn.Module):
    """Predicts values of states, in units of reward. The backbone may be bfloat16; the head is always float32."""

    def __init__(self, backbone: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.packs = use_packed_attention(backbone)
        self.backbone = backbone
        self.head = head.float()

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        head_init: str,
        loading: LoadOptions | None = None,
        mesh: DeviceMesh | None = None,
        sharding: Sharding | None = None,
    ) -> "Critic":
        """Loads a critic, whole or sharded.

        Args:
            path: with `head_init=reward_model`, a reward model with one score, in sequence- or token-classification format;
                otherwise a language model, whose backbone is used.
            head_init: `reward_model` keeps the reward model's head; `zero` starts at V = 0 everywhere; `normal` draws weights
                of standard deviation 1 / (d + 1), d the hidden size.
            mesh, sharding: the ranks to shard over, and how; without a mesh the critic is loaded whole.
        """
        loading = loading or LoadOptions()
        if head_init not in HEAD_INITS:
            raise ValueError(f"critic head_init is {head_init!r}; set model.critic.head_init to one of {', '.join(HEAD_INITS)}")
        check_model_path(path, "model.critic.path")
        reward_model = _reward_model_class(path, loading.trust_remote_code) if head_init == "reward_model" else None
        if mesh is not None:
            critic = (sharding or Sharding()).build(lambda: cls._on_meta_device(loading, path), mesh)
            read_safetensors(critic.backbone, path)
            width = critic.backbone.config.hidden_size
            saved = read_entries(path, "score.")
            head = _new_head(head_init, width) if reward_model is None else _head(saved["score.weight"], saved.get("score.bias"))
            fill(critic.head.weight, head.weight)
            fill(critic.head.bias, head.bias)
            return critic
        if reward_model is not None:
            loaded: Any = loading.load(reward_model, path, num_labels=1)
            return cls(loaded.base_model, _head(loaded.score.weight, loaded.score.bias))
        backbone = loading.load(AutoModel, path)
        return cls(backbone, _new_head(head_init, backbone.config.hidden_size))

    @classmethod
    def _on_meta_device(cls, loading: LoadOptions, path: str) -> "Critic":
        backbone = loading.on_meta_device(AutoModel, path)
        return cls(backbone, nn.Linear(backbone.config.hidden_size, 1, device="meta"))

    def forward(self, micro: MicroBatch) -> Tensor:
        """Evaluates the critic at the response tokens of a micro-batch.

        Returns:
            value_R of the state before each token, which is the prompt and the tokens so far.
        """
        hidden_RD = predicting_states(self.backbone, micro)
        with torch.autocast(hidden_RD.device.type, enabled=False):
            return self.head(hidden_RD.float())[:, 0].clone()  # FSDP2 must not return a view


def _new_head(head_init: str, width: int) -> nn.Linear:
    return _head(torch.zeros(1, width) if head_init == "zero" else torch.randn(1, width) / (width + 1), None)


def _head(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A float32 head with these weights; without a bias it starts at 0, and trains too."""
    head = nn.Linear(weight.shape[1], 1)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_() if bias is None else head.bias.copy_(bias)
    return head


def _reward_model_class(path: str, trust_remote_code: bool) -> Any:
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    architectures = config.architectures or []
    for format_, auto_class in FORMATS.items():
        if config.num_labels == 1 and any(format_ in name for name in architectures):
            return auto_class
    raise ValueError(
        f"{path} is {architectures} with {config.num_labels} labels, not a reward model with one score: "
        "set model.critic.path to one, or model.critic.head_init to zero"
    )
