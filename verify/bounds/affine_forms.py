"""Forward linear bounds: each value of a network as one linear function of the inputs that vary, up to a remainder.

Sources: L. H. de Figueiredo and J. Stolfi, Affine arithmetic: concepts and applications, Numerical Algorithms 37, 2004,
without symbols for what operations add; and the forward mode of Xu et al., arXiv 2002.12920. Where few inputs vary, a
form of all values costs about as much as intervals for as many inputs, and leaves few neurons for backward passes.

With z in [-1, 1]^k, one number for each input that varies, every execution satisfies v^ = c + G z + d with |d| <= r at
once for all values v^: through y^ = A x^ + b + e with |e| <= D,

    c' = A c + b,    G' = A G,    r' = |A| r + D,

so that the same line passes on what depends on inputs, and only the remainder grows as intervals do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import is_relu
from verify.bounds.lines import Intervals
from verify.bounds.quadratics import Axes, Curvature
from verify.bounds.relaxations import Centres, FunctionLines, Lines, ReluLines
from verify.bounds.steps import Centre, Relaxation
from verify.core.functions import Function
from verify.core.intervals import Interval, midpoint, per_lane
from verify.core.primitives import (
    FLOAT32,
    Clip,
    Concatenate,
    Difference,
    LeakyRelu,
    Linear,
    Maximum,
    Product,
    Reshape,
    Round,
    Select,
    Sign,
    Subsample,
    Sum,
    Tensor,
    Variance,
    topological,
    uses,
)
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, kappa
from verify.model.network import Network

_FEW_INPUTS = 20
"""Inputs that vary, at most, for forms of them to be worth while."""

_MOST_NUMBERS = 2**22
"""Generators of a single tensor in a lane (32 MiB), at most; and in all lanes that are at work."""

_MOST_CURVED = 2**14
"""Elements of a product times pairs of inputs, at most, for its quadratic form to be worth while."""


@dataclass(frozen=True, eq=False)
class Form:
    """What a tensor's deployed values are: centre + generators z, up to a remainder.

    centre, radius: lanes (or one) x shape; the radius is that of the remainder, NaN where nothing is known.
    generators: lanes (or one) x inputs that vary x shape. z: (x - c) / r for what `midpoint` says of the box.
    """

    centre: Array
    generators: Array
    radius: Array

    @cached_property
    def reach(self) -> Array:
        """How far the values are from the centre at most; nearly."""
        return np.asarray(np.abs(self.generators).sum(axis=1) + self.radius)

    @property
    def magnitude(self) -> Array:
        """Of the values, and of all that sums to them; nearly."""
        return np.abs(self.centre) + self.reach

    def wider(self, charge: Array, size: Array | float = 0.0) -> Form:
        """With what an operation loses, and what a few float64 roundings of numbers of that size do."""
        count = 32 + self.generators.shape[1]
        lost = charge + kappa(count, FLOAT64_UNIT) * size + OWN_UNDERFLOW
        radius = (self.radius + lost) * (1.0 + kappa(count, FLOAT64_UNIT))
        return replace(self, radius=radius)

    def interval(self) -> Interval:
        """That contains the values."""
        reach = self.reach + kappa(8 + self.generators.shape[1], FLOAT64_UNIT) * self.magnitude
        return Interval(self.centre - reach, self.centre + reach)

    def narrowed(self, x: Interval) -> Form:
        """Elements whose remainder alone is as wide as an interval that holds them, as that."""
        centre, radius, _ = midpoint(x)
        narrower = ~(self.radius <= radius)
        if not narrower.any():
            return self
        return Form(
            np.where(narrower, centre, self.centre),
            np.where(narrower[:, np.newaxis], 0.0, self.generators),
            np.where(narrower, radius, self.radius),
        )


class Forms:
    """Of the values of a network over boxes, as far as something still needs them.

    Whether a lane has any, and which, does not depend on the lanes beside it: a lane in which too many inputs vary has
    remainders of which nothing is known, and the generators of each are numbered on their own. Inputs that vary between
    two neighbours of float32 only, as decimals are read, are part of the remainder.
    """

    def __init__(self, network: Network, box: Interval, inputs: int) -> None:
        """inputs: how many vary at most, in these lanes or in others that have forms, too; none without any."""
        self._waiting = uses(network.outputs)
        self._forms: dict[Tensor, Form] = {}
        varying = _varying(network, box)
        counts = varying.sum(axis=1)
        self._counts, self._none, self._inputs = counts, counts == 0, inputs
        if inputs:
            centre, radius, _ = midpoint(box)
            lanes, places = np.nonzero(varying)
            numbers = np.concatenate([np.arange(count) for count in counts])
            generators = np.zeros((len(centre), self._inputs, *centre.shape[1:]))
            rest = radius.reshape(len(radius), -1).copy()
            generators.reshape(*generators.shape[:2], -1)[lanes, numbers, places] = rest[lanes, places]
            rest[lanes, places] = 0.0
            self._set(network.input, Form(centre, generators, rest.reshape(radius.shape)))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __getitem__(self, tensor: Tensor) -> Form:
        return self._forms[tensor]

    def follow(self, tensor: Tensor, intervals: Intervals, around: Relaxation) -> None:
        """Find that of an operation's result, too. intervals: of the result and the operands. around: what they say
        about the operation."""
        rule = _RULES.get(type(tensor.primitive)) if tensor.dtype == FLOAT32 else None  # integers stay integers
        operands = [self._forms[each] for each in tensor.operands]
        found = rule(tensor, operands, intervals, around) if rule else None
        if found is None:
            found = _of_interval(intervals[tensor], self._inputs)
        self._set(tensor, found)
        for operand in tensor.operands:
            self._waiting[operand] -= 1
            if not self._waiting[operand]:
                del self._forms[operand]

    def axes(self, tensor: Tensor) -> Axes:
        """Of the input."""
        return Axes(self._forms[tensor].generators)

    def curvature(self, tensor: Tensor, intervals: Intervals) -> Curvature | None:
        """Of a product, before it is followed; None where that would take too much. An element whose forms have
        remainders too large for that to pay has no quadratic form."""
        shape = tensor.shape
        same_rank = all(len(operand.shape) == len(shape) for operand in tensor.operands)
        if not same_rank or not tensor.varies or math.prod(shape) > _MOST_CURVED:  # in whatever lanes
            return None
        few = math.prod(shape) * self._counts**2 <= _MOST_CURVED
        forms = [self._forms[operand] for operand in tensor.operands]
        (c, r, _), (d, q, _) = (midpoint(intervals[operand]) for operand in tensor.operands)
        (s, t), (g, h) = (form.radius for form in forms), (np.abs(form.generators).sum(axis=1) for form in forms)
        room = 1.0 + kappa(self._inputs + 8, FLOAT64_UNIT)
        sizes = r * q * room, g * h * room, (g * t + s * h + s * t) * room**2
        flat, size, rest = (each + OWN_UNDERFLOW for each in sizes)
        quadratic = np.where(per_lane(few, flat), rest + 0.5 * size < flat, False)
        lanes = len(quadratic)
        first, second = (
            np.where(quadratic[:, np.newaxis], form.generators, 0.0).reshape(lanes, -1, *shape) for form in forms
        )
        return Curvature(
            np.where(quadratic, forms[0].centre, c),
            np.where(quadratic, forms[1].centre, d),
            first,
            second,
            np.where(quadratic, size, 0.0),
            np.where(quadratic, rest, flat),
        )

    def narrow(self, tensor: Tensor, interval: Interval) -> None:
        """Use an interval of the tensor where that is narrower than the remainder of its form alone."""
        if tensor in self._forms:
            self._set(tensor, self._forms[tensor].narrowed(interval))

    def _set(self, tensor: Tensor, form: Form) -> None:
        if self._none.any():
            unknown = np.where(per_lane(self._none, form.radius), np.nan, form.radius)
            form = replace(form, radius=unknown)
        self._forms[tensor] = form


def inputs_and_lanes(network: Network, box: Interval) -> tuple[int, int]:
    """How many inputs vary at most in a lane that has forms, and how many lanes have some that fit into memory
    together."""
    inputs = int(_varying(network, box).sum(axis=1).max())
    return inputs, max(1, _MOST_NUMBERS // (inputs * _largest(network))) if inputs else len(box.lower)


def _varying(network: Network, box: Interval) -> NDArray[np.bool_]:
    """Which inputs have generators, lanes x inputs: those that vary by more than two neighbours of float32 do, in lanes
    where these are few."""
    lower, upper = (end.reshape(len(end), -1) for end in box)
    found = np.asarray(np.nextafter(lower.astype(np.float32), np.float32(np.inf)) < upper)
    counts = found.sum(axis=1)
    found[(counts > _FEW_INPUTS) | (counts * _largest(network) > _MOST_NUMBERS)] = False
    return found


def _largest(network: Network) -> int:
    """Elements of its largest tensor."""
    return max(math.prod(tensor.shape) for tensor in topological(network.outputs))


def _of_interval(x: Interval, inputs: int) -> Form:
    centre, radius, _ = midpoint(x)
    return Form(centre, np.zeros((len(centre), inputs, *centre.shape[1:])), radius)


def _each(function: Callable[[Array], Array], generators: Array) -> Array:
    """A function on lanes, of all generators."""
    found = function(generators.reshape(-1, *generators.shape[2:]))
    return found.reshape(*generators.shape[:2], *found.shape[1:])


def _linear(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    primitive: Any = tensor.primitive
    (x,) = operands
    own = kappa(primitive.map.terms + 16 + primitive.scalings, FLOAT64_UNIT)
    radius = primitive.map.absolute(x.radius + own * x.magnitude) + own * primitive.magnitude
    found = Form(primitive.apply(x.centre), _each(primitive.map, x.generators), radius * (1.0 + 4.0 * own))
    return found.wider(around.charge)


def _moved(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    """Exact."""
    primitive: Any = tensor.primitive
    (x,) = operands
    alone: Any = replace(primitive, fill=0.0) if isinstance(primitive, Select) else primitive
    return Form(primitive.apply(x.centre), _each(alone.apply, x.generators), alone.apply(x.radius))


def _concatenate(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    primitive: Any = tensor.primitive
    centre, radius = (primitive.apply(*(getattr(x, part) for x in operands)) for part in ("centre", "radius"))
    generators = [np.broadcast_to(x.generators, (len(centre), *x.generators.shape[1:])) for x in operands]
    return Form(centre, np.concatenate(generators, axis=primitive.axis + 2), radius)


def _sum(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    primitive: Any = tensor.primitive
    a, b = operands[:2]
    sign = primitive.sign if isinstance(primitive, Sum) else -1 if isinstance(primitive, Difference) else 1
    found = Form(a.centre + sign * b.centre, a.generators + sign * b.generators, a.radius + b.radius)
    return found.wider(around.charge, a.magnitude + b.magnitude)


def _product(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    """x y is within the charge of d x + c y - c d (`verify.bounds.relaxations`)."""
    (x, y), centres = operands, around.lines
    assert isinstance(centres, Centres)
    c, d = centres
    first, second = _scaled(x, d), _scaled(y, c)
    found = Form(
        first.centre + second.centre - c * d, first.generators + second.generators, first.radius + second.radius
    )
    return found.wider(around.charge, np.abs(d) * x.magnitude + np.abs(c) * y.magnitude + np.abs(c * d))


def _variance(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form:
    return operands[0].wider(around.charge)


def _relu(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form | None:
    """Below its line above, by the offset of that at most: at the kink."""
    if not is_relu(tensor):
        return _between_lines(tensor, operands, intervals, around)
    lines: ReluLines = around.lines
    return _near_line(operands[0], lines.above, 0.5 * lines.offset, 0.5 * lines.offset, around.charge, lines.offset)


def _between_lines(tensor: Tensor, operands: list[Form], intervals: Intervals, around: Relaxation) -> Form | None:
    """Both lines turn around the middle of what is read, from one that is half as steep as both together."""
    lines: Centre | Lines | FunctionLines = around.lines
    if isinstance(lines, Centre):  # an end of the interval is all that is known
        return None
    below, low, above, high = lines[:4]
    centre, radius, magnitude = midpoint(intervals[tensor.operands[0]])
    slope, turn = 0.5 * (above + below), 0.5 * (above - below)
    deviation = 0.5 * (high - low) + turn * centre + np.abs(turn) * radius
    size = np.abs(high) + np.abs(low) + (np.abs(above) + np.abs(below)) * magnitude
    return _near_line(operands[0], slope, 0.5 * (high + low), deviation, around.charge, size)


def _near_line(x: Form, slope: Array, shift: Array, deviation: Array, charge: Array, size: Array) -> Form:
    """Within a deviation of slope x + shift, and what is lost. size: of what these are computed from."""
    found = _scaled(x, slope)
    moved = Form(found.centre + shift, found.generators, found.radius + deviation)
    return moved.wider(charge, np.abs(slope) * x.magnitude + size)


def _scaled(x: Form, scale: Array) -> Form:
    return Form(x.centre * scale, x.generators * scale[:, np.newaxis], x.radius * np.abs(scale))


_RULES: Mapping[type, Callable[[Tensor, list[Form], Intervals, Relaxation], Form | None]] = {
    Linear: _linear,
    LeakyRelu: _relu,
    Function: _between_lines,
    Clip: _between_lines,
    Round: _between_lines,
    Sign: _between_lines,
    Reshape: _moved,
    Select: _moved,
    Subsample: _moved,
    Concatenate: _concatenate,
    Sum: _sum,
    Difference: _sum,
    Maximum: _sum,
    Product: _product,
    Variance: _variance,
}
"""Others are bounded by their intervals."""
