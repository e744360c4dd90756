import copy

import pytest
import torch
from torch.testing import assert_close

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.loading import LoadOptions, check_model_path
from vapo.rollout.collate import collate


def per_response(batch, micros, forward):
    """Calls `forward` on each micro-batch and returns one list of per-token numbers a rollout."""
    rows = {}
    for micro in micros:
        pieces = forward(micro).split(micro.part.response_length_B.tolist())
        rows |= zip(micro.index_B.tolist(), pieces, strict=True)
    return [rows[row] for row in range(len(batch))]


def alone(model, rollout, temperature):
    """Logits at temperature of one rollout's response tokens, from a forward without padding."""
    prompt, response = rollout.prompt.token_ids, rollout.completion.token_ids
    logits_LV = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    return logits_LV[len(prompt) - 1 : -1] / temperature


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprob_and_entropy_are_those_of_the_model_alone(language_model, rollouts, temperature):
    batch, actor = collate(rollouts), Actor(language_model)
    with torch.no_grad():
        for output in (0, 1):
            found = per_response(batch, micro_batches(batch, 40), lambda micro: actor(micro, temperature, True)[output])  # noqa: B023
            for rollout, x_T in zip(rollouts, found, strict=True):
                logits_TV = alone(language_model, rollout, temperature)
                logprob_TV = logits_TV.log_softmax(-1)
                chosen = [logprob_TV[t, token].item() for t, token in enumerate(rollout.completion.token_ids)]
                entropy = [-sum(row.exp() * row).item() for row in logprob_TV]
                assert x_T.tolist() == pytest.approx([chosen, entropy][output], abs=1e-5)


def test_the_budget_changes_no_token(language_model, rollouts):
    batch, actor = collate(rollouts), Actor(language_model)
    budgets = [1000, 40, 13, 1]
    with torch.no_grad():
        results = [per_response(batch, micro_batches(batch, budget), lambda micro: actor(micro)[0]) for budget in budgets]
    one, *many = [torch.cat(result) for result in results]
    for other in many:
        assert_close(other, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, 33, 34])
def test_chunks_change_neither_numbers_nor_gradients(language_model, batch, chunk):
    (micro,) = micro_batches(batch, 1000)
    weight_R = torch.randn(34, generator=torch.Generator().manual_seed(0))
    results = []
    for tokens in (1000, chunk):
        actor = Actor(copy.deepcopy(language_model), logits_chunk_tokens=tokens)
        logprob_R, entropy_R = actor(micro, 0.7, with_entropy=True)
        (logprob_R * weight_R).sum().backward()
        assert not entropy_R.requires_grad
        gradients = {name: parameter.grad for name, parameter in actor.named_parameters()}
        assert all(gradient is not None and gradient.any() for name, gradient in gradients.items() if "k_proj.bias" not in name)
        results.append((logprob_R.detach(), entropy_R, gradients))
    assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


def test_no_more_logits_than_a_chunk_exist_at_once(mini_model, batch):
    (micro,) = micro_batches(batch, 1000)
    rows = []
    head = mini_model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: rows.append(output.numel() // output.shape[-1]))
    Actor(mini_model, logits_chunk_tokens=3)(micro)[0].sum().backward()
    assert max(rows) == 3
    assert sum(rows) == 2 * 34  # forward, and again in backward


def test_logprobs_of_a_bfloat16_model_are_float32(mini_model, batch):
    (micro,) = micro_batches(batch, 1000)
    logprob_R, entropy_R = Actor(mini_model.bfloat16())(micro, with_entropy=True)
    assert logprob_R.dtype == entropy_R.dtype == torch.float32


def test_from_pretrained_reads_the_saved_model(mini_model, batch, tmp_path):
    mini_model.save_pretrained(tmp_path)
    (micro,) = micro_batches(batch, 1000)
    actor = Actor.from_pretrained(str(tmp_path), logits_chunk_tokens=5)
    assert actor.logits_chunk_tokens == 5
    assert_close(actor.eval()(micro)[0], Actor(mini_model)(micro)[0])
    assert Actor.from_pretrained(str(tmp_path), loading=LoadOptions(dtype="bfloat16")).language_model.dtype == torch.bfloat16


def test_a_path_without_a_model_names_its_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .* set model\.path to"):
        Actor.from_pretrained(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"does not exist: set model\.path to"):
        Actor.from_pretrained(str(tmp_path / "missing"))


@pytest.mark.parametrize("path", ["missing", "./missing", "a/b/c", "../missing", "/missing"])
def test_a_folder_that_does_not_exist_is_not_taken_for_a_hub_name(path):
    with pytest.raises(FileNotFoundError, match="set some key to"):
        check_model_path(path, "some key")


def test_a_hub_name_passes():
    check_model_path("Qwen/Qwen2.5-0.5B", "some key")
