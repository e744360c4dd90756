"""benchmarks/study.sh with a python that only notes what it is called with: each job's configuration is composed, none is run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.test_docs import ROOT, compose_like

STUDY = ROOT / "benchmarks" / "study.sh"
PIECES = re.findall(r"^  (\w+)\)", STUDY.read_text(), re.MULTILINE)


def calls(piece: str, folder: Path) -> list[list[str]]:
    """The words of each python call that a piece makes in an empty folder."""
    python, noted = folder / "python", folder / "noted"
    python.write_text(f"#!/bin/bash\n(IFS=$'\\t'; echo \"$*\") >> {noted}\n")
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "SEEDS": "600"}
    subprocess.run(["bash", str(STUDY), piece], cwd=folder, env=environment, check=True, capture_output=True)
    return [line.split("\t") for line in noted.read_text().splitlines()]


@pytest.mark.parametrize("piece", PIECES)
def test_every_job_of_a_piece_has_a_configuration(piece: str, tmp_path: Path) -> None:
    made = calls(piece, tmp_path)
    for script, *words in made:
        if script in ("src/train.py", "src/pretrain.py"):
            compose_like(Path(script).stem, [re.sub(r"^seed=.*,.*", "seed=0", word) for word in words], tmp_path)
    sweeps = [[word for word in words if "hydra" not in word] for script, *words in made if script == "src/train.py"]
    assert len({" ".join(words) for words in sweeps}) == len(sweeps), "two sweeps whose runs nothing tells apart"
    *_, report = made
    assert report[0] == "src/report.py" and report[1] in {word.removeprefix("hydra.sweep.dir=") for call in made for word in call}
