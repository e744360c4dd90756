"""The flattened configuration of the paper's run, kept in git so that a change of any default shows in the diff.

python -m vapo.run.flatten            writes docs/vapo_full_paper.yaml
python -m vapo.run.flatten --check    fails if it is not current (pre-commit)
"""

import sys

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vapo.run.resolvers import PACKAGE, register

ROOT = PACKAGE.parents[1]
FLAT = ROOT / "docs" / "vapo_full_paper.yaml"
PATHS = ["paths.root=.", "paths.assets=src/vapo/assets", "paths.output_dir=logs/train/runs/time"]  # independent of this machine


def flattened() -> str:
    """`experiment=vapo_full scale=paper` with every value resolved, as YAML."""
    register()
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["experiment=vapo_full", "scale=paper", *PATHS])
    head = "# experiment=vapo_full scale=paper, every value resolved. Made by `python -m vapo.run.flatten`; do not edit.\n"
    return head + OmegaConf.to_yaml(config, resolve=True)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        FLAT.write_text(flattened())
    elif not FLAT.exists() or FLAT.read_text() != flattened():
        sys.exit(f"{FLAT} is not current: run python -m vapo.run.flatten")
