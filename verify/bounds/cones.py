"""The part of a network that a block of a tensor depends on, as a network of its own.

A neuron of a convolution sees a small window of what comes before it. Bounds of a block of such neurons need no more of
the network than the windows of the block together: the same operations, on parts of the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from verify.core.functions import Function
from verify.core.intervals import Interval
from verify.core.linear_maps import Convolution, Diagonal
from verify.core.primitives import (
    Clip,
    Difference,
    Input,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Round,
    Select,
    Shape,
    Sign,
    Subsample,
    Sum,
    Tensor,
    topological,
)
from verify.core.rounding import Array
from verify.core.windows import Window

Box = tuple[slice, ...]
"""A block of a tensor: along each axis, from where to where."""

Where = tuple[slice | NDArray[np.intp], ...]
"""Some elements of a tensor: along each axis, a block or the numbers of those."""

_ELEMENTWISE = (LeakyRelu, Clip, Function, Round, Sign, Sum, Difference, Maximum)


class Part(Protocol):
    """A part of a network, as a network of its own."""

    @property
    def tensor(self) -> Tensor:
        """Its output."""

    @property
    def parts(self) -> Mapping[Tensor, tuple[Tensor, Where]]:
        """What it consists of, each some elements of a tensor of the network."""

    def cut(self, piece: Tensor, values: NDArray[Any]) -> NDArray[Any]:
        """The elements that a piece has, of values that its tensor in the network has; with a leading axis of lanes."""


def intervals_of(part: Part, whole: Mapping[Tensor, Interval]) -> dict[Tensor, Interval]:
    """Of what a part of the network consists of, given those of the network."""
    return {
        piece: Interval(*(part.cut(piece, end) for end in whole[source])) for piece, (source, _) in part.parts.items()
    }


def signs_of(part: Part, whole: Mapping[Tensor, NDArray[np.int8]]) -> dict[Tensor, NDArray[np.int8]]:
    """The same for signs of what ReLUs read."""
    return {
        piece: part.cut(piece, whole[source])
        for piece, (source, _) in part.parts.items()
        if source in whole and isinstance(piece.primitive, LeakyRelu)
    }


@dataclass(frozen=True)
class Cone:
    """tensor: holds the block. parts: of what the cone consists of, each some elements of a tensor of the network."""

    tensor: Tensor
    parts: Mapping[Tensor, tuple[Tensor, Where]]

    @property
    def size(self) -> int:
        """How many values it computes."""
        return sum(math.prod(tensor.shape) for tensor in self.parts)

    def cut(self, piece: Tensor, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, *self.parts[piece][1]]


@dataclass(frozen=True)
class Tiles:
    """Blocks of a tensor whose cones are the same network, on parts of the same values that lie elsewhere.

    cone: of the first. starts: where each of its parts begins in its tensor, blocks x axes. inside: the numbers of the
    elements of each block.
    """

    cone: Cone
    starts: Mapping[Tensor, NDArray[np.intp]]
    inside: NDArray[np.intp]

    def at(self, lanes: NDArray[np.intp], blocks: NDArray[np.intp]) -> SomeTiles:
        """Some blocks, each in a lane."""
        return SomeTiles(self, lanes, blocks)


@dataclass(frozen=True)
class SomeTiles:
    """Blocks by their numbers, each in a lane of the network's values; in lanes of their own, side by side."""

    tiles: Tiles
    lanes: NDArray[np.intp]
    blocks: NDArray[np.intp]

    @property
    def tensor(self) -> Tensor:
        return self.tiles.cone.tensor

    @property
    def parts(self) -> Mapping[Tensor, tuple[Tensor, Where]]:
        return self.tiles.cone.parts

    def cut(self, piece: Tensor, values: NDArray[Any]) -> NDArray[Any]:
        if self.parts[piece][0] is piece:
            return values[self.lanes] if len(values) > 1 else values
        lanes = self.lanes if len(values) > 1 else np.zeros_like(self.lanes)
        corners = (size - edge + 1 for size, edge in zip(values.shape[1:], piece.shape, strict=True))
        strides = *values.strides, *values.strides[1:]
        windows = np.lib.stride_tricks.as_strided(values, (len(values), *corners, *piece.shape), strides)
        return np.asarray(windows[lanes, *self.tiles.starts[piece][self.blocks].T])


class Blocks(NamedTuple):
    """Blocks of a tensor: along each axis, from where to where; blocks x axes."""

    start: NDArray[np.intp]
    stop: NDArray[np.intp]

    def box(self, number: int) -> Box:
        """One of them."""
        return tuple(slice(*ends) for ends in zip(self.start[number].tolist(), self.stop[number].tolist(), strict=True))

    @property
    def extent(self) -> NDArray[np.intp]:
        return self.stop - self.start


