"""Sums, means and norms of several values, or along axes; in whatever order a runtime adds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verify.core.functions import SQRT, SQUARE
from verify.core.linear_maps import Reduction
from verify.core.primitives import Concatenate, LeakyRelu, Linear, Tensor
from verify.model.operators.arithmetic import add
from verify.model.operators.movement import axes_of, move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.registry import operator


def reduce_over(node: Node, x: Operand, axes: list[int], *, mean: bool, keep: bool) -> Tensor:
    """Sum or mean over axes; the mean divides by the count, or multiplies by its reciprocal."""
    x = node.tensor(x)
    over = tuple(sorted({reduced(axis, len(x.shape), node) for axis in axes}))
    reduction = Reduction(over, x.shape)
    primitive = Linear.dot(reduction, None, x.shape)
    if mean:
        if not reduction.terms:
            node.refuse("the mean of no element")
        inverse = np.array(1.0 / reduction.terms)
        primitive = primitive.then(Linear.elementwise(inverse, np.zeros(()), roundings=2, scalings=1))
    kept = tuple(1 if axis in over else size for axis, size in enumerate(x.shape))
    result = node.result(primitive, x, shape=kept)
    return result if keep else node.tensor(move(node, result, lambda a: np.squeeze(a, over)))


def reduction(
    node: Node, x: Operand, axes: Operand | None, over: Callable[[list[int], bool], Operand], *, operand_since: int
) -> Operand:
    """What `over` makes of the axes, told whether to keep them with length one; of all where there are none, unless
    the node says that there is nothing to do then."""
    chosen = axes_of(node, axes, operand_since=operand_since)
    keep, nothing_to_do = node.flag("keepdims", 1), node.flag("noop_with_empty_axes")
    if not chosen and nothing_to_do:
        return x
    return over(chosen or list(range(len(x.shape))), keep)


def side_by_side(node: Node, operands: tuple[Operand, ...]) -> Tensor:
    """The operands, broadcast to one shape, along a last axis of their own."""
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    node.require_size((*shape, len(operands)))
    column = (*shape, 1)
    columns = [
        node.tensor(move(node, node.tensor(x), lambda a: np.broadcast_to(a, shape).reshape(column))) for x in operands
    ]
    return node.result(Concatenate(len(shape)), *columns, shape=(*shape, len(columns)))


@operator("Sum", 8, 13)
def sum_(node: Node, *operands: Operand) -> Operand:
    if len(operands) == 1:
        return operands[0]
    if len(operands) == 2:
        return add(node, *operands)
    return reduce_over(node, side_by_side(node, operands), [-1], mean=False, keep=False)


@operator("Mean", 8, 13)
def mean(node: Node, *operands: Operand) -> Operand:
    if len(operands) == 1:
        return operands[0]
    return reduce_over(node, side_by_side(node, operands), [-1], mean=True, keep=False)


@operator("ReduceMean", 1, 11, 13, 18)
def reduce_mean(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return reduction(
        node, x, axes, lambda over, keep: reduce_over(node, x, over, mean=True, keep=keep), operand_since=18
    )


@operator("ReduceSum", 1, 11, 13)
def reduce_sum(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return reduction(
        node, x, axes, lambda over, keep: reduce_over(node, x, over, mean=False, keep=keep), operand_since=13
    )


@operator("ReduceL1", 1, 11, 13, 18)
def reduce_l1(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return _reduction_of_a_function(node, x, axes, _l1)


@operator("ReduceL2", 1, 11, 13, 18)
def reduce_l2(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return _reduction_of_a_function(node, x, axes, _l2)


@operator("ReduceSumSquare", 1, 11, 13, 18)
def reduce_sum_square(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    return _reduction_of_a_function(node, x, axes, _sum_of_squares)


def _reduction_of_a_function(
    node: Node, x: Operand, axes: Operand | None, over: Callable[[Node, Operand, list[int], bool], Tensor]
) -> Operand:
    if node.flag("noop_with_empty_axes") and not axes_of(node, axes, operand_since=18):
        node.refuse("noop_with_empty_axes is not supported: runtimes disagree")
    return reduction(node, x, axes, lambda axes, keep: over(node, x, axes, keep), operand_since=18)


def _l1(node: Node, x: Operand, axes: list[int], keep: bool) -> Tensor:
    """The sum of magnitudes."""
    magnitudes = node.result(LeakyRelu(-1.0), node.tensor(x), shape=x.shape)
    return reduce_over(node, magnitudes, axes, mean=False, keep=keep)


def _l2(node: Node, x: Operand, axes: list[int], keep: bool) -> Tensor:
    """The root of the sum of squares."""
    total = _sum_of_squares(node, x, axes, keep)
    return node.result(SQRT, total, shape=total.shape)


def _sum_of_squares(node: Node, x: Operand, axes: list[int], keep: bool) -> Tensor:
    return reduce_over(node, node.result(SQUARE, node.tensor(x), shape=x.shape), axes, mean=False, keep=keep)
