"""The smallest and largest of several values, element by element or along axes."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from verify.core.primitives import Clip, MaxPool, Reshape, Shape, Tensor
from verify.core.windows import Window
from verify.model.operators.arithmetic import neg
from verify.model.operators.movement import move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.pooling import LARGEST_WINDOW
from verify.model.operators.reductions import reduction, side_by_side
from verify.model.operators.registry import operator


def _of_constants(node: Node, operands: tuple[Operand, ...], function: np.ufunc) -> Operand | None:
    """The result for constants of one type; None where an operand depends on the input. No arithmetic rounds it."""
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    if len(arrays) < len(operands):
        return None
    if len({array.dtype for array in arrays}) != 1 or arrays[0].dtype.kind not in "iuf":
        node.refuse("constants of several types, or of none that has an order, are not supported")
    node.require_size(np.broadcast_shapes(*(array.shape for array in arrays)))
    return np.asarray(reduce(function, arrays))


def _clipped(node: Node, operands: tuple[Operand, ...]) -> tuple[Tensor, float] | None:
    """The only operand that depends on the input, and the only constant, if this is a single number and there are no
    others."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    constants = [operand for operand in operands if isinstance(operand, np.ndarray)]
    if len(tensors) == len(constants) == 1 and constants[0].size == 1 and constants[0].ndim <= len(tensors[0].shape):
        return tensors[0], node.weights(constants[0], "a limit").item()
    return None


def _largest(node: Node, operands: tuple[Operand, ...]) -> Tensor:
    columns = side_by_side(node, operands)
    return _pooled(node, columns, columns.shape[:-1])


def _pooled(node: Node, x: Tensor, shape: Shape) -> Tensor:
    """The largest elements along the last axis, in this shape."""
    *others, count = x.shape
    if not 0 < count <= LARGEST_WINDOW:
        node.refuse(f"the largest of {count} elements is not supported")
    window = Window((count,), (1,), (1,), (0,), (0,))
    return node.result(Reshape(shape), node.result(MaxPool(window), x, shape=(*others, 1)), shape=shape)


def _largest_over(node: Node, x: Operand, axes: list[int], *, keep: bool) -> Tensor:
    x = node.tensor(x)
    over = sorted({reduced(axis, len(x.shape), node) for axis in axes})
    others = [axis for axis in range(len(x.shape)) if axis not in over]
    rest = tuple(x.shape[axis] for axis in others)
    rows = node.tensor(
        move(node, x, lambda a: a.transpose(*others, *over).reshape(*rest, math.prod(x.shape[axis] for axis in over)))
    )
    kept = tuple(1 if axis in over else size for axis, size in enumerate(x.shape))
    return _pooled(node, rows, kept if keep else rest)


@operator("Max", 8, 12, 13)
def maximum(node: Node, *operands: Operand) -> Operand:
    if (folded := _of_constants(node, operands, np.maximum)) is not None:
        return folded
    if clipped := _clipped(node, operands):
        return node.result(Clip(clipped[1], np.inf), clipped[0], shape=clipped[0].shape)
    return _largest(node, operands)


@operator("Min", 8, 12, 13)
def minimum(node: Node, *operands: Operand) -> Operand:
    if (folded := _of_constants(node, operands, np.minimum)) is not None:
        return folded
    if clipped := _clipped(node, operands):
        return node.result(Clip(-np.inf, clipped[1]), clipped[0], shape=clipped[0].shape)
    return neg(node, _largest(node, tuple(neg(node, operand) for operand in operands)))


@operator("ReduceMax", 1, 11, 12, 13, 18, 20)
def reduce_max(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return reduction(node, x, axes, lambda over, keep: _largest_over(node, x, over, keep=keep), operand_since=18)


@operator("ReduceMin", 1, 11, 12, 13, 18, 20)
def reduce_min(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    def smallest(over: list[int], keep: bool) -> Operand:
        return neg(node, _largest_over(node, neg(node, x), over, keep=keep))

    return reduction(node, x, axes, smallest, operand_since=18)
