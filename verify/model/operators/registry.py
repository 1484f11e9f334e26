"""The table of ONNX operators: name and checked versions -> how the operator is expressed in primitives.

A rule is a pure function of a node's attributes and its operands. Operands are tensors of the network, or constants
(arrays), so that shape arithmetic folds away while the network is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from verify.core.grids import Grid
from verify.core.interpreter import evaluate
from verify.core.intervals import interval_rules
from verify.core.linear_maps import LinearMap
from verify.core.primitives import (
    FLOAT32,
    POINT_RULES,
    Constant,
    Linear,
    Primitive,
    Reshape,
    Shape,
    Tensor,
    topological,
)
from verify.core.rounding import FLOAT32_ANY_ORDER, FLOAT64_UNIT, REAL, Array
from verify.errors import ModelProblem
from verify.model.fusion import with_fusions

Operand = Tensor | NDArray[Any]
Rule = Callable[..., "Operand | list[Operand]"]
_AnyRule = TypeVar("_AnyRule", bound=Rule)


@dataclass(frozen=True)
class Node:
    """One node of the model: what a rule may look at besides its operands.

    more_roundings, more_scalings: that every term of the node's products may go through, besides those of a float32
    dot product: of the deployed network, and in float64.
    """

    operator: str
    version: int
    name: str
    attributes: dict[str, Any]
    outputs: int
    more_roundings: int = 0
    more_scalings: int = 0
    read: set[str] = field(default_factory=set)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default; the node remembers that somebody looked. Refuses NaN."""
        self.read.add(name)
        value = self.attributes.get(name, default)
        if isinstance(value, float) and math.isnan(value):
            self.refuse(f"the attribute {name} is not a number")
        return value

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that is 0 or 1; runtimes disagree about what any other number means."""
        value = self.attribute(name, default)
        if value not in (0, 1):
            self.refuse(f"the attribute {name} is {value}, rather than 0 or 1")
        return bool(value)

    def refuse(self, finding: str) -> NoReturn:
        """Raise ModelProblem: this node is not supported, and why."""
        raise ModelProblem(f"node {self.name!r} ({self.operator}, version {self.version}): {finding}")

    def weights(self, operand: Operand | None, what: str, dtype: np.dtype[Any] = FLOAT32) -> NDArray[np.float64]:
        """A constant operand as float64; refuses one that is computed from the input or is of another type."""
        if is_computed(operand):
            self.refuse(f"{what} is computed inside the network, which is not supported here: fold it before export")
        if not isinstance(operand, np.ndarray):
            self.refuse(f"{what} must be constant, but depends on other values of the network")
        if operand.dtype != dtype:
            self.refuse(f"{what} is of type {operand.dtype}: only {dtype} is supported here")
        return operand.astype(np.float64)

    def factor(self, operand: Operand | None, what: str) -> tuple[NDArray[np.float64], int, int]:
        """A constant that the node multiplies by, as float64; and how many roundings of the deployed network, and in
        float64, each number may be off by: if they are weights, say, that the model divides by their norm."""
        if operand is None or not is_computed(operand):
            return self.weights(operand, what), 0, 0
        value, *off = self._computed(operand)
        units = FLOAT32_ANY_ORDER.unit, FLOAT64_UNIT
        deployed, own = (_ratio(each, np.abs(value)) / unit for each, unit in zip(off, units, strict=True))
        if not (deployed < _most_roundings(value) and own < _MOST_OWN_ROUNDINGS):
            self._refuse_inaccurate(what)
        self._require_effect(value, 1.0, off[0])
        return value, math.ceil(deployed) + 1, math.ceil(own) + 2

    def summand(self, operand: Operand | None, what: str) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """A constant that the node adds, as float64; magnitudes of which a single rounding, of the deployed network, is
        as much as it may be off by, besides the rounding of the sum; and how many roundings of these, in float64, are.
        """
        if operand is None or not is_computed(operand):
            value = self.weights(operand, what)
            return value, np.abs(value), 0
        value, deployed, own = self._computed(operand)
        magnitude = np.abs(value) + 2.0 / FLOAT32_ANY_ORDER.unit * deployed
        scalings = _ratio(own, magnitude) / FLOAT64_UNIT
        if not (scalings < _MOST_OWN_ROUNDINGS and np.isfinite(magnitude).all()):
            self._refuse_inaccurate(what)
        if value.size == 1 and not _ratio(deployed, np.abs(value)) / FLOAT32_ANY_ORDER.unit < _most_roundings(value):
            self._refuse_inaccurate(what)
        self._require_effect(value, 0.0, deployed)
        return value, magnitude, math.ceil(scalings) + 2

    def _computed(self, operand: Operand) -> tuple[NDArray[np.float64], ...]:
        """What a constant is that the model computes, nearly; and how far it may be off, deployed and in float64."""
        tensor = self.tensor(operand)
        if tensor not in _ESTIMATES:
            steps = list(topological([tensor]))
            if len(steps) > _LONGEST or sum(math.prod(step.shape) for step in steps) > _LARGEST_COMPUTED:
                self.refuse("a constant that takes so much work to compute is not supported: fold it before export")
            if any(step.grid for step in steps):
                # Runtimes leave DequantizeLinear as it is, and what is computed from it, whatever fuses around it.
                self.refuse("float constants that are computed from quantised ones are not supported: fold them")
            outputs = with_fusions((tensor,))
            with np.errstate(all="ignore"):
                (value,) = evaluate(outputs, POINT_RULES, {})
                found = [value[0]]
                for contract in (FLOAT32_ANY_ORDER, REAL):
                    (ends,) = evaluate(outputs, interval_rules(contract), {})
                    found.append(np.maximum(*(np.abs(end - value)[0] for end in ends)))
            _ESTIMATES[tensor] = tuple(found)
        return _ESTIMATES[tensor]

    def _refuse_inaccurate(self, what: str) -> NoReturn:
        self.refuse(f"{what} is computed inside the network, and not accurate: fold it before export")

    def _require_effect(self, value: Array, neutral: float, off: Array) -> None:
        """Refuse what may do nothing in float32, but for rounding: runtimes drop it, and fuse what is around."""
        if (value != neutral).any() and (np.abs(value - neutral) <= 2.0 * off).all():
            self.refuse(f"a computed constant that is {neutral:g} but for rounding is not supported: leave it out")

    def off_by(self, roundings: int, scalings: int) -> Node:
        """The node, if constants in its products may be off by so many roundings, deployed and in float64."""
        return replace(
            self, more_roundings=self.more_roundings + roundings, more_scalings=self.more_scalings + scalings
        )

    def integers(self, operand: Operand | None, what: str) -> list[int]:
        """A constant integer operand as a list."""
        if not isinstance(operand, np.ndarray) or operand.dtype.kind not in "iu":
            self.refuse(f"{what} must be constant integers")
        return [int(value) for value in operand.reshape(-1)]

    def tensor(self, operand: Operand, *, integers: bool = False) -> Tensor:
        """The operand as a tensor of the network, of float32 numbers, or also of integers of eight bits."""
        if not integers or operand.dtype not in INTEGERS:
            self._require_float32(operand)
        if isinstance(operand, Tensor):
            if operand.grid and operand.grid.dtype not in INTEGERS:
                self.refuse("an int32 constant is supported as the bias of a product only, which runtimes make of it")
            return operand
        return Tensor(Constant(operand.astype(np.float64)), (), operand.shape, self.name, operand.dtype)

    def require_size(self, shape: Sequence[int]) -> None:
        """Refuse a value of more elements than fit."""
        if min(shape, default=1) < 0 or math.prod(shape) > LARGEST:
            self.refuse(f"a value of shape {tuple(shape)} is too large")

    def dot(self, map: LinearMap, bias: Array | None, x: Tensor) -> Linear:
        """One dot product with x per output, exact if it is one of integers."""
        primitive = Linear.dot(map, bias, x.shape)
        if x.dtype != FLOAT32:
            return replace(primitive, roundings=0, additions=0)
        return replace(primitive, roundings=primitive.roundings + self.more_roundings, scalings=self.more_scalings)

    def result(
        self,
        primitive: Primitive,
        *operands: Tensor,
        shape: Shape,
        dtype: np.dtype[Any] | None = None,
        grid: Grid | None = None,
    ) -> Tensor:
        """A new tensor that this node brings about, of the operands' type if no other one is given."""
        self.require_size(shape)
        if 0 in shape:
            self.refuse(f"a value of the network of shape {tuple(shape)} is empty")
        return Tensor(primitive, operands, shape, self.name, dtype or operands[0].dtype, grid)

    def _require_float32(self, value: Operand) -> None:
        if value.dtype != np.float32:
            self.refuse(f"arithmetic in {value.dtype}: only float32 is supported")


