"""A single process never enters a process group, whoever made it."""

import pytest
import torch
import torch.distributed as dist

from vapo.distributed import ranks


@pytest.fixture
def one_device_only(tmp_path):
    """As vLLM leaves it behind on one GPU: a group of one process that has no backend for CPU tensors."""
    dist.init_process_group("cuda:gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_needs_no_backend(one_device_only):
    with pytest.raises(RuntimeError, match="No backend type"):
        dist.all_reduce(torch.ones(1))
    x = torch.ones(3)
    assert ranks.sum_over_ranks(x) is x and ranks.gather_lists([1, 2]) == [1, 2]
    ranks.barrier()
    with pytest.raises(ValueError, match=r"^wrong$"), ranks.raise_on_all_ranks():
        raise ValueError("wrong")
    assert (ranks.rank(), ranks.world_size(), ranks.rank_slice(5)) == (0, 1, slice(0, 5))
