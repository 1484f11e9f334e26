"""Subgraphs that a runtime replaces by a formula of its own, where bounds of what is written would not cover that.

Most replacements compute the same function, within the errors that the written operations may make anyway: Gelu and
its approximation by tanh written out (the argument of erf or tanh is off by a few roundings, and the value by less than
what is allowed for it), x sigmoid(a x), a bias before them, an activation behind a product; for layer normalisation
see `verify.model.variances`. Refused is what runtimes take for one of these although it is none:

- Constants that are nearly those of Gelu: they count as these when they agree to about five digits.
- A quotient with the root of the mean of some power: it counts as layer normalisation, or as that by root mean squares,
  whatever the power, the order of the operands, or the constant under the root, for which 1e-5 is taken if it is not a
  single one, and the second summand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from verify.core.functions import ERF, SQRT, SQUARE, TANH, Function
from verify.core.linear_maps import Diagonal
from verify.core.primitives import Linear, Product, Quotient, Sum, Tensor, topological
from verify.errors import ModelProblem
from verify.model.variances import bare, reduction

_GELU_CONSTANTS = (0.5, 1.0, math.sqrt(0.5), math.sqrt(2.0 / math.pi), 0.044715)
_MISTAKABLE, _EXACT = 1e-4, 2.0**-22
"""Relative differences: runtimes take 1e-5 for equal; float32 and a reciprocal's rounding need 2^-23."""


def require_faithful_replacements(outputs: Iterable[Tensor]) -> None:
    """Raise ModelProblem when the network holds something that a runtime may replace by something else."""
    tensors = list(topological(outputs))
    has_gelu = any(tensor.primitive in (ERF, TANH) for tensor in tensors)
    for tensor in tensors:
        if _is_nearly_a_normalisation(tensor):
            raise ModelProblem(
                f"node {tensor.name!r}: runtimes may take this quotient for layer normalisation, which it is not "
                "quite: write (x - mean) / sqrt(mean((x - mean)^2) + epsilon), or leave the mean out"
            )
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


def _is_nearly_a_normalisation(tensor: Tensor) -> bool:
    if not isinstance(tensor.primitive, Quotient):
        return False
    above, below = map(bare, tensor.operands)
    if above.primitive is SQRT and mean_of_powers(*above.operands):
        return True
    if below.primitive is not SQRT or not (powers := mean_of_powers(*below.operands)):
        return False
    square = powers.primitive is SQUARE or isinstance(powers.primitive, Product)
    return not (square and _adds_one_number(*below.operands) and _same(above, bare(powers.operands[0])))


def mean_of_powers(tensor: Tensor) -> Tensor | None:
    """The powers whose mean a tensor is, or is but for a summand."""
    tensor = bare(tensor)
    added = isinstance(tensor.primitive, Sum) and tensor.primitive.sign > 0
    for operand in map(bare, tensor.operands if added or _is_shift(tensor) else (tensor,)):
        if reduction(operand):
            powers = bare(operand.operands[0])
            primitive, operands = powers.primitive, powers.operands
            if isinstance(primitive, Function) and primitive.name == SQUARE.name:
                return powers
            if isinstance(primitive, Product) and operands[0] is operands[1]:
                return powers
    return None


def _adds_one_number(tensor: Tensor) -> bool:
    """Whether the summand, if there is one, is a single constant."""
    tensor = bare(tensor)
    primitive = tensor.primitive
    if reduction(tensor):
        return True
    return (
        isinstance(primitive, Linear)
        and primitive.bias.size == 1
        and np.array_equal(primitive.magnitude, np.abs(primitive.bias))  # rather than computed by the model
    )


def _is_shift(tensor: Tensor) -> bool:
    """Whether a constant is added."""
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)):
        return False
    return bool((primitive.map.scale == 1).all())


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether they are one value, or the deviations of one from its mean."""
    if x is y:
        return True
    if not all(isinstance(each.primitive, Sum) and each.primitive.sign < 0 for each in (x, y)):
        return False
    (values, _), (others, _) = x.operands, y.operands
    means = (bare(each.operands[1]) for each in (x, y))
    return values is others and all(reduction(mean) and mean.operands[0] is values for mean in means)
