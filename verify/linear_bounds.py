"""Linear bounds by backward substitution (CROWN, arXiv 1811.00866), for the network as its contract lets a runtime
execute it, in float64 rounded outward.

A functional a of a tensor's deployed value y is bounded from below by functionals of the values that y is computed
from, down to the input. Deployment enters as one dot product at every operation that rounds: for y = W x + b + d with
|d| <= D (design: the same D that interval bounds use),

    a y  >=  (a W) x + a b - |a| D.

For y = relu(x) with x in [l, u], any slope in [0, 1] gives a line below and any line above both ends one above, so that
nothing about the relaxation has to be trusted: a proof may choose it (alpha-CROWN, arXiv 2011.13824), and may restrict
a bound to those executions whose deployed x has a given sign s, in which

    a y  >=  a y - beta s x        for any beta >= 0

(beta-CROWN, arXiv 2103.06624). This x is the very float32 number that the ReLU reads, so that the new coefficient of x
is passed on, and charged with rounding, like any other. Arrays of functionals have the shape lanes x functionals x
tensor; those about intervals may have a single lane for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.functions import OWN_ERROR, Function, normal_arguments
from verify.intervals import Interval, LinearError, fused_error, magnitude_of, midpoint
from verify.linear_maps import Diagonal
from verify.primitives import (
    Clip,
    Concatenate,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Product,
    Reshape,
    Round,
    Select,
    Sign,
    Softmax,
    Sum,
    Tensor,
    topological,
)
from verify.rounding import FLOAT64_UNIT, Array, Contract, kappa
from verify.softmax import has_plane, plane

Intervals = Mapping[Tensor, Interval]

_CELLS = 16
"""Into which an interval is divided to find lines around a function."""


@dataclass(frozen=True)
class Choice:
    """What a proof chooses at one ReLU, for each of its neurons; every choice yields valid bounds.

    slope: of the line below where the sign is open, from 0 to 1 (from the ReLU's own slope to 1 for a leaky one), NaN
        to leave it to CROWN; lanes x functionals (or one) x shape.
    sign: 1 or -1 where the lane is about executions in which the ReLU reads a number >= 0, or <= 0, only; 0 for all;
        lanes x shape.
    multiplier: beta >= 0 where there is a sign; lanes x shape.
    """

    slope: Array
    sign: Array | None = None
    multiplier: Array | None = None

    def part(self, rows: slice, functionals: slice) -> Choice:
        """For some lanes and functionals."""
        slope = some_lanes(self.slope, rows)
        slope = slope if slope.shape[1] == 1 else slope[:, functionals]
        return Choice(
            slope, *(None if each is None else some_lanes(each, rows) for each in (self.sign, self.multiplier))
        )


Choices = Mapping[Tensor, Choice]
"""By the tensor of the ReLU; CROWN decides where there is none."""


def relus(output: Tensor) -> dict[Tensor, slice]:
    """The ReLUs that the output depends on and whose linear bounds leave a choice, leaky ones included, from the input
    on; with the numbers of their neurons, all of which are numbered one after the other."""
    found, first = {}, 0
    for tensor in topological([output]):
        if isinstance(tensor.primitive, LeakyRelu) and 0 <= tensor.primitive.slope <= 1:
            found[tensor] = slice(first, first := first + math.prod(tensor.shape))
    return found


def neuron_count(output: Tensor) -> int:
    """How many neurons those have together."""
    return sum(math.prod(tensor.shape) for tensor in relus(output))


@dataclass(frozen=True)
class Step:
    """One operation passed backwards: functionals of its operands, and at least what they leave over (lanes x
    functionals).

    loss: not negative; what rounding, deployed and own, and the width of intervals can take away, for each element of
    the operation's result, per unit of its coefficient (lanes, or one, x shape).
    """

    operands: tuple[Array, ...]
    constant: Array
    loss: Array


_CACHED = 2**17
"""Coefficients of functionals that are held at a time, few enough for the caches and for memory, unless so many
functionals have more."""

_AT_LEAST = 32
"""Functionals: what is computed of intervals alone is computed anew for so many."""

_OWN_UNDERFLOW = 2.0**-1030
"""More than a coefficient can lose to underflow in float64, however many products it is a sum of."""


def lower_bounds(
    target: Tensor,
    functionals: Array,
    intervals: Intervals,
    contract: Contract,
    choices: Choices = MappingProxyType({}),
    *,
    stop: Tensor | None = None,
) -> Array:
    """For each lane and functional of the target's deployed value, a lower bound over the box; NaN where none is known.

    functionals: lanes x functionals x target's shape. intervals: of every tensor that the target depends on, the input
    included, under the same contract; if substitution ends at the tensor `stop` already, of those from there on; in one
    lane, or as many as the functionals have. choices: a bound holds for the executions that have their signs.
    """
    lanes, count = functionals.shape[:2]
    most = max(_AT_LEAST, _CACHED // max(math.prod(tensor.shape) for tensor in topological([target])))
    step = max(1, min(most, count))
    found = np.empty((lanes, count))
    for lane, first in product(range(0, lanes, max(1, most // step)), range(0, count, step)):
        rows, some = slice(lane, lane + max(1, most // step)), slice(first, first + step)
        known = {tensor: Interval(*(some_lanes(end, rows) for end in ends)) for tensor, ends in intervals.items()}
        chosen = {tensor: choice.part(rows, some) for tensor, choice in choices.items()}
        found[rows, some] = _substituted(target, functionals[rows, some], known, contract, chosen, stop=stop)
    return found


def some_lanes(values: Array, rows: slice) -> Array:
    """Some lanes of what has a single one for all, or one each."""
    return values[rows] if len(values) > 1 else values


def two_sided_bounds(
    target: Tensor,
    functionals: Array,
    intervals: Intervals,
    contract: Contract,
    choices: Choices = MappingProxyType({}),
) -> Interval:
    """Lower and upper bounds, as `lower_bounds` gives them, of each functional and its negation.

    choices: for the lower bounds of all functionals, then for the upper ones. The two share what precedes the first
    operation that bends.
    """
    found = _substituted(target, functionals, intervals, contract, choices, mirrored=True)
    lower, negated = np.split(found, 2, axis=1)
    return Interval(lower, -negated)


def _substituted(
    target: Tensor,
    functionals: Array,
    intervals: Intervals,
    contract: Contract,
    choices: Choices,
    *,
    stop: Tensor | None = None,
    mirrored: bool = False,
) -> Array:
    """mirrored: bound the functionals, then their negations."""
    waiting: dict[Tensor, Array] = {target: functionals}
    constant = np.zeros(functionals.shape[:2])
    loss, size = np.zeros_like(constant), np.zeros_like(constant)
    summands = longest = 0
    for tensor in reversed(list(topological([target]))):
        if mirrored and isinstance(tensor.primitive, _BENDING):
            waiting = {operand: np.concatenate([a, -a], axis=1) for operand, a in waiting.items()}
            constant, loss, size = (np.concatenate(pair, axis=1) for pair in _mirrored(constant, loss, size))
            mirrored = False
        a = waiting.pop(tensor, None)
        if a is None:
            continue
        if tensor is stop or isinstance(tensor.primitive, Input):
            step = _through_input(tensor, a, intervals)
        elif isinstance(tensor.primitive, LeakyRelu):
            step = _leaky_relu(tensor, a, intervals, contract, choices.get(tensor))
        else:
            rule = _RULES.get(type(tensor.primitive), _constant)
            step = rule(tensor, a, intervals, contract)
        summands, longest = summands + 1 + len(step.operands), max(longest, math.prod(tensor.shape))
        constant = constant + step.constant
        size += np.abs(step.constant)
        magnitude = magnitude_of(intervals[tensor])
        loss += _dot(np.abs(a), step.loss + _own(tensor, magnitude))
        loss += _OWN_UNDERFLOW * (1.0 + magnitude.reshape(len(magnitude), -1).sum(axis=1, keepdims=True))
        for operand, functional in zip(tensor.operands, step.operands, strict=False):
            if operand in waiting:  # coefficients of several uses, which may cancel: the sum rounds once each time
                before = waiting[operand]
                loss += _dot(np.abs(before) + np.abs(functional), _own(operand, magnitude_of(intervals[operand])))
                functional = before + functional
            waiting[operand] = functional
    if mirrored:
        constant, loss, size = (np.concatenate(pair, axis=1) for pair in _mirrored(constant, loss, size))
    # The loss is a sum of products of non-negative terms, each of which a rule rounded less than a thousand times; the
    # sum of the constants and the difference below are off by as many roundings of their magnitudes as there are.
    loss *= 1.0 + 2.0 * kappa(longest + summands + 1024, FLOAT64_UNIT)
    return constant - (loss + (size + loss) * 2.0 * kappa(summands + 8, FLOAT64_UNIT))


def _mirrored(constant: Array, loss: Array, size: Array) -> tuple[tuple[Array, Array], ...]:
    """Of functionals, and of their negations."""
    return (constant, -constant), (loss, loss), (size, size)


def _own(tensor: Tensor, magnitude: Array) -> Array:
    """What float64 roundings of the coefficients of a functional of the tensor, and of the sum of their products with
    values of that magnitude, can change, per unit of coefficient."""
    return kappa(math.prod(tensor.shape) + 8, FLOAT64_UNIT) * magnitude


def _dot(a: Array, x: Array) -> Array:
    """Functionals (lanes x functionals x shape) of values (lanes, or one, x shape)."""
    flat = np.broadcast_to(x, (len(a), *a.shape[2:])).reshape(len(a), -1, 1)
    return np.asarray((a.reshape(*a.shape[:2], -1) @ flat)[..., 0])


def _through_input(tensor: Tensor, a: Array, intervals: Intervals) -> Step:
    centre, radius, _ = midpoint(intervals[tensor])
    return Step((), _dot(a, centre), radius)


def _constant(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """An operation without linear bounds: its interval bounds it."""
    return _through_input(tensor, a, intervals)


def _linear(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Linear)
    (operand,) = tensor.operands
    shape = operand.shape
    coefficients = primitive.map.adjoint(a.reshape(-1, *tensor.shape), shape).reshape(*a.shape[:2], *shape)
    bias = np.broadcast_to(primitive.bias, (1, *tensor.shape))
    magnitude = magnitude_of(intervals[operand])
    if primitive.roundings == 0 and isinstance(primitive.map, Diagonal):
        return Step((coefficients,), _dot(a, bias), _own(tensor, np.abs(bias)))
    error = LinearError.of(primitive, magnitude, contract)
    sums = primitive.map.absolute(magnitude) + primitive.magnitude
    backward = kappa(math.prod(tensor.shape) + primitive.map.terms + 16 + primitive.scalings, FLOAT64_UNIT)
    return Step((coefficients,), _dot(a, bias), error.widened((error.kappa + backward) * sums))


def _nothing(tensor: Tensor) -> Array:
    return np.zeros((1, *tensor.shape))


def _leaky_relu(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract, choice: Choice | None) -> Step:
    """s x for x < 0, else x, with 0 <= s <= 1."""
    primitive: Any = tensor.primitive
    slope = primitive.slope
    if not 0 <= slope <= 1:
        return _between_lines(tensor, a, intervals, contract)
    x = intervals[tensor.operands[0]]
    lowest, top = _slopes(primitive, x)
    below, above, offset = lowest[:, np.newaxis], top.slope[:, np.newaxis], top.offset
    own = _own(tensor, magnitude_of(x))
    added: Array | None = None
    if choice:
        unstable = (x.lower < 0) & (x.upper > 0)
        chosen = np.clip(slope + (1.0 - slope) * choice.slope, slope, 1.0)
        below = np.where(unstable[:, np.newaxis] & ~np.isnan(chosen), chosen, below)
    if choice and choice.sign is not None and choice.multiplier is not None:
        # Among executions with a sign the function is one line, whatever the interval says.
        sign = choice.sign[:, np.newaxis]
        line = np.where(sign > 0, 1.0, slope)
        below, above = np.where(sign == 0, below, line), np.where(sign == 0, above, line)
        offset = np.where(choice.sign == 0, offset, 0.0)
        added = -sign * np.maximum(choice.multiplier, 0.0)[:, np.newaxis]
    negative = np.minimum(a, 0.0)
    constant = _dot(negative, offset)
    negative *= above - below
    coefficients = a * below  # where a < 0, off by less than four roundings of a, for which `own` has room
    coefficients += negative
    if added is not None:
        coefficients += added
        constant = constant - _dot(np.abs(added), own)
    return Step((coefficients,), constant, own + _leaky_rounding(primitive, x, contract))


def _slopes(primitive: LeakyRelu, x: Interval) -> tuple[Array, Line]:
    """For s x below zero and x above, convex as s <= 1: the slope of a line through zero below the function, 1 or s,
    whichever leaves less area; and the line above."""
    slope, (lower, upper) = primitive.slope, x
    below = np.where(upper > -lower, 1.0, slope)
    unstable = (lower < 0) & (upper > 0)
    above = np.clip(np.where(unstable, (upper - slope * lower) / (upper - lower), below), slope, 1.0)
    # Whatever `above` was rounded to, this offset lifts the line over both ends, and so over the whole function.
    offset = np.maximum((1.0 - above) * np.maximum(upper, 0.0), (above - slope) * np.maximum(-lower, 0.0))
    return below, Line(above, offset * (1.0 + 2.0**-50))


def _leaky_rounding(primitive: LeakyRelu, x: Interval, contract: Contract) -> Array:
    """Of the product s x; none where that is zero, or only changes the sign."""
    magnitude = max(1.0, abs(primitive.slope)) * magnitude_of(x)
    if primitive.slope in (0.0, -1.0):
        return 0.0 * magnitude
    return np.asarray(contract.unit * (1.0 + 2.0**-20) * magnitude + contract.underflow)


@dataclass(frozen=True)
class Line:
    """y = slope x + offset, elementwise."""

    slope: Array
    offset: Array


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
        slope, top = _slopes(primitive, x)
        rounding = _leaky_rounding(primitive, x, contract)
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


def _between_lines(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    lines = lines_around(tensor, intervals, contract)
    if lines is None:
        return _constant(tensor, a, intervals, contract)
    below, above = lines
    magnitude = magnitude_of(intervals[tensor.operands[0]])
    positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
    coefficients = positive * below.slope[:, np.newaxis] + negative * above.slope[:, np.newaxis]
    constant = _dot(positive, below.offset) + _dot(negative, above.offset)
    steepest, highest = (
        np.maximum(np.abs(x), np.abs(y)) for x, y in ((below.slope, above.slope), (below.offset, above.offset))
    )
    return Step((coefficients,), constant, _own(tensor, steepest * magnitude + highest))


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


def _reshape(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    return Step((a.reshape(*a.shape[:2], *tensor.operands[0].shape),), np.zeros(a.shape[:2]), _nothing(tensor))


def _select(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Select)
    (operand,) = tensor.operands
    flat = a.reshape(*a.shape[:2], -1)
    index = primitive.index.reshape(-1)
    inside = index >= 0
    coefficients = np.zeros((*a.shape[:2], math.prod(operand.shape)))
    if primitive.repeats:
        order, taken, first = primitive.uses
        coefficients[..., taken] = np.add.reduceat(flat[..., order], first, axis=-1)
    else:
        coefficients[..., index[inside]] = flat[..., inside]
    constant = primitive.fill * flat[..., ~inside].sum(axis=-1)
    loss = _own(tensor, np.full((1, *tensor.shape), abs(primitive.fill))) if primitive.pads else _nothing(tensor)
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), constant, loss)


def _concatenate(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    axis = primitive.axis + 2
    stops = np.cumsum([operand.shape[primitive.axis] for operand in tensor.operands])[:-1]
    return Step(tuple(np.split(a, stops, axis=axis)), np.zeros(a.shape[:2]), _nothing(tensor))


def _sum(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Sum)
    first, second = (intervals[operand] for operand in tensor.operands)
    reach = magnitude_of(intervals[tensor])
    rounding = kappa(1, contract.unit) * reach + fused_error(primitive, first, second, contract) + contract.underflow
    own = _own(tensor, magnitude_of(first) + magnitude_of(second))
    return Step((a, primitive.sign * a), np.zeros(a.shape[:2]), rounding + own)


def _product(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """x y differs from c y + d x - c d, for the centres c and d of their intervals, by (x - c) (y - d): at most the
    product of the radii. This is the mean of the two planes below, and above, that touch x y (McCormick)."""
    first, second = (intervals[operand] for operand in tensor.operands)
    (c, radius, reach), (d, other, extent) = midpoint(first), midpoint(second)
    rounding = kappa(1, contract.unit) * magnitude_of(intervals[tensor]) + contract.underflow
    own = _own(tensor, 3.0 * reach * extent)
    constant = -_dot(a, c * d)
    return Step(
        (a * d[:, np.newaxis], a * c[:, np.newaxis]), constant, radius * other * (1.0 + 2.0**-50) + rounding + own
    )


def _softmax(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    primitive: Any = tensor.primitive
    x = intervals[tensor.operands[0]]
    if not has_plane(tensor.shape):
        return _constant(tensor, a, intervals, contract)
    around = plane(x.lower, x.upper, primitive.logarithm, contract)
    coefficients = (a[..., np.newaxis, :] @ around.slope[:, np.newaxis])[..., 0, :]
    size = (np.abs(around.slope) @ magnitude_of(x)[..., np.newaxis])[..., 0] + np.abs(around.offset)
    return Step((coefficients,), _dot(a, around.offset), around.deviation + _own(tensor, size))


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


def _max_pool(tensor: Tensor, a: Array, intervals: Intervals, contract: Contract) -> Step:
    """The maximum is at least the element with the largest lower bound, and equals it where no other one can win."""
    primitive: Any = tensor.primitive
    assert isinstance(primitive, MaxPool)
    if primitive.padding:
        return _constant(tensor, a, intervals, contract)
    (operand,) = tensor.operands
    best = winners(tensor, intervals)
    flat = a.reshape(*a.shape[:2], -1)
    passed = np.where(best.always[:, np.newaxis], flat, np.maximum(flat, 0.0))
    coefficients = np.zeros((*a.shape[:2], math.prod(operand.shape)))
    lanes, functionals = (np.arange(n) for n in a.shape[:2])
    np.add.at(coefficients, (lanes[:, None, None], functionals[:, None], best.place[:, np.newaxis]), passed)
    reach = np.take_along_axis(magnitude_of(intervals[operand]).reshape(len(best.place), -1), best.place, axis=1)
    constant = _dot(np.minimum(flat, 0.0), best.highest)
    own = _own(tensor, (reach + np.abs(best.highest)).reshape(-1, *tensor.shape))
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), constant, own)


_BENDING = (LeakyRelu, Function, Clip, Round, Sign, MaxPool)
"""What a functional and its negation pass backwards in different ways."""


_RULES: dict[type, Callable[[Tensor, Array, Intervals, Contract], Step]] = {
    Linear: _linear,
    Function: _between_lines,
    Clip: _between_lines,
    Round: _between_lines,
    Sign: _between_lines,
    Reshape: _reshape,
    Select: _select,
    Concatenate: _concatenate,
    Sum: _sum,
    Product: _product,
    Softmax: _softmax,
    MaxPool: _max_pool,
}
