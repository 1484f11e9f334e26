"""Lines below and above what a single element of an operation's result is, given the intervals of what it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.functions import OWN_ERROR, Function, normal_arguments
from verify.intervals import Interval, magnitude_of, midpoint
from verify.primitives import Clip, LeakyRelu, Round, Sign, Tensor
from verify.rounding import Array, Contract

Intervals = Mapping[Tensor, Interval]

_CELLS = 16
"""Into which an interval is divided to find lines around a function."""


@dataclass(frozen=True)
class Line:
    """y = slope x + offset, elementwise."""

    slope: Array
    offset: Array


def slopes(primitive: LeakyRelu, x: Interval) -> tuple[Array, Line]:
    """For s x below zero and x above, convex as s <= 1: the slope of a line through zero below the function, 1 or s,
    whichever leaves less area; and the line above."""
    slope, (lower, upper) = primitive.slope, x
    below = np.where(upper > -lower, 1.0, slope)
    unstable = (lower < 0) & (upper > 0)
    above = np.clip(np.where(unstable, (upper - slope * lower) / (upper - lower), below), slope, 1.0)
    # Whatever `above` was rounded to, this offset lifts the line over both ends, and so over the whole function.
    offset = np.maximum((1.0 - above) * np.maximum(upper, 0.0), (above - slope) * np.maximum(-lower, 0.0))
    return below, Line(above, offset * (1.0 + 2.0**-50))


def leaky_rounding(primitive: LeakyRelu, x: Interval, contract: Contract) -> Array:
    """Of the product s x; none where that is zero, or only changes the sign."""
    magnitude = max(1.0, abs(primitive.slope)) * magnitude_of(x)
    if primitive.slope in (0.0, -1.0):
        return 0.0 * magnitude
    return np.asarray(contract.unit * (1.0 + 2.0**-20) * magnitude + contract.underflow)


def lines_around(tensor: Tensor, intervals: Intervals, contract: Contract) -> tuple[Line, Line] | None:
    """A line below and one above the deployed values, in terms of those of the only operand, or an end of the interval
    where that is nearer on average; None for operations without such lines, or about whose lines a proof may choose."""
    primitive = tensor.primitive
    if isinstance(primitive, Function):
        below, above = _around_function(primitive, tensor, intervals, contract)
    elif isinstance(primitive, Clip):
        x = intervals[tensor.operands[0]]
        below, above = _lines(primitive.apply, (primitive.lower, primitive.upper), np.zeros_like(x.lower), x)
    elif isinstance(primitive, LeakyRelu) and primitive.slope < 0:
        x = intervals[tensor.operands[0]]
        slope, top = slopes(primitive, x)
        rounding = leaky_rounding(primitive, x, contract)
        below, above = Line(slope, -rounding), Line(top.slope, top.offset + rounding)
    elif isinstance(primitive, Round):  # off by at most one half
        slope = np.ones_like(intervals[tensor].lower)
        below, above = Line(slope, -0.5 * slope), Line(slope, 0.5 * slope)
    elif isinstance(primitive, Sign):
        below, above = _around_sign(intervals[tensor.operands[0]])
    else:
        return None
    x, y = intervals[tensor.operands[0]], intervals[tensor]
    centre, _, _ = midpoint(x)
    low, high = below.slope * centre + below.offset > y.lower, above.slope * centre + above.offset < y.upper
    return (
        Line(np.where(low, below.slope, 0.0), np.where(low, below.offset, y.lower)),
        Line(np.where(high, above.slope, 0.0), np.where(high, above.offset, y.upper)),
    )


def _around_function(
    primitive: Function, tensor: Tensor, intervals: Intervals, contract: Contract
) -> tuple[Line, Line]:
    x, y = intervals[tensor.operands[0]], intervals[tensor]
    lower, upper = normal_arguments(x.lower, x.upper, contract)
    slack = primitive.error(magnitude_of(y), magnitude_of(x), contract)
    below, above = _lines(primitive.apply, primitive.kinks, primitive.curvature(lower, upper), Interval(lower, upper))
    moved = contract.underflow * 2.0**24
    return (
        Line(below.slope, below.offset - slack - moved * np.abs(below.slope)),
        Line(above.slope, above.offset + slack + moved * np.abs(above.slope)),
    )


def _around_sign(x: Interval) -> tuple[Line, Line]:
    """From -1 at zero to 1 at the upper end, and from -1 at the lower end to 1 at zero; rounded to less steep lines."""
    steepest = 2.0 * (1.0 - 2.0**-50)
    rising, falling = (steepest / np.maximum(end, 2.0**-149) for end in (x.upper, -x.lower))
    return Line(rising, -np.ones_like(rising)), Line(falling, np.ones_like(falling))


def _lines(
    function: Callable[[Array], Array], kinks: tuple[float, ...], curvature: Array, x: Interval
) -> tuple[Line, Line]:
    """A line below and one above a function over an interval.

    Of all lines above a function the one with the least area is as high as the concave envelope over the midpoint of
    the interval: as the highest chord. Its slope is taken from chords between the ends of cells. Whatever the slope k
    is, on cells of width h the function less k x stays within |f''| h^2 / 8 of its chords, so that its values at the
    ends of cells, and at kinks, bound it everywhere.
    """
    step = (x.upper - x.lower) / _CELLS
    points = [x.lower + cell * step for cell in range(_CELLS)] + [x.upper]
    values = [function(point) for point in points]
    points += [np.clip(kink, x.lower, x.upper) for kink in kinks]
    values += [function(point) for point in points[_CELLS + 1 :]]
    width = step * (1.0 + 2.0**-20) + 2.0**-50 * magnitude_of(x)  # of a cell, between rounded ends
    bow = 0.125 * (1.0 + 2.0**-40) * curvature * width * width

    def line(sign: int) -> Line:
        slope, best = np.zeros_like(step), np.full_like(step, -np.inf)
        for left, right in product((1, 2, 4, _CELLS // 2), repeat=2):
            first, last = values[_CELLS // 2 - left], values[_CELLS // 2 + right]
            height = sign * (right * first + left * last) / (left + right)
            slope = np.where(height > best, (last - first) / ((left + right) * step), slope)
            best = np.fmax(best, height)
        slope = np.where(np.isfinite(slope), slope, 0.0)
        offset = np.full_like(step, -np.inf)
        for point, value in zip(points, values, strict=True):
            ramp = slope * point
            offset = np.maximum(offset, sign * (value - ramp) + OWN_ERROR * (np.abs(value) + np.abs(ramp)))
        return Line(slope, sign * (offset + bow))

    return line(-1), line(1)


@dataclass(frozen=True)
class Winners:
    """Of each window of a max pooling: where the element with the largest lower bound lies, whether it is always the
    maximum, and an upper bound of the maximum where it is not; lanes x outputs."""

    place: NDArray[np.intp]
    always: NDArray[np.bool_]
    highest: Array


def winners(tensor: Tensor, intervals: Intervals) -> Winners:
    """About a max pooling without constants around its operand."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    places = np.arange(math.prod(operand.shape), dtype=np.float64).reshape(operand.shape)
    index = np.stack(list(primitive.window.taps(places, -1.0))).reshape(-1, math.prod(tensor.shape)).astype(np.intp)
    padded = [
        np.concatenate([end.reshape(len(end), -1), np.full((len(end), 1), -np.inf)], 1) for end in intervals[operand]
    ]
    lower, upper = (end[:, index] for end in padded)  # lanes x taps x outputs
    chosen = lower.argmax(axis=1)[:, np.newaxis]
    rivals = upper.copy()
    np.put_along_axis(rivals, chosen, -np.inf, axis=1)
    always = rivals.max(axis=1) <= np.take_along_axis(lower, chosen, axis=1)[:, 0]
    place = np.take_along_axis(np.broadcast_to(index, lower.shape), chosen, axis=1)[:, 0]
    return Winners(place, always, np.where(always, 0.0, intervals[tensor].upper.reshape(len(lower), -1)))
