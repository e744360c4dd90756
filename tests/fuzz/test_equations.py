"""Every equation of `vapo.algorithms` against the plain loop of its definition, at any lengths, sizes and verdicts."""

import math
import statistics

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.batches import LENGTHS, SCALES, SEEDS, SHARES, batches, normal
from torch import Tensor
from torch.testing import assert_close

from vapo.algorithms import advantages, diagnostics, evaluation, groups, masked, mismatch, policy_loss, rewards
from vapo.algorithms.group_relative import MAX_KL, bounded_kl
from vapo.algorithms.value_loss import centred_sums, explained_variance, explained_variance_sums, value_loss
from vapo.types import Batch

LOGS = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, -25.0, 25.0, -1e3, 1e3]))  # of ratios
NUMBERS = st.one_of(st.floats(-2, 2), st.sampled_from([0.0, -1e3, 1e3]))
MASKS = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4).map(torch.tensor)


def rows(x_R: Tensor, lengths: list[int]) -> list[list[float]]:
    return [x_T.tolist() for x_T in x_R.split(lengths)]


def close(found: Tensor, expected: list[float], scale: float = 1.0) -> None:
    assert found.isfinite().all()
    assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9 * max(scale, 1.0))


@given(LENGTHS, SEEDS, SCALES, SHARES, SHARES)
def test_gae(lengths: list[int], seed: int, scale: float, lam: float, gamma: float) -> None:
    length_B, reward_R, value_R = torch.tensor(lengths), normal(seed, sum(lengths)), normal(seed + 1, sum(lengths), scale)
    lam_B = torch.linspace(0, lam, len(lengths), dtype=torch.float64)
    expected = []
    for reward_T, value_T, one in zip(rows(reward_R, lengths), rows(value_R, lengths), lam_B.tolist(), strict=True):
        after, advantage, found = 0.0, 0.0, []
        for reward, value in zip(reversed(reward_T), reversed(value_T), strict=True):
            advantage = reward + gamma * after - value + gamma * one * advantage
            after = value
            found.append(advantage)
        expected += found[::-1]
    advantage_R = advantages.gae(reward_R, value_R, length_B, lam_B, gamma)
    close(advantage_R, expected, scale * max(lengths))
    for row, part_R in enumerate(advantage_R.split(lengths)):  # alone it has the same, bit for bit
        place = slice(sum(lengths[:row]), sum(lengths[: row + 1]))
        alone_R = advantages.gae(reward_R[place], value_R[place], length_B[row : row + 1], lam_B[row].item(), gamma)
        assert torch.equal(alone_R, part_R)


@given(LENGTHS, SEEDS, SHARES)
def test_monte_carlo_return(lengths: list[int], seed: int, gamma: float) -> None:
    reward_B = normal(seed, len(lengths))
    pairs = zip(reward_B.tolist(), lengths, strict=True)
    expected = [reward * gamma**later for reward, length in pairs for later in range(length - 1, -1, -1)]
    close(advantages.monte_carlo_return(reward_B, torch.tensor(lengths), gamma), expected)
    assert torch.equal(
        advantages.monte_carlo_return(reward_B, torch.tensor(lengths)), advantages.spread(reward_B, torch.tensor(lengths))
    )


