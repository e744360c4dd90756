"""A plan's numbers: by hand where they add up, and against the same step on real tensors."""

import json
import random
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from tests.ranks import server
from tests.runs import CONFIGS
from transformers import GPT2Config

import vapo.plan.plan
from vapo.models.loading import SIZES
from vapo.plan.check import measure, predict, small_model
from vapo.plan.plan import count, gpu_table, longest, plan
from vapo.plan.sizes import Setting, cache_bytes, dimensions, host_bytes_per_rank, kv_token_bytes, model_config
from vapo.plan.step import step_memory
from vapo.plan.time import Work, host_seconds
from vapo.rollout.collate import collate
from vapo.rollout.gather import gather_rollouts
from vapo.run.resolvers import register

HIDDEN, LAYERS, VOCABULARY = 128, 2, 512
ATTENTION = 2 * (HIDDEN * HIDDEN) + 2 * (HIDDEN * HIDDEN // 2) + HIDDEN + 2 * (HIDDEN // 2)  # q, o, k, v; q, k and v have biases
BACKBONE = LAYERS * (ATTENTION + 3 * HIDDEN * 4 * HIDDEN + 2 * HIDDEN) + HIDDEN + VOCABULARY * HIDDEN


def plan_config(folder, *overrides, vocabulary=VOCABULARY, layers=LAYERS, hidden=HIDDEN):
    """`plan.yaml` for a small untied Qwen2 without weights."""
    path = small_model(folder / "model", hidden, layers, vocabulary, tied=False)
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        model = [f"model.path={path}", f"model.critic.path={path}", "model.critic.head_init=zero", "module.microbatch_tokens=512"]
        config = compose(
            "plan", ["experiment=vapo_full", *model, *overrides, f"paths.output_dir={folder}"], return_hydra_config=True
        )
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.fixture(scope="module")
def counted():
    return {}


@pytest.fixture(autouse=True)
def each_step_is_counted_once(counted, monkeypatch):
    """Tests that plan the same step share what it holds: that takes longest."""

    def once(config):
        module = OmegaConf.to_yaml(config.module, resolve=True).replace(
            config.model.path, (Path(config.model.path) / "config.json").read_text()
        )
        key = (module, config.cluster.gpus, longest(config))
        counted[key] = counted[key] if key in counted else count(config)
        return counted[key]

    monkeypatch.setattr(vapo.plan.plan, "count", once)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return predict(plan_config(tmp_path_factory.mktemp("two")).module, 256, ranks=2)


def test_weights_gradients_and_optimizer_states_are_those_counted_by_hand(two_ranks):
    actor, critic = BACKBONE + VOCABULARY * HIDDEN, BACKBONE + HIDDEN + 1
    assert two_ranks.parameters == {"actor": actor, "critic": critic}
    assert two_ranks.weights["actor"] == two_ranks.gradients["actor"] == 4 * actor / 2
    assert two_ranks.weights["critic"] == 4 * (BACKBONE / 2 + HIDDEN + 1)  # the head has one row, of which rank 0 holds all
    tensors = LAYERS * 12 + 3
    assert two_ranks.optimizer["actor"] == 2 * two_ranks.weights["actor"] + 4 * tensors  # and a step count each


def test_twice_the_ranks_hold_half_each(two_ranks, tmp_path):
    four = predict(plan_config(tmp_path).module, 256, ranks=4)
    assert four.weights["actor"] == two_ranks.weights["actor"] / 2
    assert four.gradients["actor"] == two_ranks.gradients["actor"] / 2


def test_checkpointing_and_smaller_micro_batches_lower_the_temporary_part_alone(tmp_path):
    plain = predict(plan_config(tmp_path, layers=2).module, 256, ranks=2)
    checkpointed = predict(plan_config(tmp_path, "model.activation_checkpointing=true", layers=2).module, 256, ranks=2)
    smaller = predict(plan_config(tmp_path, "module.microbatch_tokens=256", layers=2).module, 256, ranks=2)
    for other in (checkpointed, smaller):
        assert other.temporary("critic_backward") < 0.8 * plain.temporary("critic_backward")
        assert other.persistent("critic_backward") == plain.persistent("critic_backward")


def test_offloaded_parts_leave_the_gpu_and_shared_engines_are_smaller(two_ranks, tmp_path):
    config = plan_config(tmp_path, "cluster.gpus=2")
    model = model_config(config.model.path)
    here = gpu_table(config, model, two_ranks, Setting(False, "float32", 1, None, False))["actor_backward"]
    offloaded = gpu_table(config, model, two_ranks, Setting(True, "bfloat16", 2, None, False))["actor_backward"]
    asleep = gpu_table(config, model, two_ranks, Setting(False, "float32", 1, None, True))
    assert asleep["actor_backward"]["engine weights"] == 0 < asleep["generate"]["engine weights"] == here["engine weights"]
    moved = sum(two_ranks.persistent("actor_backward").values())
    engine = 4 * two_ranks.parameters["actor"]
    assert here["engine weights"] == engine and offloaded["engine weights"] == engine / 4
    assert here["total"] - offloaded["total"] == pytest.approx(moved + engine * 3 / 4)
    assert kv_token_bytes(model, 2) == 2 * LAYERS * (HIDDEN // 128) * 64 * 2
    assert kv_token_bytes(GPT2Config(), 2) == 2 * 12 * 768 * 2  # no grouped queries
    one, two = (cache_bytes(config, model, Setting(False, "bfloat16", gpus, None, False), 3) for gpus in (1, 2))
    assert one == two  # of one head of keys and values each GPU has a copy


def test_host_memory_is_what_the_arrays_of_a_step_hold(make_rollout, tmp_path):
    config = plan_config(tmp_path, "algorithm.whiten_advantages=true")
    algorithm = instantiate(config.algorithm)
    rollouts = gather_rollouts([make_rollout(random.Random(i), 1, 5000 + i, i % 2, i // 2) for i in range(8)])
    batch = collate(rollouts)
    batch = batch.replace(value_R=torch.zeros(len(batch.token_N) - 8), old_logprob_R=torch.zeros(len(batch.token_N) - 8))
    batch = algorithm.credit(batch)
    arrays = [x for r in rollouts for x in (r.completion.token_ids, r.completion.logprobs)]
    tensors = [getattr(batch, field.name) for field in fields(batch) if field.name[-1] in "RN"]
    limit, count = config.rollout.sampling.max_new_tokens, config.data.rollouts_per_step
    scale = count * limit * config.cluster.response_share / sum(5000 + i for i in range(8))
    found = host_bytes_per_rank(config, algorithm)
    assert found["rollouts"] == pytest.approx(scale * sum(x.nbytes for x in arrays))
    assert found["batch"] == pytest.approx(scale * sum(x.nbytes for x in tensors if x is not None), rel=1e-3)  # but for prompts
    assert found["temporary, in credit"] < 0.1 * found["batch"]  # reward and TD errors are gone before the targets come
    config.algorithm.critic_lambda = None  # then targets are estimated as advantages are, beside these
    assert host_bytes_per_rank(config, instantiate(config.algorithm))["temporary, in credit"] > 0.1 * found["batch"]


def test_networks_that_are_not_in_use_are_offloaded(two_ranks, tmp_path):
    config = plan_config(tmp_path, "cluster.gpus=2", "module.offload=true")
    table = gpu_table(config, model_config(config.model.path), two_ranks, Setting.of(config))
    weights, optimizer = two_ranks.weights, two_ranks.optimizer
    assert table["generate"]["weights"] == weights["actor"] and table["generate"]["optimizer"] == 0
    assert table["annotate"]["weights"] == max(weights.values()) and table["annotate"]["optimizer"] == 0
    for name in ("critic", "actor"):
        for phase in ("backward", "optimizer"):
            held = [table[f"{name}_{phase}"][part] for part in ("weights", "optimizer", "gradients")]
            assert held == [weights[name], optimizer[name], two_ranks.gradients[name]]
    host = plan(config)["host_gib_per_rank"]["weights, gradients, optimizer (offloaded)"]
    assert host >= (sum(weights.values()) + sum(optimizer.values())) / 2**30


def test_generation_servers_have_gpus_of_their_own(tmp_path):
    servers = ("rollout=vllm_server", "cluster.gpus=1", "cluster.reserved_gib=0")
    fits = plan(plan_config(tmp_path, *servers))
    assert "generate" not in fits["seconds_per_step"] and "without the generation servers'" in (tmp_path / "plan.md").read_text()
    assert all(row["engine weights"] == row["KV cache"] == 0 for row in fits["gpu_gib"].values())
    small = plan(plan_config(tmp_path, *servers, "cluster.gpu_types.h100.memory_gib=0.001"))
    assert small["remedies"] and not any("rollout" in remedy for remedy in small["remedies"])


def test_seconds_are_those_with_the_remedies_and_count_epochs_once(tmp_path):
    def seconds(*overrides):
        found = plan(plan_config(tmp_path, "cluster.gpus=2", "cluster.reserved_gib=0", *overrides))
        return found["seconds_per_step"], found["hours"] * 3600

    tight, whole = "cluster.gpu_types.h100.memory_gib=0.001", seconds()[0]
    remedied = seconds("model.activation_checkpointing=true", "module.microbatch_tokens=456")[0]
    assert seconds(tight)[0]["update critic"] == pytest.approx(remedied["update critic"]) != pytest.approx(whole["update critic"])
    pretraining = ("module.policy_steps=1", "scale_overrides.value_pretraining_steps=1", "module.value_pretraining_epochs=3")
    four, once = seconds("module.epochs=4", *pretraining), seconds("module.epochs=1", "module.value_pretraining_epochs=1")[0]
    assert four[0]["update critic"] == pytest.approx(4 * once["update critic"])
    frozen = once["generate"] + once["host"] + once["annotate critic"] + 3 * once["update critic"]
    assert four[1] == pytest.approx(sum(four[0].values()) + frozen)


def test_seconds_of_the_host_are_linear_in_response_tokens():
    assert host_seconds(Work(1000, 200.0, 5000.0, 20480, 1, 1), 90.0) == pytest.approx(1000 * 5000 * 90e-9)


def test_a_run_that_does_not_fit_says_so_and_what_would_help(tmp_path):
    fits = plan(plan_config(tmp_path, "cluster.gpus=2"))
    assert fits["gpu_gib"]["actor_optimizer"]["temporary"] < 1e-4  # one kernel: not a copy of a weight
    assert fits["verdict"].startswith("fits: ") and json.loads((tmp_path / "plan.json").read_text())["verdict"] == fits["verdict"]
    found = plan(plan_config(tmp_path, "cluster.gpus=2", "cluster.reserved_gib=0", "cluster.gpu_types.h100.memory_gib=0.001"))
    assert found["verdict"].startswith("does not fit: ")
    keys = (
        "dtype=bfloat16",
        "tensor_parallel=2",
        "activation_checkpointing=true",
        "cpu_offload=true",
        "microbatch_tokens=456",
    )
    assert all(key in remedy for key, remedy in zip(keys, found["remedies"], strict=True))
    assert "does not fit" in (tmp_path / "plan.md").read_text()
    asleep, offloaded = (name for name in found["host_gib_per_rank"] if name.startswith(("engine weights", "weights, gradients")))
    assert {asleep, offloaded} and not {asleep, offloaded} & set(fits["host_gib_per_rank"])  # the remedies move them there


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("rollout=vllm", "rollout.engine.tensor_parallel=4", "cluster.gpus=4"),
            "4 and does not divide the model's attention heads, 2",
        ),
        (("rollout=vllm", "rollout.engine.tensor_parallel=2", "cluster.gpus=3"), "2 and does not divide cluster.gpus, 3"),
        (
            ("+rollout.engine.tensor_parallel=2",),
            "tensor_parallel has no meaning for TorchEngine: take it out with ~rollout.engine.t",
        ),
    ],
)
def test_engines_that_cannot_be_shared_like_that_are_refused(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan(plan_config(tmp_path, *overrides))


def test_one_gpu_waits_for_no_other(tmp_path):
    assert plan(plan_config(tmp_path, "cluster.gpus=1"))["seconds_per_step"]["weight sync"] == 0


def test_a_cache_too_small_for_one_response_does_not_fit(tmp_path):
    found = plan(plan_config(tmp_path, "rollout=vllm", "rollout.engine.kv_cache_mib=0", "cluster.gpus=1"))
    assert "set it to 1 or more" in found["verdict"]


def test_unknown_machines_and_models_are_named_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"cluster.gpu is h1000; set it to one of h100, h200"):
        plan(plan_config(tmp_path, "cluster.gpu=h1000"))
    assert dimensions("Qwen/Qwen2.5-32B") == str(SIZES / "qwen2_5_32b")
    with pytest.raises(ValueError, match=r"no dimensions of some/model: set model.path to a folder .* qwen2_5_32b"):
        dimensions("some/model")


@pytest.mark.parametrize("override", ["model.activation_checkpointing=true", "module.sharding.compute_dtype=float32"])
def test_the_peak_of_a_real_step_is_predicted_within_a_tenth(override, tmp_path):
    settings = plan_config(tmp_path, override, vocabulary=2048, hidden=256).module
    predicted = predict(settings, 256, ranks=1)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        measured = step_memory(settings, 256, fake=False)
    finally:
        dist.destroy_process_group()
    assert predicted.peak == pytest.approx(measured.peak, rel=0.1)


@pytest.mark.distributed
def test_the_peak_of_two_real_ranks_is_predicted_within_a_tenth(tmp_path, monkeypatch):
    monkeypatch.setattr("vapo.plan.check.multiprocessing.get_context", lambda kind: server)  # has imported everything
    settings = plan_config(tmp_path, vocabulary=2048, hidden=256).module
    assert predict(settings, 256, ranks=2).peak == pytest.approx(measure(settings, 256, ranks=2).tensors.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "gpu"), [("qwen2_5_0_5b", "rtx4090"), ("qwen2_5_1_5b", "h100")])
def test_small_gpu_fits_the_gpus_it_is_for(model, gpu, tmp_path):
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        words = ["experiment=vapo_full", "scale=small_gpu", f"model={model}", "cluster.gpus=1", f"cluster.gpu={gpu}"]
        config = compose("plan", [*words, f"paths.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    assert plan(config)["verdict"].startswith("fits: ")
