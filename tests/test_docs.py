"""The pages of docs/: commands run or compose, equations are the code's, tables the configurations' and the CSVs'."""

import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import OmegaConf
from tests.arms import table
from tests.commands import run_python
from tests.runs import CONFIGS
from tests.test_extending import FILES

from vapo.analysis.doses import by_dose, effects
from vapo.analysis.report import effect_table
from vapo.analysis.sweep import load_sweep, summarize
from vapo.run.resolvers import register
from vapo.run.value_types import check_defaults

ROOT = Path(CONFIGS).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HYDRA = ("train", "eval", "plan", "pretrain", "serve")
ELSEWHERE = ("export", "curl")  # not ours
RUN = ("report.py", "view.py", "grade.py", "curves.py")  # seconds each, so they are run


def commands(text: str) -> Iterator[str]:
    """Lines of bash blocks without comments, continued ones joined, and code in the text that starts as a command does."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for language, block in fence.findall(text):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else ():
            variables |= dict(re.findall(r'([A-Z]+)="([^"]*)"', line))  # of several assignments the last
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            yield re.sub(r"(^| +)#.*", "", line)
    for code in re.findall(r"`([^`\n]+)`", fence.sub("", text)):
        if re.match(r"(\S*python )?(src/)?\w+\.py [\w'+-]|python -m |bash |make [a-z-]+$", code) and "…" not in code:
            yield code


COMMANDS = sorted({" ".join(command.split()) for page in PAGES for command in commands(page.read_text())} - {""})


def compose_like(script: str, words: list[str], overlay: Path) -> None:
    """Composes the configuration of each value of a sweep, or once."""
    name = words[words.index("--config-name") + 1] if "--config-name" in words else script
    words = [word for word in words if word not in ("-m", "--config-name", name)]
    choices = []
    for override in OverridesParser.create().parse_overrides(words):
        value = override.value()
        if isinstance(value, Glob):
            names = value.filter([path.stem for path in sorted(Path(CONFIGS, override.key_or_group).glob("*.yaml"))])
            choices.append([f"{override.get_key_element()}={name}" for name in names])
        elif override.is_sweep_override():
            choices.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line])
    register()
    for chosen in zip_longest(*choices) if choices else [()]:
        overrides = [value or choices[i][0] for i, value in enumerate(chosen)]
        with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
            config = compose(name, [*overrides, f"hydra.searchpath=[file://{overlay}]"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        check_defaults(config)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations that docs/extending.md adds."""
    folder = tmp_path_factory.mktemp("overlay")
    for name in [name for name in FILES if name.startswith("configs/")]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name])
    return folder / "configs"


