"""`python src/serve.py`: its command line, and its messages. Real servers: tests/rollout/vllm/test_server.py."""

import importlib
import os
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.runs import CONFIGS, config_for

from vapo.rollout.vllm.middleware import RequireToken
from vapo.run import serving
from vapo.run.record import load_config, record_texts
from vapo.run.resolvers import register
from vapo.run.serving import MIDDLEWARE, command, flags, server_environment

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
        "--no-skip-tokenizer-init",  # stop strings are found in text
        "--generation-config=vllm",
        '--weight-transfer-config={"backend": "vapo_http"}',
    }


def test_the_servers_workers_find_this_package(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    variables = server_environment(None)
    assert variables["PYTHONPATH"].split(":")[0] == str(ROOT / "src")
    assert variables["VLLM_SERVER_DEV_MODE"] == "1" and variables["VLLM_LOGGING_LEVEL"] == "INFO"


def test_a_token_guards_all_routes_and_is_not_on_the_command_line(monkeypatch):
    monkeypatch.setenv("VAPO_SERVER_TOKEN", "d0f1c2")
    settings = config("host=0.0.0.0")
    words = command(settings)
    assert "--middleware=vapo.rollout.vllm.middleware.RequireToken" in words and "--host=0.0.0.0" in words
    assert "d0f1c2" not in " ".join(words)
    started = []
    monkeypatch.setattr(serving, "check_version", lambda: None)
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    serving.serve(settings)
    serving.serve(config("token=123"))  # a number
    assert [(call[1][:3], call[2]["VAPO_SERVER_TOKEN"]) for call in started] == [(words[:3], "d0f1c2"), (words[:3], "123")]


def test_a_training_run_does_not_record_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("VAPO_SERVER_TOKEN", "d0f1c2")
    texts = record_texts(config_for(tmp_path, "rollout=vllm_server"))
    assert not any("d0f1c2" in text for text in texts.values())
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        saved = load_config(tmp_path / name)  # resumed, or evaluated
        assert saved.module.engine.token == "d0f1c2" and saved.module.engine.urls == ["http://127.0.0.1:8000"]


def test_the_middleware_is_where_the_command_says_it_is():
    module, _, name = MIDDLEWARE.rpartition(".")
    assert getattr(importlib.import_module(module), name) is RequireToken


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_a_token_a_server_listens_on_this_machine_only(host, monkeypatch):
    monkeypatch.delenv("VAPO_SERVER_TOKEN", raising=False)
    words = command(config(f"host='{host}'"))
    assert f"--host={host}" in words and not any("middleware" in word for word in words)
    assert "VAPO_SERVER_TOKEN" not in server_environment(None)
    for elsewhere in ("0.0.0.0", "node7", "null", "'::'"):
        with pytest.raises(ValueError, match=r"host is .*without a token.*set VAPO_SERVER_TOKEN .*or host to 127\.0\.0\.1"):
            command(config(f"host={elsewhere}"))


@pytest.mark.parametrize("token", ["", "two words", "line\n"])
def test_a_token_that_a_header_cannot_hold_is_refused_without_showing_it(token, monkeypatch):
    monkeypatch.setenv("VAPO_SERVER_TOKEN", token)
    with pytest.raises(ValueError, match=r"^token is empty or has .*set VAPO_SERVER_TOKEN to letters and digits") as raised:
        command(config())
    assert "words" not in str(raised.value)


@pytest.mark.parametrize("override", ["port=0", "tensor_parallel_size=0"])
def test_settings_that_cannot_work_are_refused(override):
    with pytest.raises(ValueError, match=f"{override.split('=')[0]} is 0; set it"):
        command(config(override))
