"""Rules of functions that float32 cannot compute exactly: each error counts twice, for the graph computes them, too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from verify.compiled.functions import WRITTEN
from verify.compiled.writer import LIMIT, UNDERFLOW, UNIT, Bounded, BoundsWriter, Ends, layout_of
from verify.core.functions import SAFETY, Function
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.core.softmax import deployed_error
from verify.errors import ModelProblem

_NORMAL = UNDERFLOW * 2.0**24
"""Twice the smallest normal number: a subnormal argument counts as anything between zero and that."""

_LONGEST_SOFTMAX = 1024
"""The graph takes all differences of its operands. Up to some 8,000, half a per cent has room for what is said of the
errors of errors."""


def function(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """Extremes lie at the ends and where the function turns."""
    primitive: Any = tensor.primitive
    x = writer.within(x, LIMIT, tensor.shape)
    least, most, result = _arguments(primitive, x.reach)
    if least > most:
        raise ModelProblem(f"node {tensor.name!r}: bounds of {primitive.name} cannot be compiled to ONNX")
    lower, upper = writer.ends(x)
    if len(primitive.domain) > 1:
        x = writer.within(x, most, tensor.shape)
        writer.require_distance((lower, upper), least, tensor.shape)
    else:
        if most < x.reach:
            writer.require(writer.node("LessOrEqual", upper, writer.scalar(most)), tensor.shape)
        if least > -x.reach:
            writer.require(writer.node("GreaterOrEqual", lower, writer.scalar(least)), tensor.shape)
    if least == 0:
        small = writer.node("Less", lower, writer.scalar(_NORMAL))
        lower = writer.node("Where", small, writer.scalar(0.0), lower)
        upper = writer.node("Max", upper, writer.scalar(_NORMAL))
    write = WRITTEN[primitive.name]
    value, *at_ends = (write(writer, name, *primitive.parameters) for name in (x.value, lower, upper))
    lowest, highest = writer.node("Min", *at_ends), writer.node("Max", *at_ends)
    for turn in primitive.turns:
        there = writer.scalar(float(primitive.real(np.asarray(turn))))
        if primitive.period:
            inside = _recurs(writer, turn, primitive.period, lower, upper, max(-least, most))
        else:
            place = np.float32(turn)
            before, after = (writer.scalar(float(np.nextafter(place, np.float32(way)))) for way in (-np.inf, np.inf))
            inside = writer.node("And", writer.node("Less", lower, after), writer.node("Less", before, upper))
        lowest = writer.node("Where", inside, writer.node("Min", lowest, there), lowest)
        highest = writer.node("Where", inside, writer.node("Max", highest, there), highest)
    share = 2.0 * SAFETY * primitive.accuracy.measured * UNIT * (1 + 2.0**-10)
    constant = share * primitive.accuracy.absolute + 4.0 * _NORMAL
    if least < 0:
        constant += 4.0 * float(np.ptp(primitive.real(np.array([-_NORMAL, 0.0, _NORMAL]))))
    argument = writer.node("Max", writer.node("Abs", lower), writer.node("Abs", upper))

    def width(end: str) -> str:
        total = writer.scalar(constant)
        if relative := primitive.accuracy.relative:
            total = writer.node("Add", total, writer.scaled(writer.node("Abs", end), share * relative))
        if proportional := primitive.accuracy.proportional:
            total = writer.node("Add", total, writer.scaled(argument, share * proportional))
        return total

    ends = writer.node("Sub", lowest, width(lowest)), writer.node("Add", highest, width(highest))
    return writer.outward(value, *ends, result)


def _recurs(writer: BoundsWriter, turn: float, period: float, lower: str, upper: str, reach: float) -> str:
    """Whether a turn lies inside or near, some periods away; for ends of magnitudes up to `reach`. Their distances from
    the turn, in periods, are off by less than six roundings."""
    slack = writer.scalar(8 * UNIT * (reach + abs(turn)) / period)
    low, high = (writer.scaled(writer.node("Sub", end, writer.scalar(turn)), 1.0 / period) for end in (lower, upper))
    first = writer.node("Ceil", writer.node("Sub", low, slack))
    last = writer.node("Floor", writer.node("Add", high, slack))
    return writer.node("LessOrEqual", first, last)


def _arguments(function: Function, reach: float) -> tuple[float, float, float]:
    """Between which arguments, of magnitudes up to `reach`, values of the function are far from overflow, and a bound
    of their magnitudes with that of what the graph adds to them; in the wrong order if there are none. These are
    magnitudes, too, where zero alone is excluded."""
    first, last = function.domain[-1]
    least, most = (max(first, -reach) if first <= 0 else _NORMAL), min(last, reach)
    while True:
        ends = np.array([least, most])
        with np.errstate(all="ignore"):
            lower, upper = function.enclosure(ends[:1], ends[1:], FLOAT32_ANY_ORDER)
            magnitude = np.maximum(np.abs(lower), np.abs(upper))
            result = (magnitude + 4.0 * function.error(magnitude, np.abs(ends).max(), FLOAT32_ANY_ORDER)).item()
            at_least, at_most = np.abs(function.apply(ends)).tolist()
        if result < LIMIT or least > most:
            return least, most, result
        if not at_most > at_least:
            least *= 0.875 if least < 0 else 1.125
        if not at_least > at_most:
            most *= 0.875


def softmax(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """Extremes lie where one element is at an end of its interval and the others are at the opposite ones. With d_j the
    differences between these and that one, and zero for itself, m their maximum and S the sum of exp(d_j - m), they are
    exp(-m) / S, and the logarithm of that. Rounding the differences changes S as rounding arguments does in a runtime,
    and by m u S: exp(-m) / S by at most u / e, its logarithm by at most 2 M u."""
    primitive: Any = tensor.primitive
    count = tensor.shape[-1]
    error = deployed_error(count, primitive.logarithm, FLOAT32_ANY_ORDER)
    if count > _LONGEST_SOFTMAX:
        raise ModelProblem(f"node {tensor.name!r}: a softmax of {count} operands cannot be compiled to ONNX")
    x = writer.within(x, LIMIT, tensor.shape)
    layout, last = layout_of(tensor.shape), writer.ints(-1)
    value, *ends = (writer.laid_out(name, layout, tensor.shape) for name in (x.value, *writer.ends(x)))
    value = writer.node("LogSoftmax" if primitive.logarithm else "Softmax", value, axis=-1)
    others = writer.constant(1 - np.eye(count, dtype=np.float32))
    reach = writer.node("ReduceMax", writer.node("Max", *(writer.node("Abs", end) for end in ends)), last)
    share, least = (2.0 * (1 + 2.0**-8) * each for each in (error.proportional, error.absolute))
    slack = writer.node("Add", writer.scaled(reach, share), writer.scalar(least))

    def extreme(this: str, opposite: str, outward: str) -> str:
        across, down = writer.node("Unsqueeze", opposite, writer.ints(-2)), writer.node("Unsqueeze", this, last)
        difference = writer.node("Mul", writer.node("Sub", across, down), others)
        largest = writer.node("ReduceMax", difference, last)
        total = writer.node("ReduceSum", writer.node("Exp", writer.node("Sub", difference, largest)), last, keepdims=0)
        largest = writer.node("Squeeze", largest, last)
        if primitive.logarithm:
            end = writer.node("Neg", writer.node("Add", largest, writer.node("Log", total)))
            return writer.node(outward, end, slack)
        end = writer.node("Div", writer.node("Exp", writer.node("Neg", largest)), total)
        wider = writer.scaled(end, 2.0 * (1 + 2.0**-8) * error.relative)
        return writer.node(outward, end, writer.node("Add", wider, slack))

    lower, upper = extreme(ends[0], ends[1], "Sub"), extreme(ends[1], ends[0], "Add")
    value, lower, upper = (writer.laid_out(name, tensor.shape, layout) for name in (value, lower, upper))
    return Ends(value, lower, upper, 2.0001 * x.reach + math.log(count) + 4.0 if primitive.logarithm else 2.0)
