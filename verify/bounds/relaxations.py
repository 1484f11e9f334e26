"""What the intervals of an operation's operands say about functionals of its result: one rule per primitive.

Deployment enters as one dot product at every operation that rounds: for y = W x + b + d with |d| <= D (at most what
interval bounds use, see `_linear`),

    a y  >=  (a W) x + a b - |a| D.

For y = relu(x) with x in [l, u], any slope in [0, 1] gives a line below and any line above both ends one above, so that
nothing about the relaxation has to be trusted: a proof may choose it (alpha-CROWN, arXiv 2011.13824), and may restrict
a bound to those executions whose deployed x has a given sign s, in which

    a y  >=  a y - beta s x        for any beta >= 0

(beta-CROWN, arXiv 2103.06624). This x is the very float32 number that the ReLU reads, so that the new coefficient of x
is passed on, and charged with rounding, like any other. Smooth functions have a line of any slope on either side
(`verify.bounds.curves`); where one is known to read x in [l, u], a y is at least (a y - b x) + min(b l, b u) for any b,
as in GenBaB (arXiv 2405.21063). Planes above neurons (`verify.proofs.planes`) pass a functional on to what the dense
layer in front of the ReLU reads. Arrays of functionals have the shape lanes x functionals x tensor; those about
intervals may have a single lane for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import is_relu
from verify.bounds.curves import Curve, Line
from verify.bounds.functionals import dot, times
from verify.bounds.lines import Intervals, Winners, leaky_rounding, lines_around, places_of, ratio, slopes, winners
from verify.bounds.steps import (
    Choice,
    Relaxation,
    Signs,
    Step,
    charged,
    constant,
    own_error,
)
from verify.core.functions import Function
from verify.core.intervals import Interval, LinearError, fused_error, magnitude_of, midpoint, variance_error
from verify.core.linear_maps import Diagonal
from verify.core.primitives import (
    Clip,
    Concatenate,
    Difference,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Product,
    Quotient,
    Reshape,
    Round,
    Select,
    Sign,
    Softmax,
    Subsample,
    Sum,
    Tensor,
    Variance,
)
from verify.core.rounding import FLOAT64_UNIT, Array, Contract, kappa, kappas
from verify.core.softmax import has_plane, plane


class ReluLines(NamedTuple):
    """Of a ReLU, or leaky one: the slope of the line through zero below, the line above, and the own error of what it
    reads, if that is more than the charge has."""

    below: Array
    above: Array
    offset: Array
    own: Array | None


class Lines(NamedTuple):
    """The slope of a line below, its value at zero, and the same of a line above."""

    below: Array
    low: Array
    above: Array
    high: Array


class FunctionLines(NamedTuple):
    """The same around a smooth function; the interval of what it reads, and its own."""

    below: Array
    low: Array
    above: Array
    high: Array
    least: Array
    largest: Array
    lowest: Array
    highest: Array


class Centres(NamedTuple):
    """Of the intervals of a product's operands x and y: x y is about c y + d x - c d."""

    c: Array
    d: Array


class RatioLines(NamedTuple):
    """Around a quotient, as `lines.Ratio` has them."""

    first: Array
    second: Array
    offset: Array
    below: Array
    low: Array
    above: Array
    high: Array


class SoftmaxPlane(NamedTuple):
    """Slopes of each element in what the softmax reads, and the value at zero."""

    slope: Array
    offset: Array


def relaxation(
    tensor: Tensor, intervals: Intervals, contract: Contract, signs: Signs = MappingProxyType({})
) -> Relaxation:
    """What the intervals of a tensor and of its operands say about the operation that it is the result of, in those
    executions that have the signs."""
    around = _RULES.get(type(tensor.primitive), _constant)(tensor, intervals, contract)
    return _with_signs(around, signs[tensor]) if tensor in signs else around


def _with_signs(around: Relaxation, sign: NDArray[np.int8]) -> Relaxation:
    """Of a ReLU that reads numbers of these signs. Where they are at least zero the function is the line above, and no
    line below is wrong; where they are at most zero the intervals have to say so."""
    lines: ReluLines = around.lines
    positive = sign > 0
    above, offset = np.where(positive, 1.0, lines.above), np.where(positive, 0.0, lines.offset)
    return replace(around, lines=lines._replace(above=above, offset=offset))


