"""Operators that slide a window: convolution and pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.linear_maps import Convolution
from verify.core.primitives import Linear, MaxPool, Reshape, Select, Tensor
from verify.core.rounding import Array
from verify.core.windows import Window
from verify.model.operators.computed import factor_of
from verify.model.operators.movement import move
from verify.model.operators.node import Node, Operand
from verify.model.operators.quantised import product_of_quantised
from verify.model.operators.reductions import reduce_over
from verify.model.operators.registry import operator

LARGEST_WINDOW = 2**16
"""Elements. Each takes a step of its own."""


def _window(node: Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
    """The window that the attributes describe, and the padding at the end that they ask for. With `ceil_mode` the
    window has more of it, so that the last, partial one fits."""
    axes = len(spatial)
    strides = tuple(node.attribute("strides", [1] * axes))
    dilations = tuple(node.attribute("dilations", [1] * axes))
    pads = list(node.attribute("pads", [0] * (2 * axes)))
    automatic = node.attribute("auto_pad", b"NOTSET").decode()
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == axes:
        node.refuse(f"a window of {len(kernel)} axes does not fit {axes} spatial axes")
    if min(pads, default=0) < 0 or min(*kernel, *strides, *dilations) < 1:
        node.refuse("negative pads and windows without extent are not supported")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        if max(dilations) > 1:
            node.refuse(f"auto_pad {automatic} with dilations is not supported: runtimes disagree")
        total = [(-(-n // s) - 1) * s + k - n for n, s, k in zip(spatial, strides, kernel, strict=True)]
        if min(total) < -1:
            node.refuse(f"auto_pad {automatic} with strides that skip elements is not supported: runtimes disagree")
        small, large = [max(0, t) // 2 for t in total], [max(0, t) - max(0, t) // 2 for t in total]
        begin, end = (small, large) if automatic == "SAME_UPPER" else (large, small)
    elif automatic == "VALID":
        begin = end = [0] * axes
    elif automatic == "NOTSET":
        begin, end = pads[:axes], pads[axes:]
    else:
        node.refuse(f"auto_pad {automatic!r} is not supported")
    needed = tuple(end)
    if node.flag("ceil_mode"):
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        count = [
            -(-(n + b + e - r) // s) + 1 for n, b, e, r, s in zip(spatial, begin, end, reach, strides, strict=True)
        ]
        if any((c - 1) * s >= n + b for c, n, b, s in zip(count, spatial, begin, strides, strict=True)):
            node.refuse("ceil_mode with a window that starts in the padding is not supported: runtimes disagree")
        last = [(c - 1) * s + r - n - b for c, n, b, r, s in zip(count, spatial, begin, reach, strides, strict=True)]
        needed = tuple(map(max, end, last))
    window = Window(kernel, strides, dilations, tuple(begin), needed)
    if min(window.output(spatial)) < 1:
        node.refuse(f"the window does not fit into {spatial} elements")
    if math.prod(kernel) > LARGEST_WINDOW:
        node.refuse(f"a window of {math.prod(kernel)} elements is not supported")
    node.require_size([n + b + e for n, b, e in zip(spatial, begin, needed, strict=True)])
    return window, tuple(end)


@operator("Conv", 1, 11, 22)
@product_of_quantised(lambda node, rank: 0)
def conv(node: Node, x: Operand, weight: Operand, bias: Operand | None = None) -> Tensor:
    kernel, *off = factor_of(node, weight, "the kernel")
    shift = None if bias is None else node.weights(bias, "the bias")
    return convolved(node.off_by(*off), node.tensor(x), kernel, shift)


def convolved(node: Node, x: Tensor, kernel: Array, bias: Array | None) -> Tensor:
    """The convolution that the attributes of a node describe; of integers, if x holds some."""
    groups: int = node.attribute("group", 1)
    _require_fit(node, x, kernel, groups, channels=kernel.shape[1] * groups)
    window, _ = _window(node, x.shape[2:], kernel.shape[2:])
    return _dot(node, x, kernel, bias, window, groups)


def _require_fit(node: Node, x: Tensor, kernel: Array, groups: int, channels: int) -> None:
    """channels: that the kernel takes."""
    if groups < 1 or len(kernel) % groups or len(x.shape) != kernel.ndim or x.shape[1] != channels:
        node.refuse(f"a kernel of shape {kernel.shape} in {groups} groups does not fit an input of shape {x.shape}")
    if node.attribute("kernel_shape", list(kernel.shape[2:])) != list(kernel.shape[2:]):
        node.refuse("kernel_shape differs from the kernel's shape")


def _dot(node: Node, x: Tensor, kernel: Array, bias: Array | None, window: Window, groups: int) -> Tensor:
    if bias is not None and bias.shape != (len(kernel),):
        node.refuse(f"the bias is not one number for each of {len(kernel)} outputs")
    shift = None if bias is None else bias.reshape(-1, *[1] * (kernel.ndim - 2))
    shape = (x.shape[0], len(kernel), *window.output(x.shape[2:]))
    node.require_size(shape)
    return node.result(node.dot(Convolution(kernel, window, groups), shift, x), x, shape=shape)


@operator("ConvTranspose", 1, 11, 22)
def conv_transpose(node: Node, x: Operand, weight: Operand, bias: Operand | None = None) -> Tensor:
    """A convolution with the reversed kernel, of x with zeros between its elements and around them: products with these
    are zero in any arithmetic."""
    x, kernel = node.tensor(x), node.weights(weight, "the kernel")
    channels, outputs, *extent = kernel.shape
    groups, axes = node.attribute("group", 1), len(extent)
    _require_fit(node, x, kernel, groups, channels)
    strides, dilations = (node.attribute(name, [1] * axes) for name in ("strides", "dilations"))
    pads, more = node.attribute("pads", [0] * (2 * axes)), node.attribute("output_padding", [0] * axes)
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID") or node.attribute("output_shape"):
        node.refuse("pads that follow from the shape of the output are not supported: runtimes disagree")
    if automatic == b"VALID" and "pads" in node.attributes:
        node.refuse("pads beside auto_pad are not supported: runtimes refuse them, or leave them out")
    if not len(strides) == len(dilations) == len(more) == len(pads) // 2 == axes:
        node.refuse(f"strides, dilations or pads do not fit {axes} spatial axes")
    if min(*strides, *dilations, *extent) < 1 or min(*pads, *more) < 0 or any(map(int.__ge__, more, strides)):
        node.refuse("negative pads, windows without extent and output_padding of a stride or more are not supported")
    if math.prod(extent) > LARGEST_WINDOW:
        node.refuse(f"a window of {math.prod(extent)} elements is not supported")
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, extent, strict=True)]
    begin = [r - pad for r, pad in zip(reach, pads[:axes], strict=True)]
    end = [r - pad + added for r, pad, added in zip(reach, pads[axes:], more, strict=True)]
    sizes = zip(x.shape[2:], strides, begin, end, reach, strict=True)
    if any((n - 1) * stride + 1 + b + e - r < 1 for n, stride, b, e, r in sizes):
        node.refuse("its result is empty")
    among = _among_zeros(node, x, strides, begin, end)
    window = Window(tuple(extent), (1,) * axes, tuple(dilations), (0,) * axes, (0,) * axes)
    apart = kernel.reshape(groups, channels // groups, outputs, *extent).swapaxes(1, 2)
    turned = np.flip(apart, tuple(range(3, 3 + axes))).reshape(groups * outputs, channels // groups, *extent)
    shift = None if bias is None else node.weights(bias, "the bias")
    return _dot(node, among, np.ascontiguousarray(turned), shift, window, groups)


def _among_zeros(node: Node, x: Tensor, strides: list[int], begin: list[int], end: list[int]) -> Tensor:
    """The elements of x at every so many places of each spatial axis, zeros in between, and so many at its ends, or so
    many places less."""
    spread = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)]
    sides = list(zip(begin, end, strict=True))
    node.require_size(
        [*x.shape[:2], *(size + max(b, 0) + max(e, 0) for size, (b, e) in zip(spread, sides, strict=True))]
    )

    def among(elements: NDArray[Any]) -> NDArray[Any]:
        found = np.full((*x.shape[:2], *spread), -1)
        found[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = elements
        added = [(0, 0), (0, 0), *((max(b, 0), max(e, 0)) for b, e in sides)]
        found = np.pad(found, added, constant_values=-1)
        # One end may lose what the other one got.
        kept = (slice(max(-b, 0), size + max(b, 0) + e) for size, (b, e) in zip(spread, sides, strict=True))
        return found[(slice(None), slice(None), *kept)]

    return node.tensor(move(node, x, among))


def _covered(window: Window, spatial: tuple[int, ...]) -> Array:
    """How many elements of an array of shape `spatial` each window covers (padding not counted)."""
    counts = np.zeros(window.output(spatial))
    for tap in window.taps(np.ones(spatial), 0.0):
        counts += tap
    return counts


@operator("AveragePool", 7, 10, 11, 19, 22)
def average_pool(node: Node, x: Operand) -> Tensor:
    """The sum of a window over the number of its elements: with `count_include_pad` the padding counts.

    onnxruntime before 1.21 counts none of a Pad that it merges, and all of partial windows; some later ones confuse the
    padding of different ends (github.com/microsoft/onnxruntime/issues/22177 and 26708).
    """
    x = node.tensor(x)
    including = node.flag("count_include_pad")
    if _is_padded(x):
        if node.flag("ceil_mode"):
            node.refuse("ceil_mode behind a Pad is not supported: runtimes merge the two and then drop windows")
        if not including:
            node.refuse(
                "a Pad in front is not supported without count_include_pad: runtimes that merge the two disagree"
            )
    spatial, channels = x.shape[2:], x.shape[1]
    kernel = tuple(node.attribute("kernel_shape"))
    window, end = _window(node, spatial, kernel)
    counts = _covered(window, spatial)
    if including:
        if window.end != end:
            node.refuse("ceil_mode with count_include_pad and a partial window is not supported: runtimes disagree")
        if node.version >= 19 and (window.begin != end or _is_padded(x)):
            node.refuse("count_include_pad with padding of unequal sizes is not supported here: runtimes disagree")
        counts = np.full_like(counts, math.prod(kernel))
    if counts.min() < 1:
        node.refuse("a window covers nothing but padding")
    total = Linear.dot(Convolution(np.ones((channels, 1, *kernel)), window, channels), None, x.shape)
    primitive = total.then(Linear.elementwise(1.0 / counts, np.zeros(()), roundings=2, scalings=1))
    return node.result(primitive, x, shape=(*x.shape[:2], *window.output(spatial)))


def _is_padded(x: Tensor) -> bool:
    """Whether constants were put around x, before what moves its elements or does nothing, which runtimes drop."""
    while True:
        primitive = x.primitive
        if isinstance(primitive, Select) and primitive.pads:
            return True
        nothing = isinstance(primitive, Linear) and primitive.does_nothing
        if not (nothing or isinstance(primitive, Reshape | Select)):
            return False
        (x,) = x.operands


@operator("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x, integers=True)
    node.flag("storage_order")  # orders the indices of the maxima only, which are not supported
    window, _ = _window(node, x.shape[2:], tuple(node.attribute("kernel_shape")))
    shape = (*x.shape[:2], *window.output(x.shape[2:]))
    own = np.ones(x.shape)
    padding = x.primitive if isinstance(x.primitive, Select) and x.primitive.pads else None
    if _is_padded(x) and not padding:
        node.refuse("a Pad with operations behind it that do nothing is not supported: runtimes may merge it")
    if padding:
        own[padding.index < 0] = 0
        (x,) = x.operands
    if sum(window.taps(own, 0.0)).min() < 1:  # type: ignore[union-attr]
        node.refuse("a window covers nothing but padding")
    return node.result(MaxPool(window, padding), x, shape=shape)


@operator("GlobalAveragePool", 1, 22)
def global_average_pool(node: Node, x: Operand) -> Tensor:
    if len(x.shape) < 3:
        node.refuse(f"an operand of shape {x.shape} has no spatial axes")
    return reduce_over(node, x, list(range(2, len(x.shape))), mean=True, keep=True)


@operator("GlobalMaxPool", 1, 22)
def global_max_pool(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x)
    if len(x.shape) < 3:
        node.refuse(f"an operand of shape {x.shape} has no spatial axes")
    if math.prod(x.shape[2:]) > LARGEST_WINDOW:
        node.refuse(f"a window of {math.prod(x.shape[2:])} elements is not supported")
    ones, zeros = (1,) * (len(x.shape) - 2), (0,) * (len(x.shape) - 2)
    window = Window(x.shape[2:], ones, ones, zeros, zeros)
    return node.result(MaxPool(window), x, shape=(*x.shape[:2], *ones))
