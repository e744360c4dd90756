import random

import pytest
import torch
from tests.padding import pad

from vapo.algorithms import ActorCritic
from vapo.micro_batches import micro_batches, minibatches
from vapo.models.actor import Actor
from vapo.rollout.collate import collate

BUDGETS = [1, 11, 20, 24, 33, 1000]


def pieces(rollouts):
    return [(list(r.prompt.token_ids), list(r.completion.token_ids)) for r in rollouts]


def read_back(batch):
    """Rollouts' tokens, read out of the flat tensor with plain indices."""
    found, start = [], 0
    for p, r in zip(batch.prompt_length_B.tolist(), batch.response_length_B.tolist(), strict=True):
        found.append((batch.token_N[start : start + p].tolist(), batch.token_N[start + p : start + p + r].tolist()))
        start += p + r
    assert start == len(batch.token_N)
    return found


def test_collate_joins_rollouts_in_order(rollouts):
    batch = collate(rollouts)
    assert len(batch) == 8
    assert read_back(batch) == pieces(rollouts)
    assert batch.group_B.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.correct_B.tolist() == [True, False, False, True, False, False, True, True]
    assert batch.truncated_B.tolist() == [False, False, True, False, False, False, False, False]
    expected = [logprob for rollout in rollouts for logprob in rollout.completion.logprobs]
    assert batch.sampler_logprob_R.tolist() == pytest.approx(expected)
    assert batch.value_R is batch.advantage_R is batch.old_logprob_R is batch.target_R is None


@pytest.mark.parametrize("budget", BUDGETS)
def test_micro_batches_cover_each_rollout_once_longest_first(annotated, budget):
    micros = list(micro_batches(annotated, budget))
    indices = [row for micro in micros for row in micro.index_B.tolist()]
    length_B = annotated.total_length_B.tolist()
    assert sorted(indices) == list(range(8))
    assert [length_B[row] for row in indices] == sorted(length_B, reverse=True)
    for micro in micros:
        assert len(micro.packed.index_X) <= budget or len(micro.index_B) == 1
        assert micro.token_BL.shape[1] == max(length_B[row] for row in micro.index_B.tolist())


def test_micro_batches_are_as_few_as_the_budget_allows(annotated):
    lengths, expected = [13, 10, 10, 8, 5, 5, 4, 3], {0.0: [1, 2, 3, 2], 0.75: [1, 2, 4, 1], 0.85: [2, 3, 3]}
    assert sorted(annotated.total_length_B.tolist(), reverse=True) == lengths
    assert {s: [len(micro.index_B) for micro in micro_batches(annotated, 24, similar=s)] for s in expected} == expected
    assert len(list(micro_batches(annotated, 8 * 13))) == 1


def test_a_rollout_longer_than_the_budget_goes_alone(annotated):
    first, second, *_ = micro_batches(annotated, 10)
    assert first.index_B.tolist() == [5]
    assert first.token_BL.shape == (1, 13)
    assert second.index_B.tolist() == [2]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_micro_batch_is_the_rollouts_right_padded(annotated, rollouts, budget):
    expected = pieces(rollouts)
    for micro in micro_batches(annotated, budget):
        for i, row in enumerate(micro.index_B.tolist()):
            prompt, response = expected[row]
            padding = [0] * (micro.token_BL.shape[1] - len(prompt) - len(response))
            assert micro.token_BL[i].tolist() == prompt + response + padding
            predicts = [False] * (len(prompt) - 1) + [True] * len(response) + [False] + [False] * len(padding)
            assert micro.predicts_BL[i].tolist() == predicts
            assert micro.mask_BT[i].tolist() == [t < len(response) for t in range(micro.mask_BT.shape[1])]
        chosen = [expected[row][1] for row in micro.index_B.tolist()]
        assert micro.next_token_R.tolist() == [token for response in chosen for token in response]
        assert micro.token_BL.roll(-1, 1)[micro.predicts_BL].tolist() == micro.next_token_R.tolist()


