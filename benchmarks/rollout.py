"""Tokens per second of the plain engine, Hugging Face's generate and vLLM, side by side: the same prompts, lengths and weights.

.venv-vllm/bin/python benchmarks/rollout.py             mini (0.1 M parameters) and a random model of 10 M, on the CPU, one thread
.venv-vllm/bin/python benchmarks/rollout.py --device cuda
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from vapo.models.actor import Actor, load_tokenizer
from vapo.rollout.torch_engine import TorchEngine
from vapo.rollout.vllm.engine import VLLMEngine
from vapo.run.pretrain import build_model, build_tokenizer
from vapo.types import Request, SamplingParams

ASSETS = Path(__file__).resolve().parents[1] / "src" / "vapo" / "assets"
NEVER = [10_000]  # an EOS that these models cannot write: every response has the full length


def models(folder: Path) -> dict[str, str]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    build_model(tokenizer, hidden=384, layers=6, heads=6).save_pretrained(folder / "10M")
    tokenizer.save_pretrained(folder / "10M")
    return {"mini": str(ASSETS / "mini" / "base"), "10M": str(folder / "10M")}


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
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128, help="per response")
    parser.add_argument("--repeats", type=int, default=3, help="the best one counts; a first, uncounted one warms up")
    parser.add_argument("--models", nargs="*", choices=("mini", "10M"), default=["mini", "10M"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | " + " | ".join(("torch engine", "HF generate", "vLLM")) + " |  tokens/s")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in [(name, path) for name, path in models(Path(folder)).items() if name in arguments.models]:
            prompt = tuple(load_tokenizer(path).encode("7-9+8+3-2+5-8+6-4+1:"))
            requests = [Request(prompt, seed) for seed in range(arguments.responses)]
            model = AutoModelForCausalLM.from_pretrained(path).to(arguments.device).eval()
            speeds = []
            for run in generators(path, model, requests, SamplingParams(max_new_tokens=arguments.tokens)).values():
                run()
                best = 0.0
                for _ in range(arguments.repeats):
                    started = time.perf_counter()
                    best = max(best, run() / (time.perf_counter() - started))
                speeds.append(f"{best:,.0f}")
            size = sum(p.numel() for p in model.parameters()) / 1e6
            print(f"| {name}, {size:.1f} M | {' | '.join(speeds)} |", flush=True)


if __name__ == "__main__":
    main()
