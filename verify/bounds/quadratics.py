"""Products of values as quadratic forms of the inputs, where few inputs vary.

A product x y differs from the plane d x + c y - c d by (x - c) (y - d). Linear bounds on their own lose the largest
magnitude of that for each product. With forms x = c + G z + e and y = d + H z + f for z in [-1, 1]^k, |e| <= s and
|f| <= t (`verify.bounds.affine_forms`) it is

    (G z) (H z), up to |G| t + s |H| + s t        (|G|: sum of magnitudes over z)

so that a functional, with the coefficient a of the product, leaves a quadratic form in z. The forms of all products add
up to one matrix, in which they may cancel, as in V(x') - V(x) for a quadratic V and the state x' a moment after x. Only
then is a lower bound taken, of it together with the linear function of z that the functional ends as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from verify.bounds.functionals import dot, times
from verify.bounds.lines import Intervals
from verify.bounds.steps import Choice, Relaxation, Step, charged, own_error
from verify.core.intervals import magnitude_of
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, Contract, kappa

_SWEEPS = 3
"""Over all coordinates, of the descent to where a tangent plane is taken."""


class Axes(NamedTuple):
    """Of the input x = c + G z, up to what does not vary enough to count. generators: G, lanes x k x the shape."""

    generators: Array

    def mapped(self, function: Callable[[Array], Array]) -> Axes:
        """With the function applied to every array."""
        return Axes(*map(function, self))


class Curvature(NamedTuple):
    """Of a product x y: (x - c) (y - d) is (G z) (H z), up to the rest.

    c, d, rest: lanes x the product's shape. first, second: G and H, lanes x k x that. size: |G| |H|, like the rest
    with room for a few roundings.
    """

    c: Array
    d: Array
    first: Array
    second: Array
    size: Array
    rest: Array

    def mapped(self, function: Callable[[Array], Array]) -> Curvature:
        """With the function applied to every array."""
        return Curvature(*map(function, self))


class Spread(NamedTuple):
    """Of the input: the centre of its interval, and the generators of its axes."""

    centre: Array
    generators: Array


Curvatures = Mapping[Tensor, Axes | Curvature]
"""By the tensor: of the input, and of products."""


def curved(
    tensor: Tensor, flat: Relaxation, intervals: Intervals, contract: Contract, known: Axes | Curvature
) -> Relaxation:
    """The relaxation of the input, or of a product, that passes on quadratic forms. flat: the one that does not."""
    if isinstance(known, Axes):
        return replace(flat, through=_through_axes, lines=Spread(flat.lines.centre, known.generators))
    c, d, size, rest = known.c, known.d, known.size, known.rest
    x, y = (magnitude_of(intervals[operand]) for operand in tensor.operands)
    passed = own_error(tensor, 2.0 * (np.abs(d) * x + np.abs(c) * y + np.abs(c * d)))
    summed = kappa(math.prod(tensor.shape) + 8, FLOAT64_UNIT) * size
    rounding = kappa(1, contract.unit) * magnitude_of(intervals[tensor]) + contract.underflow
    loss = rest + summed + rounding + passed
    return charged(tensor, intervals, _through_curved, loss, known)


def _through_axes(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    lines: Spread = around.lines
    flat, axes = (each.reshape(*each.shape[:2], -1) for each in (a, lines.generators))
    return Step((), dot(a, lines.centre), slope=flat @ axes.swapaxes(1, 2))


def _through_curved(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    c, d, first, second, *_ = around.lines
    x, y = (operand.shape for operand in tensor.operands)
    flat, left, right = (each.reshape(*each.shape[:2], -1) for each in (a, first, second))
    curvature = (flat[:, :, np.newaxis] * left[:, np.newaxis]) @ right.swapaxes(1, 2)[:, np.newaxis]
    # Each product of a and one of `left` may have underflown, before it was multiplied by some of `right`.
    underflow = OWN_UNDERFLOW * (1.0 + np.abs(right).sum(axis=(1, 2)))[:, np.newaxis]
    return Step((times(a, d, x), times(a, c, y)), -dot(a, c * d) - underflow, curvature=curvature)


def least(curvature: Array, slope: Array) -> tuple[Array, Array]:
    """What a quadratic form z Q z adds to the least value of a linear function b z over [-1, 1]^k, at least; and what
    float64 roundings may have changed in that. Q: lanes x functionals x k x k. b: lanes x functionals x k.

    Q is split into M = W W', which is convex however W was found, and a rest R = Q - M, of which squares count from
    zero to one and mixed terms by their magnitudes. The sum of b z and z M z is above its tangent plane at any point w:

        b z + z M z  >=  (b + 2 M w) z - w M w  >=  -|b + 2 M w| - w M w
    """
    q = 0.5 * (curvature + curvature.swapaxes(-1, -2))
    factor = _factor(q)
    m = factor @ factor.swapaxes(-1, -2)
    rest = q - m
    squares = np.einsum("...ii->...i", rest)
    mixed = np.abs(rest).sum(axis=(-1, -2)) - np.abs(squares).sum(axis=-1)
    point = _lowest(m, slope)
    turn = (m @ point[..., np.newaxis])[..., 0]
    tangent = np.abs(slope).sum(axis=-1) - np.abs(slope + 2.0 * turn).sum(axis=-1) - (point * turn).sum(axis=-1)
    # Errors are relative to these sums: what was rounded in M, which is to be W W' exactly, counts at most six times.
    size = np.abs(q).sum(axis=(-1, -2)) + (np.abs(factor).sum(axis=-2) ** 2).sum(axis=-1)
    rounding = kappa(4 * slope.shape[-1] ** 2 + 64, FLOAT64_UNIT) * (8.0 * size + 4.0 * np.abs(slope).sum(axis=-1))
    return tangent + np.minimum(squares, 0.0).sum(axis=-1) - mixed, rounding


def _factor(q: Array) -> Array:
    """W, with W W' about q as far as that is positive: by elimination with the largest diagonal element each time
    (Cholesky's with pivots), which ends where none is positive. Of nearly equal ones it takes the last, so that it does
    not depend on how q was rounded."""
    rest = q.copy()
    later = 1.0 + 2.0**-16 * np.arange(q.shape[-1])
    factor = np.zeros_like(q)
    for step in range(q.shape[-1]):
        diagonal = np.einsum("...ii->...i", rest)
        pivot = (diagonal * later).argmax(axis=-1)[..., np.newaxis]
        height = np.take_along_axis(diagonal, pivot, axis=-1)
        column = np.take_along_axis(rest, pivot[..., np.newaxis], axis=-1)[..., 0]
        most = np.sqrt(np.maximum(diagonal, 0.0))  # what a positive matrix has beside this diagonal
        column = np.clip(column / np.where(height > 0, np.sqrt(np.abs(height)), np.inf), -most, most)
        factor[..., step] = column
        rest -= column[..., np.newaxis] * column[..., np.newaxis, :]
    return factor


def _lowest(m: Array, slope: Array) -> Array:
    """About where b z + z M z is least in [-1, 1]^k: by descent along one coordinate after the other."""
    point = np.zeros_like(slope)
    diagonal = np.einsum("...ii->...i", m)
    for _ in range(_SWEEPS):
        for axis in range(slope.shape[-1]):
            others = (m[..., axis, :] * point).sum(axis=-1) - diagonal[..., axis] * point[..., axis]
            best = -(0.5 * slope[..., axis] + others) / diagonal[..., axis]
            point[..., axis] = np.clip(np.where(diagonal[..., axis] > 0, best, point[..., axis]), -1.0, 1.0)
    return point
