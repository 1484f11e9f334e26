"""Operators on constants: how exporters compute shapes and indices. They fold away while the network is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from verify.core.primitives import Linear, Tensor
from verify.model.onnx_file import constant as constant_of
from verify.model.operators.movement import axes_of
from verify.model.operators.node import INTEGERS, Node, Operand
from verify.model.operators.registry import operator


def _folded(node: Node, *operands: Operand | None) -> list[NDArray[Any]]:
    """The operands as arrays of integers or booleans; float arithmetic rounds, and is not done beforehand."""
    for operand in operands:
        if not isinstance(operand, np.ndarray):
            node.refuse("is supported on constants only")
        if operand.dtype.kind not in "iub":
            node.refuse(f"is supported on integers only, not on {operand.dtype}")
    return [operand for operand in operands if isinstance(operand, np.ndarray)]


@operator("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(node: Node) -> Operand:
    if (tensor := node.attribute("value")) is not None:
        return constant_of(tensor)
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if (value := node.attribute(name)) is not None:
            if not np.isfinite(value).all():
                node.refuse("the constant holds numbers that are not finite")
            return np.array(value, dtype)
    return node.refuse(f"a constant given by {', '.join(node.attributes)} is not supported")


@operator("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(node: Node, shape: Operand) -> Operand:
    value = node.attribute("value")
    element = np.zeros(1, np.float32) if value is None else constant_of(value)
    target = node.integers(shape, "the shape")
    node.require_size(target)
    return np.full(target, element.item(), element.dtype)


@operator("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(node: Node, x: Operand) -> Operand:
    return np.array(x.shape[node.attribute("start", 0) : node.attribute("end")], np.int64)


@operator("Size", 1, 13, 19, 21, 23, 24, 25)
def size(node: Node, x: Operand) -> Operand:
    return np.array(np.prod(x.shape, dtype=np.int64))


_CASTABLE = {np.dtype(kind) for kind in ("?", *"bhiqBHIQ", *"efd")}


@operator("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(node: Node, x: Operand) -> Operand:
    return _as_type(node, x, helper.tensor_dtype_to_np_dtype(node.attribute("to")))


@operator("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(node: Node, x: Operand, like: Operand) -> Operand:
    return _as_type(node, x, like.dtype)


def _as_type(node: Node, x: Operand, dtype: np.dtype[Any]) -> Operand:
    if not node.flag("saturate", 1) or node.attribute("round_mode", b"up") != b"up":  # of types that are not supported
        node.refuse("a cast of numbers that saturate or round in other ways than by default is not supported")
    if isinstance(x, Tensor):
        if dtype != np.float32:
            node.refuse(f"a cast of the network's values to {dtype} is not supported")
        if x.dtype == np.float32:
            return x
        primitive = Linear.elementwise(np.ones(()), np.zeros(()), roundings=0 if x.dtype in INTEGERS else 1)
        return node.result(primitive, x, shape=x.shape, dtype=dtype)
    if not {x.dtype, dtype} <= _CASTABLE:
        node.refuse(f"a cast of constants from {x.dtype} to {dtype} is not supported")
    if x.dtype == dtype:
        return x
    with np.errstate(all="ignore"):
        result = x.astype(dtype)
    if x.dtype.kind not in "iub" and not np.array_equal(result, x):
        node.refuse(f"a cast of constants from {x.dtype} to {dtype} that changes them is not supported")
    if dtype.kind == "f" and not np.isfinite(result).all():
        node.refuse(f"a cast of constants to {dtype} yields numbers that are not finite")
    return result


@operator("Range", 11, 27)
def range_(node: Node, start: Operand, limit: Operand, delta: Operand) -> Operand:
    first, last, step = (value.item() for value in _folded(node, start, limit, delta))
    node.require_size([max(0, -(-(last - first) // step))])
    return np.arange(first, last, step, dtype=np.int64)


def _register(name: str, versions: tuple[int, ...], function: np.ufunc) -> None:
    @operator(name, *versions)
    def rule(node: Node, a: Operand, b: Operand) -> Operand:
        first, second = _folded(node, a, b)
        node.require_size(np.broadcast_shapes(first.shape, second.shape))
        return np.asarray(function(first, second))


for _name, _versions, _function in (
    ("Equal", (7, 11, 13, 19), np.equal),
    ("Greater", (9, 13), np.greater),
    ("GreaterOrEqual", (12, 16), np.greater_equal),
    ("Less", (9, 13), np.less),
    ("LessOrEqual", (12, 16), np.less_equal),
    ("And", (7,), np.logical_and),
    ("Or", (7,), np.logical_or),
    ("Xor", (7,), np.logical_xor),
):
    _register(_name, _versions, _function)


@operator("Mod", 10, 13)
def mod(node: Node, a: Operand, b: Operand) -> Operand:
    """The remainder has the sign of the divisor, or with `fmod` that of the dividend."""
    first, second = _folded(node, a, b)
    if not second.all():
        node.refuse("the divisor holds a zero")
    node.require_size(np.broadcast_shapes(first.shape, second.shape))
    return np.asarray(np.fmod(first, second) if node.flag("fmod") else np.mod(first, second))


@operator("Not", 1)
def not_(node: Node, x: Operand) -> Operand:
    (values,) = _folded(node, x)
    return np.asarray(np.logical_not(values))


@operator("Where", 9, 16)
def where(node: Node, condition: Operand, a: Operand, b: Operand) -> Operand:
    chosen, first, second = _folded(node, condition, a, b)
    node.require_size(np.broadcast_shapes(chosen.shape, first.shape, second.shape))
    return np.where(chosen, first, second)


@operator("ReduceProd", 1, 11, 13, 18)
def reduce_prod(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    (values,) = _folded(node, x)
    over = axes_of(node, axes, operand_since=18)
    kept = node.flag("keepdims", 1)
    if not over and node.flag("noop_with_empty_axes"):
        return values
    if np.prod(np.abs(values, dtype=np.float64)) >= 2.0**31:
        node.refuse("a product of more than 2^31 is not supported")
    return np.asarray(np.prod(values, axis=tuple(over) if over else None, keepdims=kept, dtype=values.dtype))