def test_a_micro_batch_carries_the_fields_of_its_rollouts(annotated):
    value_BT = pad(annotated, annotated.value_R)
    for micro in micro_batches(annotated, 20):
        width = micro.mask_BT.shape[1]
        assert torch.equal(micro.padded("value_R"), value_BT[micro.index_B, :width])
        assert torch.equal(micro.part.correct_B, annotated.correct_B[micro.index_B])
        assert torch.equal(micro.part.group_B, annotated.group_B[micro.index_B])


def test_equal_lengths_keep_their_order(rollouts):
    batch = collate([rollouts[6]] * 5)
    assert [micro.index_B.tolist() for micro in micro_batches(batch, 10)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(("count", "budget"), [(40, 60), (9, 1000), (5, 1)])
def test_ranks_share_all_rollouts_in_equally_many_pieces(make_rollout, ranks, count, budget):
    rng = random.Random(ranks)
    batch = collate([make_rollout(rng, 3, rng.choice([1, 2, 5, 40]), i % 2, i) for i in range(count)])
    shares = [list(micro_batches(batch, budget, "cpu", rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(row for share in shares for micro in share for row in micro.index_B.tolist()) == list(range(count))
    tokens = [sum(len(micro.next_token_R) for micro in share) for share in shares]
    largest = max(micro.token_BL.numel() for share in shares for micro in share)
    assert max(tokens) - min(tokens) <= largest  # they differ by less than one piece


def test_a_rank_without_rollouts_runs_its_network_and_adds_nothing(make_rollout, mini_model):
    batch = collate([make_rollout(random.Random(0), 3, 4, True, 0)]).replace(
        old_logprob_R=-torch.ones(4), advantage_R=torch.ones(4), value_R=torch.zeros(4), target_R=torch.ones(4)
    )
    actor, algorithm = Actor(mini_model), ActorCritic(positive_lm_coef=0.1)
    (micro,) = micro_batches(batch, 100, "cpu", rank=1, ranks=2)
    assert micro.index_B.tolist() == [] and len(micro.next_token_R) == 0
    logprob_R, entropy_R = actor(micro, with_entropy=True)
    assert len(logprob_R) == len(entropy_R) == 0
    loss, watched = algorithm.actor_loss(logprob_R, micro, algorithm.normalizers(batch))
    loss.backward()
    assert loss.item() == 0 and all(value.item() == 0 for value in watched.values())
    gradients = [p.grad for p in actor.parameters() if p.grad is not None]
    assert len(gradients) > 10 and all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("rollouts", "sizes"),
    [(16, [8, 8]), (8, [8]), (20, [7, 7, 6]), (24, [8, 8, 8]), (17, [6, 6, 5]), (4, [4])],
    ids=str,
)
def test_rollouts_that_fill_no_whole_minibatches_are_cut_into_nearly_equal_ones(rollouts, sizes):
    """After dynamic sampling: a last minibatch of the few left over would get a whole step."""
    found = minibatches(torch.arange(rollouts), 8, False, (7, 0, 1))
    assert [len(index_B) for index_B in found] == sizes
    order = torch.randperm(rollouts, generator=torch.Generator().manual_seed(hash((7, 0, 1)) % 2**63))
    assert torch.equal(torch.cat(list(found)), order)  # whole ones are those of `split`


def test_groups_of_several_sizes_stay_in_one_piece_of_the_order():
    """After dynamic sampling or verifier faults; numbers of groups that were left out are missing."""
    group_B = torch.tensor([5, 0, 5, 2, 5, 2, 0, 2, 7, 2])
    for seed in range(20):
        found = minibatches(group_B, 4, True, (seed, 0, 0))
        assert [len(part) for part in found] == [4, 3, 3] and sorted(torch.cat(list(found)).tolist()) == list(range(10))
        runs = group_B[torch.cat(list(found))].unique_consecutive()
        assert sorted(runs.tolist()) == [0, 2, 5, 7]
