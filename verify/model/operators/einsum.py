"""Einsum of one or two operands: transpositions around a sum, or around a product of matrices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from verify.model.operators.arithmetic import product_of_matrices
from verify.model.operators.movement import move
from verify.model.operators.node import Node, Operand
from verify.model.operators.reductions import reduce_over
from verify.model.operators.registry import operator


@operator("Einsum", 12)
def einsum(node: Node, *operands: Operand) -> Operand:
    indices, result = _parsed(node, node.attribute("equation").decode(), len(operands))
    if any(len(each) != len(x.shape) for each, x in zip(indices, operands, strict=True)):
        node.refuse(f"operands of shapes {[x.shape for x in operands]} do not fit the indices {indices}")
    if len(operands) == 1:
        return _of_one(node, operands[0], indices[0], result)
    return _of_two(node, operands[0], operands[1], (indices[0], indices[1]), result)


def _parsed(node: Node, equation: str, count: int) -> tuple[list[str], str]:
    """The indices of each operand, and of the result: if that is not given, those that occur once, in order."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    indices = left.split(",")
    if not arrow:
        if left != left.lower():
            node.refuse(f"the equation {equation!r} is not supported: upper-case indices need a result")
        result = "".join(sorted(index for index in set(left) - {","} if left.count(index) == 1))
    known = set("".join(indices))
    if not all(index.isascii() and index.isalpha() for index in known):
        node.refuse(f"the equation {equation!r} is not supported: letters are, as indices")
    if len(indices) != count or not 1 <= count <= 2:
        node.refuse(f"the equation {equation!r} with {count} operands is not supported: one or two are")
    if any(len(set(each)) < len(each) for each in (*indices, result)) or not set(result) <= known:
        node.refuse(f"the equation {equation!r} is not supported: an index twice, or in the result only")
    return indices, result


def _of_one(node: Node, x: Operand, indices: str, result: str) -> Operand:
    kept = [index for index in indices if index in result]
    if len(kept) < len(indices):
        summed = [axis for axis, index in enumerate(indices) if index not in result]
        x = reduce_over(node, x, summed, mean=False, keep=False)
    return _transposed(node, x, kept, result)


def _of_two(node: Node, a: Operand, b: Operand, indices: tuple[str, str], result: str) -> Operand:
    """A product of matrices, for each combination of the indices that all three have."""
    first, second = indices
    lengths = dict(zip(first, a.shape, strict=True))
    for index, length in zip(second, b.shape, strict=True):
        if lengths.setdefault(index, length) != length:
            node.refuse(f"the index {index} runs over {lengths[index]} and over {length}")
    batch = [index for index in first if index in second and index in result]
    inner = [index for index in first if index in second and index not in result]
    rows = [index for index in first if index not in second]
    columns = [index for index in second if index not in first]
    if lonely := [index for index in (*rows, *columns) if index not in result]:
        node.refuse(f"the sum over {' and '.join(lonely)}, of a single operand, is not supported: sum it up before")

    def extents(*groups: list[str]) -> list[int]:
        return [int(np.prod([lengths[index] for index in group], dtype=np.int64)) for group in groups]

    def as_matrices(x: Operand, own: str, *groups: list[str]) -> Operand:
        ordered = _transposed(node, x, own, [*batch, *groups[0], *groups[1]])
        shape = [*(lengths[index] for index in batch), *extents(*groups)]
        return move(node, ordered, lambda i: i.reshape(shape))

    product = product_of_matrices(node, as_matrices(a, first, rows, inner), as_matrices(b, second, inner, columns))
    order = [*batch, *rows, *columns]
    spread = move(node, product, lambda i: i.reshape([lengths[index] for index in order]))
    return _transposed(node, spread, order, result)


def _transposed(node: Node, x: Operand, indices: Iterable[str], wanted: Iterable[str]) -> Operand:
    have = list(indices)
    order = [have.index(index) for index in wanted]
    return move(node, x, lambda i: i.transpose(order))
