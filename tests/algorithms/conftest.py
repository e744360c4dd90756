"""A small ragged batch, and junk for the slots that must not matter."""

from math import inf, nan

import pytest
import torch
from torch.testing import assert_close

pytest.register_assert_rewrite("tests.algorithms.knobs_of_the_loop")

MASK = ["111111", "111100", "110000", "100000", "101101", "001010", "011111", "000000"]  # whole, short, with holes, empty


@pytest.fixture
def mask_BT():
    return torch.tensor([[character == "1" for character in row] for row in MASK])


@pytest.fixture
def draw(mask_BT):
    """`draw()`: another seeded normal float64 tensor of the mask's shape."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(mask_BT.shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[nan, inf, -inf, 1e9], ids=str)
def assert_ignores_junk(request, mask_BT):
    """Checks that junk in the masked slots of every input changes neither the output nor the gradient of any unmasked slot."""

    def check(function, *inputs):
        outputs, gradients = [], []
        for filling in (0.0, request.param):
            leaves = [torch.where(mask_BT, x_BT, filling).requires_grad_() for x_BT in inputs]
            output = function(*leaves)
            outputs.append(output.detach())
            if output.requires_grad:
                weight = torch.linspace(1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
                (output * weight).sum().backward()
                gradients.append([leaf.grad[mask_BT] for leaf in leaves])
        assert outputs[0].isfinite().all()
        assert_close(outputs[1], outputs[0], rtol=0, atol=0)
        if gradients:
            assert any(gradient.any() for gradient in gradients[0])
            assert_close(gradients[1], gradients[0], rtol=0, atol=0)

    return check
