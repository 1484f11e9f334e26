"""Normalisation: by statistics of the training data, which are constants, or by those of the values themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verify.core.functions import SQUARE, power
from verify.core.primitives import Linear, Sum, Tensor
from verify.core.rounding import Array
from verify.model.operators.arithmetic import broadcast, multiplied, sub
from verify.model.operators.movement import move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.reductions import reduce_over
from verify.model.operators.registry import operator

_LEAST_EPSILON, _LARGEST_SCALE = 2.0**-80, 2.0**20
"""Of normalisation that runtimes may fold into a factor and a summand: products with the factor do not overflow."""


@operator("BatchNormalization", 7, 9, 14, 15)
def batch_normalization(
    node: Node, x: Operand, scale: Operand, shift: Operand, mean: Operand, variance: Operand
) -> Tensor:
    """s (x - mean) + beta with s = gamma / sqrt(variance + epsilon): eight operations, in any arrangement, of which the
    square root has an error of up to eight roundings (older runtimes approximate it)."""
    if node.flag("training_mode") or not node.flag("spatial", 1) or node.outputs > 1:
        node.refuse("training mode and per-element statistics are not supported")
    node.attribute("momentum")
    x = node.tensor(x)
    per_channel = (-1, *[1] * (len(x.shape) - 2))
    gamma, beta, mu, sigma2 = (
        node.weights(operand, what).reshape(per_channel)
        for operand, what in (
            (scale, "the scale"),
            (shift, "the shift"),
            (mean, "the mean"),
            (variance, "the variance"),
        )
    )
    if any(operand.shape != x.shape[1:2] for operand in (scale, shift, mean, variance)):
        node.refuse(f"the statistics are not one number for each channel of {x.shape}")
    total = sigma2 + float(np.float32(node.attribute("epsilon", 1e-5)))
    if not ((total > 0) & (total < 2.0**126)).all():
        node.refuse("the variance plus epsilon is not positive, or overflows")
    inverse = 1.0 / np.sqrt(total)
    s = gamma * inverse
    primitive = Linear.elementwise(
        s,
        beta - mu * s,
        roundings=16,
        magnitude=np.abs(beta) + np.abs(mu * s),
        factor=float(inverse.max()),
        constant=float((np.maximum(inverse, 1.0) * np.abs(mu)).max()),
        scalings=6,
    )
    return node.result(primitive, x, shape=x.shape)


@operator("LayerNormalization", 17)
def layer_normalization(node: Node, x: Operand, scale: Operand, shift: Operand | None = None) -> list[Operand]:
    """(x - mean) / sqrt(variance + epsilon) over the axes from `axis` on, with a scale and a shift; the mean; and the
    inverse of the root. `verify.model.variances` knows how runtimes compute a variance."""
    x = node.tensor(x)
    axes = _last_axes(node, x)
    mean = reduce_over(node, x, axes, mean=True, keep=True)
    deviation = node.tensor(sub(node, x, mean))
    inverse = _inverse_root_of_mean_squares(node, deviation, axes)
    found: list[Operand] = [_weighted(node, multiplied(node, deviation, inverse), scale, shift), mean, inverse]
    return found[: node.outputs]


@operator("RMSNormalization", 23)
def rms_normalization(node: Node, x: Operand, scale: Operand) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon), with a scale."""
    x = node.tensor(x)
    return _weighted(
        node, multiplied(node, x, _inverse_root_of_mean_squares(node, x, _last_axes(node, x))), scale, None
    )


