"""Exports actor and critic as plain Hugging Face folders: sharded tensors gathered, adapters merged."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from vapo.distributed.ranks import rank
from vapo.distributed.sharding import full
from vapo.models.actor import Actor
from vapo.models.critic import Critic

ADAPTER = "lora_"  # part of the names of PEFT's weights


def merged_weights(model: nn.Module, gather: bool = True, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields the entries of the state dict one by one, under their names without adapters, with adapters merged into the weights.
    These are entries of the state dict, not parameters: a tied output head is a separate entry.

    Args:
        gather: True yields sharded tensors whole, one at a time: all ranks must iterate. False yields them as they are.
    """
    layers = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        if ADAPTER in name:
            continue
        parent, _, leaf = name.rpartition(".base_layer.")
        if parent:
            with torch.autocast(weight.device.type, enabled=False):  # the same weights, whoever asks
                delta = layers[parent].get_delta_weight("default") if leaf == "weight" else 0.0  # type: ignore[operator]
                name, weight = f"{parent}.{leaf}", weight + delta
        weight = weight if dtype is None else weight.to(dtype)
        yield name, full(weight) if gather else weight


def export_actor(actor: Actor, folder: Path) -> None:
    """Writes the actor as a causal LM in safetensors, with its generation config."""
    model = actor.language_model
    state = _on_first_rank(merged_weights(model))
    if rank() == 0:
        config, tied = model.config.get_text_config(), model.config.get_text_config().tie_word_embeddings
        head, embedding = (_name_of(model, layer) for layer in (model.get_output_embeddings(), model.get_input_embeddings()))
        config.tie_word_embeddings = tied and torch.equal(state[head], state[embedding])  # an adapter is on one of the two
        model.save_pretrained(folder, state_dict=state)
        config.tie_word_embeddings = tied


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    """Of a layer's weight in `merged_weights`."""
    return next(f"{name}.weight" for name, module in model.named_modules(remove_duplicate=False) if module is layer)


def export_critic(critic: Critic, folder: Path) -> None:
    """Writes the critic as a token classifier with one label, whose score at a token is the value of the state after that token.
    `Critic.from_pretrained` reads it back with `head_init=reward_model`, bias included."""
    config = type(critic.backbone.config).from_dict(critic.backbone.config.to_dict() | {"classifier_dropout": 0.0})
    config.num_labels = 1
    prefix = critic.backbone.base_model_prefix
    state = {f"{prefix}.{name}": weight for name, weight in _on_first_rank(merged_weights(critic.backbone)).items()}
    state |= {f"score.{name}": weight for name, weight in _on_first_rank(merged_weights(critic.head)).items()}
    if rank() == 0:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForTokenClassification.from_config(config)
        model.save_pretrained(folder, state_dict=state)


def _on_first_rank(entries: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """All entries in CPU memory on rank 0; the other ranks only help to gather them."""
    return {name: tensor.cpu() for name, tensor in entries if rank() == 0}
