"""mini's reward model with a constant added to every score: `python -m benchmarks.shifted_head FOLDER SHIFT`.

A critic that starts from it knows what a slip looks like and is wrong about the level (docs/results.md, value pretraining).
"""

import sys
from pathlib import Path

from transformers import AutoModelForTokenClassification

import vapo

REWARD_MODEL = Path(vapo.__file__).parent / "assets" / "mini" / "reward"


def main() -> None:
    folder, shift = sys.argv[1], float(sys.argv[2])
    model = AutoModelForTokenClassification.from_pretrained(REWARD_MODEL)  # in this format the head has a bias; it starts at 0
    model.score.bias.data += shift
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
