"""Interval bound propagation, differentiable, in float32, without rigorous rounding: for training and estimates.

What is proved about an exported file is proved by `verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.layers import (
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Normalize,
    Relu,
    Scale,
    apply,
    per_channel,
)


@dataclass(frozen=True)
class Box:
    """All points between `lower` and `upper`: images (N x C x H x W), or what a layer makes of them."""

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

    @property
    def lower(self) -> Tensor:
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        return self.centre + self.radius

    @staticmethod
    def of(box: Box) -> Interval:
        return Interval((box.upper + box.lower) / 2, (box.upper - box.lower) / 2)


def _convolution(layer: Convolution, x: Interval) -> Interval:
    return Interval(layer.apply(x.centre, layer.weight, layer.bias), layer.apply(x.radius, layer.weight.abs(), None))


def _linear(layer: Linear, x: Interval) -> Interval:
    return Interval(F.linear(x.centre, layer.weight, layer.bias), F.linear(x.radius, layer.weight.abs()))


def _scale(layer: Scale, x: Interval) -> Interval:
    return Interval(apply(layer, x.centre), x.radius * per_channel(layer.weight.abs(), x.radius))


def _shape_only(layer: Layer, *operands: Interval) -> Interval:
    """Layers that move, add or average elements treat centres and radii alike."""
    return Interval(apply(layer, *(x.centre for x in operands)), apply(layer, *(x.radius for x in operands)))


def _max_pool(layer: MaxPool, x: Interval) -> Interval:
    return Interval.of(Box(layer.apply(x.lower), layer.apply(x.upper)))


class _Relu(torch.autograd.Function):
    """Centre and radius of [relu(c - r), relu(c + r)], in few passes over memory, which is what they cost."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = (centre - radius).clamp_(min=0), (centre + radius).clamp_(min=0)
        context.save_for_backward(lower > 0, upper > 0)
        return (lower + upper).mul_(0.5), upper.sub_(lower).mul_(0.5)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        lower_positive, upper_positive = context.saved_tensors  # type: ignore[attr-defined]
        of_centre, of_radius = gradients
        of_lower = (of_centre - of_radius).mul_(0.5).mul_(lower_positive)
        of_upper = (of_centre + of_radius).mul_(0.5).mul_(upper_positive)
        return of_upper + of_lower, of_upper.sub_(of_lower)


def _relu(layer: Relu, x: Interval, shrink: float = 1.0) -> Interval:
    if shrink == 1:
        return Interval(*_Relu.apply(x.centre, x.radius))  # type: ignore[no-untyped-call]
    lower, upper = F.relu(x.lower), F.relu(x.upper)
    return Interval.of(Box(lower, torch.where(x.lower < 0, shrink * upper, upper)))


INTERVAL: dict[type, Callable[..., Interval]] = {
    Convolution: _convolution,
    Linear: _linear,
    Scale: _scale,
    Normalize: lambda layer, x: Interval((x.centre - layer.mean) / layer.std, x.radius / layer.std),
    Relu: _relu,
    MaxPool: _max_pool,
    **dict.fromkeys((Flatten, Add, Concatenate, AveragePool, GlobalAveragePool), _shape_only),
}


def interval(layer: Layer, *operands: Interval) -> Interval:
    """All results of the layer for operands within intervals."""
    return INTERVAL[type(layer)](layer, *operands)


@dataclass(frozen=True)
class Bounds:
    """Intervals of the input and of each step's result, in order, the last layer left out.

    relu_operands: the numbers of the values that enter a ReLU.
    """

    values: tuple[Interval, ...]
    relu_operands: tuple[int, ...]

    @property
    def input(self) -> Interval:
        return self.values[0]

    @property
    def features(self) -> Interval:
        """Of what enters the last layer (N x F)."""
        return self.values[-1]

    @property
    def pre_activations(self) -> tuple[Interval, ...]:
        """Of what enters the ReLUs."""
        return tuple(self.values[operand] for operand in self.relu_operands)


def propagate(network: Network, box: Box, relu_shrink: float = 1.0) -> Bounds:
    """Bounds of every step of `network` but the last, whose rows are only bounded as margins.

    relu_shrink: factor on the upper bounds behind ReLUs of unknown sign; below 1 the result is no bound any more, but
    the estimate that SABR (arXiv 2210.04871) may train with.
    """
    rules: dict[type, Callable[..., Interval]] = {**INTERVAL, Relu: partial(_relu, shrink=relu_shrink)}
    entering = Interval.of(box)
    body = network.body
    values = body.results(entering, lambda layer, *operands: rules[type(layer)](layer, *operands))
    relu_operands = [step.operands[0] for step in body.steps if isinstance(step.layer, Relu)]
    return Bounds((entering, *values), tuple(dict.fromkeys(relu_operands)))


def feature_interval(network: Network, box: Box) -> Interval:
    """The interval of what enters the last layer, keeping no other: in evaluation memory matters."""
    return network.body.result(Interval.of(box), interval)


def margin_rows(last: Linear, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The margins z_y - z_j as rows (N x classes x F) and offsets (N x classes) over the features."""
    return last.weight[labels].unsqueeze(1) - last.weight, last.bias[labels].unsqueeze(1) - last.bias


def margin_lower_bounds(features: Interval, last: Linear, labels: Tensor) -> Tensor:
    """Lower bounds (N x classes) of z_y - z_j, exactly 0 for j = y.

    The last layer is folded into the margins, (w_y - w_j) h + b_y - b_j, which is tighter than subtracting bounds.
    """
    rows, offsets = margin_rows(last, labels)
    centre = torch.einsum("njf,nf->nj", rows, features.centre)
    radius = torch.einsum("njf,nf->nj", rows.abs(), features.radius)
    return centre + offsets - radius
