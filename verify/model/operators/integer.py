"""Operators of quantised models that take and yield integers: sums of products are exact, everything else goes through
float32 on its way from one grid to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verify.core.grids import Grid
from verify.core.primitives import FLOAT32, Linear, Tensor
from verify.core.rounding import Array
from verify.model.operators.activations import leaky_relu
from verify.model.operators.arithmetic import add, matrix_product, mul
from verify.model.operators.movement import concat
from verify.model.operators.node import Node, Operand
from verify.model.operators.pooling import average_pool, convolved, global_average_pool
from verify.model.operators.quantised import (
    INT32,
    along,
    grid_of,
    integers_of,
    require_int32,
    require_no_saturation,
    shifted,
    to_grid,
    to_real,
    uniform_grid,
)
from verify.model.operators.registry import operator

_ONE = np.ones((), np.float32)


@operator("QLinearConv", 10)
def qlinear_conv(
    node: Node,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand,
    weight: Operand,
    weight_scale: Operand,
    weight_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    bias: Operand | None = None,
) -> Tensor:
    weights = grid_of(node, weight_scale, weight_zero, weight.dtype)
    sums, source = _convolved(node, x, x_scale, x_zero, weight, weights, bias)
    return _requantised(node, sums, source, along(weights, 0, len(weight.shape) - 1), y_scale, y_zero)


@operator("ConvInteger", 10)
def conv_integer(
    node: Node, x: Operand, weight: Operand, x_zero: Operand | None = None, weight_zero: Operand | None = None
) -> Tensor:
    weights = _unscaled(node, weight_zero, weight)
    return _convolved(node, x, _ONE, x_zero, weight, weights, None)[0]


@operator("QLinearMatMul", 10, 21)
def qlinear_matmul(
    node: Node,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
) -> Tensor:
    weights = grid_of(node, b_scale, b_zero, b.dtype)
    sums, source = _multiplied(node, a, a_scale, a_zero, b, weights, None)
    return _requantised(node, sums, source, weights, y_scale, y_zero)


@operator("MatMulInteger", 10)
def matmul_integer(
    node: Node, a: Operand, b: Operand, a_zero: Operand | None = None, b_zero: Operand | None = None
) -> Tensor:
    return _multiplied(node, a, _ONE, a_zero, b, _unscaled(node, b_zero, b), None)[0]


@operator("com.microsoft.MatMulIntegerToFloat", 1)
def matmul_integer_to_float(
    node: Node,
    a: Operand,
    b: Operand,
    a_scale: Operand,
    b_scale: Operand,
    a_zero: Operand | None = None,
    b_zero: Operand | None = None,
    bias: Operand | None = None,
) -> Tensor:
    weights = grid_of(node, b_scale, b_zero, b.dtype)
    sums, source = _multiplied(node, a, a_scale, a_zero, b, weights, None)
    result = _as_floats(node, sums, source, weights)
    if bias is None:
        return result
    shift = Linear.elementwise(np.ones(()), node.weights(bias, "the bias"), roundings=1)
    if np.broadcast_shapes(bias.shape, sums.shape) != sums.shape:
        node.refuse("the bias does not fit the product")
    return node.result(shift, result, shape=sums.shape)


@operator("com.microsoft.QGemm", 1)
def qgemm(
    node: Node,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    bias: Operand | None = None,
    y_scale: Operand | None = None,
    y_zero: Operand | None = None,
) -> Tensor:
    """Without a scale of the result it is float32."""
    if node.attribute("alpha", 1.0) != 1 or node.flag("transA"):
        node.refuse("a factor alpha and a transposed first operand are not supported")
    if node.flag("transB") and isinstance(b, np.ndarray):
        b = b.T
    if bias is not None and bias.shape != b.shape[-1:]:
        node.refuse(f"a bias of shape {bias.shape} is not a number for each of {b.shape[-1]} columns")
    weights = grid_of(node, b_scale, b_zero, b.dtype)
    sums, source = _multiplied(node, a, a_scale, a_zero, b, weights, bias)
    if y_scale is None:
        return _as_floats(node, sums, source, weights)
    if y_zero is None:
        node.refuse("a scale of the result without its zero point is not supported")
    return _requantised(node, sums, source, weights, y_scale, y_zero)


@operator("com.microsoft.QLinearAdd", 1)
def qlinear_add(
    node: Node,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand | None,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand | None,
    y_scale: Operand,
    y_zero: Operand | None = None,
) -> Tensor:
    total = add(node, _real(node, a, a_scale, a_zero), _real(node, b, b_scale, b_zero))
    return _on_grid(node, total, y_scale, y_zero, a)


@operator("com.microsoft.QLinearMul", 1)
def qlinear_mul(
    node: Node,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand | None,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand | None,
    y_scale: Operand,
    y_zero: Operand | None = None,
) -> Tensor:
    total = mul(node, _real(node, a, a_scale, a_zero), _real(node, b, b_scale, b_zero))
    return _on_grid(node, total, y_scale, y_zero, a)


@operator("com.microsoft.QLinearLeakyRelu", 1)
def qlinear_leaky_relu(
    node: Node, x: Operand, x_scale: Operand, x_zero: Operand | None, y_scale: Operand, y_zero: Operand | None = None
) -> Tensor:
    return _on_grid(node, leaky_relu(node, _real(node, x, x_scale, x_zero)), y_scale, y_zero, x)


@operator("com.microsoft.QLinearAveragePool", 1)
def qlinear_average_pool(
    node: Node, x: Operand, x_scale: Operand, x_zero: Operand | None, y_scale: Operand, y_zero: Operand | None = None
) -> Tensor:
    _require_channels_first(node)
    if node.flag("ceil_mode") and node.flag("count_include_pad"):
        node.refuse("ceil_mode with count_include_pad is not supported: runtimes divide by other counts")
    return _on_grid(node, average_pool(node, _real(node, x, x_scale, x_zero)), y_scale, y_zero, x)


@operator("com.microsoft.QLinearGlobalAveragePool", 1)
def qlinear_global_average_pool(
    node: Node, x: Operand, x_scale: Operand, x_zero: Operand | None, y_scale: Operand, y_zero: Operand | None = None
) -> Tensor:
    _require_channels_first(node)
    return _on_grid(node, global_average_pool(node, _real(node, x, x_scale, x_zero)), y_scale, y_zero, x)


@operator("com.microsoft.QLinearConcat", 1)
def qlinear_concat(node: Node, y_scale: Operand, y_zero: Operand, *operands: Operand) -> Tensor:
    """The operands come in threes: value, scale, zero point."""
    parts = [_real(node, *operands[start : start + 3]) for start in range(0, len(operands), 3)]
    return _on_grid(node, concat(node, *parts), y_scale, y_zero, operands[0])


def _require_channels_first(node: Node) -> None:
    if node.flag("channels_last"):
        node.refuse("channels_last is not supported")


def _real(node: Node, x: Operand, scale: Operand, zero: Operand | None) -> Tensor:
    """What a quantised value stands for."""
    x = integers_of(node, x)
    return to_real(node, x, uniform_grid(node, scale, zero, x.dtype))


def _on_grid(node: Node, x: Operand | list[Operand], scale: Operand, zero: Operand | None, like: Operand) -> Tensor:
    """A float32 value, quantised with the type of another one."""
    grid = uniform_grid(node, scale, zero, like.dtype)
    assert isinstance(x, Tensor)
    return to_grid(node, x, 1.0 / grid.scale, grid)


def _unscaled(node: Node, zero: Operand | None, weight: Operand) -> Grid:
    """The grid of weights whose scale is left to later operators."""
    return grid_of(node, np.ones(() if zero is None else zero.shape, np.float32), zero, weight.dtype)


def _convolved(
    node: Node,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand | None,
    weight: Operand,
    weights: Grid,
    bias: Operand | None,
) -> tuple[Tensor, Grid]:
    """The int32 sums of a convolution, and the grid of x; `weights` has channels along the first axis."""
    zero = along(weights, 0, len(weight.shape)).zero_point
    x, source, kernel, shift = _prepared(node, x, x_scale, x_zero, weight, zero, bias, 0)
    return convolved(node, x, kernel, shift), source


def _multiplied(
    node: Node,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand | None,
    weight: Operand,
    weights: Grid,
    bias: Operand | None,
) -> tuple[Tensor, Grid]:
    """The int32 sums of a matrix product, and the grid of x; `weights` has channels along the last axis."""
    if len(weight.shape) < 2:
        node.refuse("weights of less than two axes are not supported")
    axis = len(weight.shape) - 1
    x, source, matrix, shift = _prepared(node, x, x_scale, x_zero, weight, weights.zero_point, bias, axis)
    return matrix_product(node, x, matrix, shift), source


def _prepared(
    node: Node,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand | None,
    weight: Operand,
    weight_zero: NDArray[np.int64],
    bias: Operand | None,
    axis: int,
) -> tuple[Tensor, Grid, Array, Array | None]:
    """x less its zero point, the grid of x, the weights less theirs, and the bias, once it is shown that no runtime
    saturates or wraps around.

    axis: of the weights, that counts the outputs.
    """
    x = integers_of(node, x)
    grid = uniform_grid(node, x_scale, x_zero, x.dtype)
    if not x.varies or not isinstance(weight, np.ndarray):
        node.refuse("the first operand must depend on the input, and the weights must be constant")
    integers_of(node, weight)
    stored = weight.astype(np.int64)
    count = stored.shape[axis]
    if x.dtype == np.uint8:
        require_no_saturation(node, np.moveaxis(stored, axis, 0).reshape(count, -1), weight.dtype)
    less = stored - weight_zero
    shift = None
    if bias is not None:
        if not isinstance(bias, np.ndarray) or bias.dtype != INT32 or bias.size != count:
            node.refuse(f"the bias must be {count} constants of type int32")
        shift = bias.reshape(-1).astype(np.int64)
    require_int32(
        node, np.moveaxis(less, axis, 0).reshape(count, -1), np.zeros(1, np.int64) if shift is None else shift
    )
    centred = shifted(node, x, -grid.zero_point.astype(np.float64), INT32)
    return centred, grid, less.astype(np.float64), None if shift is None else shift.astype(np.float64)


def _requantised(node: Node, sums: Tensor, source: Grid, weights: Grid, y_scale: Operand, y_zero: Operand) -> Tensor:
    grid = uniform_grid(node, y_scale, y_zero, y_zero.dtype)
    with np.errstate(over="ignore"):
        factor = _factor(source, weights) / grid.scale.astype(np.float32)
    if not np.isfinite(factor).all():
        node.refuse("the quotient of the scales is not finite")
    return to_grid(node, sums, factor.astype(np.float64), grid)


def _as_floats(node: Node, sums: Tensor, source: Grid, weights: Grid) -> Tensor:
    factor = _factor(source, weights).astype(np.float64)
    scale = Linear.elementwise(factor, np.zeros(()), roundings=4)
    return node.result(scale, sums, shape=sums.shape, dtype=FLOAT32)


def _factor(source: Grid, weights: Grid) -> NDArray[np.float32]:
    """What one unit of a sum stands for, rounded to float32."""
    return source.scale.astype(np.float32) * weights.scale.astype(np.float32)
