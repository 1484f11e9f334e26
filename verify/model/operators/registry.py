"""The table of ONNX operators: name and checked versions -> how the operator is expressed in primitives.

A rule is a pure function of a node's attributes and its operands. Operands are tensors of the network, or constants
(arrays), so that shape arithmetic folds away while the network is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

import onnx
from onnx import helper

from verify.core.primitives import Reshape, Tensor
from verify.errors import ModelProblem
from verify.model.operators.node import Node, Operand, is_computed

Rule = Callable[..., "Operand | list[Operand]"]
_AnyRule = TypeVar("_AnyRule", bound=Rule)

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
