"""Every config composes and instantiates, and says what it does."""

import re
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.runs import CONFIGS, config_for

from vapo.run.flatten import FLAT, flattened
from vapo.run.settings import check_algorithm

GROUPS = ("experiment", "scale", "data", "model", "debug", "logger", "trainer")
EXPERIMENTS, ABLATIONS, SCALES = (
    sorted(path.stem for path in Path(CONFIGS, group).glob("*.yaml")) for group in ("experiment", "ablation", "scale")
)
EVERY = [f"{group}={path.stem}" for group in GROUPS for path in sorted(Path(CONFIGS, group).glob("*.yaml"))]
# `critic_lambda: 1.0 # 2. decoupled GAE: ...` in vapo.yaml -> {"decoupled_gae": ("critic_lambda", "2")}
TECHNIQUES = {
    re.sub(r"\W", "_", technique.lower()): (field, number)
    for field, number, technique in re.findall(
        r"^(\w+): .*# (\d)\. ([^:]+):", Path(CONFIGS, "algorithm", "vapo.yaml").read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("choice", EVERY)
def test_every_choice_instantiates(choice: str, tmp_path: Path) -> None:
    extra = []
    if choice.startswith(("model=", "scale=")):
        extra += ["model.path=${paths.assets}/mini/base", "trainer=cpu"]  # other models are not shipped, and here is no GPU
    if choice.startswith(("data=", "scale=")) and config_for(tmp_path, choice).data.source.get("chat") is True:
        extra.append("data.source.chat=false")  # the mini tokenizer has no chat format
    if choice in ("trainer=ddp", "trainer=fsdp"):
        extra += ["trainer.accelerator=cpu", "trainer.precision=32-true"]
    config = config_for(tmp_path, choice, *extra)
    instantiate(config.data)
    instantiate(config.module)
    for callback in config.callbacks.values():
        instantiate(callback)
    if choice not in ("trainer=gpu", "trainer=gpu_bf16", "logger=wandb"):  # one needs a GPU, the other opens a run
        for logger in config.logger.values():
            instantiate(logger)
        instantiate(config.trainer)


def test_every_key_has_a_comment_with_its_unit_or_meaning() -> None:
    """Leaves only; `_target_`, interpolations and lists of defaults explain themselves."""
    bare = []
    for path in sorted(Path(CONFIGS).rglob("*.yaml")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            leaf = re.match(r"\s*[a-z_0-9]+: (?!\$\{)[^#]*$", line)
            overlay = path.parent.name in ("debug", "hydra", "logger", "local")
            if (
                leaf
                and not overlay
                and "_target_" not in line
                and "_partial_" not in line
                and "_convert_" not in line
                and "defaults" not in line
            ):
                bare.append(f"{path.name}:{number}: {line.strip()}")
    assert bare == []


def test_ppo_has_none_of_the_seven_techniques_at_any_scale(tmp_path: Path) -> None:
    for scale in [path.stem for path in Path(CONFIGS, "scale").glob("*.yaml")]:
        algorithm = config_for(tmp_path, "experiment=ppo_vanilla", f"scale={scale}").algorithm
        assert algorithm.value_pretraining_steps == 0
        assert algorithm.critic_lambda is None and algorithm.length_adaptive_alpha is None
        assert algorithm.clip_high == algorithm.clip_low == 0.2
        assert algorithm.actor_lambda == (0.85 if scale == "composed" else 0.95)
        assert (algorithm.loss_aggregation, algorithm.positive_lm_coef, algorithm.group_size) == ("sequence", 0.0, 1)


def test_vapo_has_the_papers_numbers(tmp_path: Path) -> None:
    config = config_for(tmp_path, "experiment=vapo_full", "~scale_overrides")
    algorithm = config.algorithm
    assert (algorithm.value_pretraining_steps, algorithm.critic_lambda, algorithm.length_adaptive_alpha) == (50, 1.0, 0.05)
    assert (algorithm.clip_low, algorithm.clip_high, algorithm.loss_aggregation) == (0.2, 0.28, "token")
    assert (algorithm.positive_lm_coef, algorithm.group_size, algorithm.gamma) == (0.1, 16, 1.0)


PAPER = {  # VAPO section 5.1 and its table; docs/vapo.md says which of them are DAPO's
    "model.path": "Qwen/Qwen2.5-32B",
    "data.rollouts_per_step": 512 * 16,
    "data.group_size": 16,
    "data.source.max_prompt_tokens": 2048,
    "data.source.train.path": "BytedTsinghua-SIA/DAPO-Math-17k",
    "data.source.benchmark.name": "aime24",
    "rollout.sampling.temperature": 1.0,
    "rollout.sampling.top_p": 1.0,
    "rollout.sampling.max_new_tokens": 16384 + 4096,
    "module.minibatch_rollouts": 512,
    "module.epochs": 1,
    "module.value_pretraining_epochs": 1,
    "module.max_grad_norm": 1.0,
    "module.actor_optimizer.lr": 1e-6,
    "module.critic_optimizer.lr": 2e-6,
    "module.actor_optimizer.weight_decay": 0.1,
    "module.critic_optimizer.weight_decay": 0.1,
    "module.actor_schedule.warmup_steps": 10,
    "module.critic_schedule.warmup_steps": 10,
    "algorithm.value_pretraining_steps": 50,
    "algorithm.critic_lambda": 1.0,
    "algorithm.length_adaptive_alpha": 0.05,
    "algorithm.clip_low": 0.2,
    "algorithm.clip_high": 0.28,
    "algorithm.loss_aggregation": "token",
    "algorithm.positive_lm_coef": 0.1,
    "algorithm.gamma": 1.0,
    "algorithm.clip_value": None,
    "algorithm.overlong_buffer": 0,
    "callbacks.value_pretraining.steps": 50,
    "callbacks.aime_evaluation.k": 32,
    "callbacks.aime_evaluation.sampling.temperature": 1.0,
    "callbacks.aime_evaluation.sampling.top_p": 0.7,
    "callbacks.aime_evaluation.sampling.max_new_tokens": 20480,
}


def test_the_committed_paper_configuration_is_current_and_has_the_papers_numbers() -> None:
    assert FLAT.read_text() == flattened(), "run python -m vapo.run.flatten"
    config = OmegaConf.create(FLAT.read_text())
    assert {key: OmegaConf.select(config, key) for key in PAPER} == PAPER
    assert config.data.rollouts_per_step / config.module.minibatch_rollouts == 16  # updates a step
    assert config.module.policy_steps == 5000 // 16


def test_ranks_of_a_node_have_more_cpu_threads_than_a_laptops_run(tmp_path: Path) -> None:
    threads = {scale: config_for(tmp_path, f"scale={scale}").threads for scale in SCALES}
    assert threads == {
        "lab": 2,
        "mini": 1,
        "late": 1,
        "chains": 1,
        "composed": 1,
        "small_cpu": 2,
        "small_gpu": 2,
        "node8": 8,
        "paper": 8,
    }


def algorithm_of(folder: Path, *overrides: str) -> dict[str, Any]:
    """Every field of the algorithm that a configuration makes."""
    return asdict(instantiate(config_for(folder, *overrides).algorithm))


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


def test_vc_ppo_grpo_and_dapo_have_their_papers_numbers(tmp_path: Path) -> None:
    limit = "rollout.sampling.max_new_tokens=20480"
    vc_ppo, grpo, dapo = (
        config_for(tmp_path, f"experiment={name}", "~scale_overrides", limit).algorithm for name in ("vc_ppo", "grpo", "dapo")
    )
    assert (vc_ppo.value_pretraining_steps, vc_ppo.critic_lambda, vc_ppo.actor_lambda) == (100, 1.0, 0.95)
    assert (grpo.group_size, grpo.kl_coef, grpo.kl_estimator, grpo.loss_aggregation) == (16, 0.001, "k3", "sequence")
    assert (dapo.clip_low, dapo.clip_high, dapo.overlong_buffer, dapo.max_response_tokens) == (0.2, 0.28, 4096, 20480)


def test_vc_ppo_is_ppo_with_two_techniques_and_vapo_with_seven(tmp_path: Path) -> None:
    ppo, vc_ppo, vapo = (algorithm_of(tmp_path, f"experiment={name}") for name in ("ppo_vanilla", "vc_ppo", "vapo_full"))
    assert differing(vc_ppo, ppo) == {"value_pretraining_steps", "critic_lambda"}
    assert differing(vapo, ppo) == {field for field, _ in TECHNIQUES.values()}


def test_dapo_is_grpo_with_five_changes(tmp_path: Path) -> None:
    grpo, dapo = (algorithm_of(tmp_path, f"experiment={name}") for name in ("grpo", "dapo"))
    five = {"clip_high", "dynamic_sampling", "loss_aggregation", "overlong_buffer", "kl_coef"}
    assert differing(dapo, grpo) == five
    assert set(yaml.safe_load(Path(CONFIGS, "algorithm", "dapo.yaml").read_text())) - {"defaults"} == five


def test_each_technique_has_an_ablation_and_each_ablation_a_technique() -> None:
    assert [number for _, number in TECHNIQUES.values()] == list("1234567")
    assert set(ABLATIONS) == {"none"} | {f"no_{technique}" for technique in TECHNIQUES}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_an_ablation_of_vapo_sets_one_field_back_to_ppos(technique: str, tmp_path: Path) -> None:
    field, number = TECHNIQUES[technique]
    assert f"VAPO without technique {number};" in Path(CONFIGS, "ablation", f"no_{technique}.yaml").read_text()
    vapo = algorithm_of(tmp_path, "experiment=vapo_full", "ablation=none")
    ablated = algorithm_of(tmp_path, "experiment=vapo_full", f"ablation=no_{technique}")
    assert differing(ablated, vapo) == {field}
    assert ablated[field] == algorithm_of(tmp_path, "experiment=ppo_vanilla")[field]


def test_ablation_none_removes_nothing(tmp_path: Path) -> None:
    bare, none = (config_for(tmp_path, "experiment=vapo_full", choice) for choice in ("~ablation", "ablation=none"))
    assert bare == none


@pytest.mark.parametrize(
    ("experiment", "ablation", "scale"),
    [  # a baseline has the same switches at every scale, which its removals change at one
        (experiment, ablation, scale)
        for experiment, ablation, scale in product(EXPERIMENTS, ABLATIONS, SCALES)
        if experiment == "vapo_full" or ablation == "none" or scale == "mini"
    ],
)
def test_every_experiment_ablation_and_scale_go_together_or_name_the_setting(
    experiment: str, ablation: str, scale: str, tmp_path: Path
) -> None:
    config = config_for(tmp_path, f"experiment={experiment}", f"ablation={ablation}", f"scale={scale}")
    has_critic, field = config.algorithm._target_.endswith("ActorCritic"), TECHNIQUES.get(ablation.removeprefix("no_"), ("",))[0]
    if not has_critic and field in {"group_size", "value_pretraining_steps", "critic_lambda", "length_adaptive_alpha"}:
        with pytest.raises((ValueError, InstantiationException)) as raised:
            check_algorithm(config.algorithm)
            instantiate(config.algorithm)
        cause = raised.value.__cause__ or raised.value
        assert isinstance(cause, ValueError) and field in str(cause)
        return
    check_algorithm(config.algorithm)
    algorithm = instantiate(config.algorithm)
    assert config.data.group_size == algorithm.group_size
    assert (
        config.data.rollouts_per_step % algorithm.group_size
        == 0
        == config.data.rollouts_per_step % config.module.minibatch_rollouts
    )
    steps = instantiate(config.callbacks.value_pretraining).steps
    assert steps == getattr(algorithm, "value_pretraining_steps", 0)


def test_smollm2s_scale_has_smaller_groups_where_a_critic_is_the_baseline(tmp_path: Path) -> None:
    def group_size(*overrides: str) -> int:
        return config_for(tmp_path, "scale=small_cpu", *overrides).data.group_size  # type: ignore[no-any-return]

    assert group_size("experiment=vapo_full") == 4 and group_size("experiment=grpo") == group_size("experiment=dapo") == 16
    assert group_size("experiment=vapo_full", "ablation=no_group_sampling") == 1


def test_comments_name_the_numbers_of_the_mini_scale() -> None:
    """A comment such as `paper 50, mini 8` in configs/algorithm names what scale/mini.yaml sets, if it sets the key."""
    overrides = yaml.safe_load(Path(CONFIGS, "scale", "mini.yaml").read_text())["scale_overrides"]
    found = set()
    for path in Path(CONFIGS, "algorithm").glob("*.yaml"):
        for key, paper, comment in re.findall(r"scale_overrides\.(\w+),([\d.]+)\} # (.*)", path.read_text()):
            mini = re.search(r"mini ([\d.]*\d)", comment)
            assert (mini and float(mini[1])) == overrides.get(key) and paper in comment, (path.name, key)
            found.add(key)
    assert found == overrides.keys() | {"actor_lambda", "group_size"}, "these two are not mini's"


def test_an_engine_with_its_own_weights_has_the_dtype_that_the_trainer_computes_in(tmp_path: Path) -> None:
    def engine(*overrides: str) -> Any:
        return config_for(tmp_path, *overrides).rollout.engine

    small = engine("scale=small_gpu", "rollout=vllm")
    assert (small.dtype, small.max_tokens) == ("bfloat16", 512 + 512)
    assert engine("scale=small_gpu").dtype == "bfloat16" and engine("scale=small_gpu", "rollout=vllm_server").dtype == "bfloat16"
    assert engine("rollout=vllm").dtype == engine().dtype == "float32" and engine("rollout=vllm").max_tokens is None
    assert engine("trainer=fsdp").dtype == "bfloat16" and engine("trainer=ddp").dtype == "bfloat16"
    assert engine("trainer=fsdp", "module.sharding.compute_dtype=float32").dtype == "float32"
    assert engine("scale=paper").dtype == "bfloat16" and engine("scale=paper").max_tokens == 2048 + 20480
