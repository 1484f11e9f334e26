"""Linear bounds by backward substitution over interval bounds (CROWN-IBP), differentiable, in float32, for training.

CROWN: Zhang et al., arXiv 1811.00866; over intervals: Zhang et al., arXiv 1906.06316.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.intervals import Bounds, Interval
from adcert.layers import (
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Normalize,
    Relu,
    Scale,
    per_channel,
)

TINY = 1e-12

Substituted = tuple[list[Tensor | None], Tensor]
"""Coefficients of each operand (N x R x its shape; None for none), and what is added to the bounds (N x R)."""


def lower_bounds(network: Network, bounds: Bounds, rows: Tensor, offsets: Tensor) -> Tensor:
    """Lower bounds (N x R) of rows (N x R x F) times the features, plus offsets (N x R), over the box of `bounds`.

    Walks from the features back to the image, replacing each layer's result by a linear lower bound of what it
    contributes. Layers without a useful linear bound (max pooling) contribute their interval.
    """
    coefficients = {len(network.steps) - 1: rows}
    total = offsets
    for index in reversed(range(len(network.steps) - 1)):
        weights = coefficients.pop(index + 1, None)
        if weights is None:  # used by nothing but layers that contributed their interval
            continue
        step = network.steps[index]
        operands = [bounds.values[operand] for operand in step.operands]
        rule = SUBSTITUTE[type(step.layer)]
        parts, constant = rule(step.layer, weights, operands, bounds.values[index + 1])
        total = total + constant
        for operand, part in zip(step.operands, parts, strict=True):
            if part is not None:
                coefficients[operand] = coefficients[operand] + part if operand in coefficients else part
    return total + least(coefficients[0], bounds.input) if 0 in coefficients else total


def least(weights: Tensor, over: Interval) -> Tensor:
    """The least value (N x R) of weights (N x R x shape) times anything in the interval (N x shape)."""
    return _dot(weights, over.centre.unsqueeze(1)) - _dot(weights.abs(), over.radius.unsqueeze(1))


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).flatten(2).sum(2)


def _linear(layer: Linear, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [weights @ layer.weight], weights @ layer.bias


def _convolution(layer: Convolution, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    before, after = operands[0].centre.shape[2:], weights.shape[3:]
    # Rows and columns at the end that the strides leave out.
    left_over = tuple(
        size - ((steps - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
        for size, steps, stride, padding, dilation, kernel in zip(
            before, after, layer.stride, layer.padding, layer.dilation, layer.weight.shape[2:], strict=True
        )
    )
    transposed = F.conv_transpose2d(
        weights.flatten(0, 1),
        layer.weight,
        stride=layer.stride,
        padding=layer.padding,
        output_padding=left_over,
        groups=layer.groups,
        dilation=layer.dilation,
    )
    return [transposed.reshape(*weights.shape[:2], *transposed.shape[1:])], weights.sum((3, 4)) @ layer.bias


def _scale(layer: Scale, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    one_sample = result.centre[:1]
    return [weights * per_channel(layer.weight, one_sample)], _dot(weights, per_channel(layer.bias, one_sample)[None])


def _normalize(layer: Normalize, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [weights / layer.std], -_dot(weights, layer.mean / layer.std)


def _relu(layer: Relu, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    """max(z, 0) between s z with s = 1 if |u| > |l| else 0, and u (z - l) / (u - l), where l < 0 < u."""
    lower, upper = operands[0].lower, operands[0].upper
    unstable = (lower < 0) & (upper > 0)
    active = (lower >= 0).to(lower.dtype)
    chord = torch.where(unstable, upper / (upper - lower).clamp(min=TINY), active)
    below = torch.where(unstable, (upper > -lower).to(lower.dtype), active)
    intercept = torch.where(unstable, -chord * lower, 0)
    negative, positive = weights.clamp(max=0), weights.clamp(min=0)
    slopes = positive * below.unsqueeze(1) + negative * chord.unsqueeze(1)
    return [slopes], _dot(negative, intercept.unsqueeze(1))


def _flatten(layer: Flatten, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [weights.reshape(*weights.shape[:2], *operands[0].centre.shape[1:])], _nothing(weights)


def _add(layer: Add, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [weights, weights], _nothing(weights)


def _concatenate(layer: Concatenate, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [*torch.split(weights, [operand.centre.shape[1] for operand in operands], dim=2)], _nothing(weights)


def _global_average(
    layer: GlobalAveragePool, weights: Tensor, operands: list[Interval], result: Interval
) -> Substituted:
    height, width = operands[0].centre.shape[2:]
    return [weights.expand(-1, -1, -1, height, width) / (height * width)], _nothing(weights)


def _average(layer: AveragePool, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    if any(layer.padding) and not layer.count_padding:  # the divisor differs from window to window
        return _by_interval(layer, weights, operands, result)
    channels = result.centre.shape[1]
    kernel = weights.new_full((channels, 1, *layer.kernel), 1 / (layer.kernel[0] * layer.kernel[1]))
    same = Convolution(kernel, weights.new_zeros(channels), layer.stride, layer.padding, groups=channels)
    return _convolution(same, weights, operands, result)


def _by_interval(layer: Any, weights: Tensor, operands: list[Interval], result: Interval) -> Substituted:
    return [None] * len(operands), least(weights, result)


def _nothing(weights: Tensor) -> Tensor:
    return weights.new_zeros(weights.shape[:2])


SUBSTITUTE: dict[type, Callable[[Any, Tensor, list[Interval], Interval], Substituted]] = {
    Linear: _linear,
    Convolution: _convolution,
    Scale: _scale,
    Normalize: _normalize,
    Relu: _relu,
    Flatten: _flatten,
    Add: _add,
    Concatenate: _concatenate,
    GlobalAveragePool: _global_average,
    AveragePool: _average,
    MaxPool: _by_interval,
}
