import pytest
import torch
from tests.padding import pad

from vapo.micro_batches import micro_batches
from vapo.rollout.collate import collate
from vapo.types import Rollout, SamplingParams, Status, Verdict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; set it to 0"),
        ({"top_p": 0.0}, "top_p is 0.0; set it in"),
        ({"top_p": 1.1}, "top_p is 1.1; set it in"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; set it to 1"),
    ],
)
def test_sampling_params_say_what_to_set(changes, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**changes)


@pytest.mark.parametrize("status", Status)
def test_only_correct_is_correct(rollouts, status):
    rollout = Rollout(rollouts[0].prompt, 0, rollouts[0].completion, Verdict(status))
    assert rollout.correct == (status == "correct")


def test_mask_is_left_aligned(batch):
    expected = [[t < length for t in range(9)] for length in [5, 1, 9, 2, 4, 7, 3, 3]]
    assert batch.mask_BT.tolist() == expected


def test_pad_places_tokens_by_response_and_the_mask_takes_them_back(batch):
    x_R = torch.arange(1, 35)
    x_BT = pad(batch, x_R)
    rows, start = [], 1
    for length in [5, 1, 9, 2, 4, 7, 3, 3]:
        rows.append(list(range(start, start + length)) + [0] * (9 - length))
        start += length
    assert x_BT.tolist() == rows
    assert torch.equal(x_BT[batch.mask_BT], x_R)
    assert pad(batch, x_R.double()).dtype == torch.float64


@pytest.mark.parametrize("rows", [[0], [7, 0], [5, 2, 2, 1], list(range(8)), list(range(7, -1, -1))])
def test_select_takes_rollouts_in_the_order_asked(annotated, rollouts, rows):
    chosen, expected = annotated.select(torch.tensor(rows)), collate([rollouts[row] for row in rows])
    for name in ("token_N", "prompt_length_B", "response_length_B", "group_B", "correct_B", "truncated_B", "sampler_logprob_R"):
        assert torch.equal(getattr(chosen, name), getattr(expected, name)), name
    value_BT = pad(annotated, annotated.value_R)
    assert chosen.value_R.tolist() == [value_BT[row, t].item() for row in rows for t in range(annotated.response_length_B[row])]


def test_select_leaves_out_what_is_not_there_yet(batch):
    chosen = batch.select(torch.tensor([1, 0]))
    assert chosen.value_R is chosen.old_logprob_R is chosen.advantage_R is chosen.target_R is None


def test_with_sets_fields_of_a_copy(batch):
    value_R = torch.zeros(34)
    assert batch.replace(value_R=value_R).value_R is value_R
    assert batch.value_R is None


def test_micro_batch_pad_keeps_the_gradient(annotated):
    micro = next(micro_batches(annotated, 40))
    x_R = torch.arange(1.0, 1.0 + len(micro.next_token_R), requires_grad=True)
    x_BT = micro.pad(x_R)
    assert torch.equal(x_BT[micro.mask_BT], x_R)
    assert not x_BT[~micro.mask_BT].any()
    (x_BT * 3).sum().backward()
    assert torch.equal(x_R.grad, torch.full_like(x_R, 3.0))


def test_micro_batch_says_which_field_is_missing(batch):
    with pytest.raises(AssertionError, match="no advantage_R yet"):
        next(micro_batches(batch, 40)).padded("advantage_R")
