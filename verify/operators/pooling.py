"""Operators that slide a window: convolution and pooling."""

from __future__ import annotations

import numpy as np

from verify.linear_maps import Convolution
from verify.operators.arithmetic import reduce_over
from verify.operators.registry import Node, Operand, operator
from verify.primitives import Linear, MaxPool, Tensor
from verify.rounding import Array
from verify.windows import Window


def _window(node: Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window that the attributes describe. With `ceil_mode`, the padding at the end grows until the last, partial
    window fits; a window that would start in the padding at the end is dropped."""
    axes = len(spatial)
    strides = tuple(node.attribute("strides", [1] * axes))
    dilations = tuple(node.attribute("dilations", [1] * axes))
    pads = list(node.attribute("pads", [0] * (2 * axes)))
    automatic = node.attribute("auto_pad", b"NOTSET").decode()
    rounding_up = bool(node.attribute("ceil_mode", 0))
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == axes:
        node.refuse(f"a window of {len(kernel)} axes does not fit {axes} spatial axes")
    if min(pads, default=0) < 0 or min(*kernel, *strides, *dilations) < 1:
        node.refuse("negative pads and windows without extent are not supported")
    begin, end = list(pads[:axes]), list(pads[axes:])
    for axis, (size, stride) in enumerate(zip(spatial, strides, strict=True)):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            small, large = total // 2, total - total // 2
            begin[axis], end[axis] = (small, large) if automatic == "SAME_UPPER" else (large, small)
        elif automatic == "VALID":
            begin[axis] = end[axis] = 0
        elif automatic != "NOTSET":
            node.refuse(f"auto_pad {automatic!r} is not supported")
        if rounding_up:
            count = -(-(size + begin[axis] + end[axis] - reach) // stride) + 1
            if (count - 1) * stride >= size + begin[axis]:
                count -= 1
            end[axis] = max(end[axis], (count - 1) * stride + reach - size - begin[axis])
    window = Window(kernel, strides, dilations, tuple(begin), tuple(end))
    if min(window.output(spatial)) < 1:
        node.refuse(f"the window does not fit into {spatial} elements")
    return window


@operator("Conv", 1, 11, 22)
def conv(node: Node, x: Operand, weight: Operand, bias: Operand | None = None) -> Tensor:
    x = node.tensor(x)
    kernel = node.weights(weight, "the kernel")
    groups = node.attribute("group", 1)
    if node.attribute("kernel_shape", list(kernel.shape[2:])) != list(kernel.shape[2:]):
        node.refuse("kernel_shape differs from the kernel's shape")
    if len(x.shape) != kernel.ndim or x.shape[1] != kernel.shape[1] * groups or len(kernel) % groups:
        node.refuse(f"a kernel of shape {kernel.shape} in {groups} groups does not fit an input of shape {x.shape}")
    window = _window(node, x.shape[2:], kernel.shape[2:])
    shift = None if bias is None else node.weights(bias, "the bias").reshape(-1, *[1] * (kernel.ndim - 2))
    primitive = Linear.dot(Convolution(kernel, window, groups), shift, x.shape)
    return node.result(primitive, x, shape=(x.shape[0], len(kernel), *window.output(x.shape[2:])))


def _covered(window: Window, spatial: tuple[int, ...]) -> Array:
    """How many elements of an array of shape `spatial` each window covers (padding not counted)."""
    counts = np.zeros(window.output(spatial))
    for tap in window.taps(np.ones(spatial), 0.0):
        counts += tap
    return counts


@operator("AveragePool", 7, 10, 11, 19, 22)
def average_pool(node: Node, x: Operand) -> Tensor:
    """The sum of a window over the number of its elements: with `count_include_pad` the padding counts, but not what
    `ceil_mode` adds to it."""
    x = node.tensor(x)
    spatial, channels = x.shape[2:], x.shape[1]
    kernel = tuple(node.attribute("kernel_shape"))
    window = _window(node, spatial, kernel)
    counts = _covered(window, spatial)
    if node.attribute("count_include_pad", 0):
        pads = list(node.attribute("pads", [0] * (2 * len(spatial))))
        if node.attribute("auto_pad", b"NOTSET") != b"NOTSET":
            pads = [*window.begin, *window.end]
        end = tuple(pads[len(spatial) :])
        padded = tuple(n + b + e for n, b, e in zip(spatial, window.begin, end, strict=True))
        beyond = tuple(e - given for e, given in zip(window.end, end, strict=True))
        counts = _covered(Window(kernel, window.strides, window.dilations, (0,) * len(spatial), beyond), padded)
    if counts.min() < 1:
        node.refuse("a window covers nothing but padding")
    total = Convolution(np.ones((channels, 1, *kernel)), window, channels)
    primitive = Linear.dot(total.scaled(1.0 / counts), None, x.shape, roundings=2, scalings=2)
    return node.result(primitive, x, shape=(*x.shape[:2], *window.output(spatial)))


@operator("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x)
    node.attribute("storage_order")  # orders the indices of the maxima only, which are not supported
    window = _window(node, x.shape[2:], tuple(node.attribute("kernel_shape")))
    if _covered(window, x.shape[2:]).min() < 1:
        node.refuse("a window covers nothing but padding")
    return node.result(MaxPool(window), x, shape=(*x.shape[:2], *window.output(x.shape[2:])))


@operator("GlobalAveragePool", 1, 22)
def global_average_pool(node: Node, x: Operand) -> Tensor:
    return reduce_over(node, x, list(range(2, len(x.shape))), mean=True, keep=True)


@operator("GlobalMaxPool", 1, 22)
def global_max_pool(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x)
    ones, zeros = (1,) * (len(x.shape) - 2), (0,) * (len(x.shape) - 2)
    window = Window(x.shape[2:], ones, ones, zeros, zeros)
    return node.result(MaxPool(window), x, shape=(*x.shape[:2], *ones))
