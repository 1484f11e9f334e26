"""Nodes like those of `operator_cases`, with attributes, constants, shapes and operands that nobody had in mind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper

from support.operator_cases import Case

_WORDS = (
    *(
        b"SAME_UPPER",
        b"SAME_LOWER",
        b"VALID",
        b"NOTSET",
        b"reflect",
        b"edge",
        b"wrap",
        b"constant",
        b"nearest",
        b"linear",
    ),
    *(b"asymmetric", b"floor", b"ceil", b"half_pixel", b"DCR", b"CRD", b"tanh", b"none", b"add", b"stretch"),
)
_OPSETS = (9, 11, 12, 13, 15, 17, 18, 20, 21, 22)

_KINDS = onnx.defs.OpSchema.AttrType
_MADE_UP: dict[Any, tuple[int, Callable[[np.random.Generator], Any]]] = {
    _KINDS.INT: (AttributeProto.INT, lambda rng: 1 if rng.random() < 0.5 else _small(rng)),  # most are flags
    _KINDS.INTS: (AttributeProto.INTS, lambda rng: [_small(rng) for _ in range(rng.integers(5))]),
    _KINDS.FLOAT: (AttributeProto.FLOAT, lambda rng: float(rng.choice([0, 0.5, 1, 2, -1]))),
    _KINDS.STRING: (AttributeProto.STRING, lambda rng: _WORDS[rng.integers(len(_WORDS))]),
}


def odd(operator: str, case: Case, opset: int, rng: np.random.Generator) -> tuple[Case, int]:
    """The case with one to three things changed, and its opset."""
    nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in case.nodes]
    constants, shape = dict(case.constants), list(case.shape)
    name = operator.rpartition(".")[2]
    own = [each for each in nodes if each.op_type == name]
    for _ in range(rng.integers(1, 4)):
        node = own[0] if own and rng.random() < 0.6 else nodes[rng.integers(len(nodes))]
        kind = rng.random()
        if kind < 0.4:
            _change_attribute(node, rng)
        elif kind < 0.7 and constants:
            key = list(constants)[rng.integers(len(constants))]
            constants[key] = _changed(np.array(constants[key]), rng)
        elif kind < 0.82 and shape:
            _change_shape(shape, rng)
        elif kind < 0.9 and len(node.input) > 1:
            _drop_operand(node, int(rng.integers(1, len(node.input))), rng)
        elif kind < 0.95:
            opset = int(rng.choice(_OPSETS))
        elif node.input:
            node.input[rng.integers(len(node.input))] = "x"
    used = {operand for each in nodes for operand in each.input}
    return Case(nodes, tuple(shape), {key: constants[key] for key in constants if key in used}, case.outputs), opset


def _small(rng: np.random.Generator) -> int:
    return int(rng.integers(-3, 6))


def _change_attribute(node: onnx.NodeProto, rng: np.random.Generator) -> None:
    if node.attribute and rng.random() < 0.65:
        attribute = node.attribute[rng.integers(len(node.attribute))]
        if rng.random() < 0.15:
            node.attribute.remove(attribute)
        elif attribute.type == AttributeProto.INT:
            attribute.i = _small(rng) if rng.random() < 0.6 else attribute.i + int(rng.choice([-1, 1]))
        elif attribute.type == AttributeProto.INTS:
            numbers = list(attribute.ints)
            where, how = int(rng.integers(len(numbers) + 1)), rng.random()
            numbers[where : where + (how < 0.8)] = [_small(rng)] * (how > 0.2)
            del attribute.ints[:]
            attribute.ints.extend(numbers)
        elif attribute.type == AttributeProto.FLOAT:
            attribute.f = float(rng.choice([0, -1, 1, 0.5, -0.3, 2, 1e-3, 1e3, 1.1 * attribute.f]))
        elif attribute.type == AttributeProto.STRING:
            attribute.s = _WORDS[rng.integers(len(_WORDS))]
    elif not node.domain:
        known = onnx.defs.get_schema(node.op_type).attributes
        given = {attribute.name for attribute in node.attribute}
        more = [name for name in known if name not in given and known[name].type in _MADE_UP]
        if more:
            name = more[rng.integers(len(more))]
            kind, make = _MADE_UP[known[name].type]
            node.attribute.append(helper.make_attribute(name, make(rng), attr_type=kind))


def _changed(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A constant with another element, shape or type."""
    kind = rng.random()
    if kind < 0.5 and values.size:
        flat = values.reshape(-1).copy()
        number = _small(rng) if values.dtype.kind in "iub" else rng.choice([0, -1, 1, 2, -0.5])
        flat[rng.integers(flat.size)] = np.array(number).astype(values.dtype)
        return flat.reshape(values.shape)
    if kind < 0.6:
        return values[..., np.newaxis] if rng.random() < 0.5 else values[np.newaxis]
    if kind < 0.74:
        return values.reshape(-1)[:0]
    if kind < 0.86 and values.ndim:
        return values[:-1] if rng.random() < 0.5 else np.concatenate([values, values[:1]])
    if kind < 0.9 and values.size == 1:
        return values.reshape(())
    if kind < 0.95:
        return np.ascontiguousarray(values.T)
    return values.astype(rng.choice([np.int32, np.int64, np.int8, np.uint8])) if values.dtype.kind in "iu" else values


def _change_shape(shape: list[int], rng: np.random.Generator) -> None:
    axis, kind = int(rng.integers(len(shape))), rng.random()
    if kind < 0.6:
        shape[axis] = max(1, shape[axis] + int(rng.choice([-1, 1, 2])))
    elif kind < 0.8:
        shape.insert(axis, int(rng.integers(1, 3)))
    elif len(shape) > 1:
        shape.pop(axis)


def _drop_operand(node: onnx.NodeProto, place: int, rng: np.random.Generator) -> None:
    """Unless onnxruntime 1.31 ends the process without it, as it does for one's missing shift, and zero points."""
    if node.domain:
        return
    if rng.random() < 0.5:
        del node.input[place]
    elif node.op_type != "LayerNormalization":
        node.input[place] = ""
