"""Sums and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.linear_maps import Dense, Reduction
from verify.core.primitives import Linear, Primitive, Product, Quotient, Sum, Tensor
from verify.core.rounding import Array
from verify.model.operators.computed import factor_of, summand_of
from verify.model.operators.movement import move
from verify.model.operators.node import Node, Operand, is_computed
from verify.model.operators.quantised import product_of_quantised
from verify.model.operators.registry import operator
from verify.model.replacements import mean_of_powers

_DEFAULT_EPSILON = float(np.float32(1e-5))
"""Of layer normalisation."""

Function = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def _folded(node: Node, function: Function, a: Operand, b: Operand) -> NDArray[Any] | None:
    """The result of an operation on two constants of one type, if it is exact, so that no arithmetic yields another,
    whatever comes before or behind; None else, and where an operand depends on the input."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return None
    if a.dtype != b.dtype or (a.dtype.kind not in "iu" and a.dtype != np.float32):
        node.refuse(f"arithmetic on constants of types {a.dtype} and {b.dtype} is not supported")
    node.require_size(np.broadcast_shapes(a.shape, b.shape))
    with np.errstate(all="ignore"):
        result = np.asarray(function(a, b))
    if result.dtype.kind == "f" and not np.isfinite(result).all():
        node.refuse("arithmetic on constants yields numbers that are not finite")
    return result if result.dtype.kind != "f" or _is_exact(function, a, b, result) else None


def _is_exact(function: Function, a: NDArray[Any], b: NDArray[Any], result: NDArray[Any]) -> bool:
    """Whether float32 numbers are the real sum, difference, product or quotient of two others."""
    x, y, z = (each.astype(np.float64) for each in (a, b, result))
    if function is np.multiply:
        return bool((x * y == z).all())  # float64 holds products of two float32 numbers
    if function is _divided:
        return bool((z * y == x).all())
    y = y if function is np.add else -y
    rest = z - x
    return bool(((x + y == z) & ((x - (z - rest)) + (y - rest) == 0)).all())  # Knuth's two-sum


def _varies(x: Operand) -> bool:
    """Whether it is neither a constant of the model, nor one that this computes in floats."""
    return isinstance(x, Tensor) and not is_computed(x)


def _is_fixed(x: Operand, *, beside: Operand) -> bool:
    """Whether an operation takes it for a constant: whatever is one, or what the model computes where the other operand
    varies."""
    return isinstance(x, np.ndarray) or (is_computed(x) and _varies(beside))


def broadcast(node: Node, x: Operand, *others: Operand) -> Tensor:
    """x as a tensor of the shape that it takes together with the others."""
    shape = np.broadcast_shapes(x.shape, *(other.shape for other in others))
    node.require_size(shape)
    return node.tensor(move(node, node.tensor(x), lambda a: np.broadcast_to(a, shape)))


def _elementwise(node: Node, x: Operand, weights: NDArray[Any], primitive: Linear) -> Tensor:
    x = broadcast(node, x, weights)
    return node.result(primitive, x, shape=x.shape)


def _of_two(node: Node, primitive: Primitive, a: Operand, b: Operand) -> Tensor:
    first, second = broadcast(node, a, b), broadcast(node, b, a)
    return node.result(primitive, first, second, shape=first.shape)


