"""Piecewise linear operations as ReLUs, so that a proof may choose lines around them, and split them.

    max(a, b)  =  b + relu(a - b)

for any two deployed values, and so, two by two, for those in the window of a max pooling; and for a value and a
constant, where values are clipped. No runtime computes the difference: it is the real number, and nothing is rounded. A
ReLU behind a pooling goes before it, for relu(max(a, b)) = max(relu(a), relu(b)): inactive elements are then equal,
which leaves nothing open about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from verify.network import Network
from verify.primitives import (
    Clip,
    Constant,
    Difference,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Primitive,
    Select,
    Subsample,
    Tensor,
    topological,
)

_MOST_TAPS = 64
"""Elements of a window, each of which but one becomes a neuron; larger windows stay what they are."""

_RELU = LeakyRelu(0.0)
_NEGATION = Linear.elementwise(-np.ones(()), np.zeros(()), roundings=0)


def with_relus(network: Network) -> Network:
    """The network with its maxima as ReLUs; it computes the same in every execution. Itself, if it has none."""
    output = _rewritten(network.output)
    return network if output is network.output else replace(network, outputs=(output,))


@lru_cache(maxsize=16)
def _rewritten(output: Tensor) -> Tensor:
    built: dict[Tensor, Tensor] = {}
    for tensor in topological([output]):
        operands = tuple(built[operand] for operand in tensor.operands)
        if (taps := _taps(tensor)) is not None:
            built[tensor] = _largest(tensor, operands[0], taps)
        elif tensor.primitive == _RELU and (taps := _taps(tensor.operands[0])) is not None:
            (pool,) = tensor.operands
            (source,) = pool.operands
            active = Tensor(_RELU, (built[source],), source.shape, tensor.name)
            built[tensor] = _largest(pool, active, taps)
        elif isinstance(tensor.primitive, Clip):
            built[tensor] = _clipped(operands[0], tensor.primitive)
        else:
            built[tensor] = tensor if operands == tensor.operands else replace(tensor, operands=operands)
    return built[output]


def _taps(tensor: Tensor) -> list[Primitive] | None:
    """What makes, of a max pooling's operand, tensors of the first elements of all windows, of the second ones and so
    on, where padding lies another element of the same window; None where the pooling is not to be rewritten."""
    primitive = tensor.primitive
    if not isinstance(primitive, MaxPool) or primitive.padding or math.prod(primitive.window.kernel) > _MOST_TAPS:
        return None
    (operand,), window = tensor.operands, primitive.window
    if not (any(window.begin) or any(window.end)):
        return [Subsample(each) for each in window.elements]
    places = np.arange(math.prod(operand.shape)).reshape(operand.shape)
    taps = np.stack(list(window.taps(places, -1)))
    last = taps.max(axis=0)
    return None if (last < 0).any() else [Select(tap) for tap in np.where(taps < 0, last, taps)]


def _largest(pool: Tensor, source: Tensor, taps: Sequence[Primitive]) -> Tensor:
    """What a pooling takes from a tensor: the larger one of each two elements, until one is left."""
    found = [Tensor(tap, (source,), pool.shape, pool.name) for tap in taps]
    while len(found) > 1:
        pairs = zip(found[::2], found[1::2], strict=False)
        larger = [_larger(a, b) for a, b in pairs]
        found = larger + found[2 * len(larger) :]
    return found[0]


def _clipped(x: Tensor, clip: Clip) -> Tensor:
    """min(max(x, lower), upper), the minimum as the negated maximum of negations."""
    if clip.lower > -np.inf:
        x = _larger(x, _constant(clip.lower, x)) if clip.lower else _made(_RELU, x)
    if clip.upper < np.inf:
        x = _made(_NEGATION, _larger(_made(_NEGATION, x), _constant(-clip.upper, x)))
    return x


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return _made(Maximum(), b, _made(_RELU, _made(Difference(), a, b)), a)


def _made(primitive: Primitive, *operands: Tensor) -> Tensor:
    """The result of an operation on single elements."""
    return Tensor(primitive, operands, operands[0].shape, operands[-1].name)


def _constant(value: float, x: Tensor) -> Tensor:
    """Of the shape of another tensor."""
    return Tensor(Constant(np.full(x.shape, value)), (), x.shape, x.name)
