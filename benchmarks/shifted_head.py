"""mini's reward model with a constant added to every score: `python -m benchmarks.shifted_head FOLDER SHIFT`.

A critic that starts from it knows what a slip looks like and is wrong about the level (docs/results.md, value pretraining).
"""

import shutil
import sys
from pathlib import Path

from torch import nn
from transformers import AutoModelForTokenClassification

import vapo

REWARD_MODEL = Path(vapo.__file__).parent / "assets" / "mini" / "reward"


def main() -> None:
    folder, shift = Path(sys.argv[1]), float(sys.argv[2])
    model = AutoModelForTokenClassification.from_pretrained(REWARD_MODEL)  # its head may have a bias
    nn.init.constant_(model.score.bias, shift)
    shutil.copytree(REWARD_MODEL, folder, dirs_exist_ok=True)  # the tokenizer
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