def _most_roundings(value: Array) -> int:
    """That a constant may be off by, at most: single numbers by less, for runtimes compare these with those of known
    functions (`verify.model.replacements`)."""
    return _MOST_ROUNDINGS if value.size > 1 else _MOST_ROUNDINGS >> 4


def _ratio(x: Array, y: Array) -> float:
    """The largest; NaN if one is."""
    with np.errstate(all="ignore"):
        return float(np.where(x == 0, 0.0, x / y).max(initial=0.0))


def is_computed(operand: Operand | None) -> bool:
    """Whether it is a constant that the model computes in floats."""
    return isinstance(operand, Tensor) and not (operand.varies or operand.grid)


LARGEST = 2**28
"""Elements of a single value; a model that asks for more is refused before anything is allocated."""

INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))
"""What a quantised value consists of."""

_MOST_ROUNDINGS, _MOST_OWN_ROUNDINGS = 2**14, 2**24
"""Of a constant that the model computes: deployed, and in float64."""

_LONGEST, _LARGEST_COMPUTED = 256, 2**25
"""Steps to compute one, and numbers in all of these, at most."""

_ESTIMATES: WeakKeyDictionary[Tensor, tuple[NDArray[np.float64], ...]] = WeakKeyDictionary()
"""Of the constants that models compute; several nodes may use one."""

