"""What the intervals of an operation's operands say about functionals of its result, one rule per primitive: as in
`verify.bounds.relaxations`, but in torch, one functional per lane, differentiable, and approximate.

Activations whose lines leave a choice are not among them: `verify.search.backward` has their lines side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor as Values
from torch.nn import functional as F

from verify.bounds.lines import Intervals, lines_around, places_of, ratio, winners
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
    Tensor,
    Variance,
)
from verify.core.rounding import REAL
from verify.core.softmax import has_plane, plane
from verify.search.constants import Constants

Passed = tuple[list[Values], Values | float]
"""Functionals of an operation's operands, and what they leave over, at least."""


def _nothing(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    return ()


class Rule(NamedTuple):
    """through: passes functionals of an operation's result, lanes x its shape, on to its operands; or to the first of
    these, if nothing is to be passed on to the others. around: what it needs to know for that, given intervals; lanes x
    anything."""

    through: Callable[[Tensor, Values, Sequence[Values], Constants], Passed]
    around: Callable[[Tensor, Intervals], Sequence[NDArray[Any]]] = _nothing


def rule_of(tensor: Tensor) -> Rule:
    """Of the operation that a tensor is the result of: its own, or that which ends at the tensor's interval."""
    primitive = tensor.primitive
    if isinstance(primitive, MaxPool) and primitive.padding:
        return _BY_INTERVAL
    if isinstance(primitive, Softmax) and not has_plane(tensor.shape):
        return _BY_INTERVAL
    if isinstance(primitive, LeakyRelu) and primitive.slope > 0:  # that a proof may choose nothing about
        return _BY_INTERVAL
    return _RULES.get(type(primitive), _BY_INTERVAL)


def dot(a: Values, x: Values) -> Values:
    """Functionals (lanes x shape) of values, lanes x shape or shape."""
    if a.ndim == 1:  # of single numbers
        return a * x
    return a.flatten(1) @ x.flatten() if x.ndim < a.ndim else (a * x).flatten(1).sum(1)


def _centre(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    """And radius."""
    low, high = intervals[tensor]
    return (low + high) / 2, (high - low) / 2


def _through_centre(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    centre, radius = around
    return [], dot(a, centre) - dot(a.abs(), radius)


def _constant(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    return [], dot(a, constants(primitive.value))


def _linear(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    constant = dot(a, constants(primitive.bias).expand(tensor.shape)) if primitive.bias.any() else 0.0
    return [adjoint(primitive.map, constants, a, operand.shape)], constant


@singledispatch
def adjoint(map: LinearMap, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    """A' y for every lane, where A takes arrays of that shape."""
    raise NotImplementedError(type(map).__name__)


@adjoint.register
def _(map: Diagonal, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    return y * constants(map.scale)


@adjoint.register
def _(map: Scaled, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    return adjoint(map.map, constants, y * constants(map.scale), shape)


@adjoint.register
def _(map: Reduction, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    return y.expand(len(y), *shape)


@adjoint.register
def _(map: Dense, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    weight = constants(map.weight)
    if weight.ndim == 2:
        return (y.reshape(-1, y.shape[-1]) @ weight.T).reshape(len(y), *shape)
    return _summed(y @ weight.transpose(-1, -2), shape)


@adjoint.register
def _(map: Convolution, constants: Constants, y: Values, shape: tuple[int, ...]) -> Values:
    window, axes = map.window, len(map.window.kernel)
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    padded = transposed(
        y.reshape(-1, *y.shape[-axes - 1 :]),
        constants(map.weight),
        stride=window.strides,
        dilation=window.dilations,
        groups=map.groups,
    )
    # A negative pad crops the window's own padding; what no window reaches has coefficient 0.
    ends = [
        (-begin, size + begin - reached)
        for begin, size, reached in zip(window.begin, shape[-axes:], padded.shape[-axes:], strict=True)
    ]
    return F.pad(padded, [pad for pair in reversed(ends) for pad in pair]).reshape(len(y), *shape)


def _reshape(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    return [a.reshape(len(a), *tensor.operands[0].shape)], 0.0


def _select(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    size = math.prod(operand.shape)
    flat = a.reshape(len(a), -1)
    places = constants.index(primitive.index).flatten() % (size + 1)  # what index -1 stands for, the fill, comes last
    result = flat.new_zeros(len(a), size + 1).index_add(1, places, flat)
    return [result[:, :-1].reshape(len(a), *operand.shape)], primitive.fill * result[:, -1]


def _subsample(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    (operand,) = tensor.operands
    taken, put = primitive.places(operand.shape)
    result = a.new_zeros(len(a), *operand.shape)
    result[taken] = a[put]
    return [result], 0.0


def _concatenate(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    sizes = [operand.shape[primitive.axis] for operand in tensor.operands]
    return list(torch.split(a, sizes, primitive.axis + 1)), 0.0


def _sum(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    primitive: Any = tensor.primitive
    return [a, primitive.sign * a], 0.0


def _difference(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    return [a, -a], 0.0


def _maximum(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    """As the sum of the first two operands."""
    return [a, a], 0.0


def _variance(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    return [a], 0.0  # near enough


def _lines(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    lines = lines_around(tensor, intervals, REAL)
    assert lines is not None
    return [part for line in lines for part in (line.slope, line.offset)]


def _through_lines(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    below, low, above, high = around
    positive, negative = a.clamp(min=0), a.clamp(max=0)
    return [positive * below + negative * above], dot(positive, low) + dot(negative, high)


def _winners(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    """Where they lie, whether they always win, and an upper bound of the maximum: lanes x windows."""
    best = winners(tensor, intervals)
    lanes = len(best.tap)
    return places_of(tensor, best.tap), best.always.reshape(lanes, -1), best.highest.reshape(lanes, -1)


def _through_pool(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    place, always, highest = around
    flat = a.reshape(len(a), -1)
    (operand,) = tensor.operands
    passed = torch.where(always, flat, flat.clamp(min=0))
    result = flat.new_zeros(len(a), math.prod(operand.shape)).scatter_add(1, place, passed)
    return [result.reshape(len(a), *operand.shape)], (flat.clamp(max=0) * highest).sum(1)


def _centres(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    """Of both operands, and their radii."""
    ends = [intervals[operand] for operand in tensor.operands]
    return [(low + high) / 2 for low, high in ends] + [(high - low) / 2 for low, high in ends]


def _through_product(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    first, second, radius, other = around
    shapes = [operand.shape for operand in tensor.operands]
    if a.ndim > 3 and not a.stride(-1) and first.shape[-2] == second.shape[-3] == 1:
        # Of a matrix product of two values: the terms of each sum have the same coefficient.
        a = a[..., 0]
        rows, columns = first[..., 0, :], second[..., 0, :, :]
        passed = (a @ columns).unsqueeze(-2), (a.mT @ rows).unsqueeze(-3)
        centre, deviation = rows @ columns.mT, radius[..., 0, :] @ other[..., 0, :, :].mT
    else:
        passed = a * second, a * first
        centre, deviation = first * second, radius * other
    constant = -dot(a, centre) - dot(a.abs(), deviation)
    return [_summed(each, shape) for each, shape in zip(passed, shapes, strict=True)], constant


def _summed(a: Values, shape: tuple[int, ...]) -> Values:
    """Over the axes along which something of that shape is repeated."""
    axes = [axis for axis, size in enumerate(shape, 1) if size == 1 and a.shape[axis] > 1]
    return a.sum(axes, keepdim=True) if axes else a


def _ratio(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    first, second = (intervals[operand] for operand in tensor.operands)
    *around, below, above = ratio(first, second, intervals[tensor], REAL)
    return *around, below.slope, below.offset, above.slope, above.offset


def _through_quotient(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    first, second, offset, deviation, *lines = around
    operands, constant = _through_lines(tensor, a * second, lines, constants)
    return [a * first, *operands], constant + dot(a, offset) - dot(a.abs(), deviation)


def _plane(tensor: Tensor, intervals: Intervals) -> Sequence[NDArray[Any]]:
    primitive: Any = tensor.primitive
    return plane(*intervals[tensor.operands[0]], primitive.logarithm, REAL)


def _through_softmax(tensor: Tensor, a: Values, around: Sequence[Values], constants: Constants) -> Passed:
    slope, offset, deviation = around
    return [(a[..., None, :] @ slope)[..., 0, :]], dot(a, offset) - dot(a.abs(), deviation)


_BY_INTERVAL = Rule(_through_centre, _centre)

_BETWEEN_LINES = Rule(_through_lines, _lines)

_RULES: Mapping[type, Rule] = {
    Constant: Rule(_constant),
    Linear: Rule(_linear),
    LeakyRelu: _BETWEEN_LINES,
    Clip: _BETWEEN_LINES,
    Round: _BETWEEN_LINES,
    Sign: _BETWEEN_LINES,
    Reshape: Rule(_reshape),
    Select: Rule(_select),
    Subsample: Rule(_subsample),
    Concatenate: Rule(_concatenate),
    Sum: Rule(_sum),
    Difference: Rule(_difference),
    Maximum: Rule(_maximum),
    Product: Rule(_through_product, _centres),
    Quotient: Rule(_through_quotient, _ratio),
    Softmax: Rule(_through_softmax, _plane),
    MaxPool: Rule(_through_pool, _winners),
    Variance: Rule(_variance),
}
