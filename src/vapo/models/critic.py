"""The critic: a backbone of its own and a scalar head (vapo.md A14, A25)."""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from vapo.models.actor import check_model_path
from vapo.types import MicroBatch

HEAD_INITS = ("reward_model", "zero", "normal")


class Critic(nn.Module):
    """Values of states, in units of reward. The backbone may be bfloat16; the head is always float32."""

    def __init__(self, backbone: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head.float()

    @classmethod
    def from_pretrained(cls, path: str, head_init: str, dtype: str = "float32") -> "Critic":
        """
        Args:
            path: `head_init=reward_model`: a reward model in sequence-classification format with one label. Otherwise a
                language model, whose backbone is taken.
            head_init: `reward_model` keeps the reward model's head; `zero` starts at V = 0 everywhere; `normal` draws weights
                of standard deviation 1 / (d + 1), d the hidden size.
        """
        if head_init not in HEAD_INITS:
            raise ValueError(f"critic head_init is {head_init!r}; set model.critic.head_init to one of {', '.join(HEAD_INITS)}")
        check_model_path(path, "model.critic.path")
        if head_init == "reward_model":
            config = AutoConfig.from_pretrained(path)
            architectures = config.architectures or []
            if config.num_labels != 1 or not any("SequenceClassification" in name for name in architectures):
                raise ValueError(
                    f"{path} is {architectures} with {config.num_labels} labels, not a reward model with one score: "
                    "set model.critic.path to one, or model.critic.head_init to zero"
                )
            reward_model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=getattr(torch, dtype))
            head = nn.Linear(reward_model.config.hidden_size, 1)
            with torch.no_grad():
                head.weight.copy_(reward_model.score.weight)
                head.bias.zero_()
            return cls(reward_model.base_model, head)
        backbone = AutoModel.from_pretrained(path, dtype=getattr(torch, dtype))
        head = nn.Linear(backbone.config.hidden_size, 1)
        nn.init.zeros_(head.bias)
        if head_init == "zero":
            nn.init.zeros_(head.weight)
        else:
            nn.init.normal_(head.weight, std=1.0 / (backbone.config.hidden_size + 1))
        return cls(backbone, head)

    def forward(self, micro: MicroBatch) -> Tensor:
        """
        Returns:
            value_R of the state before each response token: what the prompt and the tokens so far are worth.
        """
        hidden_BLD = self.backbone(input_ids=micro.token_BL, use_cache=False).last_hidden_state
        return self.head(hidden_BLD[micro.predicts_BL].float())[:, 0]
