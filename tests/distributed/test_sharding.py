"""Networks cut over two gloo ranks: weights, gradients and files of whole ones, in the memory of a part and a layer."""

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import FAMILIES, spread, write_rollout
from tests.ranks import run_on_ranks
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from vapo.distributed.ranks import rank, sum_over_ranks, world_size
from vapo.distributed.sharding import Sharding, checksum, checksums, full
from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.export import export_actor, export_critic, merged_weights
from vapo.models.loading import SIZES, LoadOptions, LoRA
from vapo.rollout.collate import collate
from vapo.run.pretrain import build_model, build_tokenizer

LOADINGS = {
    "plain": LoadOptions(),
    "checkpointing": LoadOptions(activation_checkpointing=True),
    "lora": LoadOptions(lora=LoRA(rank=2)),
}


def save_models(folder: Path) -> list[str]:
    models = {"mini": build_model(build_tokenizer(), hidden=16, layers=2, heads=2)} | {name: f() for name, f in FAMILIES.items()}
    for name, model in models.items():
        spread(model).save_pretrained(folder / name, max_shard_size="20KB")  # several files
    return list(models)


def loss(network: Any, rollouts: Any, at: int, ranks: int) -> torch.Tensor:
    """A sum over this rank's response tokens of what the network returns."""
    total = torch.zeros(())
    for micro in micro_batches(collate(rollouts), 30, "cpu", at, ranks):
        out = network(micro)
        total = total + ((out[0] if isinstance(out, tuple) else out) ** 2).sum()
    return total


def compare(folder: Path, names: list[str]) -> None:
    """Whole and sharded networks side by side, on each rank."""
    rng = random.Random(0)
    rollouts = [write_rollout(rng, 3, 2 + 3 * i, i % 2, i // 2) for i in range(5)]
    sharding = Sharding("float32")
    mesh = sharding.mesh("cpu", world_size())
    for name in names:
        path = str(folder / name)
        for kind, loading in LOADINGS.items():
            for make in (Actor.from_pretrained, lambda *a, **k: Critic.from_pretrained(a[0], "normal", *a[1:], **k)):
                torch.manual_seed(0)
                whole = make(path, loading)
                torch.manual_seed(0)
                cut = make(path, loading, mesh=mesh, sharding=sharding)
                for (n, p), (m, q) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
                    assert n == m
                    if "lora_A" in n or (kind == "lora" and n == "head.weight"):  # drawn in another order, alike on all ranks
                        drawn = full(q).detach()
                        assert drawn.abs().max() > 0 and sum_over_ranks(drawn.clone()).equal(drawn * world_size())
                        p.data.copy_(drawn)
                    assert torch.equal(p, full(q)), (name, kind, n)
                    part = q.to_local()  # type: ignore[attr-defined]
                    assert part.numel() < p.numel() or p.shape[0] == 1
                loss(whole, rollouts, 0, 1).backward()
                (loss(cut, rollouts, rank(), world_size()) * world_size()).backward()
                for (n, p), q in zip(whole.named_parameters(), cut.parameters(), strict=True):
                    assert (p.grad is None) == (q.grad is None), n
                    if p.grad is not None:
                        gap = (full(q.grad) - p.grad).abs().max() / p.grad.abs().max().clamp(min=1)  # type: ignore[arg-type]
                        assert gap < 1e-6, (name, kind, n)
                inner = cut.language_model if isinstance(cut, Actor) else cut.backbone
                plain = whole.language_model if isinstance(whole, Actor) else whole.backbone
                sums = {n: checksum(x) for n, x in merged_weights(plain)}
                if kind != "lora":  # adding adapters rounds differently
                    assert checksums(merged_weights(inner, gather=False)) == sums
                assert {n: checksum(x) for n, x in merged_weights(inner)} == sums
                if kind == "lora" and name == "mini":
                    if isinstance(cut, Actor):
                        export_actor(cut, folder / "actor")
                    else:
                        export_critic(cut, folder / "critic")


@pytest.mark.distributed
def test_a_network_cut_over_two_ranks_is_the_whole_one(tmp_path: Path) -> None:
    run_on_ranks(2, tmp_path, compare, save_models(tmp_path))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "mini").state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "actor").state_dict()
    assert base.keys() == exported.keys() and all(torch.equal(base[n], exported[n]) for n in base)  # adapters start as nothing
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "critic").config.num_labels == 1