def multiplied(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """a * b, each repeated along the axes that it lacks, or has of length one."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = (
        node.tensor(move(node, x, lambda i: i.reshape((1,) * (len(shape) - i.ndim) + i.shape))) for x in (a, b)
    )
    return node.result(Product(), first, second, shape=shape)


@operator("Add", 7, 13, 14)
def add(node: Node, a: Operand, b: Operand) -> Operand:
    if (folded := _folded(node, np.add, a, b)) is not None:
        return folded
    if not _varies(a):
        default = isinstance(a, np.ndarray) and a.size == 1 and a.item() == _DEFAULT_EPSILON
        if isinstance(b, Tensor) and mean_of_powers(b) and not default:
            node.refuse(
                "a constant in front of a mean of powers, for which runtimes may take 1e-5: write it behind that"
            )
        a, b = b, a
    if _is_fixed(b, beside=a):
        return _shifted(node, a, b, 1, 1)
    return _of_two(node, Sum(1), a, b)


@operator("Sub", 7, 13, 14)
def sub(node: Node, a: Operand, b: Operand) -> Operand:
    if (folded := _folded(node, np.subtract, a, b)) is not None:
        return folded
    if _is_fixed(b, beside=a):
        return _shifted(node, a, b, 1, -1)
    if _is_fixed(a, beside=b):
        return _shifted(node, b, a, -1, 1)
    return _of_two(node, Sum(-1), a, b)


def _shifted(node: Node, x: Operand, constant: Operand, sign: int, sign_of_constant: int) -> Tensor:
    summand, magnitude, own = summand_of(node, constant, "a summand")
    shift = Linear.elementwise(
        sign * np.ones(()), sign_of_constant * summand, roundings=1, magnitude=magnitude, scalings=own
    )
    return _elementwise(node, x, summand, shift)


@operator("Mul", 7, 13, 14)
def mul(node: Node, a: Operand, b: Operand) -> Operand:
    if (folded := _folded(node, np.multiply, a, b)) is not None:
        return folded
    if not _varies(a):
        a, b = b, a
    if _is_fixed(b, beside=a):
        factor, off, own = factor_of(node, b, "a factor")
        scale = Linear.elementwise(factor, np.zeros(()), roundings=1 + off, scalings=own)
        return _elementwise(node, a, factor, scale)
    return multiplied(node, node.tensor(a), node.tensor(b))


@operator("Div", 7, 13, 14)
def div(node: Node, a: Operand, b: Operand) -> Operand:
    if isinstance(b, np.ndarray) and not b.all():
        node.refuse("the divisor holds a zero")
    if (folded := _folded(node, _divided, a, b)) is not None:
        return folded
    if isinstance(a, Tensor) and a.varies and _is_fixed(b, beside=a):
        # Two roundings: a runtime may multiply by the rounded reciprocal.
        divisor, off, own = factor_of(node, b, "the divisor")
        if not divisor.all():
            node.refuse("the divisor holds a zero")
        inverse = Linear.elementwise(1.0 / divisor, np.zeros(()), roundings=2 + off, scalings=1 + own)
        return _elementwise(node, a, divisor, inverse)
    return _of_two(node, Quotient(), a, b)


def _divided(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The quotient; of integers rounded toward zero, as C does."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    below = a // b
    return np.asarray(below + ((a % b != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


@operator("Neg", 6, 13)
def neg(node: Node, x: Operand) -> Operand:
    if isinstance(x, np.ndarray):
        return -x
    x = node.tensor(x)
    return node.result(Linear.elementwise(-np.ones(()), np.zeros(()), roundings=0), x, shape=x.shape)


@operator("MatMul", 1, 9, 13)
@product_of_quantised(lambda node, rank: rank - 1)
def matmul(node: Node, a: Operand, b: Operand) -> Operand:
    return product_of_matrices(node, a, b)


def product_of_matrices(node: Node, a: Operand, b: Operand) -> Operand:
    """a b for the last two axes, of which one may be constant."""
    if _is_fixed(b, beside=a):
        weight, *off = factor_of(node, b, "the matrix")
        return matrix_product(node.off_by(*off), node.tensor(a), weight, None)
    if not _is_fixed(a, beside=b):
        return _product_of_values(node, node.tensor(a), node.tensor(b))
    # a x = (x' a')': the last two axes change places (a vector stays as it is).
    weight, *off = factor_of(node, a, "the matrix")
    node = node.off_by(*off)
    if weight.ndim == 1 or len(b.shape) == 1:
        if weight.ndim == 1:
            return matrix_product(node, node.tensor(_swapped(node, b)), weight, None)
        return matrix_product(node, node.tensor(b), np.swapaxes(weight, -1, -2), None)
    return _swapped(node, matrix_product(node, node.tensor(_swapped(node, b)), np.swapaxes(weight, -1, -2), None))


def _product_of_values(node: Node, a: Tensor, b: Tensor) -> Operand:
    """a b where both depend on the input: the products of elements, then their sums; together they round at least as
    often as a dot product."""
    rows = node.tensor(move(node, a, np.atleast_2d))
    columns = node.tensor(move(node, b, lambda i: i[:, np.newaxis] if i.ndim == 1 else i))
    if not a.shape or not b.shape or rows.shape[-1] != columns.shape[-2]:
        node.refuse(f"operands of shapes {a.shape} and {b.shape} do not fit")
    lead = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    shape = (*lead, rows.shape[-2], columns.shape[-1], rows.shape[-1])
    node.require_size(shape)
    left = node.tensor(move(node, rows, lambda i: i[..., :, np.newaxis, :]))
    right = node.tensor(move(node, columns, lambda i: np.swapaxes(i, -1, -2)[..., np.newaxis, :, :]))
    terms = multiplied(node, left, right)
    sums = node.dot(Reduction((len(shape) - 1,), shape), None, terms)
    result = (*lead, *(() if len(a.shape) == 1 else a.shape[-2:-1]), *(() if len(b.shape) == 1 else b.shape[-1:]))
    return move(node, node.result(sums, terms, shape=(*shape[:-1], 1)), lambda i: i.reshape(result))


def _swapped(node: Node, x: Operand) -> Operand:
    return move(node, x, lambda a: np.swapaxes(a, -1, -2) if a.ndim > 1 else a)


def matrix_product(node: Node, x: Tensor, weight: Array, bias: Array | None) -> Tensor:
    """x W + b by the rules of matrix multiplication, for a constant W."""
    if weight.ndim == 1:
        return node.tensor(move(node, matrix_product(node, x, weight[:, np.newaxis], bias), lambda a: a[..., 0]))
    if weight.ndim > len(x.shape):
        missing = weight.ndim - len(x.shape)
        row = (1,) if len(x.shape) == 1 else ()
        lead = (1,) * (missing - len(row))
        batched = node.tensor(move(node, x, lambda a: a.reshape(*lead, *row, *a.shape)))
        product = matrix_product(node, batched, weight, bias)
        return node.tensor(move(node, product, lambda a: a[..., 0, :])) if row else product
    if x.shape[-1] != weight.shape[-2]:
        node.refuse(f"a matrix of shape {weight.shape} does not fit an operand of shape {x.shape}")
    shape = (*np.broadcast_shapes(x.shape[:-2], weight.shape[:-2]), *x.shape[-2:-1], weight.shape[-1])
    node.require_size(shape)
    return node.result(node.dot(Dense(weight), bias, x), x, shape=shape)


@operator("Gemm", 7, 9, 11, 13)
@product_of_quantised(lambda node, rank: 0 if node.flag("transB") else 1)
def gemm(node: Node, a: Operand, b: Operand, c: Operand | None = None) -> Operand:
    """alpha A B + beta C: the factors are applied after the sum, before it, or to the weights."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if node.flag("transA"):
        a = _swapped(node, a)
    if node.flag("transB"):
        b = _swapped(node, b)
    nothing = np.zeros(())
    shift, magnitude, own = (nothing, nothing, 0) if c is None else summand_of(node, c, "the matrix C")
    if len(a.shape) != 2 or len(b.shape) != 2:
        node.refuse(f"operands of shapes {a.shape} and {b.shape} are no matrices")
    whole = (a.shape[0], b.shape[1])
    if np.broadcast_shapes(shift.shape, whole) != whole:
        node.refuse(f"a summand of shape {shift.shape} does not fit a product of shape {whole}")
    if not _varies(b):
        weight, *off = factor_of(node, b, "the matrix B")
        if alpha == beta == 1 and not (c is not None and is_computed(c)):
            return matrix_product(node.off_by(*off), node.tensor(a), weight, shift)
        product = matrix_product(node.off_by(*off), node.tensor(a), weight, None)
    else:
        weight, *off = factor_of(node, a, "the matrix A")
        swapped = node.tensor(_swapped(node, b))
        product = node.tensor(_swapped(node, matrix_product(node.off_by(*off), swapped, weight.T, None)))
    scale = Linear.elementwise(
        np.array(alpha),
        beta * shift,
        roundings=2,
        magnitude=abs(beta) * magnitude,
        constant=float(magnitude.max(initial=0.0)),
        scalings=1 + own,
    )
    return node.result(scale, product, shape=product.shape)