@pytest.fixture
def examples(tiny_sweep: Path, tmp_path: Path) -> dict[str, Path]:
    """What placeholders of a command stand for."""
    run, answers = tiny_sweep / "experiment=vapo_full,seed=0", tmp_path / "answers.jsonl"
    answers.write_text('{"response": "Answer: 3", "gold": "3"}\n')
    return {"logs/train/runs/<time>": run, "logs/train/multiruns/<time>": tiny_sweep, "<run>": run, "FILE": answers}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, overlay: Path, examples: dict[str, Path], tmp_path: Path) -> None:
    words = shlex.split(re.sub(r"<(.*?)>", r"\1", command))
    script = next((Path(word) for word in words if re.search(r"\w\.py$", word)), None)
    if module := re.match(r"python -m (\S+)", command):
        check_flags(ROOT / (module[1].replace(".", "/") + ".py"), words)
    elif script is None:
        check_other(words)
    elif script.stem in HYDRA:
        compose_like(script.stem, words[words.index(str(script)) + 1 :], overlay)
    elif script.name in RUN and "--serve" not in words:
        for placeholder, path in examples.items():
            command = command.replace(placeholder, str(path))
        given = shlex.split(command.split(script.name)[1])
        given += ["--out", str(tmp_path / "out.png")] * (script.name != "grade.py")  # the last one counts
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        done = run_python(f"src/{script.name}", *given, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
    else:
        check_flags(ROOT / (script if len(script.parts) > 1 else "src" / script), words)


def check_flags(path: Path, words: list[str]) -> None:
    text = path.read_text()
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []


def check_other(words: list[str]) -> None:
    """make targets, the study's pieces, and what belongs to the system; anything else needs a line here."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words[1]
    elif words[:2] == ["bash", "benchmarks/study.sh"]:
        assert re.search(rf"^  {words[2]}\)", (ROOT / words[1]).read_text(), re.MULTILINE), words[2]
    else:
        assert words[0] in ELSEWHERE or "=" in words[0] or words[0] == "[", f"how is this tested? {words}"


def test_python_on_a_page_is_run() -> None:
    """tests/test_extending.py runs what has a file's name in its first line; nothing else is there."""
    blocks = [block for page in PAGES for block in re.findall(r"^```python\n# (\S+)?", page.read_text(), re.MULTILINE)]
    assert sum(page.read_text().count("```python") for page in PAGES) == len(blocks)
    assert set(blocks) <= set(FILES)


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every key of every composition, with the groups that it is in."""
    register()
    compositions = [["train", f"scale={scale}"] for scale in ("mini", "small_gpu", "paper")]
    compositions += [["train", f"rollout={engine}"] for engine in ("vllm", "vllm_server")]
    compositions += [["train", "data=reasoning_gym"], ["train", "model=made", "experiment=grpo"]]
    compositions += [["eval"], ["plan"], ["pretrain"], ["serve"]]
    found = set()
    for name, *overrides in compositions:
        with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
            found |= set(keys(OmegaConf.to_container(compose(name, overrides))))
    return found


def keys(node: object, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from keys(value, f"{prefix}{key}.")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "log.md"], ids=lambda page: page.stem)
def test_settings_on_a_page_exist(page: Path, settings: set[str]) -> None:
    """Code in the text such as `callbacks.rollout_log.max_rollouts=8`: its group and its key."""
    groups = {key.split(".")[0] for key in settings if "." in key}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = {key for key in re.findall(r"`\+?([a-z_]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", text) if key.split(".")[0] in groups}
    assert {key for key in named - settings if not key.endswith((".py", ".yaml", ".csv", ".json"))} == set()


VAPO = (ROOT / "docs/vapo.md").read_text()
EQUATIONS = re.findall(r"^\| ([^|]+) \| .+ \| `([^`]+)` \| \[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\) \|$", VAPO, re.MULTILINE)


@pytest.mark.parametrize(("equation", "line", "name", "path"), EQUATIONS, ids=lambda value: value[:30])
def test_equation_is_a_line_of_its_function(equation: str, line: str, name: str, path: str) -> None:
    found = importlib.import_module(path.replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    assert line in [row.strip() for row in inspect.getsource(found).splitlines()]


def test_every_equation_that_the_code_cites_is_in_the_table() -> None:
    cited = set()
    for path in (ROOT / "src/vapo/algorithms").glob("*.py"):
        for numbers in re.findall(r"VAPO Eq ([\d, and]+)", path.read_text()):
            cited |= set(re.findall(r"\d+", numbers))
    assert cited - {number for equation, *_ in EQUATIONS for number in re.findall(r"\d+", equation)} == set()
    assert len(EQUATIONS) == VAPO.split("## Each equation")[1].split("## What")[0].count("\n|") - 2


def test_arms_are_what_the_configurations_say() -> None:
    assert table() in (ROOT / "docs/arms.md").read_text(), "PYTHONPATH=src:. python -m tests.arms prints the table"


def test_scores_of_the_verified_page_are_those_of_its_files() -> None:
    checked, page = 0, (ROOT / "docs/verified.md").read_text()
    for row in page.splitlines():
        if file := re.search(r"\((results/\w+/curves\.csv)\)", row):
            arms = summarize(load_sweep(ROOT / "docs" / file[1])).set_index("arm")
            for arm, last, half in re.findall(r"`([\w=]+)` (\d\.\d\d) ± (\d\.\d\d)", row):
                assert (f"{arms.loc[arm, 'last']:.2f}", f"{arms.loc[arm, 'last_half']:.2f}") == (last, half), f"{arm} in {file[1]}"
                checked += 1
            if lowest := re.search(r"lowest of (\d+) runs (\d\.\d\d)", row):
                assert (str(arms["seeds"].sum()), f"{arms['lowest'].min():.2f}") == lowest.groups()
    assert checked == page.count(" ± 0")  # every score has its file


STUDIES = [*sorted((ROOT / "docs/results").glob("when_*")), ROOT / "docs/results/table"]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_table_of_a_study_is_the_one_of_its_runs(study: Path) -> None:
    page = (ROOT / "docs/results.md").read_text()
    key = re.findall(rf"study.sh {study.name}`.*?`([a-z_.]+)`", page, re.DOTALL)[0] if study.name != "table" else None
    assert effect_table(effects(by_dose(load_sweep(study / "curves.csv"), key)), key) in page


def test_the_site_is_not_built_with_a_broken_link(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for path in ROOT.iterdir():
        if path.name not in ("docs", "site", ".git"):
            (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs" / "arms.md").open("a") as page:
        page.write("[broken](nowhere.md), [too](#nowhere)\n")
    (command,) = re.findall(r"^docs: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = command.replace("$(BIN)", str(Path(sys.executable).parent))
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    warned = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert done.returncode != 0 and len(warned) == 2 and "'nowhere.md'" in done.stderr and "'#nowhere'" in done.stderr, done.stderr
