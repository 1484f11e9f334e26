"""Interval bounds contain what the network computes, and equal a naive lower/upper implementation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.attack import Pgd, cross_entropy_with, pgd
from adcert.intervals import (
    Box,
    Interval,
    box_around,
    feature_interval,
    interval,
    margin_lower_bounds,
    propagate,
)
from adcert.layers import Add, Convolution, Flatten, Linear, Network, Normalize, Relu, Step
from support.small_networks import images, labels, small_network


def in_float64(network: Network) -> Network:
    return network.map_tensors(Tensor.double)


def naive_bounds(network: Network, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper bounds before each ReLU, then of the features, by splitting weights by sign."""
    found = []
    for layer in network.layers[:-1]:
        match layer:
            case Normalize(mean, std):
                lower, upper = (lower - mean) / std, (upper - mean) / std
            case Convolution(weight, bias, stride, padding, _, 1):
                positive, negative = weight.clamp(min=0), weight.clamp(max=0)
                options = {"stride": stride, "padding": padding}
                lower, upper = (
                    F.conv2d(lower, positive, bias, **options) + F.conv2d(upper, negative, None, **options),
                    F.conv2d(upper, positive, bias, **options) + F.conv2d(lower, negative, None, **options),
                )
            case Linear(weight, bias):
                positive, negative = weight.clamp(min=0), weight.clamp(max=0)
                lower, upper = (
                    lower @ positive.T + upper @ negative.T + bias,
                    upper @ positive.T + lower @ negative.T + bias,
                )
            case Relu():
                found.append((lower, upper))
                lower, upper = lower.clamp(min=0), upper.clamp(min=0)
            case Flatten():
                lower, upper = lower.flatten(1), upper.flatten(1)
    return [*found, (lower, upper)]


def test_boxes_stay_within_the_valid_images() -> None:
    box = box_around(torch.tensor([0.02, 0.5, 0.97]), 0.1)
    torch.testing.assert_close(box.lower, torch.tensor([0.0, 0.4, 0.87]))
    torch.testing.assert_close(box.upper, torch.tensor([0.12, 0.6, 1.0]))


@pytest.mark.parametrize("seed", range(3))
def test_bounds_equal_the_naive_ones(seed: int) -> None:
    network = in_float64(small_network(seed))
    box = box_around(images(7, seed).double(), 0.1)
    bounds = propagate(network, box)
    ours = [*bounds.pre_activations, bounds.features]
    for bound, (lower, upper) in zip(ours, naive_bounds(network, box.lower, box.upper), strict=True):
        torch.testing.assert_close(bound.centre - bound.radius, lower)
        torch.testing.assert_close(bound.centre + bound.radius, upper)
    torch.testing.assert_close(bounds.input.radius, (box.upper - box.lower) / 2)


def test_margins_are_bounded_row_by_row() -> None:
    network = in_float64(small_network())
    box, y = box_around(images(7).double(), 0.1), labels(7)
    margins = margin_lower_bounds(feature_interval(network, box), network.last, y)
    lower, upper = naive_bounds(network, box.lower, box.upper)[-1]
    for sample in range(7):
        for other in range(5):
            row = network.last.weight[y[sample]] - network.last.weight[other]
            bound = network.last.bias[y[sample]] - network.last.bias[other]
            bound = bound + sum(
                weight * (lower[sample, i] if weight > 0 else upper[sample, i]) for i, weight in enumerate(row)
            )
            torch.testing.assert_close(margins[sample, other], bound)
        assert margins[sample, y[sample]] == 0


@pytest.mark.parametrize("seed", range(3))
def test_margins_hold_for_sampled_corner_and_attacked_images(seed: int) -> None:
    network = in_float64(small_network(seed))
    random = torch.Generator().manual_seed(seed)
    box, y = box_around(images(7, seed).double(), 0.1), labels(7, seed)
    margins = margin_lower_bounds(feature_interval(network, box), network.last, y)
    noise = torch.rand(300, *box.lower.shape, generator=random, dtype=torch.float64)
    noise[100:200] = (noise[100:200] > 0.5).double()
    points = [box.lower + share * (box.upper - box.lower) for share in noise]
    points += [pgd(network, Box(box.lower, box.upper), cross_entropy_with(y), Pgd(10, 3), random)]
    for point in points:
        logits = network(point)
        assert bool((logits.gather(1, y[:, None]) - logits >= margins - 1e-9).all())


def test_a_box_without_width_gives_the_margins_themselves() -> None:
    network, x, y = small_network(), images(7), labels(7)
    logits = network(x)
    margins = margin_lower_bounds(feature_interval(network, box_around(x, 0.0)), network.last, y)
    torch.testing.assert_close(margins, logits.gather(1, y[:, None]) - logits, rtol=1e-4, atol=1e-4)


def test_gradients_of_the_bounds_behind_a_relu() -> None:
    centre = torch.linspace(-1, 1, 8, dtype=torch.float64).requires_grad_()
    radius = torch.tensor([0.3, 0.9] * 4, dtype=torch.float64).requires_grad_()

    def bounds(c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        behind = interval(Relu(), Interval(c, r))
        return behind.lower, behind.upper

    assert torch.autograd.gradcheck(bounds, (centre, radius))
    lower, upper = bounds(centre, radius)
    torch.testing.assert_close(lower, F.relu(centre - radius))
    torch.testing.assert_close(upper, F.relu(centre + radius))


def test_only_results_that_nothing_else_reads_are_overwritten() -> None:
    linear = Linear(torch.eye(3), torch.zeros(3))
    steps = (
        Step(Relu(), (0,)),  # of the input
        Step(linear, (1,)),
        Step(Relu(), (2,)),  # beside another reader
        Step(Add(), (2, 3)),
        Step(linear, (4,)),
        Step(Relu(), (5,)),
        Step(linear, (6,)),
    )
    network = Network(steps).overwriting()
    in_place = [step.layer.in_place for step in network.steps if isinstance(step.layer, Relu)]
    assert in_place == [False, False, True]
    x = torch.tensor([[-1.0, 2.0, -3.0]])
    torch.testing.assert_close(network(x), Network(steps)(x))
    assert x.tolist() == [[-1.0, 2.0, -3.0]]
