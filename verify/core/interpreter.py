"""Walk a network under any abstract domain: a domain is a table with one rule per primitive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verify.core.primitives import Tensor, topological, uses

Rules = Mapping[type, Callable[..., Any]]
"""From the class of a primitive to a pure function (primitive, *operand values) -> value."""


def evaluate(outputs: Sequence[Tensor], rules: Rules, known: Mapping[Tensor, Any]) -> list[Any]:
    """The values of `outputs`, given those of `known` tensors (at least the inputs that they depend on).

    A value is dropped as soon as nothing needs it any more.
    """
    values = dict(known)
    waiting = uses(outputs)
    for tensor in topological(outputs):
        if tensor not in values:
            rule = rules[type(tensor.primitive)]
            values[tensor] = rule(tensor.primitive, *(values[operand] for operand in tensor.operands))
        for operand in tensor.operands:
            waiting[operand] -= 1
            if not waiting[operand]:
                del values[operand]
    return [values[output] for output in outputs]
