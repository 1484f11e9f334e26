"""Linear bounds by backward substitution (CROWN, arXiv 1811.00866), for the network as its contract lets a runtime
execute it, in float64 rounded outward.

A functional a of a tensor's deployed value y is bounded from below by functionals of the values that y is computed
from, down to the input. Deployment enters as one dot product at every operation that rounds: for y = W x + b + d with
|d| <= D (design: the same D that interval bounds use),

    a y  >=  (a W) x + a b - |a| D.

For y = relu(x) with x in [l, u], any slope in [0, 1] gives a line below and any line above both ends one above, so that
nothing about the relaxation has to be trusted. Arrays of functionals have the shape lanes x functionals x tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from verify.functions import OWN_ERROR, Function, normal_arguments
from verify.intervals import Interval, LinearError, fused_error, magnitude_of, midpoint
from verify.primitives import (
    Clip,
    Concatenate,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Reshape,
    Select,
    Sum,
    Tensor,
    topological,
)
from verify.rounding import FLOAT64_UNIT, Array, Contract, kappa

Intervals = Mapping[Tensor, Interval]

_CELLS = 16
"""Into which an interval is divided to find lines around a function."""


@dataclass(frozen=True)
class Step:
    """One operation passed backwards: functionals of its operands, and what they leave over (lanes x functionals).

    loss: not negative; what rounding, deployed and own, can take away.
    """

    operands: tuple[Array, ...]
    constant: Array
    loss: Array


def lower_bounds(target: Tensor, functionals: Array, intervals: Intervals, contract: Contract) -> Array:
    """For each lane and functional of the target's deployed value, a lower bound over the box; NaN where none is known.

    functionals: lanes x functionals x target's shape. intervals: of every tensor that the target depends on, the input
    included, under the same contract.
    """
    waiting: dict[Tensor, Array] = {target: functionals}
    constant = np.zeros(functionals.shape[:2])
    loss, size = np.zeros_like(constant), np.zeros_like(constant)
    for tensor in reversed(list(topological([target]))):
        a = waiting.pop(tensor, None)
        if a is None:
            continue
        if isinstance(tensor.primitive, Input):
            step = _through_input(a, intervals[tensor])
        else:
            rule = _RULES.get(type(tensor.primitive), _constant)
            step = rule(tensor, a, intervals, contract)
        constant = constant + step.constant
        size += np.abs(step.constant)
        loss += step.loss + _own(a, magnitude_of(intervals[tensor]))
        for operand, functional in zip(tensor.operands, step.operands, strict=False):
            waiting[operand] = waiting[operand] + functional if operand in waiting else functional
    # Sums of up to 2^28 non-negative terms are too small by a factor below 1 + 2^-20; the sum of up to 2^20 constants
    # and the difference below are off by less than 2^-30 of their magnitudes.
    return constant - (loss * (1.0 + 2.0**-20) + size * 2.0**-30)


def _own(a: Array, magnitude: Array, roundings: int = 8) -> Array:
    """What float64 roundings of the functional's coefficients, and of the sum of their products, can change."""
    return kappa(a[0, 0].size + roundings, FLOAT64_UNIT) * _dot(np.abs(a), magnitude)


def _dot(a: Array, x: Array) -> Array:
    """Functionals (lanes x functionals x shape) of values (lanes, or one, x shape)."""
    flat = np.broadcast_to(x, (len(a), *a.shape[2:])).reshape(len(a), -1, 1)
    return np.asarray((a.reshape(*a.shape[:2], -1) @ flat)[..., 0])


def _through_input(a: Array, box: Interval) -> Step:
    centre, radius, _ = midpoint(box)
    return Step((), _dot(a, centre), _dot(np.abs(a), radius))


