"""What only a GPU can show (docs/scaling.md lists it). Written without one at hand: a failure may be the test's."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.runs import CONFIGS, run

from vapo.models.actor import Actor
from vapo.types import Request, SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

BASE = str(Path(CONFIGS).parent / "src" / "vapo" / "assets" / "mini" / "base")


def test_each_phase_names_its_peak_memory_and_offload_lowers_it(tmp_path: Path) -> None:
    peaks = {}
    for offload in (False, True):
        folder = tmp_path / str(offload)
        run(folder, "trainer=gpu", f"module.offload={offload}".lower())
        frame = pd.read_csv(folder / "metrics.csv")
        assert {"memory/rollout_peak_gib", "memory/actor_update_peak_gib", "memory/critic_update_peak_gib"} <= set(frame)
        peaks[offload] = frame["memory/critic_update_peak_gib"].iloc[-1]
    assert peaks[True] < peaks[False]


def test_offload_changes_no_number(tmp_path: Path) -> None:
    frames = []
    for offload in ("false", "true"):
        run(tmp_path / offload, "trainer=gpu", f"module.offload={offload}")
        frames.append(pd.read_csv(tmp_path / offload / "metrics.csv")["reward/mean"])
    pd.testing.assert_series_equal(*frames)


@pytest.mark.vllm
@pytest.mark.parametrize("level", [1, 2])
def test_a_sleeping_engine_frees_memory_and_wakes_with_its_weights(level: int) -> None:
    pytest.importorskip("vllm")
    from vapo.rollout.vllm.engine import VLLMEngine

    engine = VLLMEngine([1], BASE, max_tokens=512, kv_cache_mib=2048, sleep_level=level)
    actor = Actor.from_pretrained(BASE).cuda()
    engine.load_weights(actor, 0)
    asked, sampling = [Request((3, 4, 5), seed=i) for i in range(8)], SamplingParams(max_new_tokens=30)
    before, free = engine.generate(asked, sampling), torch.cuda.mem_get_info()[0]
    engine.sleep()
    assert torch.cuda.mem_get_info()[0] - free > 1.5 * 2**30
    assert engine.weights_version == (0 if level == 1 else -1)
    if level == 2:
        engine.load_weights(actor, 0)
    assert [c.token_ids.tolist() for c in engine.generate(asked, sampling)] == [c.token_ids.tolist() for c in before]


def test_two_gpus_train_as_one(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    from tests.ranks import SETTINGS, train_on_ranks
    from tests.runs import metrics

    train_on_ranks(1, tmp_path / "1", *SETTINGS, "trainer=gpu")
    train_on_ranks(2, tmp_path / "2", *SETTINGS, "trainer=fsdp", "module.sharding.compute_dtype=float32")
    pd.testing.assert_frame_equal(metrics(tmp_path / "1"), metrics(tmp_path / "2"), rtol=1e-3, atol=1e-3)