@given(st.lists(st.integers(0, 100_000), min_size=1), st.floats(1e-3, 10))
def test_length_adaptive_lambda(lengths: list[int], alpha: float) -> None:
    lam_B = advantages.length_adaptive_lambda(torch.tensor(lengths), alpha)
    assert (lam_B >= 0).all() and (lam_B < 1).all()
    expected = [max(0.0, 1 - 1 / (alpha * length)) if length else 0.0 for length in lengths]
    assert_close(lam_B, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@given(st.integers(1, 200_000), SEEDS, st.sampled_from([0.0, 1.0, 1e3]), st.sampled_from([0.0, -1e4, 1e4]))
@example(2, 0, 1.0, 0.0)
@example(2, 0, 1e-4, 0.0)  # where epsilon counts
def test_whitening(tokens: int, seed: int, scale: float, offset: float) -> None:
    x_R = normal(seed, tokens, scale) + offset
    white_R = masked.whiten(x_R)
    assert white_R.isfinite().all() and abs(white_R.mean().item()) < 1e-6
    if tokens > 1 and scale > 0:
        deviation = (statistics.variance(x_R[:1000].tolist()) if tokens <= 1000 else x_R.var().item()) + 1e-8
        assert_close(white_R, (x_R - x_R.mean()) / deviation**0.5, rtol=1e-6, atol=1e-6)
    else:
        assert white_R.abs().max() < 1e-3


@given(MASKS, SEEDS, st.sampled_from([math.nan, math.inf, -1e30]), st.integers(0, 20), st.integers(0, 20))
def test_masked_means(mask_BT: Tensor, seed: int, junk: float, more_tokens: int, more_rows: int) -> None:
    x_BT = normal(seed, mask_BT.numel()).view(mask_BT.shape)
    tokens, sequences = int(mask_BT.sum()) + more_tokens, len(mask_BT) + more_rows
    kept = [[x for x, on in zip(*row, strict=True) if on] for row in zip(x_BT.tolist(), mask_BT.tolist(), strict=True)]
    dirty_BT = torch.where(mask_BT, x_BT, junk)
    close(masked.token_mean(dirty_BT, mask_BT, tokens), sum(map(sum, kept)) / max(tokens, 1))
    close(masked.sequence_mean(dirty_BT, mask_BT, sequences), sum(sum(row) / len(row) for row in kept if row) / sequences)
    parts = [masked.sequence_mean(x_T[None], mask_T[None], sequences) for x_T, mask_T in zip(dirty_BT, mask_BT, strict=True)]
    close(masked.sequence_mean(dirty_BT, mask_BT, sequences), sum(parts).item())


@given(LOGS, NUMBERS, st.floats(0, 0.99), st.floats(0, 3), st.one_of(st.none(), st.floats(1.01, 10)))
def test_clipped_surrogate(log_ratio: float, advantage: float, low: float, more: float, dual: float | None) -> None:
    high, moved = low + more, torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    loss = policy_loss.clipped_surrogate(moved, torch.tensor(advantage, dtype=torch.float64), low, high, dual)
    ratio = math.exp(min(max(log_ratio, -20), 20))
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    close(loss.detach(), -objective)
    loss.backward()
    assert moved.grad is not None and moved.grad.isfinite()
    below, above = diagnostics.clip_indicators(moved.detach(), torch.tensor(advantage), low, high)
    assert (below + above).item() in (0.0, 1.0)
    if below + above == 1:
        assert moved.grad == 0  # what is counted as clipped has no gradient
    elif dual is None and abs(log_ratio) < 20:
        assert moved.grad.item() == pytest.approx(-ratio * advantage) or ratio in (1 - low, 1 + high)


@given(MASKS, SEEDS, st.booleans())
def test_positive_example_nll(mask_BT: Tensor, seed: int, junk: bool) -> None:
    logprob_BT = -normal(seed, mask_BT.numel()).abs().view(mask_BT.shape)
    correct_B = torch.rand(len(mask_BT), generator=torch.Generator().manual_seed(seed)) < 0.5
    nll_BT = policy_loss.positive_example_nll(torch.where(mask_BT, logprob_BT, math.nan), mask_BT, correct_B)
    expected = [
        [-x if on and right else 0.0 for x, on in zip(*row, strict=True)]
        for *row, right in zip(logprob_BT.tolist(), mask_BT.tolist(), correct_B.tolist(), strict=True)
    ]
    close(nll_BT, expected)


@given(NUMBERS, NUMBERS, NUMBERS, st.one_of(st.none(), st.floats(1e-3, 10)))
def test_value_loss(value: float, target: float, old: float, clip: float | None) -> None:
    error = (value - target) ** 2
    if clip is not None:
        error = max(error, (old + min(max(value - old, -clip), clip) - target) ** 2)
    found = value_loss(*(torch.tensor(x, dtype=torch.float64) for x in (value, target, old)), clip)
    close(found, error / 2)


@given(batches(), st.sampled_from([0.0, 1.0, 1e3]))
def test_explained_variance(batch: Batch, offset: float) -> None:
    lengths = batch.response_length_B.tolist()
    return_R = advantages.spread(rewards.outcome_reward(batch.correct_B), batch.response_length_B).double()
    value_R = batch.value_R.double() + offset
    sums_B5 = explained_variance_sums(value_R, return_R, batch.response_length_B)
    sums_5 = explained_variance_sums(value_R, return_R)
    assert_close(sums_B5.sum(0), sums_5)
    explained, variance = explained_variance(sums_5).item(), return_R.var(correction=0).item()
    expected = 1 - (return_R - value_R).var(correction=0).item() / variance if variance > 1e-12 else 0.0
    assert explained == pytest.approx(expected, rel=1e-6, abs=1e-6)
    within = explained_variance(centred_sums(sums_B5, batch.group_B)).item()
    members = {p: [i for i, group in enumerate(batch.group_B.tolist()) if group == p] for p in batch.group_B.tolist()}
    errors, returns = [], []
    for rows_of_problem in (rows_ for rows_ in members.values() if len(rows_) > 1):
        for kept, x_R in ((errors, return_R - value_R), (returns, return_R)):
            x = torch.cat([x_R.split(lengths)[i] for i in rows_of_problem])
            kept.append(x - x.mean())
    spread = torch.cat(returns).square().mean().item() if returns else 0.0
    expected = 1 - torch.cat(errors).square().mean().item() / spread if spread > 1e-12 else 0.0
    assert within == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 3)), min_size=1, max_size=20), st.booleans())