def _constant(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """Also of an operation without linear bounds."""
    return constant(tensor, intervals)


def _linear(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Linear)
    (operand,) = tensor.operands
    if primitive.roundings == 0 and isinstance(primitive.map, Diagonal):
        bias = np.broadcast_to(primitive.bias, (1, *tensor.shape))
        return charged(tensor, intervals, _through_linear, own_error(tensor, np.abs(bias)))
    x = intervals[operand]
    magnitude = magnitude_of(x)
    error = LinearError.of(primitive, magnitude, contract)
    sums = primitive.map.absolute(magnitude) + primitive.magnitude
    backward = kappa(math.prod(tensor.shape) + primitive.map.terms + 16 + primitive.scalings, FLOAT64_UNIT)
    deployed = error.roundings * contract.unit * (1.0 + kappas(error.roundings, contract.unit))
    loss = (deployed + 4.0 * error.own + backward) * sums
    if primitive.additions and contract.unit:
        # Each addition rounds a sum of some of the terms, which lies between that of the negative and that of the
        # positive ones, but for what was rounded before. It counts by so much less than the sum of all magnitudes:
        positive, negative = np.maximum(x.upper, 0.0), np.maximum(-x.lower, 0.0)
        either = positive + negative
        spread = sums - primitive.magnitude if (either == magnitude).all() else primitive.map.absolute(either)
        less = sums - primitive.magnitude - 0.5 * (spread + np.abs(primitive.map(positive - negative)))
        additions = primitive.additions - primitive.roundings + error.roundings
        loss -= additions * contract.unit * less
    return charged(tensor, intervals, _through_linear, error.widened(loss))


def _through_linear(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    primitive: Any = tensor.primitive
    shape = tensor.operands[0].shape
    coefficients = primitive.map.adjoint(a.reshape(-1, *tensor.shape), shape).reshape(*a.shape[:2], *shape)
    return Step((coefficients,), dot(a, np.broadcast_to(primitive.bias, (1, *tensor.shape))))


def _leaky_relu(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """s x for x < 0, else x, with 0 <= s <= 1; other slopes leave a proof no choice."""
    primitive: Any = tensor.primitive
    if not is_relu(tensor):
        return _between_lines(tensor, intervals, contract)
    x = intervals[tensor.operands[0]]
    below, above = slopes(primitive, x)
    own = own_error(tensor, magnitude_of(x))
    lines = ReluLines(below, above.slope, above.offset, own if primitive.slope else None)
    return charged(tensor, intervals, _through_relu, own + leaky_rounding(primitive, x, contract), lines)


def _through_relu(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    primitive: Any = tensor.primitive
    slope = primitive.slope
    lines: ReluLines = around.lines
    below, above, offset = lines.below[:, np.newaxis], lines.above[:, np.newaxis], lines.offset
    added: Array | None = None
    if choice:
        chosen = np.clip(slope + (1.0 - slope) * choice.slope, slope, 1.0)
        below = np.where(
            (offset > 0)[:, np.newaxis] & ~np.isnan(chosen), chosen, below
        )  # only an open sign has an offset
    if choice and choice.sign is not None and choice.multiplier is not None:
        # Among executions with a sign the function is one line, whatever the interval says.
        sign = choice.sign[:, np.newaxis]
        line = np.where(sign > 0, 1.0, slope)
        below, above = np.where(sign == 0, below, line), np.where(sign == 0, above, line)
        offset = np.where(choice.sign == 0, offset, 0.0)
        added = -sign * np.maximum(choice.multiplier, 0.0)[:, np.newaxis]
    negative = np.minimum(a, 0.0)
    over: Array | float = 0.0
    beyond: Array | None = None
    if choice and choice.planes:
        rows, slopes_above, offsets = choice.planes
        shape = len(offsets), math.prod(tensor.shape)
        used = (np.broadcast_to(offset.reshape(-1, shape[1]), shape)[:, rows] > 0) & ~np.isnan(offsets)
        of_rows = negative.reshape(*a.shape[:2], -1)[:, :, rows] * used[:, np.newaxis]
        over = dot(of_rows, np.where(used, offsets, 0.0))
        beyond = of_rows @ slopes_above
        covered = np.zeros(shape, np.bool_)
        covered[:, rows] = used
        covered = covered.reshape(-1, *tensor.shape)
        above, offset = np.where(covered[:, np.newaxis], 0.0, above), np.where(covered, 0.0, offset)
    constant = dot(negative, offset) + over
    negative *= above - below
    coefficients = a * below  # where a < 0, off by less than four roundings of a, for which `own` has room
    coefficients += negative
    if added is not None:
        coefficients += added
        constant = constant - dot(np.abs(added), around.charge if lines.own is None else lines.own)
    return Step((coefficients,), constant, beyond)


def _between_lines(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    lines = lines_around(tensor, intervals, contract)
    if lines is None:
        return constant(tensor, intervals)
    below, above = lines
    magnitude = magnitude_of(intervals[tensor.operands[0]])
    steepest, highest = (
        np.maximum(np.abs(x), np.abs(y)) for x, y in ((below.slope, above.slope), (below.offset, above.offset))
    )
    loss = own_error(tensor, steepest * magnitude + highest)
    return charged(tensor, intervals, _through_lines, loss, Lines(*below, *above))


def _through_lines(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    lines: Lines | FunctionLines = around.lines
    positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
    coefficients = positive * lines.below[:, np.newaxis] + negative * lines.above[:, np.newaxis]
    return Step((coefficients,), dot(positive, lines.low) + dot(negative, lines.high))


def _function(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    around = _between_lines(tensor, intervals, contract)
    lines: Lines = around.lines
    known = FunctionLines(*lines, *intervals[tensor.operands[0]], *intervals[tensor])
    return replace(around, through=partial(_through_function, contract), lines=known)


def _through_function(contract: Contract, tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    if choice is None:
        return _through_lines(tensor, a, around, None)
    primitive: Any = tensor.primitive
    lines: FunctionLines = around.lines
    x, y = Interval(lines.least, lines.largest), Interval(lines.lowest, lines.highest)
    curve = Curve.of(primitive, x, y, contract)
    below, above = (curve.chosen(sign, choice.slope) for sign in (-1, 1))
    if choice.within:
        within = Interval(*(np.broadcast_to(end, (len(a), *tensor.shape)) for end in choice.within))
        x = _narrowed(x, within)
        places: Any = np.nonzero(np.isfinite(within.lower) | np.isfinite(within.upper))
        if len(places[0]):
            part = Interval(*(end[places][np.newaxis] for end in x))
            curve = Curve.of(primitive, part, Interval(*primitive.enclosure(*part, contract)), contract)
            at = places[0], slice(None), *places[1:]
            shares = np.broadcast_to(choice.slope, (len(a), *choice.slope.shape[1:]))[at].T[np.newaxis]
            below, above = (
                _with(len(a), line, at, curve.chosen(sign, shares)) for sign, line in ((-1, below), (1, above))
            )
    positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
    coefficients = positive * below.slope + negative * above.slope
    axes = tuple(range(2, a.ndim))
    constant = (positive * below.offset + negative * above.offset).sum(axis=axes)
    magnitude = magnitude_of(x)[:, np.newaxis]
    steepest, farthest = (
        np.maximum(np.abs(first), np.abs(second))
        for first, second in ((below.slope, above.slope), (below.offset, above.offset))
    )
    loss = np.abs(a) * own_error(tensor, steepest * magnitude + farthest)
    if choice.sign is not None and choice.multiplier is not None:
        added = np.where(choice.sign == 0, 0.0, choice.multiplier)[:, np.newaxis]
        coefficients = coefficients - added
        ends = (np.where(added == 0, 0.0, added * end[:, np.newaxis]) for end in x)
        constant = constant + np.minimum(*ends).sum(axis=axes)
        loss = loss + np.abs(added) * own_error(tensor, magnitude)
    return Step((coefficients,), constant - loss.sum(axis=axes))


def _narrowed(x: Interval, within: Interval) -> Interval:
    """What is left of intervals in there: or all of those of which nothing is, for there is no execution then."""
    lower, upper = np.maximum(x.lower, within.lower), np.minimum(x.upper, within.upper)
    return Interval(*(np.where(lower <= upper, narrow, wide) for narrow, wide in ((lower, x.lower), (upper, x.upper))))


def _with(lanes: int, line: Line, at: Any, other: Line) -> Line:
    """A line, but for some places (lanes x functionals x shape), where the other (1 x functionals x places) counts."""
    found = []
    for values, new in ((line.slope, other.slope), (line.offset, other.offset)):
        values = np.array(np.broadcast_to(values, (lanes, *values.shape[1:])))
        values[at] = new[0].T
        found.append(values)
    return Line(*found)


def _reshape(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    return charged(tensor, intervals, _through_reshape)


def _through_reshape(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    return Step((a.reshape(*a.shape[:2], *tensor.operands[0].shape),))


def _select(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    primitive: Any = tensor.primitive
    fill = np.full((1, *tensor.shape), abs(primitive.fill)) if primitive.pads else np.zeros((1, *tensor.shape))
    return charged(tensor, intervals, _through_select, own_error(tensor, fill))


def _through_select(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
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
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), constant)


def moved(around: Relaxation) -> Relaxation:
    """Of an operation that only picks elements of that one's result."""
    return Relaxation(_through_select, around.own(), around.own)


def _subsample(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    return charged(tensor, intervals, _through_subsample)


def _through_subsample(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    taken, put = primitive.places(operand.shape)
    coefficients = np.zeros((*a.shape[:2], *operand.shape))
    coefficients[taken] = a[put]
    return Step((coefficients,))


def _concatenate(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    return charged(tensor, intervals, _through_concatenate)


def _through_concatenate(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    primitive: Any = tensor.primitive
    axis = primitive.axis + 2
    stops = np.cumsum([operand.shape[primitive.axis] for operand in tensor.operands])[:-1]
    return Step(tuple(np.split(a, stops, axis=axis)))


def _sum(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    primitive: Any = tensor.primitive
    assert isinstance(primitive, Sum)
    first, second = (intervals[operand] for operand in tensor.operands)
    reach = magnitude_of(intervals[tensor])
    rounding = kappa(1, contract.unit) * reach + fused_error(primitive, first, second, contract) + contract.underflow
    loss = rounding + own_error(tensor, magnitude_of(first) + magnitude_of(second))
    return charged(tensor, intervals, _through_sum, loss)


def _through_sum(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    primitive: Any = tensor.primitive
    return Step((a, primitive.sign * a))


def _difference(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    first, second = (magnitude_of(intervals[operand]) for operand in tensor.operands)
    return charged(tensor, intervals, _through_difference, own_error(tensor, first + second))


def _through_difference(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    return Step((a, -a))


def _maximum(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """As the sum of the first two operands, over the real numbers."""
    first, second = (magnitude_of(intervals[operand]) for operand in tensor.operands[:2])
    return charged(tensor, intervals, _through_maximum, own_error(tensor, first + second))


def _through_maximum(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    return Step((a, a))


def _product(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """x y differs from c y + d x - c d, for the centres c and d of their intervals, by (x - c) (y - d): at most the
    product of the radii. This is the mean of the two planes below, and above, that touch x y (McCormick)."""
    first, second = (intervals[operand] for operand in tensor.operands)
    (c, radius, reach), (d, other, extent) = midpoint(first), midpoint(second)
    rounding = kappa(1, contract.unit) * magnitude_of(intervals[tensor]) + contract.underflow
    loss = radius * other * (1.0 + 2.0**-50) + rounding + own_error(tensor, 3.0 * reach * extent)
    return charged(tensor, intervals, _through_product, loss, Centres(c, d))


def _through_product(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    lines: Centres = around.lines
    first, second = (operand.shape for operand in tensor.operands)
    return Step((times(a, lines.d, first), times(a, lines.c, second)), -dot(a, lines.c * lines.d))


def _quotient(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    first, second = (intervals[operand] for operand in tensor.operands)
    around = ratio(first, second, intervals[tensor], contract)
    below, above = around.below, around.above
    steepest = np.maximum(np.abs(below.slope), np.abs(above.slope)) * magnitude_of(second)
    highest = np.maximum(np.abs(below.offset), np.abs(above.offset))
    terms = np.abs(around.first) * magnitude_of(first) + np.abs(around.second) * (steepest + highest)
    loss = around.deviation + own_error(tensor, 2.0 * (terms + np.abs(around.offset)))
    lines = RatioLines(around.first, around.second, around.offset, *below, *above)
    return charged(tensor, intervals, _through_quotient, loss, lines)


def _through_quotient(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    lines: RatioLines = around.lines
    inverse = a * lines.second[:, np.newaxis]
    positive, negative = np.maximum(inverse, 0.0), np.minimum(inverse, 0.0)
    coefficients = positive * lines.below[:, np.newaxis] + negative * lines.above[:, np.newaxis]
    constant = dot(a, lines.offset) + dot(positive, lines.low) + dot(negative, lines.high)
    return Step((a * lines.first[:, np.newaxis], coefficients), constant)


def _softmax(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    primitive: Any = tensor.primitive
    x = intervals[tensor.operands[0]]
    if not has_plane(tensor.shape):
        return constant(tensor, intervals)
    around = plane(x.lower, x.upper, primitive.logarithm, contract)
    size = (np.abs(around.slope) @ magnitude_of(x)[..., np.newaxis])[..., 0] + np.abs(around.offset)
    loss = around.deviation + own_error(tensor, size)
    return charged(tensor, intervals, _through_softmax, loss, SoftmaxPlane(around.slope, around.offset))


def _through_softmax(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    lines: SoftmaxPlane = around.lines
    return Step(((a[..., np.newaxis, :] @ lines.slope[:, np.newaxis])[..., 0, :],), dot(a, lines.offset))


def _max_pool(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """The maximum is at least the element with the largest lower bound, and equals it where no other one can win."""
    primitive: Any = tensor.primitive
    assert isinstance(primitive, MaxPool)
    if primitive.padding:
        return constant(tensor, intervals)
    best = winners(tensor, intervals)
    magnitude = magnitude_of(intervals[tensor.operands[0]]).reshape(len(best.tap), -1)
    reach = np.take_along_axis(magnitude, places_of(tensor, best.tap), axis=1).reshape(best.tap.shape)
    loss = own_error(tensor, reach + np.abs(best.highest))
    return charged(tensor, intervals, _through_pool, loss, best)


def _through_pool(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    best: Winners = around.lines
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    place = places_of(tensor, best.tap)[:, np.newaxis]
    passed = np.where(best.always[:, np.newaxis], a, np.maximum(a, 0.0)).reshape(*a.shape[:2], -1)
    coefficients = np.zeros((*a.shape[:2], math.prod(operand.shape)))
    windows = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
    output = tensor.shape[-len(primitive.window.kernel) :]
    for apart in primitive.window.apart(output):  # several windows that overlap may have the same winner
        some = windows[(..., *apart)].reshape(-1)
        before = np.take_along_axis(coefficients, place[..., some], axis=2)
        np.put_along_axis(coefficients, place[..., some], before + passed[..., some], axis=2)
    return Step((coefficients.reshape(*a.shape[:2], *operand.shape),), dot(np.minimum(a, 0.0), best.highest))


def _variance(tensor: Tensor, intervals: Intervals, contract: Contract) -> Relaxation:
    """As its first operand."""
    primitive: Any = tensor.primitive
    v, x = (intervals[operand] for operand in tensor.operands)
    loss = variance_error(primitive, x, contract) + own_error(tensor, magnitude_of(v))
    return charged(tensor, intervals, _through_variance, loss)


def _through_variance(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    return Step((a,))


BENDING = (LeakyRelu, Function, Clip, Round, Sign, MaxPool, Quotient)
"""What a functional and its negation pass backwards in different ways."""

_RULES: Mapping[type, Callable[[Tensor, Intervals, Contract], Relaxation]] = {
    Linear: _linear,
    LeakyRelu: _leaky_relu,
    Function: _function,
    Clip: _between_lines,
    Round: _between_lines,
    Sign: _between_lines,
    Reshape: _reshape,
    Select: _select,
    Subsample: _subsample,
    Concatenate: _concatenate,
    Sum: _sum,
    Difference: _difference,
    Maximum: _maximum,
    Product: _product,
    Quotient: _quotient,
    Softmax: _softmax,
    MaxPool: _max_pool,
    Variance: _variance,
}
