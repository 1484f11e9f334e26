"""What one operation makes of the functionals that are passed backwards through it, and what a proof may choose about
that.

Arrays of functionals have the shape lanes x functionals x tensor; those about intervals may have a single lane for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.functionals import dot
from verify.bounds.lines import Intervals
from verify.core.intervals import Interval, magnitude_of, midpoint
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, kappa


class Planes(NamedTuple):
    """Above neurons of a ReLU, in terms of what the dense layer in front of it reads: y <= slope h + offset in every
    execution, with room in the offset for what it costs to use this in float64 (`verify.proofs.planes`).

    rows: of the ReLU's neurons. slope: lanes x rows x inputs. offset: lanes x rows; NaN where none is known.
    """

    rows: NDArray[np.intp]
    slope: Array
    offset: Array


@dataclass(frozen=True)
class Choice:
    """What a proof chooses at one activation, for each of its neurons; every choice yields valid bounds.

    slope: of a ReLU, that of the line below where the sign is open, from 0 to 1 (from the ReLU's own slope to 1 for a
        leaky one); of a smooth function, a share of those that lines may have (`verify.bounds.curves`), on the side
        that counts. NaN to leave it to CROWN; lanes x functionals (or one) x shape.
    sign: 1 or -1 where the lane is about executions in which the activation reads at least a point, or at most, only;
        0 for all; lanes x shape.
    multiplier: beta >= 0 where there is a sign, or any b for a smooth function; lanes x shape.
    planes: above some neurons of a ReLU, used where the sign is open, in place of the line above.
    within: what a smooth function reads in the executions that the lane is about; the point is zero for a ReLU.
    """

    slope: Array
    sign: Array | None = None
    multiplier: Array | None = None
    planes: Planes | None = None
    within: Interval | None = None

    def part(self, rows: slice, functionals: slice) -> Choice:
        """For some lanes and functionals."""
        slope = some_lanes(self.slope, rows)
        slope = slope if slope.shape[1] == 1 else slope[:, functionals]
        sign, multiplier = (None if each is None else some_lanes(each, rows) for each in (self.sign, self.multiplier))
        planes = self.planes
        if planes:
            planes = planes._replace(slope=some_lanes(planes.slope, rows), offset=some_lanes(planes.offset, rows))
        within = self.within and Interval(*(some_lanes(end, rows) for end in self.within))
        return Choice(slope, sign, multiplier, planes, within)


Choices = Mapping[Tensor, Choice]
"""By the tensor of the activation; CROWN decides where there is none."""

Signs = Mapping[Tensor, NDArray[np.int8]]
"""By the tensor of the ReLU, lanes x its shape: 1 where a lane is only about executions in which it reads a number
that is at least zero, -1 where at most zero, 0 where any."""


class Step(NamedTuple):
    """Functionals of an operation's operands, and at least what they leave over (lanes x functionals). beyond: a
    functional of what the only operand is computed from, where it is passed on to that directly. curvature, slope:
    quadratic forms that are left over, too, and the linear functions that end at the input, of the same variables
    (`verify.bounds.quadratics`)."""

    operands: tuple[Array, ...]
    constant: Array | float = 0.0
    beyond: Array | None = None
    curvature: Array | None = None
    slope: Array | None = None


@dataclass(frozen=True)
class Relaxation:
    """What intervals say about one operation, whatever functional is bounded; arrays of lanes, or one, x the shape of
    its result.

    through: passes functionals of the result (lanes x functionals x its shape) backwards, with these lines. charge: not
    negative; what rounding, deployed and own, and the width of intervals take away at most, for each element, per unit
    of its coefficient. own: computes the part of it that float64 roundings of the coefficients, and of the sum of their
    products with values, can change. lines: a named tuple of arrays, of a type that belongs to `through`.
    """

    through: Callable[[Tensor, Array, Relaxation, Choice | None], Step]
    charge: Array
    own: Callable[[], Array]
    lines: Any = ()

    def mapped(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Relaxation:
        """With the function applied to every array."""
        lines = self.lines and self.lines._make(None if each is None else function(each) for each in self.lines)
        return Relaxation(self.through, function(self.charge), lambda: function(self.own()), lines)


Through = Callable[[Tensor, Array, Relaxation, Choice | None], Step]


class Centre(NamedTuple):
    """Of the interval, where substitution ends."""

    centre: Array


def constant(tensor: Tensor, intervals: Intervals) -> Relaxation:
    """Where substitution ends, as the interval bounds the tensor."""
    centre, radius, _ = midpoint(intervals[tensor])
    own = partial(own_error, tensor, magnitude_of(intervals[tensor]))
    return Relaxation(_through_centre, radius + own(), own, Centre(centre))


def _through_centre(tensor: Tensor, a: Array, around: Relaxation, choice: Choice | None) -> Step:
    return Step((), dot(a, around.lines.centre))


def own_error(tensor: Tensor, magnitude: Array) -> Array:
    """What float64 roundings of the coefficients of a functional of the tensor, and of the sum of their products with
    values of that magnitude, can change, per unit of coefficient; and underflow of what is added to that."""
    return kappa(math.prod(tensor.shape) + 8, FLOAT64_UNIT) * magnitude + OWN_UNDERFLOW


def charged(
    tensor: Tensor, intervals: Intervals, through: Through, loss: Array | float = 0.0, lines: Any = ()
) -> Relaxation:
    """With a charge of what the operation loses and what passing it on costs."""
    own = partial(own_error, tensor, magnitude_of(intervals[tensor]))
    return Relaxation(through, own() + loss, own, lines)


def some_lanes(values: NDArray[Any], rows: slice | NDArray[np.integer]) -> NDArray[Any]:
    """Some lanes of what has a single one for all, or one each."""
    return values[rows] if len(values) > 1 else values


def some_intervals(intervals: Intervals, rows: slice | NDArray[np.integer]) -> dict[Tensor, Interval]:
    """The same of intervals."""
    return {tensor: Interval(*(some_lanes(end, rows) for end in ends)) for tensor, ends in intervals.items()}
