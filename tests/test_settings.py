"""Slips of a user end in one line that names the key and what to set, as early as they can be seen."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tests.commands import run_python
from tests.runs import CONFIGS, config_for
from tests.test_configs import EXPERIMENTS, SCALES
from tests.test_real_task import eval_config

from vapo.run.record import save_record
from vapo.run.resolvers import register
from vapo.run.settings import announce, check_evaluation, check_training
from vapo.run.training import chosen_callbacks, quiet_libraries
from vapo.run.value_types import RANGES, check_defaults, check_types, plain_types

ROOT = Path(CONFIGS).parent


@pytest.mark.parametrize(
    ("hint", "types"),
    [
        (int, {int}),
        (float | None, {float, type(None)}),
        (Optional[str], {str, type(None)}),  # noqa: UP045 as libraries write it
        (Union[list[int], str, int], {list, str, int}),  # noqa: UP007
        (float | torch.Tensor, {float}),
        (Sequence[str], {list}),
        (tuple[float, float], {list}),
        (dict[str, Any], {dict}),
        (Path | str, {str}),
        (Literal["a", 1], {str, int}),
        (Callable[..., int], set()),
        (torch.Tensor, set()),
        (Any, None),
        (int | Any, None),
    ],
)
def test_types_of_values_that_an_annotation_takes(hint: Any, types: set[type] | None) -> None:
    assert plain_types(hint) == types


@pytest.mark.parametrize("choice", [f"scale={scale}" for scale in SCALES] + [f"experiment={name}" for name in EXPERIMENTS])
def test_no_shipped_configuration_is_refused(choice: str, tmp_path: Path) -> None:
    config = config_for(tmp_path, choice)
    check_defaults(config)
    check_types(config)


@pytest.mark.parametrize(
    ("slip", "message"), [("cluster.gpus=two", "^cluster.gpus is two; set it to a number$"), ("cluster.gpus=2.5", None)]
)
def test_settings_of_a_group_are_compared_with_its_file(slip: str, message: str | None, tmp_path: Path) -> None:
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        config = compose("plan", [slip, f"paths.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_defaults(config)


@pytest.mark.parametrize(
    "choice", ["rollout=vllm", "rollout=vllm_server", "logger=tensorboard", "logger=wandb", "data=reasoning_gym"]
)
def test_no_shipped_choice_is_refused(choice: str, tmp_path: Path) -> None:
    check_types(config_for(tmp_path, choice))


SLIPS = {  # value of a key: what the line says
    "algorithm.group_size=four": "algorithm.group_size is four; set it to a whole number",
    "algorithm.clip_low=wide": "algorithm.clip_low is wide; set it to a number",
    "algorithm.dual_clip=x": "algorithm.dual_clip is x; set it to a number or null",
    "algorithm.dynamic_sampling=1": "algorithm.dynamic_sampling is 1; set it to true or false",
    "data.rollouts_per_step=nan": "data.rollouts_per_step is nan; set it to a whole number",
    "data.rollouts_per_step=16.0": "data.rollouts_per_step is 16.0; set it to a whole number",
    "module.max_grad_norm=nan": "module.max_grad_norm is nan; set it to a number or null",
    "rollout.sampling.temperature=nan": "rollout.sampling.temperature is nan; set it to a number",
    "data.benchmark_limit=few": "data.benchmark_limit is few; set it to a whole number or null",
    "module.policy_steps=null": "module.policy_steps is null; set it to a whole number",
    "module.actor_optimizer.lr=1e-4x": "module.actor_optimizer.lr is 1e-4x; set it to a number",
    "module.max_grad_norm=true": "module.max_grad_norm is true; set it to a number or null",
    "model.lora.rank=four": "model.lora.rank is four; set it to a whole number or null",  # the key that is copied into module.actor
    "rollout.engine.max_batch=1.5": "rollout.engine.max_batch is 1.5; set it to a whole number",
    "rollout.sampling.stop=a": "rollout.sampling.stop is a; set it to a list",
    "callbacks.rl_checkpoint.keep=null": "callbacks.rl_checkpoint.keep is null; set it to a whole number",
    "trainer.max_steps=soon": "trainer.max_steps is soon; set it to a whole number",
    "model.eos_token_ids=5": "model.eos_token_ids is 5; set it to a list or null",
    "+rollout.engine.tensor_parallel=2": "rollout.engine.tensor_parallel has no meaning for TorchEngine: take it out with "
    "~rollout.engine.tensor_parallel, or choose another rollout=",  # as scale=paper rollout=torch would have it
    "seed=null": "seed is null; set it to a whole number",
    "threads=all": "threads is all; set it to a whole number",
    "tags=a": "tags is a; set it to a list",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_value_of_another_type_names_the_key_and_the_type(slip: str, tmp_path: Path) -> None:
    config = config_for(tmp_path, slip)
    with pytest.raises(ValueError) as raised:
        check_defaults(config)
        check_types(config)
    assert str(raised.value) == SLIPS[slip]


@pytest.mark.parametrize(
    "choice",
    [
        "module.max_grad_norm=null",
        "trainer.devices=auto",
        "model.lora.target_modules=[q_proj]",
        "algorithm.clip_high=1",
        "tags=[a]",
    ],
)
def test_other_types_that_an_argument_takes_pass(choice: str, tmp_path: Path) -> None:
    config = config_for(tmp_path, choice)
    check_defaults(config)
    check_types(config)


@pytest.mark.parametrize("slip", ["data.rollouts_per_step=nan", "module.minibatch_rollouts=inf", "module.policy_steps=[1]"])
def test_a_size_of_another_type_is_left_to_the_check_of_types(slip: str, tmp_path: Path) -> None:
    check_training(config_for(tmp_path, slip))
    with pytest.raises(ValueError, match="set it to a whole number"):
        check_types(config_for(tmp_path, slip))


EARLY = {
    "threads=0": "threads is 0; set it to 1 or more",
    "seed=-1": "seed is -1; set it to 0 to 4294967295",
    "module.actor_optimizer.lr=-1": "module.actor_optimizer.lr is -1; set it to 0 or more",
    "module.critic_optimizer.lr=nan": "module.critic_optimizer.lr is nan; set it to 0 or more",
    "module.critic_optimizer.weight_decay=-1": "module.critic_optimizer.weight_decay is -1",
    "module.actor_schedule.warmup_steps=-1": "module.actor_schedule.warmup_steps is -1; set it to 0 or more",
    "trainer.max_steps=-2": "trainer.max_steps is -2; set it to -1 or more",
    "model.logits_chunk_tokens=0": "model.logits_chunk_tokens is 0; set it to 1 or more",
    "callbacks.value_pretraining.steps=-1": "callbacks.value_pretraining.steps is -1; set it to 0 or more",
    "model.dtype=bfloat16": "model.dtype is bfloat16, which rounds AdamW's small steps away: set it to float32",
    "rollout.sampling.temperature=0": "greedy rollouts do not explore",
    "rollout.sampling.temperature=-1": "temperature is -1",
    "rollout.sampling.top_p=1.5": "set it in (0, 1]",
    "rollout.sampling.max_new_tokens=0": "set it to 1 or more",
    "callbacks.aime_evaluation.sampling.top_p=0": "set it in (0, 1]",
    "algorithm.group_size=0": "algorithm.group_size is 0",
    "algorithm.group_size=five": "algorithm.group_size is five",
    "data.rollouts_per_step=18": "set it to 16, or change the group size",
    "module.minibatch_rollouts=0": "module.minibatch_rollouts is 0; set it to 1 or more",
    "module.minibatch_rollouts=48": "does not divide data.rollouts_per_step",
    "module={keep_groups: true, minibatch_rollouts: 8}": "minibatch_rollouts is 8 and cuts groups of 16",
    "rollout.prefetch=2": "rollout.prefetch is 2",
    "module={offload: true, sharding: {cpu_offload: true}}": "set one of them to false",
    "trainer=gpu": "trainer.accelerator is gpu, but torch sees no GPU here: set trainer=cpu",
}


@pytest.mark.parametrize("slip", EARLY)
def test_impossible_sampling_groups_and_devices_are_refused_first(slip: str, tmp_path: Path) -> None:
    if slip == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Exception) as raised:
        check_training(config_for(tmp_path, slip))
    assert EARLY[slip] in str(raised.value.__cause__ or raised.value)


def test_the_early_checks_import_torch_and_none_of_the_slow_libraries() -> None:
    script = (
        "config = composed(); import sys; from vapo.run.settings import announce, check_training; announce(config);"
        "check_training(config);"
        "print([name for name in ('transformers', 'lightning', 'datasets', 'vapo.module') if name in sys.modules])"
    )
    setup = (
        "from hydra import compose, initialize_config_dir; from hydra.core.hydra_config import HydraConfig\n"
        "from vapo.run.resolvers import register; register()\n"
        "def composed():\n"
        f"    with initialize_config_dir(config_dir={CONFIGS!r}, version_base='1.3'):\n"
        "        config = compose('train', ['paths.output_dir=x'], return_hydra_config=True)\n"
        "    HydraConfig.instance().set_config(config)\n"
        "    return config\n"
    )
    done = subprocess.run([sys.executable, "-c", setup + script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]


def test_the_viewer_and_the_comparison_of_runs_import_none_of_them_either() -> None:
    script = (
        "import sys; sys.path.insert(0, 'src'); import vapo.view.page, vapo.view.server, vapo.analysis.compare;"
        "print([name for name in ('transformers', 'lightning', 'torchmetrics', 'vapo.module') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("slip", "message"), [("sampling.top_p=0", r"\(0, 1\]"), ("sampling.temperature=-2", "temperature")])
def test_an_evaluations_sampling_is_checked_first(slip: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_evaluation(eval_config(tmp_path, slip))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["module.actor_schedule.warmup_steps=21"], "actor_schedule.warmup_steps=21 is longer than the 20 RL steps"),
        (["module.critic_schedule.warmup_steps=29"], "critic_schedule.warmup_steps=29 is longer than the 28 RL steps"),
        (["trainer.max_steps=8"], "ends the run within 8 steps of value pretraining"),
        (["module.actor_schedule.warmup_steps=12", "trainer.max_steps=9"], None),
    ],
)
def test_a_run_that_would_do_nothing_is_warned_of(
    overrides: list[str], message: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_training(config_for(tmp_path, "experiment=vapo_full", *overrides))
    assert [message in record.message for record in caplog.records if message] == ([True] if message else [])
    assert message or caplog.records == []


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["experiment=vapo_full", "scale=small_gpu"],
            ["train: experiment=vapo_full scale=small_gpu data=gsm8k rollout=torch", "model.path Qwen/Qwen2.5-0.5B, results in "],
        ),
        (["model=default"], ["model.path missing, "]),
        (["resume=somewhere"], ["train: resuming somewhere; loading"]),
    ],
)
def test_the_first_line_names_choices_model_and_folder(
    overrides: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(config_for(tmp_path, *overrides))
    (line,) = capsys.readouterr().out.splitlines()
    assert all(part in line for part in parts) and "ablation" not in line


def test_the_first_line_of_an_evaluation_names_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(eval_config(tmp_path, "run=somewhere"))
    assert capsys.readouterr().out == f"eval: run somewhere, results in {tmp_path}; loading libraries …\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce(eval_config(tmp_path, "run=somewhere"))
    assert capsys.readouterr().out == ""


def test_callbacks_that_lost_their_target_are_refused_and_null_ones_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks.value_pretraining has no _target_: .* callbacks.value_pretraining=null"):
        chosen_callbacks(config_for(tmp_path, "~callbacks"))
    assert len(chosen_callbacks(config_for(tmp_path))) - len(chosen_callbacks(config_for(tmp_path, "callbacks.summary=null"))) == 1
    assert chosen_callbacks(OmegaConf.create({})) == chosen_callbacks(OmegaConf.create({"callbacks": None})) == []


def test_a_cut_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps([{}])[:-1])
    with pytest.raises(ValueError, match=rf"{tmp_path}/record.json is damaged .*remove it and resume"):
        save_record({}, str(ROOT), tmp_path)


def test_every_range_is_of_a_setting(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    assert [key for key in RANGES if OmegaConf.select(config, key, default="no such key") == "no such key"] == []


def command(*arguments: str) -> tuple[str, str]:
    done = run_python("src/train.py", *arguments, cwd=ROOT)
    return done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ("data.source.settings.x=1", "To append to your config use +data.source.settings.x=1"),
        ("data.source.template={problem}: what", "data.source.template={problem}: what: no viable alternative"),
        ("tags=[a,b", "quote values"),
        ("paths=null", "paths is a group, not null: leave it out with ~paths"),
        ("threads=all", "threads is all; set it to a whole number"),
    ],
)
def test_slips_that_hydra_finds_end_in_one_line_with_the_remedy(slip: str, message: str, tmp_path: Path) -> None:
    _, error = command(f"hydra.run.dir={tmp_path}", slip)
    assert error.startswith("error: ") and message in error


def test_m_may_stand_anywhere(tmp_path: Path) -> None:
    _, error = command("seed=0,1", "-m", "threads=all", f"hydra.sweep.dir={tmp_path}")
    assert error == "error: threads is all; set it to a whole number"


def test_the_first_line_comes_at_once(tmp_path: Path) -> None:
    shown, error = command("rollout.sampling.top_p=2", f"hydra.run.dir={tmp_path}")
    assert shown.startswith("train: scale=mini") and "loading libraries" in shown and "top_p is 2" in error


def test_lines_of_libraries_that_print_themselves_do_not_reach_hydras_handler() -> None:
    import datasets  # noqa: F401 brings its handler
    import huggingface_hub  # noqa: F401

    names = ("datasets", "huggingface_hub", "transformers")
    for name in names:
        logging.getLogger(name).propagate = True
    quiet_libraries()
    for name in names:
        assert logging.getLogger(name).handlers and not logging.getLogger(name).propagate
