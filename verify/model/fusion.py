"""What runtimes may rearrange, written into the network so that its bounds hold for every arrangement.

Over the real numbers the rearranged network is the same; in float32 it rounds, underflows and overflows differently. A
runtime removes common subexpressions and moves transpositions about before it fuses, so neither other uses of a value
nor moves of elements between two operations keep it from fusing them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from verify.core.linear_maps import Dense, Diagonal, Reduction
from verify.core.primitives import (
    FLOAT32,
    Concatenate,
    Linear,
    Product,
    Reshape,
    Select,
    Sum,
    Tensor,
    Variance,
    rewritten,
    topological,
)
from verify.core.rounding import Array
from verify.model.variances import changes_nothing, reduction, with_variances
from verify.model.written_out import recognised

Outputs = tuple[Tensor, ...]
_ANY_ORDER = NDArray[np.intp]
_MOVES = Reshape | Select | Concatenate


def with_fusions(outputs: Outputs) -> Outputs:
    """The network that bounds every arrangement."""
    found = folded_scales(rewritten(rewritten(outputs, recognised), _scale_inside_product))
    return fused_additions(with_variances(found))


def folded_scales(outputs: Outputs) -> Outputs:
    """Merge a linear map with the elementwise linear maps that follow it (batch norms, scales, added biases): a runtime
    may fold them into the weights. The merged primitive bounds the rounding of both ways."""
    return rewritten(outputs, _folded_scale)


def fused_additions(outputs: Outputs) -> Outputs:
    """Note what it costs to add residuals inside a dot product: on every sum, how many roundings an operand meets if it
    is added inside the other one's, or, of several that are joined and summed, inside that of any; and on a linear map
    that more than two sums in a row add to, a further rounding of its terms for each sum more (`Linear.dot` has room
    for one of them, and the last one accounts for its own)."""
    further = _further_sums(outputs)
    roundings: dict[Tensor, int] = {}

    def noted(tensor: Tensor) -> Tensor:
        primitive = tensor.primitive
        inside = [roundings[operand] for operand in tensor.operands]
        if isinstance(primitive, Linear) and primitive.roundings and further[primitive] > 0:
            primitive = replace(primitive, roundings=primitive.roundings + further[primitive])
            tensor = replace(tensor, primitive=primitive)
        if isinstance(primitive, Linear) and _joins(tensor):
            primitive = replace(primitive, roundings=primitive.roundings + max(inside))
            tensor = replace(tensor, primitive=primitive)
        if isinstance(primitive, Variance):
            v, x = tensor.operands
            if (over := reduction(v)) and _mixes(x, over):
                # As much more as the mean may be off by: mean(x^2) - m^2 has that twice.
                tensor = replace(tensor, primitive=replace(primitive, roundings=primitive.roundings + 6 * inside[1]))
        if isinstance(primitive, Sum):
            first, second = (own + each for own, each in zip(primitive.fused_roundings, inside, strict=True))
            tensor = replace(tensor, primitive=replace(primitive, fused_roundings=(first, second)))
            roundings[tensor] = max(inside) + 1
        elif isinstance(primitive, _MOVES) or changes_nothing(tensor):
            roundings[tensor] = max(inside)
        else:
            roundings[tensor] = primitive.roundings if isinstance(primitive, Linear) else 0
        return tensor

    return rewritten(outputs, noted)


def _further_sums(outputs: Outputs) -> dict[Linear, int]:
    """How many more than two sums in a row add to each linear map, at most."""
    sums = dict.fromkeys(topological(outputs), 0)
    for tensor in reversed(sums):
        added = isinstance(tensor.primitive, Sum) or _joins(tensor)
        if added or isinstance(tensor.primitive, _MOVES) or changes_nothing(tensor):
            for operand in tensor.operands:
                sums[operand] = max(sums[operand], sums[tensor] + added)
    further: dict[Linear, int] = {}
    for tensor, count in sums.items():
        if isinstance(tensor.primitive, Linear):
            further[tensor.primitive] = max(further.get(tensor.primitive, 0), count - 2)
    return further


def _joins(tensor: Tensor) -> int:
    """How many sums of two values it takes to add up what several operations yield, side by side in front of a sum or
    mean along its axes; none where it is another operation, or what it sums comes from a single one."""
    over = reduction(tensor)
    return over.terms - 1 if over and _mixes(tensor.operands[0], over) else 0


def _mixes(tensor: Tensor, over: Reduction) -> bool:
    """Whether a tensor holds, along the axes of a sum, elements that several operations yield."""
    sources, axes = _sources(tensor), tuple(axis + 1 for axis in over.axes)
    return bool((sources.min(axis=axes) < sources.max(axis=axes)).any())


def _sources(tensor: Tensor) -> Array:
    """For each element (with a leading axis of length one) a number of the operation that yields it, before moves and
    what changes nothing."""
    found: dict[Tensor, Array] = {}
    waiting = [tensor]
    while waiting:
        each = waiting[-1]
        move = each.primitive if isinstance(each.primitive, _MOVES) else None
        operands = each.operands if move or changes_nothing(each) else ()
        if left := [operand for operand in operands if operand not in found]:
            waiting.extend(left)
            continue
        waiting.pop()
        values = [found[operand] for operand in operands] or [np.full((1, *each.shape), float(len(found)))]
        found[each] = move.apply(*values) if move else values[0]
    return found[tensor]


def _folded_scale(tensor: Tensor) -> Tensor:
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)):
        return tensor
    source, index = unmoved(tensor.operands[0])
    if not isinstance(source.primitive, Linear) or {source.dtype, tensor.dtype} != {FLOAT32}:
        return tensor
    if index is None:
        return Tensor(source.primitive.then(primitive), source.operands, tensor.shape, tensor.name)

    def before_moves(values: Array) -> Array:
        moved = np.empty(source.shape)
        moved.reshape(-1)[index] = np.broadcast_to(values, tensor.shape).reshape(-1)
        return _compressed(moved)

    commuted = replace(
        primitive,
        map=Diagonal(before_moves(primitive.map.scale)),
        bias=before_moves(primitive.bias),
        magnitude=before_moves(primitive.magnitude),
    )
    merged = Tensor(source.primitive.then(commuted), source.operands, source.shape, tensor.name)
    in_order = np.array_equal(index, np.arange(index.size))
    move = Reshape(tensor.shape) if in_order else Select(index.reshape(tensor.shape))
    return Tensor(move, (merged,), tensor.shape, tensor.name)


def unmoved(tensor: Tensor) -> tuple[Tensor, _ANY_ORDER | None]:
    """The tensor whose elements, each exactly once, `tensor` holds in another order or shape; and, for each of its
    elements, the flat index that it has there (None: the same tensor)."""
    index = None
    while isinstance(tensor.primitive, Reshape | Select):
        (source,) = tensor.operands
        if isinstance(tensor.primitive, Select) and not (
            tensor.primitive.is_permutation and tensor.primitive.index.size == math.prod(source.shape)
        ):
            break
        order = (
            tensor.primitive.index.reshape(-1)
            if isinstance(tensor.primitive, Select)
            else np.arange(int(np.prod(source.shape)))
        )
        index = order if index is None else order[index]
        tensor = source
    return tensor, index


def _compressed(values: Array) -> Array:
    """The smallest array that broadcasts to `values`: axes along which it does not change get length one."""
    for axis in range(values.ndim):
        first = values.take([0], axis=axis)
        if (values == first).all():
            values = first
    return values


def _scale_inside_product(tensor: Tensor) -> Tensor:
    """A scalar factor of a matrix product's operand may be applied to the result instead: (s x) W = s (x W).

    Underflow in x W is then amplified by s, and its magnitude is that of (s x) W divided by s.
    """
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Dense | Reduction)):
        return tensor
    (operand,) = tensor.operands
    if isinstance(primitive.map, Dense):
        factor = _scalar_factor(operand)
    elif isinstance(operand.primitive, Product):  # the sums of a matrix product of two values
        factor = math.prod(map(_scalar_factor, operand.operands))
    else:
        return tensor
    if factor == 1.0:
        return tensor
    widened = replace(primitive, gain=primitive.gain * (1.0 + factor), row_sum=primitive.row_sum * factor)
    return replace(tensor, primitive=widened)


def _scalar_factor(tensor: Tensor) -> float:
    """By how much, at most, one or several of the scalars that a tensor has been multiplied by, whose elements may have
    been moved since, change magnitudes: a runtime may move any of them, and leave the others."""
    factor = 1.0
    while tensor.dtype == FLOAT32:
        primitive = tensor.primitive
        if isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal) and primitive.map.scale.size == 1:
            scalar = abs(primitive.map.scale.item())
            factor *= max(scalar, 1.0 / scalar) if scalar else math.inf
        elif not isinstance(primitive, Reshape | Select):
            break
        (tensor,) = tensor.operands
    return factor
