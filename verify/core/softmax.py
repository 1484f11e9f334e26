"""Softmax over the last axis, and its logarithm: bounds of what a runtime yields, and what keeps its order strict.

Over the real numbers, with z_i = log(sum of exp(x_j) over j != i) - x_i,

    softmax_i = 1 / (1 + exp(z_i)),    log softmax_i = -log(1 + exp(z_i)),

so that the extremes of element i lie where it has one end of its interval and all the others have the opposite one.

A runtime subtracts the maximum m, so that the sum S of the n powers is at least 1. With t_j = m - x_j, each power is
exp(-t_j) up to a relative error of (t_j + E) u, where E u is that of exp, and up to 2^-125 where it is subnormal. As
t exp(-t) <= 1/e, rounding the arguments changes S by at most n u / e, and rounding the sum in any order by
kappa(n - 1) S. Running maxima, as blocked kernels keep them, apply exp twice. So

    |y_i - softmax_i| <= kappa(2 n + 4 E + 8) softmax_i + u + n 2^-125,

and the logarithm of S adds its own error to kappa(...), and each difference one rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from verify.core.functions import EXP, LOG, OWN_ERROR, SAFETY, SIGMOID, SOFTPLUS
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, REAL, Array, Contract, kappa

_EXP_ERROR = math.ceil(SAFETY * EXP.accuracy.measured)
_LARGEST_JACOBIAN = 2**18
"""Entries for one execution."""

_LOG_ERROR = math.ceil(SAFETY * LOG.accuracy.measured)


def enclosure(lower: Array, upper: Array, logarithm: bool, contract: Contract) -> tuple[Array, Array]:
    """Bounds of the deployed softmax, or of its logarithm, over the last axis, for operands from `lower` to `upper`;
    NaN in rows where an operand is not bounded."""
    count = lower.shape[-1]
    reach = np.maximum(np.abs(lower), np.abs(upper)).max(axis=-1, keepdims=True)
    reach = np.where(reach < contract.limit, reach, np.nan)
    own = 4.0 * OWN_ERROR + kappa(count + 64, FLOAT64_UNIT) * (1.0 + reach)
    most, least = _log_sum_of_others(upper) - lower + own, _log_sum_of_others(lower) - upper - own
    low, high = SIGMOID.real(-most), SIGMOID.real(-least)
    if logarithm:
        low, high = -SOFTPLUS.real(most), -SOFTPLUS.real(least)
    error = deployed_error(count, logarithm, contract)
    relative = error.relative + 2.0 * OWN_ERROR
    constant = (error.absolute + error.proportional * reach + OWN_UNDERFLOW) * (1.0 + 2.0**-40)
    return low - (relative * np.abs(low) + constant), high + (relative * np.abs(high) + constant)


def has_plane(shape: tuple[int, ...]) -> bool:
    """Whether a softmax of that shape is small enough for `plane`, rather than its interval, to bound it."""
    return math.prod(shape) * shape[-1] <= _LARGEST_JACOBIAN


class Plane(NamedTuple):
    """y_i differs from slope_i x + offset_i by at most deviation_i; slope: rows x n x n, the others: rows x n."""

    slope: Array
    offset: Array
    deviation: Array


def plane(lower: Array, upper: Array, logarithm: bool, contract: Contract) -> Plane:
    """For the deployed softmax, or its logarithm, over the last axis, for operands from `lower` to `upper`.

    By the mean value theorem y(x) = y(c) + J(z) (x - c) for the centre c and some z between x and c, where each entry
    of the Jacobian J is bounded by means of bounds of the softmax p:

        dp_i / dx_j = p_i ([i = j] - p_j),    dlog p_i / dx_j = [i = j] - p_j.

    Where the interval of y_i is narrower than what this leaves open, the slope is zero.
    """
    count = lower.shape[-1]
    least, largest = (np.clip(end, 0.0, 1.0) for end in enclosure(lower, upper, False, REAL))
    diagonal = np.eye(count, dtype=np.bool_)
    low, high = -largest[..., np.newaxis, :], -least[..., np.newaxis, :]
    if logarithm:
        low, high = diagonal + low, diagonal + high
    else:
        ends = least * (1.0 - least), largest * (1.0 - largest)
        top = np.where((least <= 0.5) & (largest >= 0.5), 0.25, np.maximum(*ends))
        low = np.where(diagonal, np.minimum(*ends)[..., np.newaxis], largest[..., np.newaxis] * low)
        high = np.where(diagonal, top[..., np.newaxis], least[..., np.newaxis] * high)
    slope = 0.5 * (low + high)
    open_slope = np.maximum(high - slope, slope - low) + 2.0**-50  # with what rounding these products changed
    centre = 0.5 * (lower + upper)
    radius = np.maximum(upper - centre, centre - lower)
    value_low, value_high = enclosure(centre, centre, logarithm, REAL)
    value = 0.5 * (value_low + value_high)
    reach = np.maximum(np.abs(lower), np.abs(upper))
    own = kappa(4 * count + 16, FLOAT64_UNIT) * ((np.abs(slope) + open_slope) @ reach[..., np.newaxis])[..., 0]
    offset = value - (slope @ centre[..., np.newaxis])[..., 0]
    deviation = (open_slope @ radius[..., np.newaxis])[..., 0] + (value_high - value_low) + 2.0 * own
    interval_low, interval_high = enclosure(lower, upper, logarithm, REAL)
    error = deployed_error(count, logarithm, contract)
    size = np.maximum(np.abs(interval_low), np.abs(interval_high))
    deployed = error.relative * size + error.absolute + error.proportional * reach.max(axis=-1, keepdims=True)
    narrow = 0.5 * (interval_high - interval_low)
    flat = ~(deviation < narrow)
    slope = np.where(flat[..., np.newaxis], 0.0, slope)
    offset = np.where(flat, 0.5 * (interval_low + interval_high), offset)
    deviation = np.where(flat, narrow * (1.0 + 2.0**-40), deviation) + 2.0**-50 * (np.abs(offset) + size)
    return Plane(slope, offset, deviation + deployed * (1.0 + 2.0**-40))


class Error(NamedTuple):
    """What bounds an error: relative |y| + absolute + proportional M, for operands of magnitudes up to M."""

    relative: float
    absolute: float
    proportional: float


def deployed_error(count: int, logarithm: bool, contract: Contract) -> Error:
    """As derived above, for `count` operands."""
    underflow = count * 2.0**24 * contract.underflow
    if not logarithm:
        return Error(kappa(2 * count + 4 * _EXP_ERROR + 8, contract.unit), contract.unit + underflow, 0.0)
    roundings = 2 * count + 4 * _EXP_ERROR + math.ceil(_LOG_ERROR * (1.0 + math.log(count))) + 8
    return Error(0.0, kappa(roundings, contract.unit) + 16.0 * contract.unit + underflow, 16.0 * contract.unit)


def _log_sum_of_others(x: Array) -> Array:
    """log(sum of exp(x_j) over j != i) for every i of the last axis: nothing large cancels."""
    largest = x.argmax(axis=-1)[..., np.newaxis]
    top = np.take_along_axis(x, largest, axis=-1)
    rest = x.copy()
    np.put_along_axis(rest, largest, -np.inf, axis=-1)
    powers = np.exp(rest - top)
    others: Array = top + np.log1p(np.maximum(powers.sum(axis=-1, keepdims=True) - powers, 0.0))
    second = rest.max(axis=-1, keepdims=True)
    shift = np.where(np.isneginf(second), 0.0, second)
    without_top = second + np.log(np.maximum(np.exp(rest - shift).sum(axis=-1, keepdims=True), 1.0))
    np.put_along_axis(others, largest, without_top, axis=-1)
    return others


def strict_margin(reach: Array, count: int, contract: Contract) -> Array:
    """How much larger than x_j the largest operand x_i must be for y_i > y_j to hold strictly, in float32, for a
    softmax or its logarithm of `count` operands with magnitudes up to `reach`.

    For any shift c with |c| <= reach, x - c is off by at most 2 u reach. Both powers are multiplied by one factor,
    or divided by one sum: with a margin d,

        y_i / y_j >= exp(d - 4 u reach) (1 - E u) (1 - u) / ((1 + E u) (1 + u)),

    which is above 1 for d > u (4 reach + 2 E + 3). One logarithm is subtracted from both differences, which are then
    rounded once more, at magnitudes up to 2 reach + log(count) + 1: d > u (8 reach + 2 log(count) + 3).
    """
    needed = 8.0 * reach + 4.0 * _EXP_ERROR + 2.0 * math.log(count) + 8.0
    return np.asarray(contract.unit * needed * (1.0 + 2.0**-20))
