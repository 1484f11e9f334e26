"""The network as a differentiable function in torch: the domain of points, one rule per primitive.

Nearly what the deployed network computes, in float32 unless asked otherwise; good enough to climb, not to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor as Values
from torch.nn import functional

from verify.core.functions import Function
from verify.core.interpreter import evaluate
from verify.core.linear_maps import Convolution, Dense, Diagonal, LinearMap, Reduction, Scaled
from verify.core.primitives import (
    Clip,
    Concatenate,
    Constant,
    Difference,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Product,
    Quotient,
    Reshape,
    Round,
    Select,
    Sign,
    Softmax,
    Subsample,
    Sum,
    Variance,
    topological,
)
from verify.core.windows import Window
from verify.errors import ModelProblem
from verify.model.network import Network
from verify.search.constants import Constants

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def differentiable(
    network: Network, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Callable[[Values], Values]:
    """The network's only output as a function of its only input, lanes x shape each; differentiable.

    Raises ModelProblem when a primitive has no rule.
    """
    output, source = network.output, network.input
    missing = {type(t.primitive) for t in topological([output])} - {*POINT_RULES, type(source.primitive)}
    if missing:
        raise ModelProblem(f"{', '.join(sorted(kind.__name__ for kind in missing))} cannot be searched with torch")
    constants = Constants(dtype, device)

    def rule(kind: type) -> Callable[..., Values]:
        return lambda primitive, *operands: POINT_RULES[kind](constants, primitive, *operands)

    rules = {kind: rule(kind) for kind in POINT_RULES}

    def function(x: Values) -> Values:
        (y,) = evaluate([output], rules, {source: x})
        assert isinstance(y, Values)
        return y.expand(len(x), *y.shape[1:])

    return function


def _constant(constants: Constants, primitive: Constant) -> Values:
    return constants(primitive.value)[None]


def _linear(constants: Constants, primitive: Linear, x: Values) -> Values:
    return mapped(primitive.map, constants, x) + constants(primitive.bias)


@singledispatch
def mapped(map: LinearMap, constants: Constants, x: Values) -> Values:
    """A x, for every lane."""
    raise ModelProblem(f"a {type(map).__name__} map cannot be searched with torch")


@mapped.register
def _(map: Diagonal, constants: Constants, x: Values) -> Values:
    return x * constants(map.scale)


@mapped.register
def _(map: Dense, constants: Constants, x: Values) -> Values:
    return torch.matmul(x, constants(map.weight))


@mapped.register
def _(map: Reduction, constants: Constants, x: Values) -> Values:
    return x.sum(dim=[axis + 1 for axis in map.axes], keepdim=True)


@mapped.register
def _(map: Scaled, constants: Constants, x: Values) -> Values:
    return mapped(map.map, constants, x) * constants(map.scale)


@mapped.register
def _(map: Convolution, constants: Constants, x: Values) -> Values:
    window = map.window
    axes = len(window.kernel)
    samples = x.reshape(-1, *x.shape[-axes - 1 :])
    convolve = _of_dimension(_CONVOLUTIONS, axes)
    y = convolve(
        _padded(samples, window, 0.0),
        constants(map.weight),
        stride=window.strides,
        dilation=window.dilations,
        groups=map.groups,
    )
    return y.reshape(*x.shape[: -axes - 1], *y.shape[1:])


def _max_pool(constants: Constants, primitive: MaxPool, x: Values) -> Values:
    x = _select(constants, primitive.padding, x) if primitive.padding else x
    window = primitive.window
    axes = len(window.kernel)
    pool = _of_dimension(_MAX_POOLS, axes)
    samples = x.reshape(-1, *x.shape[-axes - 1 :])
    y = pool(_padded(samples, window, -np.inf), window.kernel, stride=window.strides, dilation=window.dilations)
    return y.reshape(*x.shape[: -axes - 1], *y.shape[1:])


def _of_dimension(
    functions: Mapping[int, Callable[..., Values]],
    axes: int,
) -> Callable[..., Values]:
    if axes not in functions:
        raise ModelProblem(f"a window over {axes} axes cannot be searched with torch")
    return functions[axes]


def _padded(x: Values, window: Window, value: float) -> Values:
    ends = [end for pair in zip(reversed(window.begin), reversed(window.end), strict=True) for end in pair]
    return functional.pad(x, ends, value=value) if any(ends) else x


def _reshape(constants: Constants, primitive: Reshape, x: Values) -> Values:
    return x.reshape(len(x), *primitive.shape)


def _select(constants: Constants, primitive: Select, x: Values) -> Values:
    flat = x.reshape(len(x), -1)
    if primitive.pads:
        flat = torch.cat([flat, flat.new_full((len(x), 1), primitive.fill)], dim=1)
    return flat[:, constants.index(primitive.index)]  # -1, the last column, is the fill


def _subsample(constants: Constants, primitive: Subsample, x: Values) -> Values:
    shape, axes = tuple(x.shape), len(primitive.window.kernel)
    taken, put = primitive.places(shape)
    result = x.new_zeros(*shape[:-axes], *primitive.window.output(shape[-axes:]))
    result[put] = x[taken]
    return result


def _concatenate(constants: Constants, primitive: Concatenate, *operands: Values) -> Values:
    lanes = max(len(x) for x in operands)
    return torch.cat([x.expand(lanes, *x.shape[1:]) for x in operands], dim=primitive.axis + 1)


def _clip(constants: Constants, primitive: Clip, x: Values) -> Values:
    return x.clamp(primitive.lower, primitive.upper)


def _leaky_relu(constants: Constants, primitive: LeakyRelu, x: Values) -> Values:
    return functional.leaky_relu(x, primitive.slope)


def _sum(constants: Constants, primitive: Sum, a: Values, b: Values) -> Values:
    return a + primitive.sign * b


def _difference(constants: Constants, primitive: Difference, a: Values, b: Values) -> Values:
    return a - b


def _maximum(constants: Constants, primitive: Maximum, b: Values, excess: Values, a: Values) -> Values:
    return torch.maximum(a, b)


def _product(constants: Constants, primitive: Product, a: Values, b: Values) -> Values:
    return a * b


def _quotient(constants: Constants, primitive: Quotient, a: Values, b: Values) -> Values:
    return a / b


def _variance(constants: Constants, primitive: Variance, v: Values, x: Values) -> Values:
    return v


class _Elementwise(torch.autograd.Function):
    """A function that numpy knows, with a difference quotient for its derivative."""

    @staticmethod
    def forward(context: Any, x: Values, function: Function) -> Values:
        argument = x.detach().cpu().double().numpy()
        step = 1e-6 * np.maximum(1.0, np.abs(argument))
        with np.errstate(all="ignore"):
            rise = function.real(argument + step) - function.real(argument - step)
            value = function.real(argument)
        slope = np.nan_to_num(rise / (2.0 * step))
        context.save_for_backward(torch.as_tensor(slope, dtype=x.dtype, device=x.device))
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(context: Any, *gradients: Values) -> tuple[Values, None]:
        (slope,) = context.saved_tensors
        return gradients[0] * slope, None


def _function(constants: Constants, primitive: Function, x: Values) -> Values:
    return cast(Values, _Elementwise.apply(x, primitive))  # type: ignore[no-untyped-call]


def _round(constants: Constants, primitive: Round, x: Values) -> Values:
    """With the derivative of what it rounds (straight-through)."""
    return x + (x.round() - x).detach()


def _sign(constants: Constants, primitive: Sign, x: Values) -> Values:
    """With the derivative of its argument, as binary networks are trained (straight-through)."""
    return x.sign() + (x - x.detach())


def _softmax(constants: Constants, primitive: Softmax, x: Values) -> Values:
    """With the derivative at operands that are drawn together to within ten: elsewhere all but one of the probabilities
    round to zero, and so do the derivatives."""
    if primitive.logarithm:
        return functional.log_softmax(x, -1)
    spread = (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)).detach()
    softened = functional.softmax(x / (spread / 10).clamp(min=1), -1)
    return functional.softmax(x, -1).detach() + (softened - softened.detach())


POINT_RULES: Mapping[type, Callable[..., Values]] = {
    Constant: _constant,
    Linear: _linear,
    Reshape: _reshape,
    Select: _select,
    Subsample: _subsample,
    Concatenate: _concatenate,
    Clip: _clip,
    MaxPool: _max_pool,
    LeakyRelu: _leaky_relu,
    Sum: _sum,
    Difference: _difference,
    Maximum: _maximum,
    Product: _product,
    Quotient: _quotient,
    Variance: _variance,
    Function: _function,
    Round: _round,
    Sign: _sign,
    Softmax: _softmax,
}
"""One rule per primitive: (constants, primitive, *operands) -> values."""
