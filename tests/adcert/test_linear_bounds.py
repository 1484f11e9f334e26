"""CROWN-IBP against a plain implementation over dense matrices in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from adcert.intervals import Bounds, box_around, margin_lower_bounds, margin_rows, propagate
from adcert.layers import Convolution, Flatten, Layer, Linear, Network, Relu, apply
from adcert.linear_bounds import lower_bounds
from support.small_networks import images, labels, small_network

Array = NDArray[np.float64]


def in_float64(seed: int) -> Network:
    return small_network(seed).map_tensors(Tensor.double)


def dense(layer: Layer, shape: torch.Size) -> tuple[Array, Array]:
    """An affine layer as a matrix and a shift, from what it makes of zero and of the unit vectors."""
    size = shape.numel()
    shift = apply(layer, torch.zeros(1, *shape).double()).reshape(-1)
    columns = apply(layer, torch.eye(size).double().reshape(size, *shape)).reshape(size, -1) - shift
    return columns.numpy().T, shift.numpy()


def slow_crown(network: Network, bounds: Bounds, sample: int, row: Array, offset: float) -> float:
    """The lower bound of row times the features, plus offset, neuron by neuron."""
    for index in reversed(range(len(network.steps) - 1)):
        layer, operand = network.steps[index].layer, bounds.values[index]
        lower, upper = (end[sample].reshape(-1).numpy() for end in (operand.lower, operand.upper))
        if isinstance(layer, Relu):
            for neuron, (low, high) in enumerate(zip(lower, upper, strict=True)):
                weight = row[neuron]
                if high <= 0:
                    row[neuron] = 0
                elif low < 0 and weight < 0:
                    row[neuron], offset = weight * high / (high - low), offset - weight * high * low / (high - low)
                elif low < 0:
                    row[neuron] = weight if high > -low else 0
        else:
            matrix, shift = dense(layer, operand.centre.shape[1:])
            row, offset = row @ matrix, offset + row @ shift
    lower, upper = (end[sample].reshape(-1).numpy() for end in (bounds.input.lower, bounds.input.upper))
    return float(offset + np.where(row > 0, row * lower, row * upper).sum())


@pytest.mark.parametrize("radius", [0.01, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_equal_the_slow_ones(seed: int, radius: float) -> None:
    network, y = in_float64(seed), labels(4, seed)
    bounds = propagate(network, box_around(images(4, seed).double(), radius))
    rows, offsets = margin_rows(network.last, y)
    found = lower_bounds(network, bounds, rows, offsets)
    for sample in range(4):
        for j in range(5):
            slow = slow_crown(network, bounds, sample, rows[sample, j].numpy().copy(), offsets[sample, j].item())
            assert found[sample, j].item() == pytest.approx(slow, rel=1e-9, abs=1e-9)


def test_bounds_of_a_network_without_unstable_neurons_are_exact() -> None:
    network, x, y = in_float64(0), images(4).double(), labels(4)
    box = box_around(x, 1e-7)
    bounds = propagate(network, box)
    rows, offsets = margin_rows(network.last, y)
    logits = network(x)
    exact = logits.gather(1, y[:, None]) - logits
    found = lower_bounds(network, bounds, rows, offsets)
    assert bool((found >= margin_lower_bounds(bounds.features, network.last, y) - 1e-12).all())
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


def test_strides_that_leave_pixels_over() -> None:
    weight = torch.randn(3, 2, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    convolution = Convolution(weight, torch.ones(3).double(), (2, 3), (1, 0), (1, 2))
    out = convolution.apply(images(1).double(), weight, None)[0].numel()
    last = Linear(torch.eye(out).double(), torch.zeros(out).double())
    network = Network.chain(convolution, Flatten(), last)
    bounds = propagate(network, box_around(images(2).double(), 0.1))
    rows = torch.eye(out).double().expand(2, -1, -1)
    found = lower_bounds(network, bounds, rows, torch.zeros(2, out).double())
    torch.testing.assert_close(found, bounds.features.lower)  # of an affine network
