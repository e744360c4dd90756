"""How a batch is cut, padded and ordered changes nothing: not its tokens, not a loss, not a gradient."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.fuzz.batches import SEEDS, SHARES, batches, normal
from torch import Tensor
from torch.testing import assert_close

from vapo.algorithms import ActorCritic, GroupRelative, PolicyGradient
from vapo.micro_batches import micro_batches
from vapo.types import Batch

BUDGETS = st.one_of(st.integers(1, 200), st.sampled_from([1, 1000, 10**6]))
SHARED: dict[str, Any] = {
    "clip_low": st.floats(0, 0.9),
    "clip_high": st.floats(0.9, 5),
    "dual_clip": st.one_of(st.none(), st.floats(1.1, 10)),
    "loss_aggregation": st.sampled_from(["token", "sequence"]),
    "positive_lm_coef": st.sampled_from([0.0, 0.1, 10.0]),
    "overlong_buffer": st.sampled_from([0, 1, 5]),
    "max_response_tokens": st.integers(5, 5000),
    "mismatch": st.sampled_from([None, "truncate", "mask", "sequence_truncate", "sequence_mask"]),
}
VALUES: dict[str, Any] = {
    "actor_lambda": SHARES,
    "critic_lambda": st.one_of(st.none(), SHARES),
    "length_adaptive_alpha": st.one_of(st.none(), st.floats(0.01, 5)),
    "gamma": SHARES,
    "whiten_advantages": st.booleans(),
    "clip_value": st.one_of(st.none(), st.floats(0.01, 1)),
}
GROUPS: dict[str, Any] = {
    "divide_by_std": st.booleans(),
    "kl_coef": st.sampled_from([0.0, 0.1]),
    "kl_estimator": st.sampled_from(["k1", "k2", "k3"]),
}
CRITICS = st.builds(ActorCritic, **SHARED, **VALUES)
ALGORITHMS = st.one_of(CRITICS, st.builds(GroupRelative, **SHARED, **GROUPS))


def places(batch: Batch, rows: list[int]) -> Tensor:
    """Where in R the tokens of these rollouts are."""
    ends = [0, *batch.response_length_B.cumsum(0).tolist()]
    return torch.tensor([place for row in rows for place in range(ends[row], ends[row + 1])], dtype=torch.long)


@given(batches(), BUDGETS, st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.85, 1.0]))
def test_micro_batches_hold_each_rollout_once_as_it_was(batch: Batch, budget: int, ranks: int, similar: float) -> None:
    shares = [list(micro_batches(batch, budget, "cpu", rank, ranks, similar=similar)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    micros = [micro for share in shares for micro in share]
    assert sorted(row for micro in micros for row in micro.index_B.tolist()) == list(range(len(batch)))
    ids = [x.tolist() for x in batch.token_N.split(batch.total_length_B.tolist())]
    for micro in micros:
        rows = micro.index_B.tolist()
        assert len(rows) <= 1 or sum(count * width for count, width in micro.packed.blocks) <= budget
        assert torch.equal(micro.part.value_R, batch.value_R[places(batch, rows)])
        for row, token_L, predicts_L, mask_T in zip(rows, micro.token_BL, micro.predicts_BL, micro.mask_BT, strict=False):
            prompt, response = int(batch.prompt_length_B[row]), int(batch.response_length_B[row])
            assert token_L.tolist() == ids[row] + [0] * (len(token_L) - len(ids[row]))
            assert predicts_L.nonzero()[:, 0].tolist() == list(range(prompt - 1, prompt + response - 1))
            assert mask_T.tolist() == [t < response for t in range(len(mask_T))]
        packed, slot = micro.packed, 0
        predicted = packed.token_S[packed.predicts_R]  # the token before each response token
        assert predicted.tolist() == [x for row in rows for x in ids[row][int(batch.prompt_length_B[row]) - 1 : -1]]
        assert micro.next_token_R.tolist() == [x for row in rows for x in ids[row][int(batch.prompt_length_B[row]) :]]
        for count, width in packed.blocks:  # attention sees the rollouts' tokens in order, at their positions
            for index_L in packed.index_X[slot : slot + count * width].view(count, width):
                if rows:
                    length = len(ids[rows[0]])
                    assert packed.token_S[index_L[:length]].tolist() == ids[rows[0]]
                    assert packed.position_S[index_L[:length]].tolist() == list(range(length))
                    rows = rows[1:]
            slot += count * width
        assert torch.equal(packed.index_X[packed.slot_S], torch.arange(len(packed.token_S)))


def losses(
    algorithm: PolicyGradient, batch: Batch, x_R: Tensor, budget: int, ranks: int, kind: str
) -> tuple[float, Tensor, Tensor]:
    """Summed over micro-batches and ranks: the loss, its gradient at each token, and what is watched."""
    x_R, counts, total, watched = x_R.clone().requires_grad_(), algorithm.normalizers(batch), 0.0, torch.zeros(())
    for rank in range(ranks):
        for micro in micro_batches(batch, budget, "cpu", rank, ranks):
            mine_R = x_R[places(batch, micro.index_B.tolist())]
            if kind == "critic":
                assert isinstance(algorithm, ActorCritic)
                loss = algorithm.critic_loss(mine_R, micro, counts)
            else:
                loss, sums = algorithm.actor_loss(mine_R, micro, counts)
                watched = watched + torch.stack([sums[name] for name in sorted(sums)])
            loss.backward()
            total += loss.item()
    assert x_R.grad is not None
    return total, x_R.grad, watched


def precise(batch: Batch) -> Batch:
    """In float64, so that sums in another order agree closely."""
    names = ("sampler_logprob_R", "old_logprob_R", "reference_logprob_R", "value_R", "advantage_R", "target_R")
    return batch.replace(**{name: x_R.double() for name in names if (x_R := getattr(batch, name)) is not None})


@given(ALGORITHMS, batches(), BUDGETS, st.integers(1, 3), SEEDS, st.sampled_from([0.0, 0.1, 3.0, 100.0]), st.booleans())
def test_cutting_a_batch_changes_no_loss(
    algorithm: PolicyGradient, batch: Batch, budget: int, ranks: int, seed: int, distance: float, pretraining: bool
) -> None:
    pretraining = pretraining and isinstance(algorithm, ActorCritic)
    batch = precise(algorithm.credit(precise(batch), pretraining))
    assert batch.advantage_R is not None and batch.advantage_R.isfinite().all()
    moved_R = normal(seed, len(batch.old_logprob_R), distance)
    for kind in ("actor", "critic") if algorithm.needs_critic else ("actor",):
        x_R = (batch.old_logprob_R if kind == "actor" else batch.value_R) + moved_R
        whole, cut = (losses(algorithm, batch, x_R, *how, kind) for how in ((10**9, 1), (budget, ranks)))
        assert math.isfinite(whole[0]) and whole[1].isfinite().all() and (distance > 3 or whole[2].isfinite().all())
        assert cut[0] == pytest.approx(whole[0], rel=1e-6, abs=1e-6)
        assert_close(cut[1], whole[1], rtol=1e-9, atol=1e-12)
        assert_close(cut[2], whole[2], rtol=1e-6, atol=1e-6, equal_nan=True)


@given(ALGORITHMS, batches(), st.sampled_from([math.nan, math.inf, 1e30]), SEEDS)
def test_what_is_in_the_padding_changes_no_loss(algorithm: PolicyGradient, batch: Batch, junk: float, seed: int) -> None:
    assume(len(set(batch.response_length_B.tolist())) > 1)
    batch = algorithm.credit(batch)
    (micro,) = micro_batches(batch, 10**9)
    dirty = replace(micro)
    clean_pad = type(micro).pad

    def pad(self: Any, x_R: Tensor) -> Tensor:
        x_BT = clean_pad(self, x_R)
        return torch.where(self.mask_BT, x_BT, junk) if self is dirty else x_BT

    x_R, counts = batch.old_logprob_R[places(batch, micro.index_B.tolist())] + 0.1, algorithm.normalizers(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(micro), "pad", pad)
        found = []
        for one in (micro, dirty):
            leaf_R = x_R.clone().requires_grad_()
            loss, sums = algorithm.actor_loss(leaf_R, one, counts)
            loss.backward()
            found.append((loss.detach(), leaf_R.grad, torch.stack([sums[name] for name in sorted(sums)])))
            if isinstance(algorithm, ActorCritic):
                found[-1] += (algorithm.critic_loss(x_R, one, counts),)
    for clean, other in zip(*found, strict=True):
        assert torch.equal(clean, other) and clean.isfinite().all()


@given(CRITICS, batches(), st.booleans(), SEEDS)
def test_a_rollouts_credit_depends_on_no_other(algorithm: ActorCritic, batch: Batch, pretraining: bool, seed: int) -> None:
    """But for the whitening. Groups and order do not enter either."""
    algorithm = replace(algorithm, whiten_advantages=False)
    whole = algorithm.credit(batch, pretraining)
    chosen = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[: max(1, len(batch) // 2)]
    part = algorithm.credit(batch.select(chosen), pretraining)
    for mine_R, all_R in ((part.advantage_R, whole.advantage_R), (part.target_R, whole.target_R)):
        assert mine_R is not None and all_R is not None
        assert torch.equal(mine_R, all_R[places(batch, chosen.tolist())])


@given(batches(), st.floats(0.01, 5), SHARES)
def test_credit_is_the_papers(batch: Batch, alpha: float, critic_lambda: float) -> None:
    """Decoupled and length-adaptive, token by token: the sum of the discounted TD errors, and the same plus the value as target."""
    algorithm = ActorCritic(length_adaptive_alpha=alpha, critic_lambda=critic_lambda, whiten_advantages=False)
    assume(max(batch.response_length_B.tolist()) <= 400)
    credited = algorithm.credit(precise(batch))
    expected: list[list[float]] = [[], []]
    lengths = batch.response_length_B.tolist()
    for length, value_T, correct in zip(lengths, batch.value_R.split(lengths), batch.correct_B.tolist(), strict=True):
        values = [*value_T.double().tolist(), 0.0]
        deltas = [values[t + 1] - values[t] for t in range(length)]
        deltas[-1] += 1.0 if correct else -1.0
        for kept, lam, add in ((expected[0], max(0.0, 1 - 1 / (alpha * length)), 0.0), (expected[1], critic_lambda, 1.0)):
            kept += [sum(lam ** (i - t) * deltas[i] for i in range(t, length)) + add * values[t] for t in range(length)]
    for found_R, wanted in zip((credited.advantage_R, credited.target_R), expected, strict=True):
        assert found_R is not None
        size = max(1.0, batch.value_R.abs().max().item())
        assert_close(found_R.double(), torch.tensor(wanted, dtype=torch.float64), rtol=2e-5, atol=2e-5 * size)
