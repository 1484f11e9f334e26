"""A x + b, where A is a convolution, a matrix, a sum or a scale: in float32 as `bounds` derives it, or exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.compiled.writer import LIMIT, UNDERFLOW, UNIT, Bounded, BoundsWriter, Ends, Midpoint, Rectified, layout_of
from verify.core.linear_maps import Convolution, Dense, Diagonal, LinearMap, Reduction, Scaled
from verify.core.primitives import FLOAT32, Linear, Shape, Tensor
from verify.core.rounding import FLOAT64_UNIT, Array, kappa
from verify.errors import ModelProblem
from verify.model.operators.node import INTEGERS

SPARE = 32
"""Roundings that every linear operation has room for, besides its own and the deployed ones."""
_LARGEST_WEIGHT = 2.0**120
"""Of weights, and of what is made of them for the radii."""
_EXACT = 2.0**23
"""Below this, float32 computes sums of integers and of halves exactly, in any order."""

Rounding = Callable[[Array], NDArray[np.float32]]


def linear(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    """The interval of A x + b."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    if primitive.roundings == 0:
        if operand.dtype == FLOAT32 and not primitive.bias.any():
            return _changed_signs(writer, tensor, x)
        if operand.dtype != FLOAT32 and primitive.row_sum * max(x.reach, 1.0) + primitive.offset < _EXACT:
            return _of_integers(writer, tensor, x)
    return rounded(writer, tensor, x)


