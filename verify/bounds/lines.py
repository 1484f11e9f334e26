"""Lines below and above what a single element of an operation's result is, given the intervals of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.curves import Cells, Curve, Line, or_ends
from verify.core.functions import RECIPROCAL, Function
from verify.core.intervals import Interval, magnitude_of, midpoint
from verify.core.primitives import Clip, LeakyRelu, Round, Sign, Tensor
from verify.core.rounding import REAL, Array, Contract, kappa

Intervals = Mapping[Tensor, Interval]


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
        curve = Curve.of(primitive, intervals[tensor.operands[0]], intervals[tensor], contract)
        return curve.below, curve.above
    if isinstance(primitive, Clip):
        x = intervals[tensor.operands[0]]
        cells = Cells.of(primitive.apply, (primitive.lower, primitive.upper), np.zeros_like(x.lower), x)
        below, above = (cells.line(sign, cells.least_area(sign)) for sign in (-1, 1))
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
    return or_ends(below, above, intervals[tensor.operands[0]], intervals[tensor])


def _around_sign(x: Interval) -> tuple[Line, Line]:
    """From -1 at zero to 1 at the upper end, and from -1 at the lower end to 1 at zero; rounded to less steep lines."""
    steepest = 2.0 * (1.0 - 2.0**-50)
    rising, falling = (steepest / np.maximum(end, 2.0**-149) for end in (x.upper, -x.lower))
    return Line(rising, -np.ones_like(rising)), Line(falling, np.ones_like(falling))


class Ratio(NamedTuple):
    """Around z = a / b with r = 1 / b: z is within `deviation` of `first` a + `second` r + offset, and r between the
    lines below and above, in terms of b."""

    first: Array
    second: Array
    offset: Array
    deviation: Array
    below: Line
    above: Line


def ratio(a: Interval, b: Interval, z: Interval, contract: Contract) -> Ratio:
    """Around deployed quotients, with at most two roundings; for the centres c and d of the intervals of a and r,
    a r differs from d a + c r - c d by (a - c) (r - d). Or z's own interval, where that is narrower."""
    r = Interval(*RECIPROCAL.enclosure(*b, REAL))
    curve = Curve.of(RECIPROCAL, b, r, REAL)
    (c, radius, _), (d, other, _), (centre, own, _) = map(midpoint, (a, r, z))
    rounding = kappa(2, contract.unit) * magnitude_of(z) + 2.0 * contract.underflow
    deviation = radius * other * (1.0 + 2.0**-50) + rounding
    narrower = deviation < own
    return Ratio(
        np.where(narrower, d, 0.0),
        np.where(narrower, c, 0.0),
        np.where(narrower, -c * d, centre),
        np.where(narrower, deviation, own),
        curve.below,
        curve.above,
    )


class Winners(NamedTuple):
    """Of each window of a max pooling: the tap under which the element with the largest lower bound lies, whether it is
    always the maximum, and an upper bound of the maximum where it is not; lanes x the shape of the result."""

    tap: NDArray[np.intp]
    always: NDArray[np.bool_]
    highest: Array


def winners(tensor: Tensor, intervals: Intervals) -> Winners:
    """About a max pooling without constants around its operand."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    index = primitive.places(operand.shape)
    # What is known of no element is not below the padding, which is no element.
    bounded = Interval(np.maximum(intervals[operand].lower, -np.finfo(np.float64).max), intervals[operand].upper)
    padded = [np.concatenate([end.reshape(len(end), -1), np.full((len(end), 1), -np.inf)], 1) for end in bounded]
    lower, upper = (end[:, index] for end in padded)  # lanes x taps x windows
    tap = lower.argmax(axis=1)[:, np.newaxis]
    rivals = upper.copy()
    np.put_along_axis(rivals, tap, -np.inf, axis=1)
    always = rivals.max(axis=1) <= np.take_along_axis(lower, tap, axis=1)[:, 0]
    shape = len(lower), *tensor.shape
    highest = np.where(always, 0.0, intervals[tensor].upper.reshape(len(lower), -1))
    return Winners(*(each.reshape(shape) for each in (tap, always, highest)))


def places_of(tensor: Tensor, tap: NDArray[np.intp]) -> NDArray[np.intp]:
    """The numbers of the elements of a max pooling's operand that lie under these taps (lanes x the result's shape):
    lanes x windows."""
    primitive: Any = tensor.primitive
    index = primitive.places(tensor.operands[0].shape)[np.newaxis]
    return np.take_along_axis(index, tap.reshape(len(tap), 1, -1), axis=1)[:, 0]
