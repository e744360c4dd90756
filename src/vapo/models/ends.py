"""Where responses have to end: the tokens that end one, and the last position that a model has."""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from vapo.distributed.ranks import rank
from vapo.models.actor import Actor

log = logging.getLogger(__name__)
MARK = "the answer"  # of a turn that is rendered only to see what the chat format writes after it


def end_tokens(actor: Actor, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a response: those of the generation config, the tokenizer and the chat format's turns together, or only the
    chosen ones (`model.eos_token_ids`). They go into the actor's generation config, so that exports have them too."""
    if actor.eos_is_chosen:
        return actor.eos_token_ids
    sources = {
        "generation config": actor.eos_token_ids,
        "tokenizer": [tokenizer.eos_token_id],
        "chat format": [turn_end(tokenizer)],
    }
    named: dict[int, list[str]] = {}
    for source, tokens in sources.items():
        for token in tokens:
            if token is not None:
                named.setdefault(token, []).append(source)
    if named.keys() != set(actor.eos_token_ids):
        listed = ", ".join(f"{tokenizer.convert_ids_to_tokens(t)} ({t}: {', '.join(s)})" for t, s in named.items())
        if rank() == 0:
            log.warning(f"responses end with any of {listed}: set model.eos_token_ids to choose")
        actor.language_model.generation_config.eos_token_id = list(named)
    return list(named)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat format writes after an assistant's turn, such as `<|im_end|>`; None if there is none."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": MARK}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # a template may refuse any turns, with any error
        return None
    after = tokenizer(text.rpartition(MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
    return after[0] if after and after[0] in tokenizer.added_tokens_decoder else None


def positions(config: object) -> int | None:
    """Positions of a model, prompt and response together, as its configuration states them; None where it states none.

    `linear`, `dynamic` and `yarn` RoPE scaling multiply the original ones; other kinds state the number that they reach.
    """
    stated: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if stated is None or stated <= 0:
        return None
    if rope.get("rope_type") not in ("linear", "dynamic", "yarn"):
        return stated
    return max(stated, int(rope.get("original_max_position_embeddings", stated) * rope.get("factor", 1.0)))


def check_positions(model: Mapping[str, Any], prompt: int, response: int, key: str) -> None:
    """Raises ValueError if a prompt and a response would not fit into a model's positions.

    Args:
        model: the settings of an `Actor`, such as its path.
        prompt, response: most tokens of each; key: the setting of the latter.
    """
    trust = bool(model.get("loading", {}).get("trust_remote_code", False))
    most = positions(AutoConfig.from_pretrained(model["path"], trust_remote_code=trust).get_text_config())
    if most is not None and prompt + response > most:
        shorter = f"{key} to {most - prompt} or less, or " if most > prompt else ""
        raise ValueError(
            f"prompts of up to {prompt} tokens and responses of up to {response} do not fit into the model's {most} positions: set "
            f"{shorter}data.source.max_prompt_tokens lower, or model.path (the critic: model.critic.path) to a model with more"
        )
