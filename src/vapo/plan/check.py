"""Checks plans: runs the same step with real tensors in real processes, and measures its memory."""

import multiprocessing
import os
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from transformers import Qwen2Config

from vapo.plan.step import StepMemory, fake_ranks, step_memory


@dataclass(frozen=True)
class Measured:
    """Memory of the rank that needed most."""

    tensors: StepMemory  # storages of real tensors, counted
    process: int  # growth of the process's resident memory up to its peak, in bytes


def small_model(folder: Path, hidden: int, layers: int, vocabulary: int, tied: bool) -> str:
    """Writes the config of a Qwen2 without weights, with heads of size 64 that share keys and values in pairs, into `folder`."""
    Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        tie_word_embeddings=tied,
        use_sliding_window=False,
    ).save_pretrained(folder)
    return str(folder)


def predict(settings: DictConfig, longest: int, ranks: int) -> StepMemory:
    """Memory that a plan predicts, counted on fake tensors."""
    with fake_ranks(ranks):
        return step_memory(settings, longest, fake=True)


def measure(settings: DictConfig, longest: int, ranks: int) -> Measured:
    """Memory that the step takes in `ranks` processes that communicate over gloo."""
    context = multiprocessing.get_context("spawn")
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # glibc then returns freed tensors, so that resident memory is meaningful
    with tempfile.TemporaryDirectory() as folder, context.Pool(ranks) as pool:
        found = pool.starmap(_rank, [(settings, longest, rank, ranks, f"{folder}/store") for rank in range(ranks)], chunksize=1)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return max(found, key=lambda one: max(one.tensors.peak.values()))


def _rank(settings: DictConfig, longest: int, rank: int, ranks: int, store: str) -> Measured:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.ones(64, 64, requires_grad=True).matmul(torch.ones(64, 64)).sum().backward()  # starts libraries and threads
    dist.all_reduce(torch.ones(1))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    tensors = step_memory(settings, longest, fake=False)
    dist.barrier()
    dist.destroy_process_group()
    return Measured(tensors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
