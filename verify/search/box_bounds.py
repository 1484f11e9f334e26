"""Bounds over many boxes at once by backward substitution in torch (CROWN, arXiv 1811.00866), those of the neurons
included: as `verify.crown`, but approximate. One box per lane."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from verify.crown import exact_by_intervals
from verify.functions import Function
from verify.intervals import Interval, interval_rules
from verify.lines import lines_around
from verify.primitives import (
    Clip,
    Concatenate,
    Constant,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Product,
    Reshape,
    Select,
    Sign,
    Softmax,
    Sum,
    Tensor,
    topological,
)
from verify.rounding import REAL
from verify.search.backward import Backward, Values, plane_of, through_centres
from verify.search.points import POINT_RULES, Constants, mapped
from verify.softmax import has_plane

_ELEMENTS = 2**20
"""Coefficients of functionals that are held at a time."""

_BENT = (LeakyRelu, Clip, Function, Sign)
_MONOTONE = (Reshape, Select, Concatenate, Clip, Sign, MaxPool)


class Ends(NamedTuple):
    """Of an interval, lanes x shape."""

    lower: Values
    upper: Values


class Found(NamedTuple):
    """bounds: lower ones of the functionals, lanes x functionals. direction: the coefficients of the input that they
    come from, lanes x functionals x inputs."""

    bounds: Values
    direction: Values


FunctionalBounds = Callable[[Values], Found]
"""Of functionals of the output, lanes (or one) x functionals x its shape."""


class BoxBounds:
    """Lower bounds of functionals of a network's output over boxes."""

    def __init__(self, output: Tensor) -> None:
        self._output = output
        self._order = list(topological([output]))
        self._constants = Constants(torch.float32)
        self._backward = Backward(output, torch.device("cpu"))
        self._bent = {
            tensor.operands[0]
            for tensor in self._order
            if isinstance(tensor.primitive, _BENT) and not exact_by_intervals(tensor.operands[0])
        }
        elements = max(math.prod(tensor.shape) for tensor in self._order)
        widest = max((math.prod(tensor.shape) for tensor in self._bent), default=1)
        self.width = max(1, _ELEMENTS // (2 * widest * elements))

    @torch.no_grad()
    def __call__(self, lower: np.ndarray[Any, Any], upper: np.ndarray[Any, Any]) -> FunctionalBounds:
        """lower, upper: lanes x the input's shape."""
        intervals: dict[Tensor, Ends] = {}
        lines: dict[Tensor, tuple[Values, ...]] = {}
        for tensor in self._order:
            if isinstance(tensor.primitive, Input):
                intervals[tensor] = Ends(self._backward.values(lower), self._backward.values(upper))
                continue
            intervals[tensor] = self._interval(tensor, [intervals[operand] for operand in tensor.operands])
            if tensor in self._bent:
                intervals[tensor] = self._refined(tensor, intervals, lines)

        @torch.no_grad()
        def bounds(functionals: Values) -> Found:
            each = functionals.expand(len(lower), *functionals.shape[1:])
            return self._passed_back(self._output, each, intervals, lines)

        return bounds

    def _interval(self, tensor: Tensor, operands: list[Ends]) -> Ends:
        """By interval arithmetic."""
        primitive: Any = tensor.primitive
        constants = self._constants
        if isinstance(primitive, Constant):
            return Ends(*2 * [constants(primitive.value)[None]])
        if isinstance(primitive, Linear):
            ((lower, upper),) = operands
            centre = mapped(primitive.map, constants, (lower + upper) / 2) + constants(primitive.bias)
            radius = mapped(primitive.map.absolute, constants, (upper - lower) / 2)
            return Ends(centre - radius, centre + radius)
        if isinstance(primitive, Sum):
            a, b = operands
            return (
                Ends(a.lower + b.lower, a.upper + b.upper)
                if primitive.sign > 0
                else Ends(a.lower - b.upper, a.upper - b.lower)
            )
        if isinstance(primitive, _MONOTONE) or (isinstance(primitive, LeakyRelu) and primitive.slope >= 0):
            rule = POINT_RULES[type(primitive)]
            return Ends(*(rule(constants, primitive, *ends) for ends in zip(*operands, strict=True)))
        exact = [Interval(*(end.double().numpy() for end in operand)) for operand in operands]
        with np.errstate(all="ignore"):
            found = interval_rules(REAL)[type(primitive)](primitive, *exact)
        return Ends(*map(self._backward.values, found))

    def _refined(self, tensor: Tensor, intervals: dict[Tensor, Ends], lines: dict[Tensor, tuple[Values, ...]]) -> Ends:
        """The tensor's interval, intersected with linear bounds of the elements that contain zero."""
        lower, upper = (end.flatten(1) for end in intervals[tensor])
        open = (lower < 0) & (upper > 0)
        count = int(open.sum(1).max())
        if not count:
            return intervals[tensor]
        elements = open.int().topk(count, dim=1).indices  # of some lanes more than are open
        unit = torch.zeros(*elements.shape, lower.shape[1]).scatter_(2, elements[..., None], 1.0)
        functionals = torch.cat([unit, -unit], 1).reshape(len(lower), -1, *tensor.shape)
        found = self._passed_back(tensor, functionals, intervals, lines).bounds
        found = torch.where(open.gather(1, elements).repeat(1, 2), found, -torch.inf)  # as the checker does
        below, above = found[:, :count], found[:, count:]
        return Ends(
            lower.scatter(1, elements, torch.fmax(lower.gather(1, elements), below)).reshape(-1, *tensor.shape),
            upper.scatter(1, elements, torch.fmin(upper.gather(1, elements), -above)).reshape(-1, *tensor.shape),
        )

    def _passed_back(
        self,
        target: Tensor,
        functionals: Values,
        intervals: dict[Tensor, Ends],
        lines: dict[Tensor, tuple[Values, ...]],
    ) -> Found:
        """functionals: lanes x functionals x the target's shape."""
        lanes, count = functionals.shape[:2]
        waiting = {target: functionals}
        total = functionals.new_zeros(lanes, count)
        direction = functionals.new_zeros(lanes, count, 0)
        for tensor in reversed(list(topological([target]))):
            if tensor not in waiting:
                continue
            a = waiting.pop(tensor)
            if isinstance(tensor.primitive, Input):
                lower, upper = intervals[tensor]
                direction = a.flatten(2)
                total = total + _dot(a, (lower + upper) / 2) - _dot(a.abs(), (upper - lower) / 2)
                continue
            if type(tensor.primitive) in self._backward.RULES:
                flat, constant = self._backward.RULES[type(tensor.primitive)](self._backward, tensor, a.flatten(0, 1))
                operands = [part.reshape(lanes, count, *part.shape[1:]) for part in flat]
                total = total + (constant.reshape(lanes, count) if isinstance(constant, torch.Tensor) else constant)
            elif isinstance(tensor.primitive, Product):
                first, second, deviation = through_centres(*(intervals[operand] for operand in tensor.operands))
                operands = [a * second[:, None], a * first[:, None]]
                total = total - _dot(a, first * second) - _dot(a.abs(), deviation)
            elif isinstance(tensor.primitive, Softmax) and has_plane(tensor.shape):
                if tensor not in lines:
                    exact = {
                        each: Interval(*(end.double().numpy() for end in intervals[each])) for each in tensor.operands
                    }
                    lines[tensor] = tuple(map(self._backward.values, plane_of(tensor, exact)))
                slope, offset, deviation = lines[tensor]
                operands = [(a[..., None, :] @ slope[:, None])[..., 0, :]]
                total = total + _dot(a, offset) - _dot(a.abs(), deviation)
            elif isinstance(tensor.primitive, _BENT):
                if tensor not in lines:
                    lines[tensor] = self._lines(tensor, intervals)
                below, low, above, high = lines[tensor]
                positive = a.clamp(min=0)
                operands = [torch.addcmul(a * above[:, None], positive, (below - above)[:, None])]
                total = total + _dot(a, high) + _dot(positive, low - high)
            else:
                lower, upper = intervals[tensor]
                total = total + _dot(a, (lower + upper) / 2) - _dot(a.abs(), (upper - lower) / 2)
                continue
            for operand, functional in zip(tensor.operands, operands, strict=True):
                waiting[operand] = waiting[operand] + functional if operand in waiting else functional
        return Found(total, direction)

    def _lines(self, tensor: Tensor, intervals: dict[Tensor, Ends]) -> tuple[Values, ...]:
        """Slope and offset of the line below, and of the line above."""
        primitive: Any = tensor.primitive
        lower, upper = intervals[tensor.operands[0]]
        if isinstance(primitive, LeakyRelu) and 0 <= primitive.slope <= 1:
            slope = primitive.slope
            below = torch.where(upper > -lower, 1.0, slope)
            unstable = (lower < 0) & (upper > 0)
            above = torch.where(unstable, (upper - slope * lower) / (upper - lower), below)
            return below, torch.zeros_like(below), above, torch.where(unstable, (1.0 - above) * upper, 0.0)
        exact = {
            each: Interval(*(end.double().numpy() for end in intervals[each])) for each in (tensor, *tensor.operands)
        }
        with np.errstate(all="ignore"):
            lines = lines_around(tensor, exact, REAL)
        assert lines is not None
        return tuple(self._backward.values(part) for line in lines for part in (line.slope, line.offset))


def _dot(a: Values, x: Values) -> Values:
    """Functionals (lanes x functionals x shape) of values (lanes, or one, x shape)."""
    return (a.flatten(2) @ x.expand(len(a), *x.shape[1:]).flatten(1)[..., None])[..., 0]
