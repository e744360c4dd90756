"""Tokens per second of the plain engine, Hugging Face's generate and vLLM (where it is installed), by turns: the same prompts,
lengths and weights.

python -m benchmarks.rollout                   mini and random models of 10 M and 135 M parameters, on the CPU, one thread
python -m benchmarks.rollout --device cuda
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from benchmarks.models import SIZES, folder_of
from benchmarks.tables import machine, markdown, versions
from transformers import AutoModelForCausalLM, PreTrainedModel

from vapo.data.sums import problem_at
from vapo.models.actor import Actor, load_tokenizer
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm.engine import VLLMEngine
from vapo.types import Request, SamplingParams

ENGINES = ("torch engine", "HF generate", "vLLM")
NEVER = [100_000]  # an EOS that these models cannot write: every response has the full length


def generators(
    path: str, model: PreTrainedModel, requests: list[Request], sampling: SamplingParams
) -> dict[str, Callable[[], int]]:
    """Functions that generate all responses once and count their tokens; without vLLM where it is not installed."""
    plain = TorchEngine(NEVER)
    plain.load_weights(Actor(model), 0)
    ids = torch.tensor([request.prompt_ids for request in requests], device=model.device)

    def generate() -> int:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=NEVER,
        )
        return int(out[:, ids.shape[1] :].numel())

    def of(engine: TorchEngine | VLLMEngine) -> Callable[[], int]:
        return lambda: sum(len(completion.token_ids) for completion in engine.generate(requests, sampling))

    found: dict[str, Callable[[], int]] = {"torch engine": of(plain), "HF generate": generate}
    if find_spec("vllm") is not None:
        vllm = VLLMEngine([0], path, max_tokens=512, kv_cache_mib=512)
        vllm.eos_token_ids = []  # vLLM refuses tokens outside of its vocabulary
        vllm.load_weights(Actor(model), 0)
        found["vLLM"] = of(vllm)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--responses", type=int, default=256, help="to 16 prompts of 20 tokens; an eighth of them for 135M")
    parser.add_argument("--tokens", type=int, default=128, help="per response")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts; a first, uncounted one warms up")
    parser.add_argument("--models", nargs="*", choices=SIZES, default=SIZES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.models:
            path = str(folder_of(size, Path(folder)))
            tokenizer = load_tokenizer(path)
            prompts = [tuple(tokenizer.encode(f"{problem_at(index, 0, 10, 10)}:")) for index in range(16)]
            responses = arguments.responses // (8 if size == "135M" else 1)
            requests = [Request(prompts[seed * 16 // responses], seed) for seed in range(responses)]
            model = AutoModelForCausalLM.from_pretrained(path).to(arguments.device).eval()
            runs = generators(path, model, requests, SamplingParams(max_new_tokens=arguments.tokens))
            speeds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(arguments.repeats + 1):
                for name, generate in runs.items():
                    started = time.perf_counter()
                    speeds[name].append(generate() / (time.perf_counter() - started))
            medians = {name: statistics.median(found[1:]) for name, found in speeds.items()}
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            rows.append([f"{size}, {parameters:.1f} M", *(f"{medians[name]:,.0f}" if name in medians else "–" for name in ENGINES)])
    print(markdown(("response tokens per second", *ENGINES), rows))
    print(f"\nmedians of {arguments.repeats}, {arguments.device}, one thread; {machine()}; {versions()}")


if __name__ == "__main__":
    main()