def _changed_signs(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """Floats times 1, -1 or 0: ends map to ends."""
    lower, upper = (_applied_once(writer, name, tensor) for name in writer.ends(x))
    ends = writer.node("Min", lower, upper), writer.node("Max", lower, upper)
    return Ends(_applied_once(writer, x.value, tensor), *ends, x.reach)


def _of_integers(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """A c -+ |A| r, exactly: the centre and the radius of integers are halves."""
    primitive: Any = tensor.primitive
    lower, upper = (writer.node(way, end) for way, end in zip(("Ceil", "Floor"), writer.ends(x), strict=True))
    centre, radius = writer.middle(Ends(x.value, lower, upper, x.reach))
    value, result = _applied_to_both(writer, x.value, centre, tensor)
    width = _applied(writer, primitive.map.absolute, radius, np.zeros(()), tensor, nearest)
    reach = primitive.row_sum * max(x.reach, 1.0) + primitive.offset
    if tensor.dtype in INTEGERS:
        reach = min(reach, float(max(-np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max)))
    return Ends(value, writer.node("Sub", result, width), writer.node("Add", result, width), reach)


class Error(NamedTuple):
    """Of A x + b. own: kappa of the graph's roundings; both: and of the deployed ones; underflow: of either."""

    own: float
    both: float
    underflow: float

    @staticmethod
    def of(primitive: Linear, reach: float) -> Error:
        """reach: a bound of the magnitudes of x."""
        terms = primitive.map.terms + math.ceil(primitive.scalings * FLOAT64_UNIT / UNIT) + SPARE
        own, both = kappa(terms, UNIT), kappa(terms + primitive.roundings, UNIT)
        return Error(own, both, 4 * terms * primitive.gain * UNDERFLOW * (1 + reach))


def rounded(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Midpoint:
    """As derived in `bounds`. The static bound: |z| + s <= (1 + 8 kappa) (|A| M + m) + underflow."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    x = writer.known[operand] = writer.within(x, (LIMIT - primitive.offset) / primitive.row_sum, operand.shape)
    own, both, underflow = Error.of(primitive, x.reach)
    if both > 0.25:
        raise ModelProblem(f"node {tensor.name!r}: a sum of {primitive.map.terms} terms is too long for float32")
    centre, radius = writer.middle(x)
    # (1 + kappa) (r + kappa |c|) is at least r + kappa M, and M the upper end where that is known.
    reach = x.first if isinstance(x, Rectified) else writer.node("Abs", centre)
    radius = writer.node("Add", radius, writer.scaled(reach, both))
    factor = (1 + both) / (1 - own)
    spread = (both * primitive.magnitude + underflow) * factor
    value, centre = _applied_to_both(writer, x.value, centre, tensor)
    return Midpoint(
        value,
        centre,
        _applied(writer, primitive.map.absolute.scaled(np.array(factor)), radius, spread, tensor, above),
        reach=(primitive.row_sum * max(x.reach, 1.0) + primitive.offset) * (1 + 8 * both) + underflow,
    )


def variance(writer: BoundsWriter, tensor: Tensor, v: Bounded, x: Bounded) -> Ends:
    """v -+ kappa |A| M^2 for magnitudes M of x."""
    primitive: Any = tensor.primitive
    values = tensor.operands[1]
    weight = max(1.0, float(primitive.map.absolute(np.ones((1, *values.shape))).max()))
    x = writer.within(x, (LIMIT / weight) ** 0.5, values.shape)
    factor = kappa(primitive.roundings, UNIT) * (1 + 4 * kappa(primitive.map.terms + SPARE, UNIT))
    underflow = 16 * primitive.roundings * UNDERFLOW * (1 + weight) * (1 + x.reach)
    largest = writer.node("Max", *(writer.node("Abs", end) for end in writer.ends(x)))
    width = _applied(
        writer,
        primitive.map.absolute.scaled(np.array(factor)),
        writer.node("Mul", largest, largest),
        np.array(underflow),
        Tensor(primitive, (values,), tensor.shape, tensor.name),
        above,
    )
    lower, upper = writer.ends(v)
    reach = v.reach + 2 * factor * weight * x.reach**2 + underflow
    return writer.outward(v.value, writer.node("Sub", lower, width), writer.node("Add", upper, width), reach)


def _applied_to_both(writer: BoundsWriter, first: str, second: str, tensor: Tensor) -> tuple[str, str]:
    """A x + b for two values. A product of vectors and a matrix takes them as one batch: reading a large matrix
    costs more than multiplying with it."""
    primitive: Any = tensor.primitive
    map, bias = primitive.map, primitive.bias
    if not (isinstance(map, Dense) and len(layout_of(tensor.operands[0].shape)) == len(layout_of(tensor.shape)) == 1):
        return _applied_once(writer, first, tensor), _applied_once(writer, second, tensor)
    result = _applied(writer, map, writer.node("Concat", first, second, axis=0), bias, tensor, nearest)
    halves = writer.node("Reshape", result, writer.ints(2, -1, *layout_of(tensor.shape)))
    parts = [writer.node("Gather", halves, writer.constant(np.array(index)), axis=0) for index in (0, 1)]
    return parts[0], parts[1]


def _applied_once(writer: BoundsWriter, x: str, tensor: Tensor) -> str:
    primitive: Any = tensor.primitive
    return _applied(writer, primitive.map, x, primitive.bias, tensor, nearest)


def _applied(writer: BoundsWriter, map: LinearMap, x: str, bias: Array, tensor: Tensor, towards: Rounding) -> str:
    """A x + b, for weights rounded to float32."""
    shape, (inside,) = tensor.shape, (operand.shape for operand in tensor.operands)
    layout, wanted = layout_of(inside), layout_of(shape)
    if isinstance(map, Scaled):
        plain = _applied(writer, map.map, x, np.zeros(()), tensor, towards)
        return _shifted(
            writer, writer.node("Mul", plain, _broadcast(writer, map.scale, shape, towards)), bias, shape, towards
        )
    if isinstance(map, Diagonal):
        scaled = x if (map.scale == 1).all() else writer.node("Mul", x, _broadcast(writer, map.scale, shape, towards))
        return _shifted(writer, scaled, bias, shape, towards)
    if isinstance(map, Convolution):
        window, axes = map.window, len(map.window.kernel)
        channel = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (len(map.weight), *[1] * axes)))
        operands = [writer.laid_out(x, layout, inside[-axes - 1 :]), writer.constant(towards(map.weight))]
        folded = channel.size == len(map.weight)
        if folded and bias.any():
            operands.append(writer.constant(towards(channel.reshape(-1))))
        result = writer.node(
            "Conv",
            *operands,
            group=map.groups,
            strides=window.strides,
            dilations=window.dilations,
            pads=(*window.begin, *window.end),
        )
        result = writer.laid_out(result, shape[-axes - 1 :], wanted)
        return result if folded else _shifted(writer, result, bias, shape, towards)
    if isinstance(map, Reduction):
        whole = writer.laid_out(x, layout, inside)
        total = writer.node("ReduceSum", whole, writer.ints(*(axis + 1 for axis in map.axes)), keepdims=1)
        return _shifted(writer, writer.laid_out(total, shape, wanted), bias, shape, towards)
    assert isinstance(map, Dense)
    if len(layout) == len(wanted) == 1 and map.weight.ndim == 2:
        vector = np.broadcast_to(bias.reshape(-1), map.weight.shape[-1:])
        return writer.node("Gemm", x, writer.constant(towards(map.weight)), writer.constant(towards(vector)))
    product = writer.node("MatMul", writer.laid_out(x, layout, inside), writer.constant(towards(map.weight)))
    return _shifted(writer, writer.laid_out(product, shape, wanted), bias, shape, towards)


def _broadcast(writer: BoundsWriter, value: Array, shape: Shape, towards: Rounding) -> str:
    """A constant that broadcasts against values of that shape, in their layout."""
    return writer.constant(towards(value[0] if value.ndim > len(layout_of(shape)) else value))


def _shifted(writer: BoundsWriter, x: str, bias: Array, shape: Shape, towards: Rounding) -> str:
    return writer.node("Add", x, _broadcast(writer, bias, shape, towards)) if bias.any() else x


def nearest(weights: Array) -> NDArray[np.float32]:
    if np.abs(weights).max(initial=0.0) > _LARGEST_WEIGHT:
        raise ModelProblem("the weights are too large for bounds in float32: a product might overflow")
    return weights.astype(np.float32)


def above(weights: Array) -> NDArray[np.float32]:
    closest = nearest(weights)
    return np.where(closest < weights, np.nextafter(closest, np.float32(np.inf)), closest)
