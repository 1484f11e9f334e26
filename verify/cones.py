"""The part of a network that a block of a tensor depends on, as a network of its own.

A neuron of a convolution sees a small window of what comes before it. Bounds of a block of such neurons need no more of
the network than the windows of the block together: the same operations, on parts of the same values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.functions import Function
from verify.intervals import Interval
from verify.linear_maps import Convolution, Diagonal
from verify.primitives import Clip, Input, LeakyRelu, Linear, Round, Select, Shape, Sign, Sum, Tensor, topological
from verify.rounding import Array
from verify.windows import Window

Box = tuple[slice, ...]
"""A block of a tensor: along each axis, from where to where."""

Where = tuple[slice | NDArray[np.intp], ...]
"""Some elements of a tensor: along each axis, a block or the numbers of those."""

_ELEMENTWISE = (LeakyRelu, Clip, Function, Round, Sign, Sum)


@dataclass(frozen=True)
class Cone:
    """tensor: holds the block. parts: of what the cone consists of, each some elements of a tensor of the network."""

    tensor: Tensor
    parts: Mapping[Tensor, tuple[Tensor, Where]]

    @property
    def size(self) -> int:
        """How many values it computes."""
        return sum(math.prod(tensor.shape) for tensor in self.parts)

    def intervals(self, whole: Mapping[Tensor, Interval]) -> dict[Tensor, Interval]:
        """Of the parts, given those of the network."""
        return {
            piece: Interval(*(end[:, *where] for end in whole[source])) for piece, (source, where) in self.parts.items()
        }


def whole(tensor: Tensor) -> Cone:
    """All that a tensor depends on."""
    return Cone(tensor, {each: (each, _all(each)) for each in topological([tensor])})


def spatial_blocks(tensor: Tensor, edge: int) -> list[Box]:
    """Blocks of that edge along the spatial axes that together make up the result of a convolution, or of sums of such;
    a single one for other tensors."""
    source = tensor
    while isinstance(source.primitive, _ELEMENTWISE):
        source = source.operands[0]
    if not (isinstance(source.primitive, Linear) and isinstance(source.primitive.map, Convolution)):
        return [_all(tensor)]
    axes = len(source.primitive.map.window.kernel)
    counts = [-(-size // edge) for size in tensor.shape[-axes:]]
    return [
        (
            *_all(tensor)[:-axes],
            *(slice(i * edge, min((i + 1) * edge, size)) for i, size in zip(block, tensor.shape[-axes:], strict=True)),
        )
        for block in np.ndindex(*counts)
    ]


def cone(tensor: Tensor, block: Box) -> Cone:
    """What a block of a tensor depends on. Operations that are not known to work on parts stay whole."""
    order = list(topological([tensor]))
    needed = {tensor: block}
    for each in reversed(order):
        if each in needed:
            if not _local(each, needed[each]):
                needed[each] = _all(each)
            for operand in each.operands:
                window = _window(each, needed[each], operand)
                needed[operand] = _hull(needed[operand], window) if operand in needed else window
    built: dict[Tensor, Tensor] = {}
    parts: dict[Tensor, tuple[Tensor, Where]] = {}
    for each in order:
        if needed[each] == _all(each):
            built[each] = each
        else:
            operands = []
            for operand in each.operands:
                window = _window(each, needed[each], operand)
                source = _taken(built[operand], needed[operand], window)
                parts[source] = operand, window
                operands.append(source)
            built[each] = _part(each, needed[each], tuple(operands))
        parts[built[each]] = each, needed[each]
    result = _taken(built[tensor], needed[tensor], block)
    return Cone(result, parts | {result: (tensor, block)})


def _all(tensor: Tensor) -> Box:
    return tuple(slice(0, size) for size in tensor.shape)


def _hull(a: Box, b: Box) -> Box:
    return tuple(slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))


def _extent(box: Box) -> Shape:
    return tuple(part.stop - part.start for part in box)


def _local(tensor: Tensor, box: Box) -> bool:
    """Whether this block of the result depends on a block of each operand, and is computed from it in the same way."""
    primitive = tensor.primitive
    if isinstance(primitive, Linear) and isinstance(primitive.map, Convolution):
        return all(part.start < part.stop for part in _window(tensor, box, tensor.operands[0]))  # not of padding alone
    if isinstance(primitive, Linear):
        return isinstance(primitive.map, Diagonal)
    return isinstance(primitive, (*_ELEMENTWISE, Input))


def _window(tensor: Tensor, box: Box, operand: Tensor) -> Box:
    """The block of an operand that a block of the tensor depends on; empty where that sees nothing but padding."""
    primitive = tensor.primitive
    if box == _all(tensor):
        return _all(operand)
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Convolution)):
        return box
    axes = len(primitive.map.window.kernel)
    spatial = [
        slice(max(0, start), min(stop, size))
        for (start, stop), size in zip(_reach(primitive.map.window, box[-axes:]), operand.shape[-axes:], strict=True)
    ]
    return (*_all(operand)[:-axes], *spatial)


def _reach(window: Window, box: Box) -> list[tuple[int, int]]:
    """Along each axis, from where to where the windows of a block reach, the padding included."""
    return [
        (part.start * stride - begin, (part.stop - 1) * stride - begin + dilation * (kernel - 1) + 1)
        for part, kernel, stride, dilation, begin in zip(
            box, window.kernel, window.strides, window.dilations, window.begin, strict=True
        )
    ]


def _taken(tensor: Tensor, box: Box, wanted: Box) -> Tensor:
    """A smaller block of a tensor that is a block itself."""
    if box == wanted:
        return tensor
    inner = tuple(slice(w.start - b.start, w.stop - b.start) for w, b in zip(wanted, box, strict=True))
    index = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)[inner]
    return Tensor(Select(index), (tensor,), index.shape, tensor.name, tensor.dtype)


def _part(tensor: Tensor, box: Box, operands: tuple[Tensor, ...]) -> Tensor:
    """The block of a tensor, computed from those of its operands."""
    primitive = tensor.primitive
    if isinstance(primitive, Linear):
        map = primitive.map
        if isinstance(map, Diagonal):
            map = Diagonal(_cut(map.scale, tensor, box))
        elif isinstance(map, Convolution):
            ((operand,), axes) = tensor.operands, len(map.window.kernel)
            reach = _reach(map.window, box[-axes:])
            begin = tuple(max(0, -start) for start, _ in reach)
            end = tuple(max(0, stop - size) for (_, stop), size in zip(reach, operand.shape[-axes:], strict=True))
            map = replace(map, window=replace(map.window, begin=begin, end=end))
        bias, magnitude = (_cut(values, tensor, box) for values in (primitive.bias, primitive.magnitude))
        primitive = replace(primitive, map=map, bias=bias, magnitude=magnitude)
    return replace(tensor, primitive=primitive, operands=operands, shape=_extent(box))


def _cut(values: Array, tensor: Tensor, box: Box) -> Array:
    """The block of values that broadcast to the tensor."""
    last = box[len(box) - values.ndim :]
    return values[tuple(slice(None) if size == 1 else part for size, part in zip(values.shape, last, strict=True))]
