from math import exp, log

import pytest
import torch
from torch import nn

from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.attention import predicting_states
from vapo.models.logprobs import LOGITS_BYTES, chunked_logprobs
from vapo.plan.live_memory import LiveMemory


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunked_logprobs_is_its_definition(temperature, chunk):
    torch.manual_seed(0)
    head, hidden_RD, token_R = nn.Linear(4, 7, bias=False), torch.randn(5, 4), torch.tensor([0, 6, 3, 3, 1])
    logprob_R, entropy_R = chunked_logprobs(hidden_RD, head, token_R, temperature, chunk, with_entropy=True)
    for r, token in enumerate(token_R.tolist()):
        weight = [exp((head.weight[v] @ hidden_RD[r]).item() / temperature) for v in range(7)]
        probability = [w / sum(weight) for w in weight]
        assert logprob_R[r].item() == pytest.approx(log(probability[token]), abs=1e-5)
        assert entropy_R[r].item() == pytest.approx(-sum(p * log(p) for p in probability), abs=1e-5)


def test_large_logits_do_not_overflow():
    head = nn.Identity()
    logprob_R, entropy_R = chunked_logprobs(torch.tensor([[1e4, 0.0], [1e4, 0.0]]), head, torch.tensor([0, 1]), with_entropy=True)
    assert logprob_R.tolist() == [0.0, -1e4]
    assert entropy_R.tolist() == [0.0, 0.0]


def test_a_chunk_is_as_many_tokens_as_fit_into_the_bytes(mini_model):
    assert Actor(mini_model).logits_chunk_tokens == LOGITS_BYTES // (4 * mini_model.config.vocab_size)
    mini_model.config.vocab_size = 151_936
    assert Actor(mini_model).logits_chunk_tokens == 883


def test_no_copy_is_made_at_temperature_1_and_no_entropy_where_none_is_wanted():
    """Sizes of the temporaries of one chunk, in logits: forward without gradient."""

    def peak(**options):
        hidden_RD, token_R, head = torch.randn(64, 8), torch.zeros(64, dtype=torch.long), nn.Linear(8, 4096, bias=False)
        memory = LiveMemory()
        with torch.no_grad(), memory, memory.phase("chunk"):
            chunked_logprobs(hidden_RD, head, token_R, **options)
        return memory.peak["chunk"] / (4 * 64 * 4096)

    assert peak() < 1.2 and 1.9 < peak(temperature=0.7) < 2.2
    assert 2.9 < peak(with_entropy=True) < 3.2


def test_float32_logits_under_autocast(mini_model, batch):
    (micro,) = micro_batches(batch, 1000)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain, exact = Actor(mini_model)(micro)[0], Actor(mini_model, float32_head=True)(micro)[0]
        hidden = predicting_states(mini_model.base_model, micro).float()  # bf16 products of another shape may round otherwise
    expected = (hidden @ mini_model.get_output_embeddings().weight.T).log_softmax(-1).gather(-1, micro.next_token_R[:, None])[:, 0]
    assert (exact - expected).abs().max() < 1e-5 < 1e-3 < (plain - expected).abs().max()
