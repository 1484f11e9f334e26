"""Rules of operations that move, compare, add or multiply values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.compiled.linear import SPARE, above
from verify.compiled.writer import LIMIT, TINY, UNIT, Bounded, BoundsWriter, Ends, Midpoint, Rectified, each, layout_of
from verify.core.primitives import Shape, Tensor
from verify.core.rounding import Array, kappa
from verify.errors import ModelProblem

_UNBOUNDED_INPUT = 2.0**30
"""The largest sum of magnitudes of an input of a network that has no input range."""
_SMALLEST_DIVISOR = 2.0**-60


def input(writer: BoundsWriter, tensor: Tensor) -> Bounded:
    """x -+ eps, within the input range: subtraction rounds to nearest, so that no float32 number within eps of x
    is lost."""
    layout = layout_of(tensor.shape)
    # onnxruntime adds a scalar element by element where the last axis has length one.
    row = (math.prod(layout),) if layout[-1:] == (1,) else layout
    x = writer.laid_out("x", layout, row)
    lower, upper = writer.node("Sub", x, "eps"), writer.node("Add", x, "eps")
    reach = np.inf
    if writer.input_range:
        low, high = (float(np.float32(end)) for end in writer.input_range)
        lower, upper = writer.node("Max", lower, writer.scalar(low)), writer.node("Min", upper, writer.scalar(high))
        reach = max(abs(low), abs(high))
    ordered = writer.node("And", writer.node("LessOrEqual", lower, x), writer.node("LessOrEqual", x, upper))
    writer.require(ordered, tensor.shape)
    found = writer.within(Ends(x, lower, upper, reach), _UNBOUNDED_INPUT, tensor.shape)
    return each(found, lambda name: writer.laid_out(name, row, layout))


def constant(writer: BoundsWriter, tensor: Tensor) -> Bounded:
    """A float32 number is itself; an integer lies between two."""
    primitive: Any = tensor.primitive
    value: Array = primitive.value.reshape(1, *layout_of(tensor.shape))
    lower, upper = (writer.constant(end) for end in (-above(-value), above(value)))
    return Ends(lower, lower, upper, float(np.abs(value).max(initial=0.0)) * (1 + 2 * UNIT))


def leaky_relu(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    """ReLU: as in `bounds`. u / 2 is rounded up, so that u - 2 h is not above zero where the network is zero."""
    primitive: Any = tensor.primitive
    if primitive.slope != 0:
        limit = LIMIT / max(1.0, abs(primitive.slope))
        return _two_slopes(writer, writer.within(x, limit, tensor.shape), primitive.slope)
    value = writer.node("Relu", x.value)
    if isinstance(x, Rectified):
        return replace(x, value=value)
    if isinstance(x, Ends):
        return Ends(value, writer.node("Relu", x.first), writer.node("Relu", x.second), x.reach)
    upper = writer.node("Relu", writer.node("Add", x.first, x.second))
    half = writer.scaled(upper, float(np.nextafter(np.float32(0.5), np.float32(1))))
    return Rectified(value, upper, writer.node("Min", half, x.second), x.reach)


def _two_slopes(writer: BoundsWriter, x: Bounded, slope: float) -> Ends:
    """Monotone for a positive slope; for a negative one, zero at zero and larger everywhere else."""

    def leaky(name: str) -> str:
        return writer.node("LeakyRelu", name, alpha=slope)

    lower, upper = writer.ends(x)
    if slope > 0:
        ends = leaky(lower), leaky(upper)
    else:
        negative = writer.node("Min", upper, writer.scalar(0.0))
        ends = (
            writer.node("Max", writer.node("Relu", lower), leaky(negative)),
            writer.node("Max", leaky(lower), leaky(upper)),
        )
    return writer.outward(leaky(x.value), *ends, x.reach * max(1.0, abs(slope)))


def clip(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    """Exact and monotone."""
    primitive: Any = tensor.primitive

    def clipped(name: str) -> str:
        if primitive.lower > -np.inf:
            name = writer.node("Max", name, writer.scalar(primitive.lower))
        return writer.node("Min", name, writer.scalar(primitive.upper)) if primitive.upper < np.inf else name

    reach = float(np.abs(np.clip([-x.reach, x.reach], primitive.lower, primitive.upper)).max())
    lower, upper = writer.ends(x)
    return Ends(clipped(x.value), clipped(lower), clipped(upper), reach)


def round(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """Exact and monotone."""
    value, lower, upper = (writer.node("Round", name) for name in (x.value, *writer.ends(x)))
    return Ends(value, lower, upper, float(np.rint(x.reach)))


def sign(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Ends:
    """Exact and monotone."""
    value, lower, upper = (writer.node("Sign", name) for name in (x.value, *writer.ends(x)))
    return Ends(value, lower, upper, 1.0)


def max_pool(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    """Exact and monotone. Padding that a runtime may merge into the window counts for the upper end only."""
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    window, padding = primitive.window, primitive.padding
    axes = len(window.kernel)
    padded = padding.index.shape if padding else operand.shape
    if any(pad >= kernel for pad, kernel in zip(window.begin + window.end, window.kernel * 2, strict=True)):
        raise ModelProblem(f"node {tensor.name!r}: padding as large as its window cannot be compiled")

    def pooled(name: str, fill: float) -> str:
        if padding:
            name = _picked(writer, name, operand.shape, padding.index, fill)
        name = writer.laid_out(name, layout_of(padded), padded[-axes - 1 :])
        result = writer.node(
            "MaxPool",
            name,
            kernel_shape=window.kernel,
            strides=window.strides,
            dilations=window.dilations,
            pads=(*window.begin, *window.end),
        )
        return writer.laid_out(result, tensor.shape[-axes - 1 :], layout_of(tensor.shape))

    fill = padding.fill if padding else 0.0
    lower, upper = writer.ends(x)
    lowest = float(np.finfo(np.float32).min)
    return Ends(pooled(x.value, fill), pooled(lower, lowest), pooled(upper, fill), max(x.reach, abs(fill)))


def reshape(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    layouts = layout_of(tensor.operands[0].shape), layout_of(tensor.shape)
    return each(x, lambda name: writer.laid_out(name, *layouts))


def select(writer: BoundsWriter, tensor: Tensor, x: Bounded) -> Bounded:
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    if primitive.pads and not isinstance(x, Ends):
        x = Ends(x.value, *writer.ends(x), x.reach)
    picked = each(x, lambda name: _picked(writer, name, operand.shape, primitive.index, primitive.fill))
    return replace(picked, reach=max(x.reach, abs(primitive.fill)))


def _picked(writer: BoundsWriter, name: str, shape: Shape, index: NDArray[np.intp], fill: float) -> str:
    """The elements of these flat indices; `fill` for -1."""
    size = math.prod(shape)
    flat = writer.reshaped(name, (size,))
    if (index < 0).any():
        flat = writer.node("Pad", flat, writer.ints(0, 0, 0, 1), writer.scalar(fill))
        index = np.where(index < 0, size, index)
    picked = writer.node("Gather", flat, writer.ints(*index.reshape(-1)), axis=1)
    return writer.laid_out(picked, (index.size,), layout_of(index.shape))


def concatenate(writer: BoundsWriter, tensor: Tensor, *operands: Bounded) -> Bounded:
    primitive: Any = tensor.primitive
    shapes = [operand.shape for operand in tensor.operands]

    def joined(names: list[str]) -> str:
        whole = [writer.laid_out(name, layout_of(shape), shape) for name, shape in zip(names, shapes, strict=True)]
        whole = [
            name if operand.varies else _repeated(writer, name, operand.shape)
            for name, operand in zip(whole, tensor.operands, strict=True)
        ]
        return writer.laid_out(
            writer.node("Concat", *whole, axis=primitive.axis + 1), tensor.shape, layout_of(tensor.shape)
        )

    ends = [writer.ends(x) for x in operands]
    return Ends(
        joined([x.value for x in operands]),
        joined([lower for lower, _ in ends]),
        joined([upper for _, upper in ends]),
        max(x.reach for x in operands),
    )


def _repeated(writer: BoundsWriter, name: str, shape: Shape) -> str:
    """A constant once for every sample."""
    count = writer.node("Shape", "x", start=0, end=1)
    return writer.node("Expand", name, writer.node("Concat", count, writer.ints(*shape), axis=0))


def sum(writer: BoundsWriter, tensor: Tensor, a: Bounded, b: Bounded) -> Midpoint:
    """c = c_a + sign c_b, with radius (1 + kappa) (r_a + r_b) + kappa (|c_a| + |c_b|) + underflow, for the kappa of
    the dot product inside which a runtime may add an operand."""
    primitive: Any = tensor.primitive
    slack = kappa(max(primitive.fused_roundings) + SPARE, UNIT)
    a, b = (writer.within(x, LIMIT, tensor.shape) for x in (a, b))
    operator = "Add" if primitive.sign > 0 else "Sub"
    (first, wide), (second, broad) = writer.middle(a), writer.middle(b)
    radius = writer.scaled(writer.node("Add", wide, broad), 1 + slack)
    magnitude = writer.scaled(writer.node("Add", writer.node("Abs", first), writer.node("Abs", second)), slack)
    radius = writer.node("Add", writer.node("Add", radius, magnitude), writer.scalar(TINY))
    reach = (a.reach + b.reach) * (1 + 8 * slack) + TINY
    return Midpoint(writer.node(operator, a.value, b.value), writer.node(operator, first, second), radius, reach)


def product(writer: BoundsWriter, tensor: Tensor, a: Bounded, b: Bounded) -> Ends:
    """The extremes are products of endpoints."""
    rank = len(layout_of(tensor.shape))

    def aligned(x: Bounded, operand: Tensor) -> Bounded:
        layout = layout_of(operand.shape)
        wanted = (1,) * (rank - len(layout)) + layout
        return each(writer.within(x, LIMIT**0.5, operand.shape), lambda name: writer.laid_out(name, layout, wanted))

    a, b = map(aligned, (a, b), tensor.operands)
    corners = [writer.node("Mul", x, y) for x in writer.ends(a) for y in writer.ends(b)]
    lower, upper = writer.node("Min", *corners), writer.node("Max", *corners)
    return writer.outward(writer.node("Mul", a.value, b.value), lower, upper, a.reach * b.reach)


def quotient(writer: BoundsWriter, tensor: Tensor, a: Bounded, b: Bounded) -> Ends:
    """The extremes are quotients of endpoints, where the divisor keeps away from zero. A runtime may round twice,
    multiplying by the reciprocal."""
    a, b = (writer.within(x, LIMIT**0.5, tensor.shape) for x in (a, b))
    smallest = max(_SMALLEST_DIVISOR, 2.0 * a.reach / LIMIT)
    writer.require_distance(writer.ends(b), smallest, tensor.shape)
    corners = [writer.node("Div", x, y) for x in writer.ends(a) for y in writer.ends(b)]
    lower, upper = writer.node("Min", *corners), writer.node("Max", *corners)
    return writer.outward(writer.node("Div", a.value, b.value), lower, upper, a.reach / smallest)
