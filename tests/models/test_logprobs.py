from math import exp, log

import pytest
import torch
from torch import nn

from vapo.models.logprobs import chunked_logprobs


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
