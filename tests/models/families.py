"""Tiny random models of many families: how far actor and plain engine are from the model's own log-probabilities.

python -m tests.models.families    prints the table of docs/models.md
"""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.rollout.collate import collate
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import MicroBatch, Prompt, Request, Rollout, SamplingParams, Status, Verdict

ENGINE_GAP = 1e-4  # nats, float32
SIZES = {
    **{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "max_position_embeddings": 512},
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
# name -> what is set besides SIZES; windows of 16 tokens are shorter than the sequences
FAMILIES: dict[str, dict[str, object]] = {
    "qwen2": {},
    "qwen2 windowed": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "llama": {},
    "mistral": {"sliding_window": 16},
    "gemma2": {**GEMMA, "final_logit_softcapping": 5.0},
    "gemma3_text": GEMMA,
    "phi3": {},
    "olmo2": {},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.25},
    "cohere": {"logit_scale": 0.0625},
    "smollm3": {},
    "glm4": {"head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512},
    "gpt_neox": {},
}


def build(family: str, attention: str = "sdpa") -> tuple[Actor, MicroBatch]:
    """An actor, and ragged rollouts with responses of the plain engine."""
    torch.manual_seed(0)
    attention = "eager" if family == "gemma2" else attention  # it caps attention scores, which SDPA cannot: LoadOptions refuses it
    config = AutoConfig.for_model(family.split()[0], **SIZES, **FAMILIES[family], initializer_range=0.2)
    actor = Actor(AutoModelForCausalLM.from_config(config, attn_implementation=attention)).eval()
    ids = tuple(torch.randint(3, 300, (30,)).tolist())
    prompts = [ids, ids, ids, ids[:7]]
    engine = TorchEngine([1])
    engine.load_weights(actor, 0)
    completions = engine.generate([Request(p, seed) for seed, p in enumerate(prompts)], SamplingParams(max_new_tokens=40))
    pairs = zip(prompts, completions, strict=True)
    rollouts = [Rollout(Prompt(0, "", "", p), 0, completion, Verdict(Status.WRONG)) for p, completion in pairs]
    (micro,) = micro_batches(collate(rollouts), 10**6)
    return actor, micro


@torch.no_grad()
def gaps(family: str, attention: str = "sdpa") -> tuple[float, float]:
    """Largest difference in log-probability from the model's own logits, in nats: of actor and plain engine. The model's own
    are of each response alone, without padding, by eager attention."""
    actor, micro = build(family, attention)
    plain = copy.deepcopy(actor.language_model)
    plain.set_attn_implementation("eager")
    own = []
    for row in range(len(micro.index_B)):
        length = int(micro.part.prompt_length_B[row] + micro.part.response_length_B[row])
        token_L = micro.token_BL[row, :length]
        logprob_LV = plain(input_ids=token_L[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        logprob_L = logprob_LV.gather(-1, token_L[1:, None])[:, 0]
        own.append(logprob_L[int(micro.part.prompt_length_B[row]) - 1 :])
    own_R = torch.cat(own)
    actor_R = actor(micro)[0]
    return float((actor_R - own_R).abs().max()), float((micro.part.sampler_logprob_R - own_R).abs().max())


if __name__ == "__main__":
    print("| family | actor | plain engine |\n|---|---|---|")
    for name in FAMILIES:
        found = gaps(name)
        print(f"| {name} | {found[0]:.0e} | {found[1]:.0e} |", flush=True)
