"""Subgraphs that a runtime replaces by a formula of its own, where bounds of what is written would not cover that.

Most replacements compute the same function, within the errors that the written operations may make anyway: Gelu and
its approximation by tanh written out (the argument of erf or tanh is off by a few roundings, and the value by less than
what is allowed for it), x sigmoid(a x), a bias before them, an activation behind a product. Two kinds are refused:

- A runtime takes constants for those of Gelu when they agree to about five digits, and computes with the exact ones.
- Layer normalisation: some versions compute the variance as mean(x^2) - mean(x)^2, which cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from verify.errors import ModelProblem
from verify.functions import ERF, SQUARE, TANH
from verify.linear_maps import Diagonal, Reduction, Scaled
from verify.primitives import Linear, Product, Reshape, Select, Sum, Tensor, topological

_GELU_CONSTANTS = (0.5, 1.0, math.sqrt(0.5), math.sqrt(2.0 / math.pi), 0.044715)
_MISTAKABLE, _EXACT = 1e-4, 2.0**-22
"""Relative differences: runtimes take 1e-5 for equal; float32 and a reciprocal's rounding need 2^-23."""


def require_faithful_replacements(outputs: Iterable[Tensor]) -> None:
    """Raise ModelProblem when the network holds something that a runtime may replace by something else."""
    tensors = list(topological(outputs))
    has_gelu = any(tensor.primitive in (ERF, TANH) for tensor in tensors)
    for tensor in tensors:
        if has_gelu and any(map(_mistakable, _numbers(tensor))):
            raise ModelProblem(
                f"node {tensor.name!r}: its constant is nearly one of Gelu's, and runtimes may take it for that: "
                "round it to the nearest float32"
            )
        if _is_mean(tensor) and any(map(_is_deviation, _squared(_unmoved(tensor.operands[0])))):
            raise ModelProblem(
                f"node {tensor.name!r}: a variance is not supported: runtimes compute layer normalisation in ways "
                "whose rounding errors are not bounded"
            )


def _numbers(tensor: Tensor) -> list[float]:
    """The single numbers that a tensor's operand is multiplied by or added to."""
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)):
        return []
    return [abs(values.item()) for values in (primitive.map.scale, primitive.bias) if values.size == 1]


def _mistakable(number: float) -> bool:
    return any(_EXACT < abs(number / constant - 1.0) < _MISTAKABLE for constant in _GELU_CONSTANTS)


def _squared(tensor: Tensor) -> tuple[Tensor, ...]:
    """The operand of a square, or nothing."""
    primitive, operands = tensor.primitive, tensor.operands
    if isinstance(primitive, Product) and operands[0] is operands[1]:
        return operands[:1]
    return operands if primitive is SQUARE else ()


def _is_deviation(tensor: Tensor) -> bool:
    """Whether it is a difference of two values, one of them a sum or mean."""
    tensor = _unmoved(tensor)
    return isinstance(tensor.primitive, Sum) and any(_is_mean(_unmoved(operand)) for operand in tensor.operands)


def _is_mean(tensor: Tensor) -> bool:
    primitive = tensor.primitive
    if not isinstance(primitive, Linear):
        return False
    map = primitive.map
    while isinstance(map, Scaled):
        map = map.map
    return isinstance(map, Reduction)


def _unmoved(tensor: Tensor) -> Tensor:
    while isinstance(tensor.primitive, Reshape | Select):
        (tensor,) = tensor.operands
    return tensor
