"""The table of ONNX operators: name and checked versions -> how the operator is expressed in primitives.

A rule is a pure function of a node's attributes and its operands. Operands are tensors of the network, or constants
(arrays), so that shape arithmetic folds away while the network is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from verify.errors import ModelProblem
from verify.primitives import Constant, Primitive, Shape, Tensor

Operand = Tensor | NDArray[Any]
Rule = Callable[..., "Operand | list[Operand]"]
_AnyRule = TypeVar("_AnyRule", bound=Rule)


@dataclass(frozen=True)
class Node:
    """One node of the model: what a rule may look at besides its operands."""

    operator: str
    version: int
    name: str
    attributes: dict[str, Any]
    outputs: int
    read: set[str] = field(default_factory=set)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default; the node remembers that somebody looked."""
        self.read.add(name)
        return self.attributes.get(name, default)

    def refuse(self, finding: str) -> NoReturn:
        """Raise ModelProblem: this node is not supported, and why."""
        raise ModelProblem(f"node {self.name!r} ({self.operator}, version {self.version}): {finding}")

    def weights(self, operand: Operand | None, what: str) -> NDArray[np.float64]:
        """A constant operand as float64; refuses one that is computed from the input or is no float32."""
        if not isinstance(operand, np.ndarray):
            self.refuse(f"{what} must be constant, but depends on other values of the network")
        self._require_float32(operand)
        return operand.astype(np.float64)

    def integers(self, operand: Operand | None, what: str) -> list[int]:
        """A constant integer operand as a list."""
        if not isinstance(operand, np.ndarray) or operand.dtype.kind not in "iu":
            self.refuse(f"{what} must be constant integers")
        return [int(value) for value in operand.reshape(-1)]

    def tensor(self, operand: Operand) -> Tensor:
        """The operand as a tensor of the network."""
        if isinstance(operand, Tensor):
            return operand
        self._require_float32(operand)
        return Tensor(Constant(operand.astype(np.float64)), (), operand.shape, self.name)

    def require_size(self, shape: Sequence[int]) -> None:
        """Refuse a value of more elements than fit."""
        if min(shape, default=1) < 0 or math.prod(shape) > LARGEST:
            self.refuse(f"a value of shape {tuple(shape)} is too large")

    def result(self, primitive: Primitive, *operands: Tensor, shape: Shape) -> Tensor:
        """A new tensor that this node brings about."""
        self.require_size(shape)
        return Tensor(primitive, operands, shape, self.name)

    def _require_float32(self, value: NDArray[Any]) -> None:
        if value.dtype != np.float32:
            self.refuse(f"arithmetic in {value.dtype}: only float32 is supported")


LARGEST = 2**28
"""Elements of a single value; a model that asks for more is refused before anything is allocated."""

_DOMAINS = ("", "ai.onnx")
_TABLE: dict[str, tuple[frozenset[int], Rule]] = {}


def operator(name: str, *versions: int) -> Callable[[_AnyRule], _AnyRule]:
    """Register a rule for the versions (each the opset that introduced it) whose semantics were checked."""

    def register(rule: _AnyRule) -> _AnyRule:
        if name in _TABLE:
            raise ValueError(f"{name} has two rules")
        _TABLE[name] = (frozenset(versions), rule)
        return rule

    return register


def supported() -> dict[str, frozenset[int]]:
    """The operators of the table with the versions that were checked."""
    return {name: versions for name, (versions, _) in _TABLE.items()}


def require_supported(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise ModelProblem that names every operator outside the table, if there is any."""
    unknown = Counter(
        f"{node.domain}.{node.op_type}" if node.domain not in _DOMAINS else node.op_type
        for node in nodes
        if node.domain not in _DOMAINS or node.op_type not in _TABLE
    )
    if unknown:
        found = ", ".join(f"{name} ({count}x)" for name, count in sorted(unknown.items()))
        raise ModelProblem(
            f"operators that are not supported (opset {opset}): {found}; supported are {', '.join(sorted(_TABLE))}"
        )


def express(proto: onnx.NodeProto, opset: int, operands: list[Operand | None]) -> list[Operand]:
    """The outputs of a node whose operator is in the table; raises ModelProblem for what the table does not cover."""
    node = _node(proto, opset)
    versions, rule = _TABLE[node.operator]
    if node.version not in versions:
        node.refuse(f"this version is not supported: {', '.join(map(str, sorted(versions)))} are")
    try:
        outcome = rule(node, *operands)
    except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise ModelProblem(f"node {node.name!r} ({node.operator}): operands do not fit ({error})") from error
    if unread := set(node.attributes) - node.read:
        node.refuse(f"the attribute {', '.join(sorted(unread))} is not supported")
    results = outcome if isinstance(outcome, list) else [outcome]
    for result in results:
        node.require_size(result.shape)
    if any(isinstance(result, Tensor) and not result.varies for result in results):
        # A runtime may compute such a value beforehand and fold it into weights, which the bounds would not cover.
        node.refuse("computing float constants inside the network is not supported: fold them before export")
    return results


def _node(proto: onnx.NodeProto, opset: int) -> Node:
    name = proto.name or (proto.output[0] if proto.output else "")
    version = onnx.defs.get_schema(proto.op_type, opset).since_version
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    return Node(proto.op_type, version, name, attributes, len(proto.output))