_OF_COMPUTED = {
    *("Add", "Cast", "Conv", "Div", "Gemm", "Identity", "MatMul", "Mul", "Neg", "Pow", "Reciprocal", "ReduceL2"),
    *("ReduceSum", "Relu", "Reshape", "Shape", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
"""What takes constants that the model computes: factors such as 1 / sqrt(d), or weights over their norm, of which
runtimes know no more than how accurate they are, and so neither do bounds."""

_STANDARD = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"
_DYNAMIC = {"DynamicQuantizeLinear", f"{_MICROSOFT}.DynamicQuantizeMatMul"}
"""Their scale depends on the data, so that nothing can be said of their rounding beforehand."""
_TABLE: dict[str, tuple[frozenset[int], Rule]] = {}


def operator(name: str, *versions: int) -> Callable[[_AnyRule], _AnyRule]:
    """Register a rule for the versions (each the opset that introduced it) whose semantics were checked.

    name: with its domain in front, and a dot in between, where that is not the standard's own.
    """

    def register(rule: _AnyRule) -> _AnyRule:
        if name in _TABLE:
            raise ValueError(f"{name} has two rules")
        _TABLE[name] = (frozenset(versions), rule)
        return rule

    return register


def supported() -> dict[str, frozenset[int]]:
    """The operators of the table with the versions that were checked."""
    return {name: versions for name, (versions, _) in _TABLE.items()}


def _plain(name: str) -> str:
    """A name from a file, fit for a line of text."""
    return " ".join(name.split()).replace(":", ".")


def require_supported(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise ModelProblem that names every operator outside the table, if there is any."""
    outside = [node for node in nodes if _name(node) not in _TABLE]
    unknown = Counter(map(_name, outside))
    if unknown:
        first = {_name(node): _plain(str(node.name)) for node in reversed(outside)}
        found = ", ".join(
            f"{_plain(name)} ({count}x{f', first in node {first[name]}' if first[name] else ''})"
            for name, count in sorted(unknown.items())
        )
        listed = ", ".join(sorted(_TABLE))
        advice = "; their scales depend on the data: quantise statically" if _DYNAMIC & set(unknown) else ""
        raise ModelProblem(f"operators that are not supported (opset {opset}): {found}; supported are {listed}{advice}")


def express(proto: onnx.NodeProto, opset: int, operands: list[Operand | None]) -> list[Operand]:
    """The outputs of a node whose operator is in the table; raises ModelProblem for what the table does not cover."""
    try:
        node = _node(proto, opset)
        versions, rule = _TABLE[node.operator]
        if node.version not in versions:
            node.refuse(f"this version is not supported: {', '.join(map(str, sorted(versions)))} are")
        outcome = rule(node, *operands)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        said = " ".join(str(error).split())
        raise ModelProblem(f"node {proto.name!r} ({_name(proto)}): operands do not fit ({said})") from error
    if unread := set(node.attributes) - node.read:
        node.refuse(f"the attribute {', '.join(sorted(map(str, unread)))} is not supported")
    results = outcome if isinstance(outcome, list) else [outcome]
    if not node.operator.startswith("Dequantize"):  # a runtime need not see that such a node changes nothing
        results = [
            node.result(Reshape(x.shape), x, shape=x.shape) if isinstance(x, Tensor) and x.grid else x for x in results
        ]
    for result in results:
        node.require_size(result.shape)
    computed = any(map(is_computed, (*results, *operands)))  # looked at node by node, so that depth is no limit
    if computed and node.operator not in _OF_COMPUTED:
        # A runtime may compute such a value beforehand and fold it into weights, which the bounds would not cover.
        node.refuse("computing float constants inside the network is not supported: fold them before export")
    return results


def _node(proto: onnx.NodeProto, opset: int) -> Node:
    name = proto.name or (proto.output[0] if proto.output else "")
    standard = proto.domain in _STANDARD
    version = onnx.defs.get_schema(proto.op_type, opset).since_version if standard else 1
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    return Node(_name(proto), version, name, attributes, len(proto.output))


def _name(proto: onnx.NodeProto) -> str:
    """As in the table; other names than these cannot look like them."""
    kind = str(proto.op_type)  # bytes, where the file holds no text
    if proto.domain not in (*_STANDARD, _MICROSOFT) or "." in kind:
        return f"{proto.domain}:{kind}"
    return kind if proto.domain in _STANDARD else f"{proto.domain}.{kind}"
