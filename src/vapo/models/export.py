"""Actor and critic as plain Hugging Face folders, whatever they are made of while they train."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from vapo.models.actor import Actor
from vapo.models.critic import Critic

ADAPTER = "lora_"  # in names of PEFT's weights


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """One entry of the state dict after another, under the names they have without adapters; adapters are added to the weights they
    stand beside. Entries of the state dict and not parameters: a tied output head is an entry of its own."""
    layers = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        if ADAPTER in name:
            continue
        parent, _, leaf = name.rpartition(".base_layer.")
        if parent:
            delta = layers[parent].get_delta_weight("default") if leaf == "weight" else 0.0  # type: ignore[operator]
            name, weight = f"{parent}.{leaf}", weight + delta
        yield name, weight


def export_actor(actor: Actor, folder: Path) -> None:
    """A causal LM in safetensors with its generation config."""
    model = actor.language_model
    model.save_pretrained(folder, state_dict=dict(merged_weights(model)))


def export_critic(critic: Critic, folder: Path) -> None:
    """A token classifier with one label: its score at a token is the value of the state after that token. `Critic.from_pretrained`
    reads it back with `head_init=reward_model`, bias included."""
    config = type(critic.backbone.config).from_dict(critic.backbone.config.to_dict() | {"classifier_dropout": 0.0})
    config.num_labels = 1
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForTokenClassification.from_config(config)
    state = {f"{model.base_model_prefix}.{name}": weight for name, weight in merged_weights(critic.backbone)}
    state |= {f"score.{name}": weight for name, weight in critic.head.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