def whole(tensor: Tensor) -> Tiles:
    """All that a tensor depends on."""
    parts = {each: (each, _all(each)) for each in topological([tensor])}
    starts = {each: np.zeros((1, len(each.shape)), np.intp) for each in parts}
    return Tiles(Cone(tensor, parts), starts, np.arange(math.prod(tensor.shape))[np.newaxis])


@lru_cache(maxsize=512)
def tilings(tensor: Tensor, edge: int) -> tuple[Tiles, ...]:
    """Blocks of that edge along the spatial axes that together make up the result of an operation with a sliding
    window, or of elementwise ones behind it; by what they have in common. A single block for other tensors."""
    blocks, needed, kinds = _kinds(tensor, edge)
    numbers = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
    found = []
    for kind in range(kinds.max() + 1):
        members = np.flatnonzero(kinds == kind)
        first = cone(tensor, blocks.box(int(members[0])))
        starts = {
            piece: needed[source].start[members] - needed[source].start[members[0]] + _begin(where)
            for piece, (source, where) in first.parts.items()
        }
        inside = np.stack([numbers[blocks.box(member)].reshape(-1) for member in members.tolist()])
        found.append(Tiles(first, starts, inside))
    return tuple(found)


def count_of_kinds(tensor: Tensor, edge: int) -> int:
    """How many `tilings` has, which takes far less time."""
    return int(_kinds(tensor, edge)[2].max()) + 1


@lru_cache(maxsize=512)
def _kinds(tensor: Tensor, edge: int) -> tuple[Blocks, dict[Tensor, Blocks], NDArray[np.intp]]:
    """The blocks, what each needs of every tensor, and the number of its kind."""
    blocks = spatial_blocks(tensor, edge)
    needed = _needed(tensor, blocks)
    # A block of padding alone is taken from all of the tensor.
    taken = [blocks.extent, blocks.start - needed[tensor].start]
    _, kinds = np.unique(np.concatenate([*taken, _signature(needed)], axis=1), axis=0, return_inverse=True)
    return blocks, needed, kinds.reshape(-1)


