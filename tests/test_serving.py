"""`python src/serve.py`: its command line, and its messages. Real servers: tests/rollout/vllm/test_server.py."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.runs import CONFIGS

from vapo.run.resolvers import register
from vapo.run.serving import command, flags, server_environment

ROOT = Path(CONFIGS).parent


def config(*overrides):
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        return compose("serve", list(overrides))


def test_a_flag_for_every_kind_of_value():
    assert flags({"max_num_seqs": 8, "enforce_eager": False, "seed": 0, "trust_remote_code": True, "max_model_len": None}) == [
        "--max-num-seqs=8",
        "--no-enforce-eager",
        "--seed=0",
        "--trust-remote-code",
    ]


def test_the_command_says_what_the_engine_relies_on():
    words = command(config("model.path=some/folder", "port=8123", "tensor_parallel_size=2", "max_tokens=512"))
    assert words[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert set(words) >= {
        "--model=some/folder",
        "--port=8123",
        "--host=127.0.0.1",
        "--tensor-parallel-size=2",
        "--max-model-len=512",
        "--dtype=float32",
        "--logprobs-mode=processed_logprobs",
        "--enable-prefix-caching",
        "--skip-tokenizer-init",
        "--generation-config=vllm",
        '--weight-transfer-config={"backend": "vapo_http"}',
    }


def test_the_servers_workers_find_this_package(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    variables = server_environment()
    assert variables["PYTHONPATH"].split(":")[0] == str(ROOT / "src")
    assert variables["VLLM_SERVER_DEV_MODE"] == "1" and variables["VLLM_LOGGING_LEVEL"] == "INFO"


@pytest.mark.parametrize("override", ["port=0", "tensor_parallel_size=0"])
def test_settings_that_cannot_work_are_refused(override):
    with pytest.raises(ValueError, match=f"{override.split('=')[0]} is 0; set it"):
        command(config(override))