def turn_knobs(folder: Path) -> None:
    """On two ranks: each setting does what it says."""
    path, rng = str(SIZES.parent / "mini" / "base"), random.Random(0)
    (micro,) = micro_batches(collate([write_rollout(rng, 3, 6, True, 0)]), 100)

    def make(**settings: Any) -> Actor:
        sharding = Sharding(**settings)
        return Actor.from_pretrained(path, mesh=sharding.mesh("cpu", 2), sharding=sharding)

    exact, rounded = make(compute_dtype="float32"), make(compute_dtype="bfloat16")
    gap = (exact(micro)[0] - rounded(micro)[0]).abs().max()
    rounded.reshard()  # type: ignore[attr-defined]  # the root's stay as they computed until a backward pass
    assert 1e-4 < gap < 0.3 and all(p.dtype == torch.float32 for p in rounded.parameters())
    copies = make(compute_dtype="float32", shard_ranks=1)
    assert all(p.to_local().shape == p.shape for p in copies.parameters())  # type: ignore[attr-defined]
    assert torch.equal(copies(micro)[0], exact(micro)[0])
    assert checksums(merged_weights(copies.language_model, gather=False)) == checksums(
        merged_weights(exact.language_model, gather=False)
    )
    exact.set_requires_gradient_sync(False)  # type: ignore[attr-defined]
    exact(micro)[0].sum().backward()
    assert all(p.grad is None for p in exact.parameters())  # whole ones wait beside the parameters
    exact.set_requires_gradient_sync(True)  # type: ignore[attr-defined]
    exact(micro)[0].sum().backward()
    assert all(p.grad is not None for p in exact.parameters())


@pytest.mark.distributed
def test_each_setting_does_what_it_says(tmp_path: Path) -> None:
    run_on_ranks(2, tmp_path, turn_knobs)


def anonymous_bytes() -> int:
    """Memory of this process that is not of a file: safetensors are mapped."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def most_memory_while(work: Any) -> tuple[Any, int]:
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], anonymous_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    made = work()
    done.set()
    watcher.join()
    return made, most[0] - before


def build_large(folder: Path, dtype: str) -> None:
    sharding = Sharding("bfloat16")
    mesh = sharding.mesh("cpu", world_size())
    small = str(folder / "small")
    Actor.from_pretrained(small, LoadOptions(dtype=dtype), mesh=mesh, sharding=sharding)  # what is loaded once only
    actor, most = most_memory_while(
        lambda: Actor.from_pretrained(str(folder / "large"), LoadOptions(dtype=dtype), mesh=mesh, sharding=sharding)
    )
    layer = sum(p.numel() for p in actor.language_model.base_model.layers[0].parameters()) * 4
    torch.save((most, sum(p.to_local().nbytes for p in actor.parameters()), layer), folder / f"{rank()}.pt")


def save_random(folder: Path, **sizes: int) -> PreTrainedModel:
    config = Qwen2Config(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, **sizes)
    model = Qwen2ForCausalLM(config).bfloat16()
    model.save_pretrained(folder, max_shard_size="20MB")
    return model


@pytest.mark.distributed
def test_no_rank_ever_holds_more_than_its_part_and_a_layer(tmp_path: Path) -> None:
    """A 7B model's proportions, made small: 24 layers, files of bfloat16, weights in float32."""
    save_random(tmp_path / "small", vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    model = save_random(tmp_path / "large", vocab_size=4096, hidden_size=512, intermediate_size=2304, num_hidden_layers=24)
    whole = 4 * sum(p.numel() for p in model.parameters())
    del model
    assert whole > 400 * 2**20 and len(list((tmp_path / "large").glob("*.safetensors"))) > 8
    run_on_ranks(2, tmp_path, build_large, "float32")
    for most, part, layer in (torch.load(tmp_path / f"{number}.pt") for number in range(2)):
        assert 0.5 * whole <= part < 0.51 * whole
        assert part * 0.95 < most < part + layer, (most, part, layer)


def test_settings_that_do_not_fit_say_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"module.sharding.compute_dtype is 'float16'; set it to float32 or bfloat16"):
        Sharding("float16")
    with pytest.raises(ValueError, match=r"module.sharding.shard_ranks is 3 and does not divide the 8 ranks"):
        Sharding(shard_ranks=3).mesh("cpu", 8)
