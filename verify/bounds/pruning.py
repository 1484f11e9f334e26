"""The part of a network that matters within a box: without the neurons that are inactive throughout it.

Where every number that a ReLU reads is at most zero, it passes on zero, whose products with the weights of a dense
layer are zero as well. Leaving these out changes no sum, in whatever order a runtime forms it, nor does adding them
round: what is left computes the deployed values.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations
from verify.bounds.cones import Cone, Where
from verify.bounds.lines import Intervals
from verify.core.linear_maps import Dense
from verify.core.primitives import LeakyRelu, Linear, Tensor, topological


def pruned(tensor: Tensor, intervals: Intervals, elements: NDArray[np.intp] | None = None) -> Cone:
    """What a tensor depends on, less the inactive neurons between dense layers; computes the same in every execution
    within the intervals.

    intervals: in one lane, of all that it depends on. elements: the numbers of those that are needed of the tensor, if
    they are not all; it may stay whole nevertheless.
    """
    order = list(topological([tensor]))
    kept = _kept(order, intervals)
    if elements is not None and is_dense(tensor):
        kept[tensor] = elements
    built: dict[Tensor, Tensor] = {}
    parts: dict[Tensor, tuple[Tensor, Where]] = {}
    for each in order:
        operands = tuple(built[operand] for operand in each.operands)
        where: Where = tuple(slice(0, size) for size in each.shape)
        piece = each
        if each in kept:
            where = *where[:-1], kept[each]
            piece = replace(each, operands=operands, shape=(*each.shape[:-1], len(kept[each])))
        elif operands != each.operands:
            piece = replace(each, operands=operands)
        if isinstance(each.primitive, Linear) and {each, *each.operands} & kept.keys():
            piece = replace(piece, primitive=_cut(each, kept.get(each.operands[0]), kept.get(each)))
        built[each] = piece
        parts[piece] = each, where
    return Cone(built[tensor], parts)


def neurons_of(part: Cone, output: Tensor) -> dict[Tensor, NDArray[np.intp]]:
    """Of each activation of a part of the network with that output, the numbers that its neurons have in the whole."""
    numbers = activations(output)
    return {
        piece: np.arange(numbers[source].start, numbers[source].stop).reshape(source.shape)[where].reshape(-1)
        for piece, (source, where) in part.parts.items()
        if source in numbers
    }


def _kept(order: list[Tensor], intervals: Intervals) -> dict[Tensor, NDArray[np.intp]]:
    """Of each ReLU between dense layers, and of what it reads, the elements that are not always inactive, but one at
    least."""
    readers: dict[Tensor, list[Tensor]] = {tensor: [] for tensor in order}
    for tensor in order:
        for operand in tensor.operands:
            readers[operand].append(tensor)
    kept = {}
    for tensor in order:
        if not (isinstance(tensor.primitive, LeakyRelu) and tensor.primitive.slope == 0 and readers[tensor]):
            continue
        (before,) = tensor.operands
        if readers[before] == [tensor] and all(map(is_dense, [before, *readers[tensor]])):
            live = ~np.all([end.reshape(-1) <= 0 for end in intervals[before]], axis=0)
            live[0] |= not live.any()
            if not live.all():
                kept[before] = kept[tensor] = np.flatnonzero(live)
    return kept


def is_dense(tensor: Tensor) -> bool:
    """Whether it is a dense layer's answer to a single vector."""
    primitive = tensor.primitive
    return (
        isinstance(primitive, Linear)
        and isinstance(primitive.map, Dense)
        and primitive.map.weight.ndim == 2
        and set(tensor.shape[:-1]) <= {1}
    )


def _cut(tensor: Tensor, rows: NDArray[np.intp] | None, columns: NDArray[np.intp] | None) -> Linear:
    """A dense layer for some elements of what it reads, and of what it computes; None for all."""
    primitive = tensor.primitive
    assert isinstance(primitive, Linear)
    assert isinstance(primitive.map, Dense)
    weight, bias, magnitude = primitive.map.weight, primitive.bias, primitive.magnitude
    if rows is not None:
        weight = weight[rows]
    if columns is not None:
        weight = weight[:, columns]
        bias, magnitude = (np.broadcast_to(each, tensor.shape)[..., columns] for each in (bias, magnitude))
    found = replace(primitive, map=Dense(weight), bias=bias, magnitude=magnitude)
    if not primitive.additions:
        return found
    fewer = primitive.map.terms - found.map.terms
    return replace(found, roundings=found.roundings - fewer, additions=found.additions - fewer)