def test_group_advantage(pairs: list[tuple[float, int]], divide: bool) -> None:
    reward_B = torch.tensor([reward for reward, _ in pairs], dtype=torch.float64)
    group_B = torch.unique(torch.tensor([group for _, group in pairs]), return_inverse=True)[1]
    expected = []
    for reward, group in zip(reward_B.tolist(), group_B.tolist(), strict=True):
        members = reward_B[group_B == group].tolist()
        deviation = statistics.stdev(members) if len(members) > 1 else 0.0
        expected.append((reward - statistics.mean(members)) / ((deviation + 1e-6) if divide else 1.0))
    found_B = groups.group_advantage(reward_B, group_B, divide)
    assert_close(found_B, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_group_fractions(pairs: list[tuple[bool, int]]) -> None:
    members: dict[int, list[bool]] = {}
    for correct, group in pairs:
        members.setdefault(group, []).append(correct)
    kinds = ["all_correct" if all(row) else "mixed" if any(row) else "all_wrong" for row in members.values()]
    numbers = {group: number for number, group in enumerate(members)}
    found = groups.group_fractions(torch.tensor([x for x, _ in pairs]), torch.tensor([numbers[group] for _, group in pairs]))
    assert found == {f"frac_{k}": pytest.approx(kinds.count(k) / len(kinds)) for k in ("all_wrong", "mixed", "all_correct")}


@given(st.lists(st.integers(1, 50_000), min_size=1), st.integers(1, 30_000), SHARES)
def test_overlong_penalty(lengths: list[int], limit: int, share: float) -> None:
    buffer = max(1, int(share * limit))
    begins = limit - buffer
    expected = [0.0 if length <= begins else -1.0 if length > limit else (begins - length) / buffer for length in lengths]
    close(rewards.overlong_penalty(torch.tensor(lengths), limit, buffer).float(), torch.tensor(expected).tolist())


@given(batches())
def test_rewards(batch: Batch) -> None:
    reward_B = rewards.outcome_reward(batch.correct_B)
    assert reward_B.tolist() == [1.0 if correct else -1.0 for correct in batch.correct_B.tolist()]
    reward_R = rewards.terminal_reward(reward_B, batch.response_length_B)
    pairs = zip(reward_B.tolist(), batch.response_length_B.tolist(), strict=True)
    assert reward_R.tolist() == [x for reward, length in pairs for x in [0.0] * (length - 1) + [reward]]


@given(LOGS, st.sampled_from(sorted(diagnostics.KL_ESTIMATORS)))
def test_divergences(log_ratio: float, name: str) -> None:
    moved = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    bounded = bounded_kl(moved, name)
    bounded.backward()
    assert abs(bounded.item()) <= MAX_KL and moved.grad is not None and moved.grad.isfinite()
    if abs(log_ratio) <= 3:
        exact = {"k1": -log_ratio, "k2": log_ratio**2 / 2, "k3": math.exp(log_ratio) - 1 - log_ratio}[name]
        close(diagnostics.KL_ESTIMATORS[name](moved).detach(), exact)
        close(bounded.detach(), min(exact, MAX_KL))


@given(st.integers(1, 5), st.integers(1, 60), SEEDS, st.sampled_from([0.0, 1.0, 100.0]))
def test_entropy(tokens: int, words: int, seed: int, scale: float) -> None:
    logits_NV = normal(seed, tokens * words, scale, torch.float32).view(tokens, words)
    logits_NV[:, 1::3] = -math.inf  # tokens that may not be sampled
    p_NV = logits_NV.double().softmax(-1)
    expected = [-sum(p * math.log(p) for p in row if p > 0) for row in p_NV.tolist()]
    assert_close(diagnostics.entropy(logits_NV).double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    given_N = logits_NV.logsumexp(-1) + 1  # of probabilities that are all lower by a factor e
    assert_close(diagnostics.entropy(logits_NV, given_N), (diagnostics.entropy(logits_NV) + 1) / math.e, rtol=1e-4, atol=1e-4)


@given(MASKS, SEEDS, st.sampled_from(mismatch.MISMATCH), st.floats(0.01, 1), st.floats(1, 20), st.sampled_from([0.01, 1.0, 50.0]))
def test_mismatch_weights(mask_BT: Tensor, seed: int, kind: str, low: float, high: float, scale: float) -> None:
    mask_BT[:, 0] = True  # a response has a token
    log_rho_BT = normal(seed, mask_BT.numel(), scale).view(mask_BT.shape)
    weight_BT = mismatch.mismatch_weight(kind, log_rho_BT, mask_BT, low, high)
    assert weight_BT.dtype == log_rho_BT.dtype
    for log_rho_T, mask_T, weight_T in zip(log_rho_BT.tolist(), mask_BT.tolist(), weight_BT.tolist(), strict=True):
        mine = [x for x, on in zip(log_rho_T, mask_T, strict=True) if on]
        for log_rho, on, weight in zip(log_rho_T, mask_T, weight_T, strict=True):
            total = {"sequence_truncate": sum(mine), "sequence_mask": sum(mine) / len(mine)}.get(kind, log_rho)
            rho = math.exp(min(max(total, -20), 20))
            inside, capped = low <= rho <= high, min(rho, high)
            expected = {"truncate": capped, "mask": rho * inside, "sequence_truncate": capped}.get(kind, float(inside))
            assert not on or weight == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 200), st.data())