@operator("InstanceNormalization", 6, 22)
def instance_normalization(node: Node, x: Operand, scale: Operand, shift: Operand) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over the pixels of each channel, with a scale and a shift of each."""
    x = node.tensor(x)
    return _of_groups(node, x, x.shape[1], scale, shift)


@operator("GroupNormalization", 21)
def group_normalization(node: Node, x: Operand, scale: Operand, shift: Operand) -> Tensor:
    """The same over groups of channels."""
    if node.attribute("stash_type", 1) != 1:
        node.refuse("statistics in another type than float32 are not supported")
    x, groups = node.tensor(x), node.attribute("num_groups")
    if groups < 1 or x.shape[1] % groups:
        node.refuse(f"{x.shape[1]} channels do not make up {groups} groups")
    return _of_groups(node, x, groups, scale, shift)


def _of_groups(node: Node, x: Tensor, groups: int, scale: Operand, shift: Operand) -> Tensor:
    """Runtimes compute s (x - mean) + beta, or s x + (beta - s mean) with s = gamma / sqrt(variance + epsilon), which
    rounds s x and s mean up to four times more; these do not overflow where the squares of x do not."""
    factors, summands = node.weights(scale, "the scale"), node.weights(shift, "the shift")
    if len(x.shape) < 3 or factors.shape != x.shape[1:2] or summands.shape != x.shape[1:2]:
        node.refuse(f"a scale and a shift of shapes {factors.shape} and {summands.shape} do not fit {x.shape}")
    if _epsilon(node) < _LEAST_EPSILON or np.abs(factors).max() > _LARGEST_SCALE:
        node.refuse("so small an epsilon, or so large a scale, is not supported")
    grouped = node.tensor(move(node, x, lambda a: a.reshape(a.shape[0], groups, -1)))
    mean = broadcast(node, reduce_over(node, grouped, [2], mean=True, keep=True), grouped)
    # The variance is of the deviations as such: two values, of which the errors do not cancel where products do.
    deviation, folded = (node.result(Sum(-1, more), grouped, mean, shape=grouped.shape) for more in ((0, 0), (4, 4)))
    normal = multiplied(node, folded, _inverse_root_of_mean_squares(node, deviation, [2]))
    per_channel = (-1, *[1] * (len(x.shape) - 2))
    whole = node.tensor(move(node, normal, lambda a: a.reshape(x.shape)))
    return _scaled(node, whole, factors.reshape(per_channel), summands.reshape(per_channel))


def _last_axes(node: Node, x: Tensor) -> list[int]:
    if node.attribute("stash_type", 1) != 1:
        node.refuse("statistics in another type than float32 are not supported")
    rank = len(x.shape)
    return list(range(reduced(node.attribute("axis", -1), rank, node), rank))


def _inverse_root_of_mean_squares(node: Node, x: Tensor, axes: list[int]) -> Tensor:
    """(mean(x^2) + epsilon)^(-1/2): the error that `functions` assumes has room for a root and a division."""
    squares = reduce_over(node, node.result(SQUARE, x, shape=x.shape), axes, mean=True, keep=True)
    epsilon = np.array(_epsilon(node))
    total = node.result(Linear.elementwise(np.ones(()), epsilon, roundings=1), squares, shape=squares.shape)
    return node.result(power(-0.5), total, shape=total.shape)


def _epsilon(node: Node) -> float:
    epsilon = float(np.float32(node.attribute("epsilon", 1e-5)))
    if not 0 <= epsilon < math.inf:
        node.refuse("epsilon is negative or not finite")
    return epsilon


def _weighted(node: Node, x: Tensor, scale: Operand, shift: Operand | None) -> Tensor:
    factors = node.weights(scale, "the scale")
    summands = np.zeros(()) if shift is None else node.weights(shift, "the shift")
    return _scaled(node, x, factors, summands)


def _scaled(node: Node, x: Tensor, factors: Array, summands: Array) -> Tensor:
    """Two roundings, and one more where a runtime divides the scale by the root of the variance first: the quotient may
    be 2^75 times as large, and what it loses by underflow grows with x less its mean, up to 2^63."""
    if any(np.broadcast_shapes(values.shape, x.shape) != x.shape for values in (factors, summands)):
        node.refuse(f"a scale and a shift of shapes {factors.shape} and {summands.shape} do not fit {x.shape}")
    scaling = Linear.elementwise(factors, summands, roundings=3)
    scaling = replace(scaling, gain=scaling.gain * 2.0**64, row_sum=scaling.row_sum * 2.0**75)
    return node.result(scaling, x, shape=x.shape)