def spatial_blocks(tensor: Tensor, edge: int) -> Blocks:
    """Blocks of that edge along the spatial axes that together make up the result of an operation with a sliding
    window, or of elementwise ones behind it; a single one for other tensors."""
    source = tensor
    while isinstance(source.primitive, _ELEMENTWISE):
        source = source.operands[0]
    sliding = _sliding(source)
    axes = len(sliding.kernel) if sliding else 0
    shape = np.array(tensor.shape, np.intp)
    edges = np.where(np.arange(len(shape)) < len(shape) - axes, np.maximum(shape, 1), edge)
    places = list(np.ndindex(*(-(-shape // edges)).tolist()))
    start = np.array(places, np.intp).reshape(len(places), len(shape)) * edges
    return Blocks(start, np.minimum(start + edges, shape))


def cone(tensor: Tensor, block: Box) -> Cone:
    """What a block of a tensor depends on. Operations that are not known to work on parts stay whole."""
    needed = _needed(tensor, _single(block))
    built: dict[Tensor, Tensor] = {}
    parts: dict[Tensor, tuple[Tensor, Where]] = {}
    for each in topological([tensor]):
        box = needed[each].box(0)
        if box == _all(each):
            built[each] = each
        else:
            operands = []
            for operand in each.operands:
                window = _window(each, needed[each], operand).box(0)
                source = _taken(built[operand], needed[operand].box(0), window)
                parts[source] = operand, window
                operands.append(source)
            built[each] = _part(each, box, tuple(operands))
        parts[built[each]] = each, box
    result = _taken(built[tensor], needed[tensor].box(0), block)
    return Cone(result, parts | {result: (tensor, block)})


def _needed(tensor: Tensor, blocks: Blocks) -> dict[Tensor, Blocks]:
    """For each block of a tensor, the block of every tensor that the cone consists of."""
    needed = {tensor: blocks}
    for each in reversed(list(topological([tensor]))):
        needed[each] = _as_far_as_local(each, needed[each])
        for operand in each.operands:
            window = _window(each, needed[each], operand)
            if operand in needed:
                before = needed[operand]
                window = Blocks(np.minimum(before.start, window.start), np.maximum(before.stop, window.stop))
            needed[operand] = window
    return needed


def _signature(needed: Mapping[Tensor, Blocks]) -> NDArray[np.intp]:
    """Numbers that agree for blocks whose cones are the same network; blocks x numbers."""
    columns = []
    for tensor, blocks in needed.items():
        columns.append(blocks.extent)
        for operand in tensor.operands:
            window = _window(tensor, blocks, operand)
            columns += [window.extent, window.start - needed[operand].start]
        primitive = tensor.primitive
        if _sliding(tensor):
            columns += _padding(tensor, blocks)
        if isinstance(primitive, Linear):
            constants = primitive.bias, primitive.magnitude, getattr(primitive.map, "scale", np.zeros(()))
            columns.append(np.where(_varies(constants, tensor), blocks.start, 0))
    return np.concatenate(columns, axis=1)


def _varies(constants: Iterable[Array], tensor: Tensor) -> NDArray[np.bool_]:
    """Along which of the tensor's axes some of the constants, which broadcast to it, are more than one number."""
    shapes = [(1,) * (len(tensor.shape) - values.ndim) + values.shape for values in constants]
    return np.asarray((np.array(shapes) > 1).any(axis=0))


def _begin(where: Where) -> list[int]:
    return [part.start for part in where if isinstance(part, slice)]


def _all(tensor: Tensor) -> Box:
    return tuple(slice(0, size) for size in tensor.shape)


def _entire(tensor: Tensor, count: int) -> Blocks:
    stop = np.tile(np.array(tensor.shape, np.intp), (count, 1))
    return Blocks(np.zeros_like(stop), stop)


def _single(box: Box) -> Blocks:
    return Blocks(*(np.array([[getattr(part, end) for part in box]], np.intp) for end in ("start", "stop")))


def _extent(box: Box) -> Shape:
    return tuple(part.stop - part.start for part in box)


def _as_far_as_local(tensor: Tensor, blocks: Blocks) -> Blocks:
    """The blocks of the result that depend on a block of each operand, and are computed from it in the same way; all of
    the result instead of the others."""
    primitive = tensor.primitive
    entire = _entire(tensor, len(blocks.start))
    if _sliding(tensor):
        window = _window(tensor, blocks, tensor.operands[0])
        of_padding_alone = (window.extent <= 0).any(axis=1, keepdims=True)
        return Blocks(*(np.where(of_padding_alone, *ends) for ends in zip(entire, blocks, strict=True)))
    local = isinstance(primitive, (*_ELEMENTWISE, Input)) or (
        isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)
    )
    return blocks if local else entire


def _sliding(tensor: Tensor) -> Window | None:
    """The window whose elements each element is computed from, if that slides over the operand."""
    primitive = tensor.primitive
    if isinstance(primitive, Subsample) or (isinstance(primitive, MaxPool) and not primitive.padding):
        return primitive.window
    return primitive.map.window if isinstance(primitive, Linear) and isinstance(primitive.map, Convolution) else None


def _window(tensor: Tensor, blocks: Blocks, operand: Tensor) -> Blocks:
    """The block of an operand that each block of the tensor depends on; empty where that sees nothing but padding."""
    everything = (blocks.extent == tensor.shape).all(axis=1)
    entire = _entire(operand, len(everything))
    if everything.all():
        return entire
    if not (sliding := _sliding(tensor)):
        return blocks
    reach = _reach(sliding, blocks)
    axes = reach.start.shape[1]
    seen = Blocks(entire.start.copy(), entire.stop.copy())
    seen.start[:, -axes:] = np.maximum(reach.start, 0)
    seen.stop[:, -axes:] = np.minimum(reach.stop, operand.shape[-axes:])
    return Blocks(*(np.where(everything[:, np.newaxis], *ends) for ends in zip(entire, seen, strict=True)))


def _reach(window: Window, blocks: Blocks) -> Blocks:
    """From where to where the windows of each block reach, the padding included; along the spatial axes."""
    kernel, strides, dilations, begin = (
        np.array(each) for each in (window.kernel, window.strides, window.dilations, window.begin)
    )
    axes = len(kernel)
    return Blocks(
        blocks.start[:, -axes:] * strides - begin,
        (blocks.stop[:, -axes:] - 1) * strides - begin + dilations * (kernel - 1) + 1,
    )


def _padding(tensor: Tensor, blocks: Blocks) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """What the windows of each block see of padding before and behind the operand, along the spatial axes."""
    sliding = _sliding(tensor)
    assert sliding
    reach = _reach(sliding, blocks)
    size = tensor.operands[0].shape[-reach.start.shape[1] :]
    return np.maximum(-reach.start, 0), np.maximum(reach.stop - size, 0)


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
    sliding = _sliding(tensor)
    if sliding:
        begin, end = (tuple(pads[0].tolist()) for pads in _padding(tensor, _single(box)))
        sliding = replace(sliding, begin=begin, end=end)
    if sliding and isinstance(primitive, Subsample | MaxPool):
        primitive = replace(primitive, window=sliding)
    if isinstance(primitive, Linear):
        map = primitive.map
        if isinstance(map, Diagonal):
            map = Diagonal(_cut(map.scale, tensor, box))
        elif sliding and isinstance(map, Convolution):
            map = replace(map, window=sliding)
        bias, magnitude = (_cut(values, tensor, box) for values in (primitive.bias, primitive.magnitude))
        primitive = replace(primitive, map=map, bias=bias, magnitude=magnitude)
    return replace(tensor, primitive=primitive, operands=operands, shape=_extent(box))


def _cut(values: Array, tensor: Tensor, box: Box) -> Array:
    """The block of values that broadcast to the tensor."""
    last = box[len(box) - values.ndim :]
    return values[tuple(slice(None) if size == 1 else part for size, part in zip(values.shape, last, strict=True))]