def _constant(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """An operation without linear bounds: its interval bounds it."""
    centre, radius, _ = midpoint(intervals[tensor])
    return Step((), _dot(a, centre), _dot(np.abs(a), radius))


def _linear(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Linear)
    (operand,) = tensor.operands
    shape = operand.shape
    coefficients = primitive.map.adjoint(a.reshape(-1, *tensor.shape), shape).reshape(*a.shape[:2], *shape)
    bias = np.broadcast_to(primitive.bias, (1, *tensor.shape))
    magnitude = magnitude_of(intervals[operand])
    if primitive.roundings == 0:
        return Step((coefficients,), _dot(a, bias), np.zeros(a.shape[:2]))
    error = LinearError.of(primitive, magnitude, contract)
    sums = primitive.map.absolute(magnitude) + primitive.magnitude
    backward = kappa(a[0, 0].size + primitive.map.terms + 16 + primitive.scalings, FLOAT64_UNIT)
    return Step((coefficients,), _dot(a, bias), _dot(np.abs(a), error.widened((error.kappa + backward) * sums)))


def _leaky_relu(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """s x for x < 0, else x, convex for s <= 1: the line below has slope 1 or s, whichever leaves less area."""
    primitive: Any = tensor.primitive
    slope = primitive.slope
    if slope > 1:
        return _constant(tensor, a, intervals, contract)
    (operand,) = tensor.operands
    lower, upper = intervals[operand]
    below = np.where(upper > -lower, 1.0, slope)
    unstable = (lower < 0) & (upper > 0)
    above = np.clip(np.where(unstable, (upper - slope * lower) / (upper - lower), below), slope, 1.0)
    # Whatever `above` was rounded to, this offset lifts the line over both ends, and so over the whole function.
    offset = np.maximum((1.0 - above) * np.maximum(upper, 0.0), (above - slope) * np.maximum(-lower, 0.0))
    offset *= 1.0 + 2.0**-50
    below, above, offset = (values[:, np.newaxis] for values in (below, above, offset))
    negative = np.minimum(a, 0.0)
    coefficients = np.maximum(a, 0.0) * below + negative * above
    magnitude = max(1.0, abs(slope)) * magnitude_of(intervals[operand])
    exact = slope in (0.0, -1.0)
    rounding = 0.0 * magnitude if exact else contract.unit * (1.0 + 2.0**-20) * magnitude + contract.underflow
    loss = _own(a, magnitude) + _dot(np.abs(a), rounding)
    return Step((coefficients,), _dot(negative, offset[:, 0]), loss)


def _function(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """A line below and one above the deployed function, or the interval's end where that is lower on average."""
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Function)
    x, y = intervals[tensor.operands[0]], intervals[tensor]
    lower, upper = normal_arguments(x.lower, x.upper, contract)
    slack = primitive.error(magnitude_of(y), magnitude_of(x), contract)
    below, above = _lines(primitive.apply, primitive.kinks, primitive.curvature(lower, upper), Interval(lower, upper))
    moved = contract.underflow * 2.0**24
    below = _Line(below.slope, below.offset - slack - moved * np.abs(below.slope))
    above = _Line(above.slope, above.offset + slack + moved * np.abs(above.slope))
    return _between(below, above, a, x, y)


def _clip(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Clip)
    x, y = intervals[tensor.operands[0]], intervals[tensor]
    below, above = _lines(primitive.apply, (primitive.lower, primitive.upper), np.zeros_like(x.lower), x)
    return _between(below, above, a, x, y)


@dataclass(frozen=True)
class _Line:
    """y = slope x + offset."""

    slope: Array
    offset: Array


def _lines(
    function: Callable[[Array], Array], kinks: tuple[float, ...], curvature: Array, x: Interval
) -> tuple[_Line, _Line]:
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

    def line(sign: int) -> _Line:
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
        return _Line(slope, sign * (offset + bow))

    return line(-1), line(1)


def _between(below: _Line, above: _Line, a: Array, x: Interval, y: Interval) -> Step:
    """A tensor between two lines of its operand x, and inside its interval y."""
    centre, _, magnitude = midpoint(x)
    low, high = below.slope * centre + below.offset > y.lower, above.slope * centre + above.offset < y.upper
    below = _Line(np.where(low, below.slope, 0.0), np.where(low, below.offset, y.lower))
    above = _Line(np.where(high, above.slope, 0.0), np.where(high, above.offset, y.upper))
    positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
    coefficients = positive * below.slope[:, np.newaxis] + negative * above.slope[:, np.newaxis]
    constant = _dot(positive, below.offset) + _dot(negative, above.offset)
    loss = _own(coefficients, magnitude) + _own(a, np.maximum(np.abs(below.offset), np.abs(above.offset)))
    return Step((coefficients,), constant, loss)


def _reshape(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    nothing = np.zeros(a.shape[:2])
    return Step((a.reshape(*a.shape[:2], *tensor.operands[0].shape),), nothing, nothing)


def _select(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Select)
    (operand,) = tensor.operands
    flat = a.reshape(*a.shape[:2], -1)
    index = primitive.index.reshape(-1)
    inside = index >= 0
    coefficients = np.zeros((*a.shape[:2], int(np.prod(operand.shape))))
    lanes, functionals = (np.arange(n) for n in a.shape[:2])
    np.add.at(coefficients, (lanes[:, None, None], functionals[:, None], index[inside]), flat[..., inside])
    constant = primitive.fill * flat[..., ~inside].sum(axis=-1)
    own = _own(a, np.broadcast_to(abs(primitive.fill), (1, *tensor.shape))) if primitive.pads else np.zeros(a.shape[:2])
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), constant, own)


def _concatenate(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    axis = primitive.axis + 2
    stops = np.cumsum([operand.shape[primitive.axis] for operand in tensor.operands])[:-1]
    nothing = np.zeros(a.shape[:2])
    return Step(tuple(np.split(a, stops, axis=axis)), nothing, nothing)


def _sum(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Sum)
    first, second = (intervals[operand] for operand in tensor.operands)
    reach = magnitude_of(intervals[tensor])
    rounding = kappa(1, contract.unit) * reach + fused_error(primitive, first, second, contract) + contract.underflow
    own = _own(a, magnitude_of(first)) + _own(a, magnitude_of(second))
    return Step((a, primitive.sign * a), np.zeros(a.shape[:2]), _dot(np.abs(a), rounding) + own)


def _max_pool(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """The maximum is at least the element with the largest lower bound, and equals it where no other one can win."""
    primitive: Any = tensor.primitive
    assert isinstance(primitive, MaxPool)
    if primitive.padding:
        return _constant(tensor, a, intervals, contract)
    (operand,) = tensor.operands
    size = int(np.prod(operand.shape))
    places = np.arange(size, dtype=np.float64).reshape(operand.shape)
    index = np.stack(list(primitive.window.taps(places, -1.0))).reshape(-1, int(np.prod(tensor.shape))).astype(np.intp)
    padded = [
        np.concatenate([end.reshape(len(end), -1), np.full((len(end), 1), -np.inf)], 1) for end in intervals[operand]
    ]
    lower, upper = (end[:, index] for end in padded)  # lanes x taps x outputs
    chosen = lower.argmax(axis=1)[:, np.newaxis]
    rivals = upper.copy()
    np.put_along_axis(rivals, chosen, -np.inf, axis=1)
    wins = rivals.max(axis=1) <= np.take_along_axis(lower, chosen, axis=1)[:, 0]
    winner = np.take_along_axis(np.broadcast_to(index, lower.shape), chosen, axis=1)[:, 0]
    flat = a.reshape(*a.shape[:2], -1)
    passed = np.where(wins[:, np.newaxis], flat, np.maximum(flat, 0.0))
    coefficients = np.zeros((*a.shape[:2], size))
    lanes, functionals = (np.arange(n) for n in a.shape[:2])
    np.add.at(coefficients, (lanes[:, None, None], functionals[:, None], winner[:, np.newaxis]), passed)
    highest = magnitude_of(intervals[operand]).reshape(len(lower), -1)[lanes[:, None], winner]
    offset = np.where(wins, 0.0, intervals[tensor].upper.reshape(len(lower), -1))
    own = _own(flat, highest) + _own(flat, np.abs(offset))
    constant = _dot(np.minimum(flat, 0.0), offset)
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), constant, own)


_RULES: dict[type, Callable[[Tensor, Array, Intervals, Contract], Step]] = {
    Linear: _linear,
    LeakyRelu: _leaky_relu,
    Function: _function,
    Clip: _clip,
    Reshape: _reshape,
    Select: _select,
    Concatenate: _concatenate,
    Sum: _sum,
    MaxPool: _max_pool,
}
