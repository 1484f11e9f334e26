"""Convolutions, and their adjoints, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from verify.core.linear_maps import Convolution
from verify.core.windows import Window

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("axes", CONVOLUTIONS)
@pytest.mark.parametrize("seed", range(40))
def test_a_convolution_and_its_adjoint(seed: int, axes: int) -> None:
    random = np.random.default_rng(seed)
    kernel, strides, begin, end, spatial = (
        tuple(random.integers(low, high, axes).tolist()) for low, high in ((1, 4), (1, 4), (0, 4), (0, 4), (5, 9))
    )
    dilations = tuple(random.integers(1, 3, axes).tolist())
    groups, inputs, outputs, lanes, count = random.integers(1, 4, 5).tolist()
    weight = random.standard_normal((groups * outputs, inputs, *kernel))
    found = Convolution(weight, Window(kernel, strides, dilations, begin, end), groups)
    x = random.standard_normal((lanes, count, groups * inputs, *spatial))

    samples = torch.tensor(x.reshape(-1, *x.shape[2:])).requires_grad_()
    pads = [pad for pair in reversed(list(zip(begin, end, strict=True))) for pad in pair]
    expected = CONVOLUTIONS[axes](
        F.pad(samples, pads), torch.tensor(weight), stride=strides, dilation=dilations, groups=groups
    )
    np.testing.assert_allclose(found(x).reshape(expected.shape), expected.detach(), atol=1e-10)
    y = torch.tensor(random.standard_normal(expected.shape))
    (adjoint,) = torch.autograd.grad(expected, samples, y)
    np.testing.assert_allclose(found.adjoint(y.numpy(), x.shape[2:]), adjoint, atol=1e-10)
