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
from typing import Any

import numpy as np

from verify.intervals import Interval, LinearError, fused_error, magnitude_of, midpoint
from verify.linear_maps import Diagonal
from verify.primitives import (
    Clip,
    Concatenate,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Reshape,
    Round,
    Select,
    Sum,
    Tensor,
    topological,
)
from verify.rounding import FLOAT64_UNIT, Array, Contract, kappa

Intervals = Mapping[Tensor, Interval]


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
    if primitive.roundings == 0 and isinstance(primitive.map, Diagonal):
        return Step((coefficients,), _dot(a, bias), np.zeros(a.shape[:2]))
    error = LinearError.of(primitive, magnitude, contract)
    sums = primitive.map.absolute(magnitude) + primitive.magnitude
    backward = kappa(a[0, 0].size + primitive.map.terms + 16 + primitive.scalings, FLOAT64_UNIT)
    return Step((coefficients,), _dot(a, bias), _dot(np.abs(a), error.widened((error.kappa + backward) * sums)))


def _leaky_relu(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """s x for x < 0, else x, with 0 <= s <= 1: the line below has slope 1 or s, whichever leaves less area."""
    primitive: Any = tensor.primitive
    slope = primitive.slope
    if not 0 <= slope <= 1:
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
    magnitude = magnitude_of(intervals[operand])
    rounding = (contract.unit * (1.0 + 2.0**-20) * magnitude + contract.underflow) if slope else 0.0 * magnitude
    loss = _own(a, magnitude) + _dot(np.abs(a), rounding)
    return Step((coefficients,), _dot(negative, offset[:, 0]), loss)


def _clip(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """Linear between two corners and constant outside: lines through the end and the farther corner, or flat ones,
    whichever leave less area; each is shifted until the function lies on its side at both ends and at both corners."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    lower, upper = intervals[operand]
    corners = (np.clip(primitive.lower, lower, upper), np.clip(primitive.upper, lower, upper))
    ends = [(x, primitive.apply(x)) for x in (lower, upper, *corners)]
    (_, low), (_, high), (first, at_first), (last, at_last) = ends
    above = np.where(last - lower > upper - last, _slope(at_last - low, last - lower), 0.0)
    below = np.where(upper - first > first - lower, _slope(high - at_first, upper - first), 0.0)
    slack = 2.0**-49 * (magnitude_of(intervals[operand]) + np.maximum(np.abs(low), np.abs(high)))
    offset_above = np.max([y - above * x for x, y in ends], axis=0) + slack
    offset_below = np.min([y - below * x for x, y in ends], axis=0) - slack
    negative, positive = np.minimum(a, 0.0), np.maximum(a, 0.0)
    coefficients = positive * below[:, np.newaxis] + negative * above[:, np.newaxis]
    constant = _dot(positive, offset_below) + _dot(negative, offset_above)
    own = _own(a, magnitude_of(intervals[operand])) + _own(a, np.maximum(np.abs(offset_below), np.abs(offset_above)))
    return Step((coefficients,), constant, own)


def _slope(rise: Array, run: Array) -> Array:
    return np.asarray(rise / np.where(run == 0, 1.0, run))


def _round(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """Off by at most one half, and constant where the interval holds a single integer."""
    lower, upper = intervals[tensor]
    fixed = (lower == upper)[:, np.newaxis]
    constant = _dot(np.where(fixed, a, 0.0), lower)
    half = _dot(np.where(fixed, 0.0, np.abs(a)), np.full((1, *tensor.shape), 0.5))
    own = _own(a, magnitude_of(intervals[tensor]))
    return Step((np.where(fixed, 0.0, a),), constant - half, own + kappa(8, FLOAT64_UNIT) * half)


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
    Clip: _clip,
    Round: _round,
    Reshape: _reshape,
    Select: _select,
    Concatenate: _concatenate,
    Sum: _sum,
    MaxPool: _max_pool,
}
