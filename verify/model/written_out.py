"""Activations that exporters write out in several operators, taken for the one function that they compute.

Bounds of x and of sigmoid(x) say little about their product. The error that `functions` assumes covers the operators
one after the other as well as the kernels that runtimes put in their place.
"""

from __future__ import annotations

import math

import numpy as np

from verify.core import functions
from verify.core.functions import CUBE, ERF, SIGMOID, SOFTPLUS, SQUARE, TANH, Function
from verify.core.linear_maps import Diagonal
from verify.core.primitives import Clip, Linear, Product, Sum, Tensor

_EXACT = 2.0**-22
"""Relative difference of a float32 constant, or of its reciprocal, from the number that it stands for."""

_OF_A_CONSTANT = 2
"""Roundings of a product or a quotient with a constant; with one that the model computes there are more."""

_LARGEST = 2.0**20
"""Factors of x, and their reciprocals, up to which the products' overflow and underflow change nothing: the gate is
open or shut, or half open, anyway."""


def recognised(tensor: Tensor) -> Tensor:
    """A product x g(x) that is a known function of x, as this function (times a power of two), and a product x x as a
    square; else the tensor."""
    if isinstance(tensor.primitive, Product):
        if tensor.operands[0] is tensor.operands[1]:
            return Tensor(SQUARE, tensor.operands[:1], tensor.shape, tensor.name)
        for factor, gate in (tensor.operands, tensor.operands[::-1]):
            if found := _gated(factor, gate):
                function, scale, x = found
                value = Tensor(function, (x,), tensor.shape, tensor.name)
                scaled = Linear.elementwise(np.array(scale), np.zeros(()), roundings=1)
                return value if scale == 1.0 else Tensor(scaled, (value,), tensor.shape, tensor.name)
    return tensor


def _gated(factor: Tensor, gate: Tensor) -> tuple[Function, float, Tensor] | None:
    """The function f, the scale s and the tensor x for which the product of both is s f(x)."""
    scale, shift, inner = _ungated(gate)
    if not inner.operands or scale not in (0.5, 1.0) or shift not in (0.0, scale):
        return None
    argument, one_added = inner.operands[0], shift == scale
    if inner.primitive is SIGMOID and not one_added:
        for slope, x, share in _common(argument, factor):
            return functions.swish(slope), share * scale, x
    if inner.primitive is ERF and one_added:
        for slope, x, share in _common(argument, factor):
            if _is(slope, math.sqrt(0.5)):
                return functions.gelu(slope), 2.0 * share * scale, x
    if inner.primitive is TANH and one_added and (cubic := _cubic(argument)):
        root, third, x = cubic
        if weight := _weight(factor, x):
            return functions.gelu_tanh(root, third), 2.0 * weight * scale, x
    if inner.primitive is TANH and argument.primitive is SOFTPLUS and not one_added:
        (x,) = argument.operands
        if weight := _weight(factor, x):
            return functions.MISH, weight * scale, x
    if inner.primitive == Clip(0.0, 1.0) and not one_added:
        slope, half, x = _affine(argument)
        if half == 0.5 and _is(slope, 1.0 / 6.0) and (weight := _weight(factor, x)):
            return functions.hard_swish(slope), weight * scale, x
    return None


def _cubic(tensor: Tensor) -> tuple[float, float, Tensor] | None:
    """The scale, c and x for which the tensor is scale (x + c x^3), with the constants of Gelu."""
    for root, total in _multiples(tensor):
        if _is(root, math.sqrt(2.0 / math.pi)) and isinstance(total.primitive, Sum) and total.primitive.sign > 0:
            for x, cubes in (total.operands, total.operands[::-1]):
                for third, cube in _multiples(cubes):
                    if cube.primitive is CUBE and cube.operands[0] is x and _is(third, 0.044715):
                        return root, third, x
    return None


def _common(argument: Tensor, factor: Tensor) -> list[tuple[float, Tensor, float]]:
    """Slope, x and weight for every tensor x that `argument` is slope times, and `factor` weight times."""
    return [(slope, x, weight) for slope, x in _multiples(argument) if (weight := _weight(factor, x))]


def _weight(factor: Tensor, x: Tensor) -> float | None:
    """What `factor` is times x: a half or one, or else nothing."""
    return next((weight for weight, same in _multiples(factor) if same is x and weight in (0.5, 1.0)), None)


def _multiples(tensor: Tensor) -> list[tuple[float, Tensor]]:
    """The tensors that this one is a multiple of, with the factor, two operations back at most; itself first."""
    found = [(1.0, tensor)]
    for _ in range(2):
        factor, source = found[-1]
        scale, shift, before = _affine(source)
        if before is source or shift or not 1.0 / _LARGEST <= abs(scale) <= _LARGEST:
            break
        found.append((factor * scale, before))
    return found


def _ungated(tensor: Tensor) -> tuple[float, float, Tensor]:
    """Scale, shift and g for which the tensor is scale g + shift, by operations that neither cancel nor absorb."""
    scale, shift = 1.0, 0.0
    while True:
        factor, summand, before = _affine(tensor)
        if before is tensor or factor not in (0.5, 1.0) or summand not in (0.0, 0.5, 1.0):
            return scale, shift, tensor
        shift += scale * summand
        scale *= factor
        tensor = before


def _affine(tensor: Tensor) -> tuple[float, float, Tensor]:
    """Scale, shift and x for which the tensor is scale x + shift: of a single operation, or of none."""
    primitive = tensor.primitive
    if isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal) and primitive.roundings <= _OF_A_CONSTANT:
        factor, summand = primitive.map.scale, primitive.bias
        certain = np.array_equal(primitive.magnitude, np.abs(summand))  # rather than computed by the model
        if certain and factor.size == summand.size == 1 and tensor.operands[0].shape == tensor.shape:
            return factor.item(), summand.item(), tensor.operands[0]
    return 1.0, 0.0, tensor


def _is(number: float, constant: float) -> bool:
    return abs(number / constant - 1.0) < _EXACT
