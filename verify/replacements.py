"""Subgraphs that a runtime replaces by a formula of its own, where bounds of what is written would not cover that.

Most replacements compute the same function, within the errors that the written operations may make anyway: Gelu and
its approximation by tanh written out (the argument of erf or tanh is off by a few roundings, and the value by less than
what is allowed for it), x sigmoid(a x), a bias before them, an activation behind a product; for layer normalisation
see `verify.variances`. Refused are constants that are nearly those of Gelu: a runtime takes them for these when they
agree to about five digits, and computes with the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from verify.errors import ModelProblem
from verify.functions import ERF, TANH
from verify.linear_maps import Diagonal
from verify.primitives import Linear, Tensor, topological

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


def _numbers(tensor: Tensor) -> list[float]:
    """The single numbers that a tensor's operand is multiplied by or added to."""
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)):
        return []
    return [abs(values.item()) for values in (primitive.map.scale, primitive.bias) if values.size == 1]


def _mistakable(number: float) -> bool:
    return any(_EXACT < abs(number / constant - 1.0) < _MISTAKABLE for constant in _GELU_CONSTANTS)