def test_benchmark_scores(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    expected = 1.0
    for i in range(k):  # none of k draws without replacement
        expected *= max(samples - correct - i, 0) / (samples - i)
    assert evaluation.pass_at_k(samples, correct, k) == pytest.approx(1 - expected)
    scores = data.draw(st.lists(NUMBERS, min_size=2, max_size=9))
    index = data.draw(st.integers(0, len(scores) - 1))
    others = scores[:index] + scores[index + 1 :]
    wins = sum(1.0 if scores[index] > x else 0.5 if scores[index] == x else 0.0 for x in others)
    assert diagnostics.auroc_at(scores, index) == pytest.approx(wins / len(others))
    answers = data.draw(st.lists(st.sampled_from(["3", "4", "5", None]), min_size=1, max_size=9))
    right = data.draw(st.sampled_from(["3", "4", "5"]))
    votes = [answers.count(text) for text in ("3", "4", "5")]
    leaders = [text for text, count in zip(("3", "4", "5"), votes, strict=True) if count == max(votes) > 0]
    expected = (right in leaders) / len(leaders) if leaders else 0.0
    assert evaluation.maj_at_k(answers, [text == right for text in answers]) == pytest.approx(expected)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=9), SEEDS)
def test_bootstrap_interval(correct_PK: list[list[bool]], seed: int) -> None:
    shares = [sum(row) / len(row) for row in correct_PK]
    assert evaluation.avg_at_k(correct_PK) == pytest.approx(statistics.mean(shares))
    low, high = evaluation.bootstrap_interval(correct_PK, resamples=200, seed=seed)
    slack = 1e-9
    assert min(shares) - slack <= low <= high <= max(shares) + slack
    mirrored = evaluation.bootstrap_interval([[not x for x in row] for row in correct_PK], 1.0, 200, seed)
    assert evaluation.bootstrap_interval(correct_PK, 1.0, 200, seed)[1] == pytest.approx(1 - mirrored[0])  # the highest of all
    assert len(set(shares)) > 1 or low == pytest.approx(high) == pytest.approx(shares[0])
