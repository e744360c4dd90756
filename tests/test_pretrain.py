"""The mini models: made by one command, shipped, and in the state that the mini scale needs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tests.runs import CONFIGS, FAST, config_for, run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from vapo.algorithms import avg_at_k
from vapo.data.prompts import SumsPrompts
from vapo.models.actor import Actor
from vapo.rollout.sampler import Sampler
from vapo.rollout.torch_engine import TorchEngine
from vapo.run.pretrain import consistent_share, make_model, pretrain
from vapo.run.resolvers import PACKAGE, register, task_settings
from vapo.types import SamplingParams
from vapo.verifiers.sums import SumsVerifier


def test_pretrain_makes_models_that_load_and_a_record(tmp_path: Path) -> None:
    register()
    small = ["base.steps=2", "base.batch_tokens=300", "reward_model.rollouts=8", "reward_model.epochs=1", "model.hidden=16"]
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        pretrain(compose("pretrain", [*small, f"out={tmp_path}", f"paths.output_dir={tmp_path}"]))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base").config.hidden_size == 16
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").config.num_labels == 1
    settings = json.loads((tmp_path / "record.json").read_text())["settings"]
    assert settings["base"]["steps"] == 2 and settings["task"]["max_operands"] == 28


def test_tokenizer_round_trip_is_one_token_a_character() -> None:
    tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "assets" / "mini" / "base")
    text = "7-3+5+9:7-3=4;4+5=?9;A8!"
    assert len(tokenizer.encode(text)) == len(text) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("A8!"), skip_special_tokens=True) == "A8"


def test_shipped_base_is_small_and_right_about_one_time_in_six(tmp_path: Path) -> None:
    assets = PACKAGE / "assets" / "mini"
    assert sum(path.stat().st_size for path in assets.rglob("*.safetensors")) < 4_000_000
    source_config = config_for(tmp_path).data.source
    tokenizer = AutoTokenizer.from_pretrained(assets / "base")
    source = SumsPrompts(tokenizer, source_config.template, source_config.min_operands, source_config.max_operands)
    engine = TorchEngine([tokenizer.eos_token_id])
    engine.load_weights(Actor.from_pretrained(str(assets / "base")), 0)
    sampling = SamplingParams(temperature=1.0, top_p=0.7, max_new_tokens=256)
    rollouts = Sampler(engine, tokenizer, SumsVerifier()).sample(source.benchmark(), 8, sampling, seed=0, rl_step=-1)
    score = avg_at_k([[r.correct for r in rollouts[i : i + 8]] for i in range(0, len(rollouts), 8)])
    assert 0.10 <= score <= 0.25


def test_a_base_model_that_has_not_learned_its_task_is_noticed(tmp_path: Path, capsys, caplog) -> None:
    base, source = PACKAGE / "assets" / "mini" / "base", config_for(tmp_path).data.source
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert consistent_share(base, tokenizer, task_settings(source), gives_up=False, seed=0) > 0.95
    source.max_operands, source.min_operands = 60, 60  # longer than anything it learned from
    assert consistent_share(base, tokenizer, task_settings(source), gives_up=False, seed=0) < 0.2
    tiny = [f"paths.root={tmp_path}", "model=made", "data=sums_reveal", "model.recipe.base.steps=1", "model.recipe.model.hidden=16"]
    make_model(config_for(tmp_path, *tiny, "model.recipe.base.batch_tokens=300"))
    assert "base: 0.000 of its solutions" in capsys.readouterr().out and "raise model.recipe.base.steps, 1 now" in caplog.text


def test_a_base_model_starts_from_another_of_the_same_alphabet(tmp_path: Path) -> None:
    start = PACKAGE / "assets" / "mini" / "base"
    tiny = [f"paths.root={tmp_path}", "model=made", f"model.recipe.base.start={start}", "model.recipe.base.steps=1"]
    tiny += ["model.recipe.base.batch_tokens=300", "model.recipe.base.learning_rate=0"]
    config = config_for(tmp_path, *tiny)
    make_model(config)
    made, shipped = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (config.model.path, start))
    assert made.keys() == shipped.keys() and all(made[name].equal(shipped[name]) for name in made)
    with pytest.raises(ValueError, match=r"an alphabet of 19, this recipe .* and 22: .* set base.start=null"):
        make_model(config_for(tmp_path, *tiny, "data=sums_reveal"))
    with pytest.raises(ValueError, match=r"'hidden': 64, .* this recipe {'hidden': 16,"):
        make_model(config_for(tmp_path, *tiny, "model.recipe.model.hidden=16"))
    other = tmp_path / "other"
    with pytest.raises(ValueError, match=r"base.start: no model in .*other; set it .*to a folder with one"):
        make_model(config_for(tmp_path, *tiny, f"model.recipe.base.start={other}"))
    shutil.copytree(start, other)
    tiny[2] = f"model.recipe.base.start={other}"
    before = config_for(tmp_path, *tiny).model.folder
    (other / "model.safetensors").write_bytes(b"remade")
    assert config_for(tmp_path, *tiny).model.folder != before


def test_a_made_model_is_made_once_for_its_settings(tmp_path: Path) -> None:
    tiny = [f"paths.root={tmp_path}", "model=made", "data=sums_reveal", "model.recipe.base.steps=2"]
    tiny += ["model.recipe.base.batch_tokens=300", "model.recipe.model.hidden=16"]
    config = config_for(tmp_path, *tiny)
    folder = Path(config.model.folder)
    make_model(config)
    made = (folder / "record.json").stat().st_mtime_ns
    make_model(config)
    assert (folder / "record.json").stat().st_mtime_ns == made and not (folder / "reward").exists()
    settings = json.loads((folder / "record.json").read_text())["settings"]
    assert settings["task"]["reveal"] == 8 and settings["task"]["max_operands"] == 26 + 4
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    assert tokenizer.decode(tokenizer.encode("4|3=1:")) == "4|3=1:"
    turned = ("data.source.reveal=4", "model.recipe.solver.slip_rate=0.1", "model.recipe.base.margin=0")
    folders = {str(folder), *(config_for(tmp_path, *tiny, change).model.folder for change in turned)}
    assert len(folders) == 1 + len(turned)
    assert config_for(tmp_path, *tiny, "data.source.problems=7").model.folder == str(folder)  # the base model does not see it


@pytest.mark.parametrize("changed", [None, "data", "verifiers"])
def test_a_changed_solver_makes_another_model(changed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [f"paths.root={tmp_path}", "model=made"]
    folder = config_for(tmp_path, *settings).model.folder
    for name in ("data", "verifiers"):
        (tmp_path / name).mkdir()
        text = (PACKAGE / name / "sums.py").read_text()
        (tmp_path / name / "sums.py").write_text(f"{text}\n" if name == changed else text)
    monkeypatch.setattr("vapo.run.resolvers.PACKAGE", tmp_path)
    assert (config_for(tmp_path, *settings).model.folder == folder) == (changed is None)


def test_a_run_keeps_the_folder_of_its_made_model(tmp_path: Path) -> None:
    """Resumed after the solver has changed, and with it the key of its settings, it still finds the model that it began with."""
    tiny = [f"paths.root={tmp_path}", "model=made", "model.recipe.base.steps=1", "model.recipe.model.hidden=16"]
    tiny += ["model.recipe.base.batch_tokens=300", *FAST]
    config = config_for(tmp_path / "run", "debug=fast", *tiny)
    make_model(config)
    run(tmp_path / "run", *tiny)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["folder"] == config.model.folder
