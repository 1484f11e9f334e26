"""Interval bound propagation, in float64 rounded outward, for the network as its contract lets a runtime execute it.

An interval of an element contains every value that any execution allowed by the contract can produce there, for every
input in the box. An element for which no such statement can be made (possible overflow, division by an interval with
zero) is NaN from there on, and no comparison with NaN proves anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.core import softmax as softmax_bounds
from verify.core.functions import Function
from verify.core.interpreter import Rules
from verify.core.linear_maps import Diagonal
from verify.core.primitives import (
    Clip,
    Concatenate,
    Constant,
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
    Variance,
)
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, Contract, kappa, kappas


class Interval(NamedTuple):
    """Elementwise lower and upper bounds; the leading axis holds lanes."""

    lower: Array
    upper: Array


def interval_rules(contract: Contract) -> Rules:
    """The rules of interval bound propagation under a contract."""
    rounded: dict[type, Callable[..., Interval]] = {
        Linear: linear,
        LeakyRelu: leaky_relu,
        Function: function,
        Softmax: softmax,
        Sum: sum_,
        Product: product,
        Quotient: quotient,
        Variance: variance,
    }
    exact = dict.fromkeys((Reshape, Select, Subsample, Concatenate, Clip, Sign, Maximum), monotone)
    return {
        Constant: constant,
        MaxPool: max_pool,
        Difference: difference,
        Round: round_,
        **exact,
        **{kind: partial(rule, contract=contract) for kind, rule in rounded.items()},
    }


def constant(primitive: Constant) -> Interval:
    """A number of the deployed format is itself."""
    return Interval(primitive.apply(), primitive.apply())


def monotone(
    primitive: Reshape | Select | Subsample | Concatenate | Clip | Sign | Maximum | LeakyRelu, *operands: Interval
) -> Interval:
    """A non-decreasing function that float32 computes exactly: the endpoints map to the endpoints."""
    return Interval(primitive.apply(*(x.lower for x in operands)), primitive.apply(*(x.upper for x in operands)))


def round_(primitive: Round, x: Interval) -> Interval:
    """Non-decreasing: the nearest integer of everything in between lies between those of the ends."""
    return Interval(np.rint(x.lower), np.rint(x.upper))


def max_pool(primitive: MaxPool, x: Interval) -> Interval:
    """Exact and monotone; the padding counts for the upper bound, and not for the lower one."""
    upper = primitive.apply(x.upper)
    if primitive.padding:
        primitive = replace(primitive, padding=replace(primitive.padding, fill=-np.inf))
    return Interval(primitive.apply(x.lower), upper)


def linear(primitive: Linear, x: Interval, *, contract: Contract) -> Interval:
    """A x + b in any order of summation, with centre c, radius r and M = max |x| (Rump's midpoint-radius product):

        centre  A c + b
        radius  |A| (r + kappa M) + kappa m + e

    for the magnitude m of b, and kappa and e of `LinearError`.
    """
    if primitive.roundings == 0:
        return _exact(primitive, x)
    centre, radius, magnitude = midpoint(x)
    error = LinearError.of(primitive, magnitude, contract)
    magnitude *= per_lane(error.kappa, magnitude)
    magnitude += radius
    width = primitive.map.absolute(magnitude)
    width += per_lane(error.kappa, width) * primitive.magnitude
    width = error.widened(width)
    if isinstance(primitive.map, Diagonal):  # products with zero are zero, unless they overflow on the way
        nothing = (primitive.map.scale == 0) & (primitive.magnitude == 0) & primitive.is_unscaled
        width = np.where(nothing & ~np.isnan(width), 0.0, width)
    result = primitive.apply(centre)
    return Interval(result - width, result + width)


def _exact(primitive: Linear, x: Interval) -> Interval:
    """An exact operation. On each element endpoints map to endpoints. A sum of products is of integers below 2^31
    (whoever builds one sees to that), so that float64 computes it exactly in any order, and of halves, too."""
    if isinstance(primitive.map, Diagonal):
        ends = primitive.apply(x.lower), primitive.apply(x.upper)
        return Interval(np.minimum(*ends), np.maximum(*ends))
    centre, radius = 0.5 * (x.lower + x.upper), 0.5 * (x.upper - x.lower)
    result, width = primitive.apply(centre), primitive.map.absolute(radius)
    return Interval(result - width, result + width)


class LinearError(NamedTuple):
    """What bounds the rounding of A x + b, by the contract's arithmetic and by the verifier's own.

    roundings: `Linear.live_roundings`.
    kappa: per lane, relative to the sum of the magnitudes of all terms: the contract's, for all roundings between the
        exact result and the deployed one, and the verifier's, for rounding A, c and A c + b in float64.
    absolute: per lane, what underflow can add; NaN where an intermediate result might overflow.
    own: the verifier's part of kappa; it has room for the last operation too, centre plus or minus radius.
    """

    roundings: NDArray[np.int_]
    kappa: Array
    absolute: Array
    own: float

    @staticmethod
    def of(primitive: Linear, magnitude: Array, contract: Contract) -> LinearError:
        """For n terms, gain g and M = max |x|: absolute = (n + 16 + scalings) g (1 + M) underflow."""
        lanes = len(magnitude)
        largest = magnitude.reshape(lanes, -1).max(axis=1, initial=0.0)
        roundings = primitive.live_roundings(magnitude != 0)
        most = np.broadcast_to(roundings, (lanes, *roundings.shape[1:])).reshape(lanes, -1).max(axis=1)
        terms = primitive.map.terms + 16 + primitive.scalings
        own = kappa(terms, FLOAT64_UNIT)
        absolute = terms * primitive.gain * max(contract.underflow, OWN_UNDERFLOW) * (1.0 + largest)
        if not primitive.offset and primitive.is_unscaled:  # sums of products with zero are zero
            absolute = np.where((largest == 0) | (primitive.map.largest == 0), 0.0, absolute)
        safe = primitive.row_sum * np.maximum(largest, 1.0) + primitive.offset < contract.limit
        return LinearError(roundings, kappas(most, contract.unit) + own, np.where(safe, absolute, np.nan), own)

    def widened(self, width: Array) -> Array:
        """A sum of non-negative terms with the absolute error added, in place; its own rounding is a relative error
        below 4 `own`."""
        width += per_lane(self.absolute, width)
        width *= 1.0 + 4.0 * self.own
        return width


def per_lane(values: Array, like: Array) -> Array:
    """One for each lane, in a shape that broadcasts to the other array."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def leaky_relu(primitive: LeakyRelu, x: Interval, *, contract: Contract) -> Interval:
    """Extremes lie at the endpoints and at the kink; one rounding of slope * x."""
    if primitive.slope == 0:
        return monotone(primitive, x)
    at_lower, at_upper = primitive.apply(x.lower), primitive.apply(x.upper)
    kink = np.where((x.lower < 0) & (x.upper > 0), 0.0, at_lower)
    lowest = np.minimum(np.minimum(at_lower, at_upper), kink)
    highest = np.maximum(np.maximum(at_lower, at_upper), kink)
    if primitive.slope == -1:  # the magnitude: exact
        return Interval(lowest, highest)
    return _rounded(lowest, highest, 0.0, contract)


def function(primitive: Function, x: Interval, *, contract: Contract) -> Interval:
    """Extremes lie at the endpoints and where the function turns."""
    return Interval(*primitive.enclosure(x.lower, x.upper, contract))


def softmax(primitive: Softmax, x: Interval, *, contract: Contract) -> Interval:
    """Extremes lie where one element is at an end of its interval and the others are at the opposite ones."""
    return Interval(*softmax_bounds.enclosure(x.lower, x.upper, primitive.logarithm, contract))


def sum_(primitive: Sum, a: Interval, b: Interval, *, contract: Contract) -> Interval:
    """a + sign * b: one rounding of the sum; and where a runtime fuses the addition into the dot product that makes one
    operand, the other meets every rounding of it."""
    b_lower, b_upper = (b.lower, b.upper) if primitive.sign > 0 else (-b.upper, -b.lower)
    return _rounded(a.lower + b_lower, a.upper + b_upper, fused_error(primitive, a, b, contract), contract)


def fused_error(primitive: Sum, a: Interval, b: Interval, contract: Contract) -> Array:
    """What each operand can lose inside the other one's dot product; NaN where the sum might overflow there."""
    of_a, of_b = magnitude_of(a), magnitude_of(b)
    in_a, in_b = (kappa(roundings, contract.unit) for roundings in primitive.fused_roundings)
    return np.where(np.maximum(of_a, of_b) < contract.limit, in_a * of_b + in_b * of_a, np.nan)


def difference(primitive: Difference, a: Interval, b: Interval) -> Interval:
    """a - b over the real numbers, whatever the contract. float64 rounds it by a relative error, even where it is
    subnormal, and not at all where it is zero: what two inactive elements leave between them is nothing."""
    lower, upper = a.lower - b.upper, a.upper - b.lower
    return Interval(lower - 2.0**-51 * np.abs(lower), upper + 2.0**-51 * np.abs(upper))


def product(primitive: Product, a: Interval, b: Interval, *, contract: Contract) -> Interval:
    """a * b: the extremes are products of endpoints; one rounding, but for products with zero."""
    corners = (a.lower * b.lower, a.lower * b.upper, a.upper * b.lower, a.upper * b.upper)
    lowest, highest = _least(*corners), _greatest(*corners)
    found = _rounded(lowest, highest, 0.0, contract)
    nothing = ((a.lower == 0) & (a.upper == 0)) | ((b.lower == 0) & (b.upper == 0))
    return Interval(np.where(nothing, lowest, found.lower), np.where(nothing, highest, found.upper))


def quotient(primitive: Quotient, a: Interval, b: Interval, *, contract: Contract) -> Interval:
    """a / b: the extremes are quotients of endpoints, where b cannot be zero; at most two roundings (a runtime may
    multiply by the reciprocal, which must not overflow or underflow), but none of zero."""
    defined = (b.lower > 0) | (b.upper < 0)
    reach = np.where(defined, magnitude_of(b), 1.0)
    defined &= (reach < 2.0**126) & (np.minimum(np.abs(b.lower), np.abs(b.upper)) > 2.0**-126)
    lower, upper = np.where(defined, b.lower, np.nan), np.where(defined, b.upper, np.nan)
    corners = (a.lower / lower, a.lower / upper, a.upper / lower, a.upper / upper)
    lowest, highest = _least(*corners), _greatest(*corners)
    second = contract.unit * np.maximum(np.abs(lowest), np.abs(highest)) * (1.0 + 2.0**-20)
    found = _rounded(lowest, highest, second, contract)
    nothing = (a.lower == 0) & (a.upper == 0)
    return Interval(np.where(nothing, lowest, found.lower), np.where(nothing, highest, found.upper))


def variance(primitive: Variance, v: Interval, x: Interval, *, contract: Contract) -> Interval:
    """v, computed in whatever way."""
    return _rounded(v.lower, v.upper, variance_error(primitive, x, contract), contract)


def variance_error(primitive: Variance, x: Interval, contract: Contract) -> Array:
    """How far the ways to compute the variance of x are off; NaN where a square might overflow."""
    magnitude = magnitude_of(x)
    squares = np.where(magnitude**2 < contract.limit, magnitude**2, np.nan)
    underflow = 4.0 * primitive.roundings * max(contract.underflow, OWN_UNDERFLOW)
    relative = kappa(primitive.roundings, contract.unit)
    error = primitive.map.absolute(relative * squares + underflow * (1.0 + magnitude)) + underflow
    return np.asarray(error * (1.0 + kappa(primitive.map.terms + 16, FLOAT64_UNIT)))


def _rounded(lower: Array, upper: Array, error: Array | float, contract: Contract) -> Interval:
    """Endpoints that float64 rounded once each, widened by one float32 rounding of the result and by `error`; with room
    for rounding the widened endpoints."""
    largest = np.maximum(np.abs(lower), np.abs(upper))
    rounding = kappa(1, contract.unit) + kappa(8, FLOAT64_UNIT)
    width = (rounding * largest + error + max(contract.underflow, OWN_UNDERFLOW)) * (1.0 + 2.0**-40)
    width = np.where(largest < contract.limit, width, np.nan)
    return Interval(lower - width, upper + width)


def midpoint(x: Interval) -> tuple[Array, Array, Array]:
    """Centre, a radius that is not too small, and a magnitude that is not too small, in new arrays.

    The differences round once; multiplying by 1 + 2^-51 rounds up again, and keeps zero (whereas the next float64 above
    zero would be subnormal, which slows matrix products down fiftyfold).
    """
    centre = x.lower + x.upper
    centre *= 0.5
    radius = np.maximum(x.upper - centre, centre - x.lower)
    radius *= 1.0 + 2.0**-51
    magnitude = np.abs(centre)
    magnitude += radius
    magnitude *= 1.0 + 2.0**-51
    return centre, radius, magnitude


def magnitude_of(x: Interval) -> Array:
    """The largest magnitude of each element."""
    return np.maximum(np.abs(x.lower), np.abs(x.upper))


def _least(first: Array, *others: Array) -> Array:
    for other in others:
        first = np.minimum(first, other)
    return first


def _greatest(first: Array, *others: Array) -> Array:
    for other in others:
        first = np.maximum(first, other)
    return first
