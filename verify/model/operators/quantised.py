"""QuantizeLinear and DequantizeLinear, and float32 operators between them, which runtimes may execute on integers.

A product of quantised values is executed in float32 or on integers, as the runtime likes. Over the real numbers both
are the same: sums of products of integers, times the scales. The float32 one rounds like any dot product; the one on
integers is exact but for a few roundings at the end, which count as if each term met them. So one bound holds for both,
and whatever a runtime would change beyond that (float weights or biases that it quantises on its own, grids that it
merges, products that saturate) is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.grids import Grid
from verify.core.linear_maps import Diagonal
from verify.core.primitives import (
    FLOAT32,
    Clip,
    Constant,
    LeakyRelu,
    Linear,
    MaxPool,
    Reshape,
    Round,
    Select,
    Softmax,
    Tensor,
)
from verify.core.rounding import Array
from verify.model.fusion import unmoved
from verify.model.operators.movement import reduced
from verify.model.operators.node import INTEGERS, Node, Operand
from verify.model.operators.registry import Rule, operator

INT32 = np.dtype(np.int32)
_ROUNDINGS = 8
"""At most so many roundings does a runtime make in float32 where it changes from one grid to another, in whatever order
it takes the factors and the zero points."""
_SCALES = (2.0**-60, 2.0**60)
_DROPPED_CLIP = 2.0**-16
"""Below this scale onnxruntime may drop a Clip before a QuantizeLinear although it cuts off whole steps: it compares
the ranges with an absolute tolerance of 2^-23."""
_VERSIONS = (10, 13, 19, 21, 23, 24, 25)


def grid_of(node: Node, scale: Operand, zero_point: Operand | None, dtype: np.dtype[Any]) -> Grid:
    """The grid of integers of type `dtype` that two constant operands describe; a missing zero point is zero."""
    zeros = np.zeros(scale.shape, dtype) if zero_point is None else zero_point
    scales, points = node.weights(scale, "the scale"), node.weights(zeros, "the zero point", dtype)
    if not ((scales >= _SCALES[0]) & (scales <= _SCALES[1])).all():
        node.refuse("a scale that is not between 2^-60 and 2^60 is not supported")
    if scales.size == 1:
        scales = scales.reshape(())
    if points.size == 1:
        points = np.broadcast_to(points.reshape(()), scales.shape)
    if scales.ndim > 1 or scales.shape != points.shape or not scales.size:
        node.refuse(f"scales of shape {scale.shape} and zero points of shape {zeros.shape} are not supported")
    return Grid(scales, points.astype(np.int64), dtype)


def uniform_grid(node: Node, scale: Operand, zero_point: Operand | None, dtype: np.dtype[Any]) -> Grid:
    """The grid of a value of the network, which has a single scale."""
    grid = grid_of(node, scale, zero_point, dtype)
    if not grid.is_uniform:
        node.refuse("values of the network with a scale for each channel are not supported")
    return grid


def along(grid: Grid, axis: int, rank: int) -> Grid:
    """The grid with its channels along that axis of a value."""
    if grid.is_uniform:
        return grid
    shape = tuple(-1 if i == axis else 1 for i in range(rank))
    return replace(grid, scale=grid.scale.reshape(shape), zero_point=grid.zero_point.reshape(shape))


def integers_of(node: Node, x: Operand) -> Tensor:
    if x.dtype not in INTEGERS:
        node.refuse(f"quantised values of type {x.dtype} are not supported: int8 and uint8 are")
    return node.tensor(x, integers=True)


def to_real(node: Node, x: Tensor, grid: Grid) -> Tensor:
    """scale * q - scale * zero point."""
    shift = -grid.scale * grid.zero_point
    primitive = Linear.elementwise(grid.scale, shift, roundings=_ROUNDINGS, scalings=1)
    return node.result(primitive, x, shape=x.shape, dtype=FLOAT32, grid=grid)


def to_grid(node: Node, x: Tensor, factor: Array, grid: Grid) -> Tensor:
    """round(clip(factor * x)) + zero point; some runtimes add the zero point before they round."""
    zero = np.asarray(grid.zero_point, np.float64)
    scale = Linear.elementwise(factor, np.zeros(()), roundings=_ROUNDINGS, magnitude=np.abs(zero), scalings=2)
    scaled = node.result(scale, x, shape=x.shape, dtype=FLOAT32)
    clipped = node.result(Clip(*grid.ends), scaled, shape=x.shape)
    rounded = node.result(Round(), clipped, shape=x.shape, dtype=INT32)
    return shifted(node, rounded, zero, grid.dtype)


def shifted(node: Node, x: Tensor, shift: Array, dtype: np.dtype[Any]) -> Tensor:
    return node.result(Linear.elementwise(np.ones(()), shift, roundings=0), x, shape=x.shape, dtype=dtype)


@operator("QuantizeLinear", *_VERSIONS)
def quantize_linear(node: Node, x: Operand, scale: Operand, zero_point: Operand | None = None) -> Tensor:
    if node.attribute("block_size", 0) or node.attribute("output_dtype", 0) or node.attribute("precision", 0):
        node.refuse("blocks, and types other than those of the zero point, are not supported")
    node.attribute("saturate")  # of types that are not supported
    node.attribute("axis")  # of scales that are not supported
    x = node.tensor(x)
    grid = uniform_grid(node, scale, zero_point, np.dtype(np.uint8) if zero_point is None else zero_point.dtype)
    if grid.dtype not in INTEGERS:
        node.refuse(f"quantised values of type {grid.dtype} are not supported: int8 and uint8 are")
    _require_faithful(node, x, grid)
    return to_grid(node, x, 1.0 / grid.scale, grid)


def _require_faithful(node: Node, x: Tensor, grid: Grid) -> None:
    """Refuse what runtimes do not compute as the model says: they merge grids, drop clips and quantise biases."""
    source = _before_what_does_nothing(x)
    if source.grid is not None and not source.grid.same_as(grid):
        node.refuse("a value changes directly from one grid to another: runtimes merge the two into a third one")
    source, changed = x, False
    while source.grid is None:  # what a runtime drops, or moves the QuantizeLinear across
        primitive = source.primitive
        if isinstance(primitive, Clip) and grid.scale < _DROPPED_CLIP:
            node.refuse("a Clip before a scale below 2^-16 is not supported: runtimes may drop it")
        if isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal):
            changed |= not primitive.does_nothing
        elif isinstance(primitive, Softmax):
            node.refuse("a softmax that is quantised is not supported: runtimes approximate it by a table of integers")
        elif not isinstance(primitive, Reshape | Select | MaxPool | Clip | LeakyRelu):
            break
        (source,) = source.operands
    if changed and isinstance(source.primitive, Linear) and _may_be_quantised(source.operands[0]):
        node.refuse(
            "a float summand or factor between a product of quantised values and its QuantizeLinear is not supported: "
            "runtimes quantise it on their own; make it the int32 bias of the product"
        )


def _may_be_quantised(x: Tensor) -> bool:
    """Whether a runtime might come to see a DequantizeLinear directly before x."""
    while x.grid is None:
        primitive = x.primitive
        moves = isinstance(primitive, Reshape | Select | MaxPool)
        if not moves and not (isinstance(primitive, Linear) and primitive.does_nothing):
            return False
        (x,) = x.operands
    return True


def _before_what_does_nothing(x: Tensor) -> Tensor:
    """The tensor that x holds in another order, or times one plus zero."""
    source, _ = unmoved(x)
    while source.grid is None and isinstance(source.primitive, Linear) and source.primitive.does_nothing:
        source, _ = unmoved(source.operands[0])
    return source


@operator("DequantizeLinear", *_VERSIONS)
def dequantize_linear(node: Node, x: Operand, scale: Operand, zero_point: Operand | None = None) -> Tensor:
    """Of a value of the network, or of constant weights, which may have a scale for each channel."""
    if node.attribute("block_size", 0) or node.attribute("output_dtype", 1) not in (0, 1):
        node.refuse("blocks, and types other than float32, are not supported")
    axis = node.attribute("axis", 1)
    if isinstance(x, Tensor):
        x = integers_of(node, x)
        return to_real(node, x, uniform_grid(node, scale, zero_point, x.dtype))
    if x.dtype not in (*INTEGERS, INT32):
        node.refuse(f"weights of type {x.dtype} are not supported: int8, uint8 and int32 are")
    grid = grid_of(node, scale, zero_point, x.dtype)
    if not grid.is_uniform:
        axis = reduced(axis, x.ndim, node)
        if grid.scale.size != x.shape[axis]:
            node.refuse(f"{grid.scale.size} scales do not fit weights of shape {x.shape} along axis {axis}")
    stored = Tensor(Constant(x.astype(np.float64)), (), x.shape, node.name, x.dtype)
    return to_real(node, stored, along(grid, axis, x.ndim))


def product_of_quantised(channel_axis: Callable[[Node, int], int]) -> Callable[[Rule], Rule]:
    """Let the rule of a product (x, weights, bias) take dequantised operands: all of them, or none.

    channel_axis: which axis of the weights counts the outputs, from the node and the rank of the weights.
    """

    def wrapped(rule: Rule) -> Rule:
        @wraps(rule)
        def either(node: Node, *operands: Operand | None) -> Operand | list[Operand]:
            x, weight, *rest = operands
            if not any(isinstance(operand, Tensor) and _may_be_quantised(operand) for operand in operands):
                return rule(node, *operands)
            values = _weights_as_floats(node, x, weight, *rest, channel_axis=channel_axis)
            return rule(replace(node, more_roundings=_ROUNDINGS + 4), x, *values)

        return either

    return wrapped


def _weights_as_floats(
    node: Node,
    x: Operand | None,
    weight: Operand | None,
    bias: Operand | None = None,
    *,
    channel_axis: Callable[[Node, int], int],
) -> list[NDArray[np.float32] | None]:
    """What the constant integers stand for; refuses what runtimes execute otherwise."""
    if not (isinstance(x, Tensor) and x.grid and x.varies):
        node.refuse(
            "operand and weights must both come directly from a DequantizeLinear, or neither: runtimes would quantise "
            "the other one on their own"
        )
    if node.operator == "Gemm" and (node.attribute("alpha", 1.0) != 1 or node.attribute("beta", 1.0) != 1):
        node.refuse("the factors alpha and beta are not supported on quantised operands")
    stored = _stored(node, weight, "the weights")
    if stored.ndim < 2:
        node.refuse("weights of less than two axes are not supported")
    assert isinstance(weight, Tensor)
    assert weight.grid is not None
    if weight.grid.dtype not in INTEGERS:
        node.refuse(f"weights of type {weight.grid.dtype} are not supported in a product")
    axis = channel_axis(node, stored.ndim)
    count = stored.shape[axis]
    if not weight.grid.is_uniform and weight.grid.scale.shape[axis] != count:
        node.refuse("the weights have scales along another axis than that of the outputs")
    rows = np.moveaxis(stored, axis, 0).reshape(count, -1)
    require_no_saturation(node, rows, weight.grid.dtype)  # even beside int8, which runtimes turn into uint8
    shift = np.zeros(1, np.int64)
    values: list[NDArray[np.float32] | None] = [weight.grid.real(stored)]
    if bias is not None:
        shift = _stored(node, bias, "the bias")
        assert isinstance(bias, Tensor)
        assert bias.grid is not None
        expected = np.broadcast_to(x.grid.scale * weight.grid.scale.reshape(-1), count)
        given = np.broadcast_to(bias.grid.scale.reshape(-1), expected.shape)
        if bias.grid.dtype != INT32 or bias.grid.zero_point.any() or shift.shape != (count,):
            node.refuse("the bias must be int32 with zero point 0, one number for each output")
        if not (np.abs(given - expected) <= 2.0**-23 * expected).all():
            node.refuse("the bias must have the product of the other two scales as its scale, which runtimes assume")
        values.append(bias.grid.real(shift))
    require_int32(node, rows - weight.grid.zero_point.reshape(-1, 1), shift)
    return values


def _stored(node: Node, operand: Operand | None, what: str) -> NDArray[np.int64]:
    """The integers of a dequantised constant."""
    if isinstance(operand, Tensor) and operand.grid and isinstance(operand.operands[0].primitive, Constant):
        return operand.operands[0].primitive.value.astype(np.int64)
    return node.refuse(
        f"{what} beside a quantised operand must be a constant of integers and its DequantizeLinear: runtimes would "
        "quantise anything else on their own"
    )


def require_no_saturation(node: Node, rows: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
    """Refuse int8 weights (outputs x terms) with which a sum of two products by uint8 numbers may not fit in 16 bits.

    x86 without VNNI (VPMADDUBSW) saturates there; which two terms it adds depends on how a kernel packs them.
    """
    if dtype != np.int8:
        return
    for signed in (rows, -rows):
        largest = np.sort(np.maximum(signed, 0), axis=1)[:, -2:].sum(axis=1)
        if largest.max(initial=0) > 128:
            node.refuse(
                "int8 weights as large as these saturate on x86 processors without VNNI, beside uint8 activations, as "
                "which runtimes also execute int8 ones: "
                "quantise the weights to seven bits (reduce_range), or to uint8"
            )


def require_int32(node: Node, rows: NDArray[np.int64], bias: NDArray[np.int64]) -> None:
    """Refuse products (weights less their zero points, outputs x terms) that could leave the range of int32."""
    sums = 255 * np.abs(rows).sum(axis=1) + np.abs(bias)
    if sums.max(initial=0) >= 2**31:
        node.refuse("the sum of products may exceed the range of int32, where runtimes wrap around")
