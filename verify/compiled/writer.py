"""What the compiled graph holds of a tensor, and a writer that knows how to change its form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from onnx import TensorProto

from verify.boxes import InputRange
from verify.compiled.onnx_graph import GraphWriter
from verify.core.primitives import Shape, Tensor
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem

UNIT, UNDERFLOW = FLOAT32_ANY_ORDER.unit, FLOAT32_ANY_ORDER.underflow
TINY = 2.0**-140
"""More than a few float32 operations can lose to underflow."""
LIMIT = 2.0**100
"""What static bounds of intermediate results must stay below; far enough from overflow for every factor that a few
operations may add."""


@dataclass(frozen=True)
class Bounded:
    """What the graph holds of a tensor, for every sample.

    value: the network's value at the sample. first, second: bounds over the box, in the class's terms.
    reach: a static bound of the magnitudes of all three.
    """

    value: str
    first: str
    second: str
    reach: float


class Midpoint(Bounded):
    """first -+ second, with room for 8 u (|first| + |second|)."""


class Rectified(Bounded):
    """From first - 2 second to first, and not negative."""


class Ends(Bounded):
    """From first to second."""


_Form = TypeVar("_Form", bound=Bounded)


class BoundsWriter(GraphWriter):
    """A graph under construction. known: what it holds of each tensor so far.

    A value's layout in the graph is that of the network, with the samples as its first axis in place of the network's
    batch axis of one (or before its first axis, where that is something else).
    """

    def __init__(self, input_range: InputRange | None) -> None:
        super().__init__()
        self.known: dict[Tensor, Bounded] = {}
        self.input_range = input_range
        self._required: list[str] = []

    # Constants and shapes

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def reshaped(self, name: str, layout: Shape) -> str:
        return self.node("Reshape", name, self.ints(-1, *layout))

    def laid_out(self, name: str, layout: Shape, wanted: Shape) -> str:
        return name if layout == wanted else self.reshaped(name, wanted)

    def scaled(self, name: str, factor: float) -> str:
        return self.node("Mul", name, self.scalar(factor))

    # Bounds in other forms

    def middle(self, x: Bounded) -> tuple[str, str]:
        """Centre and radius; the radius may be too small by 4 u times the magnitude."""
        if isinstance(x, Midpoint):
            return x.first, x.second
        if isinstance(x, Rectified):
            return self.node("Sub", x.first, x.second), x.second
        total, difference = self.node("Add", x.first, x.second), self.node("Sub", x.second, x.first)
        return self.scaled(total, 0.5), self.scaled(difference, 0.5)

    def ends(self, x: Bounded) -> tuple[str, str]:
        """The lower and the upper end."""
        if isinstance(x, Midpoint):
            return self.node("Sub", x.first, x.second), self.node("Add", x.first, x.second)
        if isinstance(x, Rectified):
            return self.node("Relu", self.node("Sub", x.first, self.node("Add", x.second, x.second))), x.first
        return x.first, x.second

    def outward(self, value: str, lower: str, upper: str, reach: float) -> Ends:
        """Ends widened by what one deployed rounding, and a few of the graph's own, can change."""

        def width(end: str) -> str:
            return self.node("Add", self.scaled(self.node("Abs", end), 8 * UNIT), self.scalar(TINY))

        first, second = self.node("Sub", lower, width(lower)), self.node("Add", upper, width(upper))
        return Ends(value, first, second, reach * (1 + 2.0**-10) + TINY)

    def within(self, x: _Form, limit: float, shape: Shape) -> _Form:
        """The same bounds; the graph makes sure that they stay below the limit, unless that is known."""
        if limit < 1:
            raise ModelProblem("the weights are too large for bounds in float32: a sum might overflow")
        if x.reach <= limit:
            return x
        for end in (x.value, *self.ends(x)):
            self.require(self.node("Less", self.node("Abs", end), self.scalar(limit * (1 - 2.0**-20))), shape)
        return replace(x, reach=limit)

    # What must hold

    def require(self, conditions: str, shape: Shape) -> None:
        """Say nothing of a sample for which one of its conditions, an array of that shape, does not hold."""
        self._required.append(self.every(conditions, math.prod(shape)))

    def require_distance(self, ends: tuple[str, str], least: float, shape: Shape) -> None:
        """Require that the elements of intervals keep that far away from zero, on either side."""
        above = self.node("GreaterOrEqual", ends[0], self.scalar(least))
        below = self.node("LessOrEqual", ends[1], self.scalar(-least))
        self.require(self.node("Or", above, below), shape)

    def every(self, conditions: str, count: int) -> str:
        """For each sample: do all of its `count` conditions hold? Comparisons with NaN do not, whereas runtimes pass
        over it when they look for the largest number."""
        flat = self.reshaped(self.node("Cast", conditions, to=TensorProto.INT32), (count,))
        return self.node("Cast", self.node("ReduceMin", flat, self.ints(1), keepdims=0), to=TensorProto.BOOL)

    def safe(self) -> str:
        """For each sample: does all hold that was required?"""
        result, *others = self._required
        for other in others:
            result = self.node("And", result, other)
        return result


def layout_of(shape: Shape) -> Shape:
    """The shape that follows the axis of samples in the graph."""
    return shape[1:] if shape[:1] == (1,) else shape


def each(x: _Form, move: Callable[[str], str]) -> _Form:
    """The same movement of elements for the value and both parts of its bounds."""
    return replace(x, value=move(x.value), first=move(x.first), second=move(x.second))
