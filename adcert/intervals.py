"""Interval bound propagation, differentiable, in float32, without rigorous rounding: for training and estimates.

What is proved about an exported file is proved by `verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.folding import Convolution, Flatten, Linear, Network, Normalize, Relu


@dataclass(frozen=True)
class Box:
    """All images between `lower` and `upper` (both N x C x H x W)."""

    lower: Tensor
    upper: Tensor


def box_around(images: Tensor, radius: float) -> Box:
    """[max(x - radius, 0), min(x + radius, 1)]: the l_inf ball within the valid images."""
    return Box((images - radius).clamp(min=0), (images + radius).clamp(max=1))


@dataclass(frozen=True)
class Interval:
    """Everything within `radius` (>= 0) of `centre`, elementwise."""

    centre: Tensor
    radius: Tensor


def _convolution(layer: Convolution, x: Interval) -> Interval:
    centre = F.conv2d(x.centre, layer.weight, layer.bias, layer.stride, layer.padding)
    return Interval(centre, F.conv2d(x.radius, layer.weight.abs(), None, layer.stride, layer.padding))


def _linear(layer: Linear, x: Interval) -> Interval:
    return Interval(F.linear(x.centre, layer.weight, layer.bias), F.linear(x.radius, layer.weight.abs()))


def _relu(layer: Relu, x: Interval) -> Interval:
    lower, upper = F.relu(x.centre - x.radius), F.relu(x.centre + x.radius)
    return Interval((upper + lower) / 2, (upper - lower) / 2)


INTERVAL: dict[type, Callable[[Any, Interval], Interval]] = {
    Convolution: _convolution,
    Linear: _linear,
    Normalize: lambda layer, x: Interval((x.centre - layer.mean) / layer.std, x.radius / layer.std),
    Relu: _relu,
    Flatten: lambda layer, x: Interval(x.centre.flatten(1), x.radius.flatten(1)),
}


@dataclass(frozen=True)
class Bounds:
    """Intervals of the input, of what enters each ReLU, and of the features (N x F) that enter the last layer."""

    input: Interval
    pre_activations: tuple[Interval, ...]
    features: Interval


def propagate(network: Network, box: Box) -> Bounds:
    """Bounds of every layer of `network` but the last, whose rows are only bounded as margins."""
    entering = current = Interval((box.upper + box.lower) / 2, (box.upper - box.lower) / 2)
    pre_activations = []
    for layer in network.layers[:-1]:
        if isinstance(layer, Relu):
            pre_activations.append(current)
        current = INTERVAL[type(layer)](layer, current)
    return Bounds(entering, tuple(pre_activations), current)


def margin_lower_bounds(bounds: Bounds, last: Linear, labels: Tensor) -> Tensor:
    """Lower bounds (N x classes) of z_y - z_j, exactly 0 for j = y.

    The last layer is folded into the margins, (w_y - w_j) h + b_y - b_j, which is tighter than subtracting bounds.
    """
    rows = last.weight[labels].unsqueeze(1) - last.weight
    offsets = last.bias[labels].unsqueeze(1) - last.bias
    centre = torch.einsum("njf,nf->nj", rows, bounds.features.centre)
    radius = torch.einsum("njf,nf->nj", rows.abs(), bounds.features.radius)
    return centre + offsets - radius
