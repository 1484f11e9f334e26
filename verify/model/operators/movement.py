"""Operators that move elements without changing them: exact in every arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.primitives import Concatenate, Reshape, Select, Tensor
from verify.model.operators.node import Node, Operand
from verify.model.operators.registry import operator

_SINCE_21 = (21, 23, 24, 25)
"""Versions of these operators that only added types which are not float32."""


def move(node: Node, x: Operand, function: Callable[[NDArray[Any]], NDArray[Any]], *, fill: float = 0.0) -> Operand:
    """Apply a numpy function that only moves elements: at once to a constant, else to the elements' indices.

    An index of -1 stands for `fill`.
    """
    if not isinstance(x, Tensor):
        return np.asarray(function(x), order="C")
    elements = np.arange(int(np.prod(x.shape, dtype=np.int64)))
    index = np.asarray(function(elements.reshape(x.shape)), order="C")
    if index.shape == x.shape and np.array_equal(index.reshape(-1), elements):
        return x
    in_order = index.size == elements.size and np.array_equal(index.reshape(-1), elements)
    return node.result(Reshape(index.shape) if in_order else Select(index, fill), x, shape=index.shape)


def reduced(axis: int, rank: int, node: Node) -> int:
    """A possibly negative axis as a non-negative one."""
    if not -rank <= axis < rank:
        node.refuse(f"axis {axis} is outside an array of {rank} axes")
    return axis % rank


def axes_of(node: Node, operand: Operand | None, *, operand_since: int) -> list[int] | None:
    """Axes, which older versions keep in an attribute and newer ones in an operand; None where neither is there."""
    if node.version < operand_since:
        axes = node.attribute("axes")
        return None if axes is None else list(axes)
    return None if operand is None else node.integers(operand, "the axes")


@operator("Identity", 1, 13, 14, 16, 19, *_SINCE_21)
def identity(node: Node, x: Operand) -> Operand:
    return x


@operator("Dropout", 7, 10, 12, 13, 22)
def dropout(node: Node, x: Operand, ratio: Operand | None = None, training: Operand | None = None) -> Operand:
    """The identity, in inference."""
    node.attribute("ratio")
    node.attribute("seed")
    if training is not None and (not isinstance(training, np.ndarray) or training.any()):
        node.refuse("training mode is not supported")
    return x


@operator("Reshape", 5, 13, 14, 19, *_SINCE_21)
def reshape(node: Node, x: Operand, shape: Operand) -> Operand:
    target = node.integers(shape, "the shape")
    if min(target, default=0) < -1:
        node.refuse(f"the shape {target} holds a negative length")
    if not node.flag("allowzero"):
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return move(node, x, lambda a: a.reshape(target))


@operator("Flatten", 1, 9, 11, 13, *_SINCE_21)
def flatten(node: Node, x: Operand) -> Operand:
    axis = node.attribute("axis", 1)
    rank = len(x.shape)
    if axis < 0 and node.version < 11:
        node.refuse(f"axis {axis} is negative")
    axis = axis if axis == rank else reduced(axis, rank, node)
    return move(node, x, lambda a: a.reshape(int(np.prod(a.shape[:axis], dtype=np.int64)), -1))


@operator("Transpose", 1, 13, *_SINCE_21)
def transpose(node: Node, x: Operand) -> Operand:
    order = node.attribute("perm")
    return move(node, x, lambda a: np.transpose(a, order))


@operator("Squeeze", 1, 11, 13, *_SINCE_21)
def squeeze(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    dropped = axes_of(node, axes, operand_since=13)  # no axes, or none of them: all of length one
    return move(node, x, lambda a: np.squeeze(a, tuple(dropped) if dropped else None))


@operator("Unsqueeze", 1, 11, 13, *_SINCE_21)
def unsqueeze(node: Node, x: Operand, axes: Operand | None = None) -> Operand:
    added = axes_of(node, axes, operand_since=13)
    if added is None:
        node.refuse("the axes are missing")
    return move(node, x, lambda a: np.expand_dims(a, tuple(added)))


@operator("Expand", 8, 13)
def expand(node: Node, x: Operand, shape: Operand) -> Operand:
    target = np.broadcast_shapes(tuple(node.integers(shape, "the shape")), x.shape)
    node.require_size(target)
    return move(node, x, lambda a: np.broadcast_to(a, target))


@operator("Concat", 4, 11, 13)
def concat(node: Node, *operands: Operand) -> Operand:
    axis = reduced(node.attribute("axis"), len(operands[0].shape), node)
    node.require_size(
        (sum(x.shape[axis] for x in operands), *(n for i, n in enumerate(operands[0].shape) if i != axis))
    )
    if all(isinstance(x, np.ndarray) for x in operands):
        return np.concatenate([x for x in operands if isinstance(x, np.ndarray)], axis)
    tensors = [node.tensor(x, integers=True) for x in operands]
    if len({x.dtype for x in tensors}) > 1:
        node.refuse("operands of several types are not supported")
    extents = np.concatenate([np.broadcast_to(0, x.shape) for x in tensors], axis).shape
    return node.result(Concatenate(axis), *tensors, shape=extents)


@operator("Split", 2, 11, 13, 18)
def split(node: Node, x: Operand, sizes: Operand | None = None) -> list[Operand]:
    axis = reduced(node.attribute("axis", 0), len(x.shape), node)
    if node.version < 13:
        given = node.attribute("split")
    else:
        given = None if sizes is None else node.integers(sizes, "the sizes")
    parts = node.attribute("num_outputs", node.outputs) if node.version >= 18 else node.outputs
    length = x.shape[axis]
    if given is None:  # equal parts, the last one smaller where they do not fit (allowed since version 18)
        if parts != node.outputs or (node.version < 18 and length % parts):
            node.refuse(f"an axis of length {length} cannot be split into {parts} parts")
        step = -(-length // parts)
        given = [max(0, min(step, length - i * step)) for i in range(parts)]
    if sum(given) != length or len(given) != node.outputs:
        node.refuse(f"parts of sizes {list(given)} do not make up an axis of length {length}")
    stops = np.cumsum(given)
    around = (slice(None),) * axis
    return [
        move(node, x, lambda a, start=stop - size, stop=stop: a[(*around, slice(start, stop))])  # type: ignore[misc]
        for size, stop in zip(given, stops, strict=True)
    ]


@operator("Slice", 1, 10, 11, 13)
def slice_(node: Node, x: Operand, *bounds: Operand | None) -> Operand:
    if node.version == 1:
        starts, ends, axes, steps = node.attribute("starts"), node.attribute("ends"), node.attribute("axes"), None
    else:
        names = ("the starts", "the ends", "the axes", "the steps")
        given = [None if b is None else node.integers(b, n) for b, n in zip(bounds, names, strict=False)]
        starts, ends, axes, steps = given + [None] * (4 - len(given))
    axes = range(len(starts)) if axes is None else [reduced(axis, len(x.shape), node) for axis in axes]
    steps = steps or [1] * len(starts)
    if 0 in steps or len(set(axes)) != len(starts):
        node.refuse("a step is zero or an axis is sliced twice")
    slices = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0 and end in (2**31 - 1, 2**63 - 1):
            node.refuse("a backward slice to the largest integer is not supported: runtimes disagree with the standard")
        slices[axis] = _extent(start, end, step, x.shape[axis])
    return move(node, x, lambda a: a[tuple(slices)])


def _extent(start: int, end: int, step: int, length: int) -> slice:
    """ONNX's slice as Python's: both clamp, but an end before the first element has no negative index in Python."""
    low, high = (0, length) if step > 0 else (-1, length - 1)
    start = min(max(start + length if start < 0 else start, 0), high)
    end = min(max(end + length if end < 0 else end, low), length)
    return slice(start, None if end < 0 else end, step)


@operator("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(node: Node, x: Operand) -> Operand:
    """Channels become blocks of pixels, in one of two orders: N x (b b C) x H x W, or N x (C b b) x H x W, to
    N x C x b H x b W."""
    block = node.attribute("blocksize")
    mode = node.attribute("mode", b"DCR").decode() if node.version >= 11 else "DCR"
    if mode not in ("DCR", "CRD"):
        node.refuse(f"mode {mode!r} is not supported")

    def spread(a: NDArray[Any]) -> NDArray[Any]:
        count, depth, height, width = a.shape
        channels = depth // block**2
        if mode == "DCR":
            rows_of_blocks = a.reshape(count, block, block, channels, height, width).transpose(0, 3, 4, 1, 5, 2)
        else:
            rows_of_blocks = a.reshape(count, channels, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
        return rows_of_blocks.reshape(count, channels, height * block, width * block)

    return move(node, x, spread)


@operator("SpaceToDepth", 1, 13)
def space_to_depth(node: Node, x: Operand) -> Operand:
    """Blocks of pixels become channels: N x C x b H x b W to N x (b b C) x H x W."""
    block = node.attribute("blocksize")

    def gathered(a: NDArray[Any]) -> NDArray[Any]:
        count, channels, height, width = a.shape
        blocks = a.reshape(count, channels, height // block, block, width // block, block).transpose(0, 3, 5, 1, 2, 4)
        return blocks.reshape(count, -1, height // block, width // block)

    return move(node, x, gathered)


@operator("Pad", 2, 11, 13, 18, 19, *_SINCE_21)
def pad(
    node: Node, x: Operand, pads: Operand | None = None, value: Operand | None = None, axes: Operand | None = None
) -> Operand:
    mode = node.attribute("mode", b"constant").decode()
    amounts = node.attribute("pads") if node.version < 11 else node.integers(pads, "the pads")
    if node.version < 11:
        fill = node.attribute("value", 0.0)
    else:
        fill = 0.0 if value is None else float(node.weights(value, "the padding value").item())
    rank = len(x.shape)
    chosen = range(rank) if axes is None else [reduced(axis, rank, node) for axis in node.integers(axes, "the axes")]
    if mode not in ("constant", "reflect", "edge", "wrap") or len(amounts) != 2 * len(chosen):
        node.refuse(f"mode {mode!r} with {len(amounts)} pads is not supported")
    margins = [(0, 0)] * rank
    for axis, begin, end in zip(chosen, amounts[: len(chosen)], amounts[len(chosen) :], strict=True):
        margins[axis] = (begin, end)
    if any(max(-b, 0) + max(-e, 0) > size for (b, e), size in zip(margins, x.shape, strict=True)):
        node.refuse("more is cropped than is there")
    node.require_size([size + b + e for (b, e), size in zip(margins, x.shape, strict=True)])
    if mode != "constant" and min(amounts) < 0:
        node.refuse(f"negative pads in mode {mode!r} are not supported")
    if mode == "reflect" and any(max(pair) >= size for pair, size in zip(margins, x.shape, strict=True) if any(pair)):
        node.refuse("more is reflected than is there, which runtimes refuse")

    def padded(a: NDArray[Any]) -> NDArray[Any]:
        cropped = a[tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(margins, a.shape, strict=True))]
        grown = [(max(b, 0), max(e, 0)) for b, e in margins]
        if mode == "constant":
            outside = -1 if isinstance(x, Tensor) else fill
            return np.pad(cropped, grown, constant_values=outside)
        return np.pad(cropped, grown, mode=mode)

    return move(node, x, padded, fill=fill)
