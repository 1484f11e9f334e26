"""Piecewise linear operations as ReLUs, so that a proof may choose lines around them, and split them.

    max(a, b)  =  b + relu(a - b)

for any two deployed values, and so, two by two, for those in the window of a max pooling; and for a value and a
constant, where values are clipped. No runtime computes the difference: it is the real number, and nothing is rounded. A
ReLU behind a pooling goes before it, for relu(max(a, b)) = max(relu(a), relu(b)): inactive elements are then equal,
which leaves nothing open about them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.primitives import (
    Clip,
    Constant,
    Difference,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Primitive,
    Select,
    Shape,
    Subsample,
    Tensor,
    topological,
)
from verify.core.windows import Window
from verify.model.network import Network

_MOST_TAPS = 64
"""Elements of a window, each of which but one becomes a neuron; larger windows stay what they are."""

_FARTHEST = 2.0**16
"""Limit of a clip, in whose distance differences lose little; what clips farther away stays what it is."""

_RELU = LeakyRelu(0.0)
_NEGATION = Linear.elementwise(-np.ones(()), np.zeros(()), roundings=0)


def with_relus(network: Network) -> Network:
    """The network with its maxima as ReLUs; it computes the same in every execution. Itself, if it has none."""
    output = _rewritten(network.output)
    return network if output is network.output else replace(network, outputs=(output,))


@lru_cache(maxsize=4)
def _rewritten(output: Tensor) -> Tensor:
    built: dict[Tensor, Tensor] = {}
    for tensor in topological([output]):
        primitive, operands = tensor.primitive, tuple(built[operand] for operand in tensor.operands)
        if _is_rewritten(tensor):
            built[tensor] = _largest(tensor, *operands)
        elif primitive == _RELU and _is_rewritten(tensor.operands[0]):
            (pool,) = tensor.operands
            built[tensor] = _largest(pool, _made(_RELU, built[pool.operands[0]]))
        elif isinstance(primitive, Clip):
            built[tensor] = _clipped(operands[0], primitive)
        else:
            built[tensor] = tensor if operands == tensor.operands else replace(tensor, operands=operands)
    return built[output]


def _is_rewritten(tensor: Tensor) -> bool:
    """Whether it is a max pooling that becomes ReLUs."""
    primitive = tensor.primitive
    if not isinstance(primitive, MaxPool) or primitive.padding or math.prod(primitive.window.kernel) > _MOST_TAPS:
        return False
    return bool((_taps(primitive.window, tensor.operands[0].shape).max(axis=0) >= 0).all())


def _taps(window: Window, shape: Shape) -> NDArray[np.intp]:
    """The numbers of the elements in all windows, first ones first: kernel positions x windows; -1 in the padding."""
    return np.stack(list(window.taps(np.arange(math.prod(shape)).reshape(shape), -1)))


def _largest(pool: Tensor, source: Tensor) -> Tensor:
    """What a pooling takes from a tensor: the larger one of each two elements, until one is left."""
    primitive: Any = pool.primitive
    window, elements = primitive.window, list[Primitive]()
    if source.primitive == _RELU or not (any(window.begin) or any(window.end)):  # a zero wins over no such element
        elements += map(Subsample, window.elements)
    else:  # in the padding, another element of the same window
        taps = _taps(window, source.shape)
        elements += map(Select, np.where(taps < 0, taps.max(axis=0), taps))
    found = [Tensor(element, (source,), pool.shape, pool.name) for element in elements]
    while len(found) > 1:
        pairs = zip(found[::2], found[1::2], strict=False)
        larger = [_larger(a, b) for a, b in pairs]
        found = larger + found[2 * len(larger) :]
    return found[0]


def _clipped(x: Tensor, clip: Clip) -> Tensor:
    """min(max(x, lower), upper), the minimum as the negated maximum of negations."""
    if clip.lower == 0:
        x = _made(_RELU, x)
    elif abs(clip.lower) <= _FARTHEST:
        x = _larger(x, _constant(clip.lower, x))
    elif clip.lower > -np.inf:
        x = _made(Clip(clip.lower, np.inf), x)
    if abs(clip.upper) <= _FARTHEST:
        x = _made(_NEGATION, _larger(_made(_NEGATION, x), _constant(-clip.upper, x)))
    elif clip.upper < np.inf:
        x = _made(Clip(-np.inf, clip.upper), x)
    return x


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return _made(Maximum(), b, _made(_RELU, _made(Difference(), a, b)), a)


def _made(primitive: Primitive, *operands: Tensor) -> Tensor:
    """The result of an operation on single elements."""
    return Tensor(primitive, operands, operands[0].shape, operands[-1].name)


def _constant(value: float, x: Tensor) -> Tensor:
    """Of the shape of another tensor."""
    return Tensor(Constant(np.full(x.shape, value)), (), x.shape, x.name)
