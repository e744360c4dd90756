"""From a model folder and problem sets to a trained, exported and scored policy: what a user of real models does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from tests.problem_sets import FOLDER, needs_problem_sets
from tests.runs import CONFIGS, config_for
from tests.tokenizers import QWEN, make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vapo.run.evaluation import evaluate, of_run
from vapo.run.resolvers import register
from vapo.run.training import train

SMALL = [  # scale=small_gpu, made so small that it runs in seconds
    *("trainer=cpu", "threads=1", "scale_overrides.value_pretraining_steps=1", "module.policy_steps=2"),
    *("data.rollouts_per_step=32", "module.minibatch_rollouts=16", "rollout.sampling.max_new_tokens=16"),
    *(
        "callbacks.aime_evaluation.every_n_steps=1",
        "callbacks.value_pretraining.heldout_rollouts=4",
        "callbacks.aime_evaluation.k=2",
    ),
    "callbacks.rollout_log.every_n_steps=1",
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Qwen2 with a character tokenizer that has a chat format and no BOS, and whose pad is its EOS."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer(**QWEN)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=0, bos_token_id=None, **sizes))
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def problem_files(folder: Path) -> list[str]:
    train_rows = [{"question": f"What is {i} + {i}?", "answer": f"{i} + {i}\n#### {2 * i}"} for i in range(60)]
    exam_rows = [{"id": i, "problem": f"And {i}?", "answer": f"{i:03d}"} for i in range(7)]
    for name, rows in (("train", train_rows), ("exam", exam_rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.path={folder}/train.jsonl", "problems@data.source.benchmark=aime24", f"data.benchmark_path={folder}/exam.jsonl"]


def eval_config(out: Path, *overrides: str) -> DictConfig:
    """The composed `eval.yaml` with its folder set."""
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        config = compose("eval", [*overrides, f"paths.output_dir={out}", "threads=1"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.fixture(scope="module")
def run_folder(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    task = ["scale=small_gpu", "data=gsm8k", f"model.path={model_folder}", *problem_files(tmp_path_factory.mktemp("problems"))]
    train(config_for(folder, "experiment=vapo_full", *task, *SMALL))
    return folder


def test_three_steps_on_problem_files_with_evaluation(run_folder: Path) -> None:
    frame = pd.read_csv(run_folder / "metrics.csv")
    steps = frame[frame["rl_step"] > 0]
    assert steps["clock/policy_step"].tolist() == [0, 1, 2]
    assert frame["aime24_t1_p0.7/avg@2"].notna().tolist() == [True, False, True, True]
    assert steps["verifier/timeout_fraction"].tolist() == steps["verifier/error_fraction"].tolist() == [0, 0, 0]
    rollouts = pd.concat(map(pd.read_parquet, (run_folder / "rollouts").iterdir()))
    assert rollouts["prompt"].str.match(r"Question: What is (\d+) \+ \1\?\nThink step by step").all()


def test_the_exported_folders_load_and_their_card_tells_where_they_come_from(run_folder: Path, model_folder: str) -> None:
    actor = AutoModelForCausalLM.from_pretrained(run_folder / "export" / "actor")
    critic = AutoModelForTokenClassification.from_pretrained(run_folder / "export" / "critic")
    state = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, weight in actor.state_dict().items():
        assert torch.equal(weight, state[f"actor.language_model.{name}"])
    assert torch.equal(critic.score.weight, state["critic.head.weight"])
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    assert any(not torch.equal(weight, base.state_dict()[name]) for name, weight in actor.state_dict().items())
    assert actor.generation_config.eos_token_id == [0, 2]  # the generation config's, and <|im_end|> of the chat format
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "export" / "actor")
    assert tokenizer("ab").input_ids == make_tokenizer(**QWEN)("ab").input_ids and tokenizer.chat_template
    card = (run_folder / "export" / "actor" / "README.md").read_text()
    assert "aime24_t1_p0.7/avg@2" in card and model_folder in card and "length_adaptive_alpha: 0.4" in card and "Commit" in card


def test_a_run_and_its_export_score_the_same_on_the_same_samples(run_folder: Path, tmp_path: Path) -> None:
    of_run = evaluate(eval_config(tmp_path / "a", f"run={run_folder}", "k=3", "problems_per_file=3"))
    exam = OmegaConf.load(run_folder / "resolved.yaml").data.benchmark_path
    task = ["data=gsm8k", "problems@data.source.benchmark=aime24", f"data.benchmark_path={exam}", "sampling.max_new_tokens=16"]
    exported = evaluate(eval_config(tmp_path / "b", f"model.path={run_folder}/export/actor", "k=3", "problems_per_file=7", *task))
    assert of_run == exported
    assert {f"aime24_t1_p0.7/{name}" for name in ("avg@3", "pass@1", "pass@2", "pass@3", "maj@3", "avg@3_low95")} < set(of_run)
    samples = [pd.concat(map(pd.read_parquet, sorted((tmp_path / name / "samples").iterdir()))) for name in "ab"]
    assert [len(list((tmp_path / name / "samples").iterdir())) for name in "ab"] == [3, 1]
    assert samples[0]["response"].tolist() == samples[1]["response"].tolist() and len(samples[0]) == 21
    assert samples[0]["problem"].tolist() == [i // 3 for i in range(21)]
    assert len(pd.read_csv(tmp_path / "a" / "problems.csv")) == 7
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == of_run


def test_an_evaluation_goes_on_where_it_was_stopped(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(eval_config(tmp_path / "whole", f"run={run_folder}", "k=2", "problems_per_file=2"))
    part = tmp_path / "part"
    evaluate(eval_config(part, f"run={run_folder}", "k=2", "problems_per_file=2"))
    files = sorted((part / "samples").iterdir())
    kept = {file: file.stat().st_mtime_ns for file in files[:2]}
    for file in files[2:]:
        file.unlink()
    (part / "samples" / "problems_00004.parquet.partial").write_text("half a file")
    assert evaluate(eval_config(part, f"run={run_folder}", "k=2", "problems_per_file=2")) == whole
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    with pytest.raises(ValueError, match="another k, sampling: set out to a new folder"):
        evaluate(eval_config(part, f"run={run_folder}", "k=3", "sampling.top_p=0.9", "problems_per_file=2"))


def test_an_evaluation_of_other_problems_does_not_take_the_first_ones_samples(run_folder: Path, tmp_path: Path) -> None:
    evaluate(eval_config(tmp_path, f"run={run_folder}", "k=1"))
    exam = Path(OmegaConf.load(run_folder / "resolved.yaml").data.benchmark_path)
    whole = exam.read_text()
    exam.write_text(whole.replace("And 3?", "And four?"))
    try:
        with pytest.raises(ValueError, match="another problems: set out"):
            evaluate(eval_config(tmp_path, f"run={run_folder}", "k=1"))
    finally:
        exam.write_text(whole)
    with pytest.raises(ValueError, match="takes the run's own model"):
        evaluate(eval_config(tmp_path, f"run={run_folder}", "model.attention=eager"))


def test_an_evaluation_of_a_run_takes_its_limit_unless_another_is_set(run_folder: Path, tmp_path: Path) -> None:
    resolved = run_folder / "resolved.yaml"
    whole = resolved.read_text()
    resolved.write_text(whole.replace("benchmark_limit: 256", "benchmark_limit: 2"))
    try:
        evaluate(eval_config(tmp_path / "run", f"run={run_folder}", "k=1"))
        evaluate(eval_config(tmp_path / "all", f"run={run_folder}", "k=1", "data.benchmark_limit=null"))
        with pytest.raises(ValueError, match="another problems: set out"):
            evaluate(eval_config(tmp_path / "run", f"run={run_folder}", "k=1", "data.benchmark_limit=3"))
    finally:
        resolved.write_text(whole)
    assert [len(pd.read_csv(tmp_path / name / "problems.csv")) for name in ("run", "all")] == [2, 7]


def test_a_setting_of_the_task_changes_the_runs_own_task(run_folder: Path, tmp_path: Path) -> None:
    """Not that of configs/eval.yaml, which is another one."""
    found = of_run(eval_config(tmp_path, f"run={run_folder}", "+data.verifier.timeout=20", "data.benchmark_limit=3"))
    run = OmegaConf.load(run_folder / "resolved.yaml")
    expected = OmegaConf.merge(run.data, {"verifier": {"timeout": 20}, "benchmark_limit": 3})
    assert OmegaConf.to_container(found.data, resolve=True) == OmegaConf.to_container(expected)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", "float32"), ("bf16-mixed", "bfloat16")])
def test_an_evaluation_of_a_run_computes_in_its_precision(precision: str, dtype: str, run_folder: Path, tmp_path: Path) -> None:
    resolved = run_folder / "resolved.yaml"
    whole = resolved.read_text()
    resolved.write_text(whole.replace("precision: 32-true", f"precision: {precision}"))
    try:
        assert of_run(eval_config(tmp_path, f"run={run_folder}")).rollout.engine.dtype == dtype
        assert of_run(eval_config(tmp_path, f"run={run_folder}", "rollout.engine.dtype=float32")).rollout.engine.dtype == "float32"
    finally:
        resolved.write_text(whole)


def test_responses_that_do_not_fit_the_model_are_refused_at_the_start(model_folder: str, run_folder: Path, tmp_path: Path) -> None:
    long = ["rollout.sampling.max_new_tokens=32768", "callbacks.aime_evaluation.sampling.max_new_tokens=16"]
    task = ["scale=small_gpu", "data=gsm8k", f"model.path={model_folder}", *problem_files(tmp_path), *SMALL, *long]
    with pytest.raises(ValueError, match=r"32768 positions: set rollout.sampling.max_new_tokens to 326\d\d or less, or data"):
        train(config_for(tmp_path / "run", "experiment=vapo_full", *task))
    with pytest.raises(ValueError, match=r"32768 positions: set sampling.max_new_tokens to"):
        evaluate(eval_config(tmp_path / "eval", f"run={run_folder}", "k=1", "sampling.max_new_tokens=32768"))


def test_the_same_file_twice_leaves_no_problem_to_train_on(model_folder: str, tmp_path: Path) -> None:
    files = [f"data.path={tmp_path}/exam.jsonl", f"data.benchmark_path={tmp_path}/exam.jsonl"]
    problem_files(tmp_path)
    with pytest.raises(
        ValueError, match=r"0 problems .* not of the benchmark; set .*data.path and data.benchmark_path to different"
    ):
        train(config_for(tmp_path / "run", "scale=small_gpu", "data=file", f"model.path={model_folder}", *files, *SMALL))


def test_a_file_that_is_not_utf8_is_named(model_folder: str, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("problem,answer\nCafé 1+1,2\n".encode("latin-1"))
    problem_files(tmp_path)
    files = [f"data.path={tmp_path}/latin.csv", f"data.benchmark_path={tmp_path}/exam.jsonl"]
    with pytest.raises(ValueError, match=r"latin.csv is not UTF-8 .*: save it as UTF-8"):
        train(config_for(tmp_path / "run", "scale=small_gpu", "data=file", f"model.path={model_folder}", *files, *SMALL))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"set sampling.max_new_tokens"),
        (["run=/nowhere"], r"no resolved.yaml in /nowhere: set run to"),
        (["k=0"], "set both to 1 or more"),
    ],
)
def test_what_is_wrong_with_an_evaluation_is_said(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(eval_config(tmp_path, *overrides))


@needs_problem_sets
@pytest.mark.slow
def test_the_command_on_the_real_problem_sets(model_folder: str, tmp_path: Path) -> None:
    """`python src/train.py … data=gsm8k data.path=…`, then `python src/eval.py`, as commands."""
    root = Path(CONFIGS).parent
    task: list[Any] = ["data=gsm8k", "problems@data.source.benchmark=aime24", f"data.benchmark_path={FOLDER}/aime24.jsonl"]
    task += ["data.source.max_prompt_tokens=2000"]
    command = [sys.executable, "src/train.py", "experiment=vapo_full", "scale=small_gpu", f"model.path={model_folder}", *task]
    subprocess.run(
        [*command, f"data.path={FOLDER}/gsm8k_train.jsonl", *SMALL, f"hydra.run.dir={tmp_path}/run"], cwd=root, check=True
    )
    command = [sys.executable, "src/eval.py", f"model.path={tmp_path}/run/export/actor", *task, "sampling.max_new_tokens=16", "k=2"]
    subprocess.run([*command, f"out={tmp_path}/eval", f"hydra.run.dir={tmp_path}/eval"], cwd=root, check=True)
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["aime24_t1_p0.7/avg@2"] == 0.0
    assert len(pd.read_csv(tmp_path / "eval" / "problems.csv")) == 30
