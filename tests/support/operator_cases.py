"""For every operator of the table and each of its versions: nodes that use its attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.onnx_models import node

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Nodes from "x" to "y", with constants."""

    nodes: list[onnx.NodeProto]
    shape: Shape
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)


CASES: dict[str, Callable[[int, np.random.Generator], list[Case]]] = {}


def cases_of(operator: str, version: int) -> list[Case]:
    return CASES[operator](version, np.random.default_rng(version))


def _for(name: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        CASES[name] = function
        return function

    return register


def floats(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _single(operator: str, shape: Shape, extra: dict[str, NDArray[Any]] | None = None, **attributes: Any) -> Case:
    extra = extra or {}
    return Case([node(operator, ["x", *extra], "y", **attributes)], shape, extra)


def _in_front(operator: str, shape: Shape, constant: NDArray[Any], **attributes: Any) -> Case:
    return Case([node(operator, ["c", "x"], "y", **attributes)], shape, {"c": constant})


@_for("Conv")
def conv(version: int, rng: np.random.Generator) -> list[Case]:
    def case(shape: Shape, weight: Shape, *, bias: bool = True, **attributes: Any) -> Case:
        constants = {"w": floats(rng, *weight)}
        if bias:
            constants["b"] = floats(rng, weight[0])
        return _single("Conv", shape, constants, **attributes)

    return [
        case((1, 3, 6, 5), (4, 3, 3, 2)),
        case((1, 3, 6, 5), (4, 3, 3, 3), bias=False, pads=[1, 0, 2, 1], strides=[2, 1]),
        case((1, 4, 9, 8), (6, 2, 3, 3), group=2, dilations=[2, 1], pads=[1, 1, 1, 1]),
        case((1, 4, 7, 7), (4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
        case((1, 4, 6, 7), (8, 1, 2, 3), group=4, auto_pad="SAME_LOWER", strides=[2, 2]),
        case((1, 2, 7, 7), (3, 2, 3, 3), auto_pad="VALID", strides=[3, 2], kernel_shape=[3, 3]),
        case((1, 2, 11), (3, 2, 4), strides=[3], pads=[2, 1]),
        case((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), pads=[1, 0, 1, 0, 1, 0]),
        case((2, 3, 5, 5), (4, 3, 1, 1)),
    ]


@_for("ConvTranspose")
def conv_transpose(version: int, rng: np.random.Generator) -> list[Case]:
    def case(shape: Shape, weight: Shape, *, bias: int = 0, **attributes: Any) -> Case:
        constants = {"w": floats(rng, *weight)}
        if bias:
            constants["b"] = floats(rng, bias)
        return _single("ConvTranspose", shape, constants, **attributes)

    return [
        case((1, 3, 4, 5), (3, 2, 3, 2), bias=2),
        case((1, 3, 4, 5), (3, 2, 4, 3), strides=[2, 3], pads=[1, 0, 2, 1]),
        case((1, 4, 3, 4), (4, 3, 3, 3), bias=6, group=2, strides=[2, 2], output_padding=[1, 0], pads=[1, 1, 1, 1]),
        case((1, 4, 5, 4), (4, 1, 3, 2), group=4, dilations=[2, 1], strides=[1, 2], auto_pad="VALID"),
        case((1, 2, 6, 5), (2, 3, 1, 2), bias=3, strides=[3, 1], pads=[1, 1, 2, 2], kernel_shape=[1, 2]),
        case((1, 2, 5), (2, 3, 4), strides=[3]),
        case((1, 2, 3, 2, 2), (2, 2, 2, 3, 2), strides=[1, 2, 1], pads=[0, 1, 0, 1, 0, 0]),
        case((2, 3, 3, 3), (3, 4, 1, 1)),
        case((1, 2, 1), (2, 3, 2), bias=3, strides=[3], output_padding=[2], pads=[2, 0]),
        case((1, 2, 1), (2, 3, 2), bias=3, strides=[3], output_padding=[2], pads=[3, 0]),
    ]


@_for("Gemm")
def gemm(version: int, rng: np.random.Generator) -> list[Case]:
    w, v = floats(rng, 6, 4), floats(rng, 4, 6)
    cases = [
        _single("Gemm", (3, 6), {"w": w, "c": floats(rng, 4)}),
        _single("Gemm", (1, 6), {"w": v, "c": floats(rng, 1, 4)}, transB=1, alpha=0.3, beta=-1.7),
        _single("Gemm", (6, 3), {"w": w, "c": floats(rng, 3, 4)}, transA=1),
        _single("Gemm", (6, 3), {"w": v, "c": floats(rng, 3, 1)}, transA=1, transB=1, beta=0.5),
        Case([node("Gemm", ["w", "x", "c"], "y", alpha=2.5)], (4, 3), {"w": w, "c": floats(rng, 6, 1)}),
        Case([node("Gemm", ["w", "x", "c"], "y", transA=1, transB=1)], (3, 6), {"w": w, "c": floats(rng, 3)}),
    ]
    return cases + ([_single("Gemm", (2, 6), {"w": w})] if version >= 11 else [])


@_for("MatMul")
def matmul(version: int, rng: np.random.Generator) -> list[Case]:
    return [
        _single("MatMul", (1, 6), {"w": floats(rng, 6, 4)}),
        _single("MatMul", (2, 3, 6), {"w": floats(rng, 6, 4)}),
        _single("MatMul", (6,), {"w": floats(rng, 6, 4)}),
        _single("MatMul", (3, 6), {"w": floats(rng, 6)}),
        _single("MatMul", (3, 6), {"w": floats(rng, 2, 6, 4)}),
        _single("MatMul", (6,), {"w": floats(rng, 2, 6, 4)}),
        _single("MatMul", (2, 3, 6), {"w": floats(rng, 2, 6, 4)}),
        _in_front("MatMul", (6, 2), floats(rng, 4, 6)),
        _in_front("MatMul", (2, 6, 3), floats(rng, 4, 6)),
        _in_front("MatMul", (6, 3), floats(rng, 2, 4, 6)),
        _in_front("MatMul", (6, 3), floats(rng, 6)),
        _in_front("MatMul", (6,), floats(rng, 4, 6)),
        *_of_two_values(),
    ]


def _of_two_values() -> list[Case]:
    """Products of values that depend on the input, with scales around them, which runtimes may move."""
    transposed = node("Transpose", ["x"], "t", perm=[0, 2, 1])
    row = node("Gather", ["x", "zero"], "r", axis=0)
    zero, scale, divisor = {"zero": np.array(0)}, {"s": np.float32(0.3)}, {"d": np.float32(0.01)}
    return [
        Case([transposed, node("MatMul", ["x", "t"], "y")], (2, 3, 6)),
        Case([node("MatMul", ["x", "x"], "y")], (2, 4, 4)),
        Case([row, node("MatMul", ["r", "x"], "y")], (5, 5), zero),
        Case([row, node("MatMul", ["x", "r"], "y")], (5, 5), zero),
        Case(
            [row, node("MatMul", ["r", "r"], "p"), node("Reshape", ["p", "one"], "y")],
            (5, 5),
            zero | {"one": ints(1)},
        ),
        Case([row, node("MatMul", ["r", "x"], "y")], (2, 3, 3), zero),
        Case([node("Mul", ["x", "s"], "h"), transposed, node("MatMul", ["h", "t"], "y")], (2, 3, 6), scale),
        Case(
            [
                transposed,
                node("MatMul", ["x", "t"], "p"),
                node("Div", ["p", "d"], "q"),
                node("Softmax", ["q"], "y", axis=-1),
            ],
            (2, 3, 6),
            divisor,
        ),
    ]


def _binary(operator: str) -> None:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        def constant(*shape: int) -> NDArray[np.float32]:
            return (1.5 + rng.random(shape)).astype(np.float32)

        two = [node("Relu", ["x"], "r"), node("Add", ["r", "one"], "p"), node(operator, ["x", "p"], "y")]
        narrow = [*two[:2], node("Gather", ["p", "first"], "s", axis=1), node(operator, ["s", "p"], "y")]
        one = {"one": np.float32([1.0])}
        cases = [
            _single(operator, (1, 3, 4, 2), {"c": constant(3, 1, 1)}),
            _single(operator, (1, 3, 4, 2), {"c": constant()}),
            _single(operator, (3, 1), {"c": constant(2, 3, 4)}),
            _in_front(operator, (2, 3), constant(3)),
            Case(two, (2, 3), one),
            Case(narrow, (2, 3), one | {"first": ints(0)}),
        ]
        if operator == "Div":  # the quotient of a constant by the input needs an input away from zero
            cases[3] = Case([*two[:2], node("Div", ["c", "p"], "y")], (2, 3), one | {"c": constant(3)})
        return cases

    CASES[operator] = make


for _operator in ("Add", "Sub", "Mul", "Div"):
    _binary(_operator)


@_for("Neg")
def neg(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Neg", (2, 3))]


@_for("BatchNormalization")
def batch_normalization(version: int, rng: np.random.Generator) -> list[Case]:
    def statistics() -> dict[str, NDArray[np.float32]]:
        return {"s": floats(rng, 3), "b": floats(rng, 3), "m": floats(rng, 3), "v": np.abs(floats(rng, 3))}

    names = ["s", "b", "m", "v"]
    kernel = {"w": floats(rng, 3, 2, 3, 3)}
    behind = [node("Conv", ["x", "w"], "c"), node("BatchNormalization", ["c", *names], "y")]
    return [
        _single("BatchNormalization", (2, 3, 4, 4), statistics()),
        _single("BatchNormalization", (4, 3), statistics(), epsilon=0.1, momentum=0.5),
        Case(behind, (1, 2, 5, 5), kernel | statistics()),
    ]


@_for("LayerNormalization")
def layer_normalization(version: int, rng: np.random.Generator) -> list[Case]:
    both = {"s": floats(rng, 4), "b": floats(rng, 4)}
    last = {"s": floats(rng, 3, 4), "b": floats(rng, 3, 4)}
    return [
        _single("LayerNormalization", (2, 3, 4), both),
        _single("LayerNormalization", (2, 3, 4), {"s": floats(rng, 4)}, epsilon=0.1),
        _single("LayerNormalization", (2, 3, 4), last, axis=1),
        _single("LayerNormalization", (2, 3, 4), last, axis=-2, stash_type=1),
    ]


@_for("RMSNormalization")
def rms_normalization(version: int, rng: np.random.Generator) -> list[Case]:
    return [
        _single("RMSNormalization", (2, 3, 4), {"s": floats(rng, 4)}),
        _single("RMSNormalization", (2, 3, 4), {"s": floats(rng, 3, 4)}, axis=1, epsilon=0.1),
    ]


@_for("InstanceNormalization")
def instance_normalization(version: int, rng: np.random.Generator) -> list[Case]:
    both = {"s": floats(rng, 3), "b": floats(rng, 3)}
    return [
        _single("InstanceNormalization", (1, 3, 4, 5), both),
        _single("InstanceNormalization", (2, 3, 7), both, epsilon=0.1),
        _single("InstanceNormalization", (1, 3, 2, 3, 2), both, epsilon=1e-3),
    ]


@_for("GroupNormalization")
def group_normalization(version: int, rng: np.random.Generator) -> list[Case]:
    def case(groups: int, shape: Shape, **attributes: Any) -> Case:
        both = {"s": floats(rng, shape[1]), "b": floats(rng, shape[1])}
        return _single("GroupNormalization", shape, both, num_groups=groups, **attributes)

    return [case(2, (1, 4, 3, 5)), case(1, (2, 4, 6), epsilon=0.1), case(4, (1, 4, 3, 3), epsilon=1e-3)]


@_for("ReduceMean")
def reduce_mean(version: int, rng: np.random.Generator, operator: str = "ReduceMean", since: int = 18) -> list[Case]:
    def case(axes: list[int] | None, **attributes: Any) -> Case:
        if axes is None:
            return _single(operator, (2, 3, 4), **attributes)
        if version < since:
            return _single(operator, (2, 3, 4), axes=axes, **attributes)
        return _single(operator, (2, 3, 4), {"axes": ints(*axes)}, **attributes)

    cases = [case([1]), case([2, 0], keepdims=0), case(None), case(None, keepdims=0)]
    if version >= 11:
        cases.append(case([-1], keepdims=0))
    if version >= since:
        cases.append(case(None, noop_with_empty_axes=1))
    return cases


@_for("ReduceSum")
def reduce_sum(version: int, rng: np.random.Generator) -> list[Case]:
    return reduce_mean(version, rng, "ReduceSum", 13)


@_for("ReduceL2")
def reduce_l2(version: int, rng: np.random.Generator) -> list[Case]:
    return [case for case in reduce_mean(version, rng, "ReduceL2") if not any(map(_does_nothing, case.nodes))]


def _does_nothing(each: onnx.NodeProto) -> bool:
    return any(attribute.name == "noop_with_empty_axes" and attribute.i for attribute in each.attribute)


@_for("ReduceL1")
def reduce_l1(version: int, rng: np.random.Generator) -> list[Case]:
    return [case for case in reduce_mean(version, rng, "ReduceL1") if not any(map(_does_nothing, case.nodes))]


@_for("ReduceSumSquare")
def reduce_sum_square(version: int, rng: np.random.Generator) -> list[Case]:
    return [case for case in reduce_mean(version, rng, "ReduceSumSquare") if not any(map(_does_nothing, case.nodes))]


@_for("Sum")
def sum_(version: int, rng: np.random.Generator, operator: str = "Sum") -> list[Case]:
    halves = [node("Relu", ["x"], "r"), node("Neg", ["x"], "n")]
    return [
        _single(operator, (2, 3)),
        _single(operator, (2, 3), {"c": floats(rng, 3)}),
        _single(operator, (2, 3), {"c": floats(rng, 3), "d": floats(rng, 4, 1, 1)}),
        Case([*halves, node(operator, ["x", "r"], "y")], (2, 3)),
        Case([*halves, node(operator, ["x", "r", "n", "c"], "y")], (2, 3), {"c": floats(rng, 1)}),
    ]


@_for("Mean")
def mean(version: int, rng: np.random.Generator) -> list[Case]:
    return sum_(version, rng, "Mean")


@_for("Einsum")
def einsum(version: int, rng: np.random.Generator) -> list[Case]:
    def one(equation: str, shape: Shape) -> Case:
        return _single("Einsum", shape, equation=equation)

    def two(equation: str, shape: Shape, constant: Shape) -> Case:
        return _single("Einsum", shape, {"c": floats(rng, *constant)}, equation=equation)

    moved = node("Transpose", ["x"], "t", perm=[0, 2, 1])
    return [
        one("ij->ji", (2, 3)),
        one("ijk -> kj", (2, 3, 4)),
        one("ba", (2, 3)),
        one("ij->", (2, 3)),
        two("bij,jk->bik", (2, 3, 4), (4, 5)),
        two("bij,bkj->bik", (2, 3, 4), (2, 5, 4)),
        two("nchw,oc->nohw", (1, 3, 2, 2), (4, 3)),
        two("i,j->ij", (3,), (4,)),
        two("ij,ij->", (3, 4), (3, 4)),
        two("ij,ij->ji", (3, 4), (3, 4)),
        two("ij,jk", (3, 4), (4, 2)),
        Case([node("Einsum", ["c", "x"], "y", equation="oi,bij->boj")], (2, 3, 4), {"c": floats(rng, 5, 3)}),
        Case([moved, node("Einsum", ["x", "t"], "y", equation="bij,bjk->bik")], (2, 3, 4)),
        Case([node("Einsum", ["x", "x"], "y", equation="bhid,bhjd->bhij")], (1, 2, 3, 4)),
    ]


@_for("ReduceMax")
def reduce_max(version: int, rng: np.random.Generator) -> list[Case]:
    return reduce_mean(version, rng, "ReduceMax")


@_for("ReduceMin")
def reduce_min(version: int, rng: np.random.Generator) -> list[Case]:
    return reduce_mean(version, rng, "ReduceMin")


@_for("Relu")
def relu(version: int, rng: np.random.Generator) -> list[Case]:
    on_integers = [_on_integers((2, 9), [node("Relu", ["q"], "r")], {}, np.int8(5))] if version >= 14 else []
    return [_single("Relu", (2, 3)), *on_integers]


@_for("LeakyRelu")
def leaky_relu(version: int, rng: np.random.Generator) -> list[Case]:
    return [
        _single("LeakyRelu", (2, 30)),
        _single("LeakyRelu", (2, 3), alpha=-0.3),
        _single("LeakyRelu", (9,), alpha=2.0),
    ]


@_for("PRelu")
def prelu(version: int, rng: np.random.Generator) -> list[Case]:
    slopes = (
        rng.uniform(0.1, 0.4, 1),
        rng.uniform(0.1, 0.4, (3, 1, 1)),
        rng.normal(size=(3, 4, 5)),
        np.full((3, 1, 1), 2.0),
    )
    return [_single("PRelu", (3, 4, 5), {"s": slope.astype(np.float32)}) for slope in slopes]


@_for("Clip")
def clip(version: int, rng: np.random.Generator) -> list[Case]:
    if version == 6:
        return [_single("Clip", (2, 9)), _single("Clip", (2, 9), min=-0.3, max=0.4)]
    low, high = np.float32(-0.3), np.float32(0.4)
    ends = {"l": np.int8(-20), "h": np.int8(30)}
    on_integers = [_on_integers((2, 9), [node("Clip", ["q", "l", "h"], "r")], ends, np.int8(5))]
    maximum_only = Case([node("Clip", ["x", "", "h"], "y")], (2, 9), {"h": high})
    return [
        _single("Clip", (2, 9)),
        _single("Clip", (2, 9), {"l": low}),
        maximum_only,
        _single("Clip", (2, 9), {"l": low, "h": high}),
        *(on_integers if version >= 12 else []),
    ]


def _pooling(operator: str, version: int) -> list[Case]:
    kernel = [3, 2]
    cases = [
        _single(operator, (1, 2, 7, 6), kernel_shape=kernel),
        _single(operator, (1, 2, 7, 6), kernel_shape=kernel, strides=[2, 2], pads=[1, 0, 1, 1]),
        _single(operator, (1, 2, 7, 6), kernel_shape=kernel, auto_pad="SAME_UPPER", strides=[2, 1]),
        _single(operator, (1, 2, 7, 6), kernel_shape=kernel, auto_pad="SAME_LOWER", strides=[2, 1]),
        _single(operator, (1, 2, 7, 6), kernel_shape=kernel, auto_pad="VALID", strides=[2, 1]),
        _single(operator, (2, 2, 9), kernel_shape=[4], strides=[2]),
        _single(operator, (1, 2, 4, 5, 4), kernel_shape=[2, 2, 2], strides=[1, 2, 2]),
    ]
    if version >= 10:
        cases += [
            _single(operator, (1, 2, 7, 6), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
            _single(operator, (1, 2, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1),
        ]
    return cases


@_for("MaxPool")
def max_pool(version: int, rng: np.random.Generator) -> list[Case]:
    cases = _pooling("MaxPool", version)
    if version >= 8:
        cases.append(_single("MaxPool", (1, 2, 7, 6), kernel_shape=[2, 2], storage_order=1))
    if version >= 10:
        cases.append(_single("MaxPool", (1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1]))
    if version >= 12:
        for zero in (np.int8(5), np.uint8(200)):
            apply = node("MaxPool", ["q"], "r", kernel_shape=[3, 2], pads=[1, 1, 1, 0])
            cases.append(_on_integers((1, 2, 5, 5), [apply], {}, zero))
    return cases


@_for("AveragePool")
def average_pool(version: int, rng: np.random.Generator) -> list[Case]:
    cases = _pooling("AveragePool", version)
    if version >= 7:
        pads = [1, 1, 2, 0] if version < 19 else [1, 1, 1, 1]
        cases.append(_single("AveragePool", (1, 2, 7, 6), kernel_shape=[3, 2], pads=pads, count_include_pad=1))
    if version >= 19:
        cases.append(_single("AveragePool", (1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1]))
    return cases


@_for("GlobalAveragePool")
def global_average_pool(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("GlobalAveragePool", (2, 3, 4, 5)), _single("GlobalAveragePool", (1, 3, 7))]


@_for("GlobalMaxPool")
def global_max_pool(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("GlobalMaxPool", (2, 3, 4, 5))]


@_for("Flatten")
def flatten(version: int, rng: np.random.Generator) -> list[Case]:
    axes = [0, 1, 2, 3] + ([-1, -3] if version >= 11 else [])
    return [_single("Flatten", (2, 3, 4)), *(_single("Flatten", (2, 3, 4), axis=axis) for axis in axes)]


@_for("Reshape")
def reshape(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Reshape", (2, 3, 4), {"s": ints(*target)}) for target in ([6, 4], [0, -1], [-1], [1, 0, 2, 4])]


@_for("Transpose")
def transpose(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Transpose", (2, 3, 4)), _single("Transpose", (1, 3, 4, 5), perm=[0, 2, 3, 1])]


def _axes_case(operator: str, version: int, shape: Shape, axes: list[int] | None) -> Case:
    if axes is None:
        return _single(operator, shape)
    return _single(operator, shape, axes=axes) if version < 13 else _single(operator, shape, {"a": ints(*axes)})


@_for("Squeeze")
def squeeze(version: int, rng: np.random.Generator) -> list[Case]:
    axes: list[list[int] | None] = [None, [0], [0, 2]] + ([[-2]] if version >= 11 else [])
    return [_axes_case("Squeeze", version, (1, 3, 1, 2), a) for a in axes]


@_for("Unsqueeze")
def unsqueeze(version: int, rng: np.random.Generator) -> list[Case]:
    axes = [[0], [1, 3]] + ([[-1]] if version >= 11 else [])
    return [_axes_case("Unsqueeze", version, (2, 3), a) for a in axes]


@_for("Expand")
def expand(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Expand", (2, 1, 3), {"s": ints(*s)}) for s in ([4, 3], [2, 2, 1, 3], [1])]


@_for("Concat")
def concat(version: int, rng: np.random.Generator) -> list[Case]:
    movements = [
        node("Transpose", ["q"], "t1", perm=[1, 0, 2]),
        node("Flatten", ["t1"], "t2"),
        node("Gather", ["t2", "i"], "t3", axis=1),
        node("Concat", ["t3", "t2"], "r", axis=1),
    ]
    on_integers = _on_integers((2, 3, 2), movements, {"i": ints(1, 0)})
    twice = Case(
        [node("Relu", ["x"], "r"), node("Concat", ["x", "c", "r"], "y", axis=1)], (2, 3, 2), {"c": floats(rng, 2, 1, 2)}
    )
    negative = _single("Concat", (2, 3), {"c": floats(rng, 2, 4)}, axis=-1)
    return [twice, *([negative, on_integers] if version >= 11 else [])]


@_for("Split")
def split(version: int, rng: np.random.Generator) -> list[Case]:
    names = ("y", "z", "w")
    even = {"num_outputs": 3} if version >= 18 else {}
    cases = [Case([node("Split", ["x"], names, axis=1, **even)], (2, 6), outputs=names)]
    if version >= 13:
        cases.append(Case([node("Split", ["x", "s"], names, axis=1)], (2, 6), {"s": ints(1, 2, 3)}, names))
    else:
        cases.append(Case([node("Split", ["x"], names, axis=1, split=[1, 2, 3])], (2, 6), outputs=names))
    if version >= 18:
        cases.append(Case([node("Split", ["x"], names, axis=-1, num_outputs=3)], (2, 7), outputs=names))
    return cases


@_for("Slice")
def slice_(version: int, rng: np.random.Generator) -> list[Case]:
    if version == 1:
        return [
            _single("Slice", (4, 5), starts=[1, -3], ends=[3, 99]),
            _single("Slice", (4, 5), starts=[-9], ends=[-1], axes=[1]),
        ]
    plain = _single("Slice", (4, 5), {"s": ints(1, -3), "e": ints(3, 99)})
    stepped = [
        _single("Slice", (4, 5, 3), {"s": ints(*s), "e": ints(*e), "a": ints(*a), "t": ints(*t)})
        for s, e, a, t in (
            ([0, 4], [4, 1], [0, 1], [2, -1]),
            ([-1], [-99], [1], [-2]),
            ([99], [0], [1], [-1]),
            ([3], [-(2**63)], [0], [-1]),
            ([1], [2**63 - 1], [2], [1]),
        )
    ]
    negative = _single("Slice", (4, 5), {"s": ints(1), "e": ints(3), "a": ints(-1)})
    return [plain, *stepped] + ([negative] if version >= 11 else [])


@_for("Gather")
def gather(version: int, rng: np.random.Generator) -> list[Case]:
    cases = [_single("Gather", (4, 3), {"i": ints(2, 0, 2)}), _single("Gather", (4, 3), {"i": np.array(1)}, axis=1)]
    return cases + ([_single("Gather", (4, 3), {"i": ints(-1, 1).reshape(2, 1)}, axis=-1)] if version >= 11 else [])


@_for("Pad")
def pad(version: int, rng: np.random.Generator) -> list[Case]:
    amounts = [0, 1, 2, 1, 0, 1]
    if version == 2:
        return [
            _single("Pad", (2, 4, 5), pads=amounts, value=0.7),
            *(_single("Pad", (2, 4, 5), pads=amounts, mode=mode) for mode in ("reflect", "edge")),
            _single("Pad", (2, 4, 5), pads=[0, -1, 0, 0, 2, -2]),
        ]
    modes = ["reflect", "edge"] + (["wrap"] if version >= 19 else [])
    cases = [
        _single("Pad", (2, 4, 5), {"p": ints(*amounts)}),
        _single("Pad", (2, 4, 5), {"p": ints(*amounts), "v": np.float32(0.7)}),
        _single("Pad", (2, 4, 5), {"p": ints(0, -1, 0, 0, 2, -2), "v": np.float32(-3.0)}),
        *(_single("Pad", (2, 4, 5), {"p": ints(*amounts)}, mode=mode) for mode in modes),
    ]
    if version >= 18:
        constants = {"p": ints(1, 2), "v": np.float32(0.5), "a": ints(-2)}
        cases.append(_single("Pad", (2, 4, 5), constants))
    return cases


@_for("GatherElements")
def gather_elements(version: int, rng: np.random.Generator) -> list[Case]:
    return [
        _single("GatherElements", (4, 3), {"i": ints(2, 0, -1, 1, 1, 3).reshape(2, 3)}),
        _single("GatherElements", (4, 3), {"i": ints(2, 0, -3, 1, 1, 1, 0, 2).reshape(2, 4)}, axis=1),
        _single("GatherElements", (2, 4, 3), {"i": rng.integers(-3, 3, (2, 2, 5))}, axis=-1),
    ]


@_for("GatherND")
def gather_nd(version: int, rng: np.random.Generator) -> list[Case]:
    cases = [
        _single("GatherND", (4, 3), {"i": ints(2, 0, -1, 1).reshape(2, 2)}),
        _single("GatherND", (4, 3, 2), {"i": ints(3, -2, 0).reshape(3, 1)}),
        _single("GatherND", (4, 3, 2), {"i": rng.integers(-3, 3, (2, 5, 2))}),
        _single("GatherND", (4, 3, 2), {"i": ints(1, 2)}),
    ]
    batches = [
        _single("GatherND", (2, 3, 4), {"i": rng.integers(-3, 3, (2, 5, 1))}, batch_dims=1),
        _single("GatherND", (2, 3, 4), {"i": rng.integers(-4, 4, (2, 3, 1))}, batch_dims=2),
        _single("GatherND", (2, 3, 4), {"i": rng.integers(-3, 3, (2, 5, 6, 2))}, batch_dims=1),
    ]
    return cases + (batches if version >= 12 else [])


@_for("ScatterElements")
def scatter_elements(version: int, rng: np.random.Generator) -> list[Case]:
    each = np.argsort(rng.random((2, 5)), axis=1)[:, :3] - 5
    doubled = node("Add", ["x", "x"], "d")
    return [
        _single("ScatterElements", (2, 5), {"i": each, "u": floats(rng, 2, 3)}, axis=1),
        _single("ScatterElements", (5, 2), {"i": each.T.copy(), "u": floats(rng, 3, 2)}),
        Case([node("ScatterElements", ["c", "i", "x"], "y", axis=-1)], (2, 3), {"c": floats(rng, 2, 5), "i": each}),
        Case(
            [doubled, node("ScatterElements", ["x", "i", "d"], "y", axis=1)],
            (2, 3),
            {"i": ints(2, 0, 1, 0, 2, 1).reshape(2, 3)},
        ),
    ]


@_for("ScatterND")
def scatter_nd(version: int, rng: np.random.Generator) -> list[Case]:
    places = ints(3, 0, -2, 1).reshape(2, 2)
    rows = node("Gather", ["x", "rows"], "r")
    return [
        _single("ScatterND", (4, 3), {"i": places, "u": floats(rng, 2)}),
        _single("ScatterND", (4, 3), {"i": ints(2, -4).reshape(2, 1), "u": floats(rng, 2, 3)}),
        Case([node("ScatterND", ["c", "i", "x"], "y")], (2,), {"c": floats(rng, 4, 3), "i": places}),
        Case(
            [rows, node("ScatterND", ["x", "i", "r"], "y")], (4, 3), {"rows": ints(0, 1), "i": ints(1, 2).reshape(2, 1)}
        ),
        *(
            [_single("ScatterND", (3,), {"i": ints(1).reshape(1, 1), "u": floats(rng, 1)}, reduction="none")]
            if version >= 16
            else []
        ),
    ]


@_for("DepthToSpace")
def depth_to_space(version: int, rng: np.random.Generator) -> list[Case]:
    modes: list[dict[str, Any]] = [{}] + ([{"mode": "DCR"}, {"mode": "CRD"}] if version >= 11 else [])
    return [_single("DepthToSpace", (1, 8, 2, 3), blocksize=2, **mode) for mode in modes]


@_for("SpaceToDepth")
def space_to_depth(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("SpaceToDepth", (1, 3, 4, 6), blocksize=size) for size in (1, 2)]


@_for("Tile")
def tile(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Tile", (2, 1, 3), {"r": ints(*repeats)}) for repeats in ((1, 4, 2), (3, 1, 1), (1, 1, 1))]


@_for("Upsample")
def upsample(version: int, rng: np.random.Generator) -> list[Case]:
    def case(shape: Shape, *scales: float, **attributes: Any) -> Case:
        return _single("Upsample", shape, {"s": np.float32(scales)}, **attributes)

    behind = [node("Conv", ["x", "w"], "c"), node("Upsample", ["c", "s"], "u"), node("Conv", ["u", "v"], "y")]
    constants = {"w": floats(rng, 3, 2, 2, 2), "v": floats(rng, 4, 3, 3, 3), "s": np.float32([1, 1, 2, 2])}
    return [
        case((1, 3, 4, 5), 1, 1, 2, 2),
        case((1, 3, 4, 5), 1, 1, 3, 1, mode="nearest"),
        case((2, 3, 4), 2, 5, 7),
        Case(behind, (1, 2, 5, 4), constants),
    ]


@_for("Resize")
def resize(version: int, rng: np.random.Generator) -> list[Case]:
    if version == 10:
        return [Case([node("Resize", ["x", "s"], "y")], case.shape, case.constants) for case in upsample(9, rng)[:3]]
    exact = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    none = "" if version >= 13 else "none"  # optional operands were empty ones

    def scaled(shape: Shape, *scales: float, **attributes: Any) -> Case:
        constants = {"none": np.float32([]), "s": np.float32(scales)}
        return Case([node("Resize", ["x", none, "s"], "y", **exact, **attributes)], shape, constants)

    def sized(shape: Shape, *sizes: int, **attributes: Any) -> Case:
        constants = {"none": np.float32([]), "s": ints(*sizes)}
        return Case([node("Resize", ["x", none, none, "s"], "y", **exact, **attributes)], shape, constants)

    cases = [
        scaled((1, 3, 4, 5), 1, 1, 2, 2, cubic_coeff_a=-0.75),
        scaled((1, 3, 4, 5), 1, 1, 3, 4),
        scaled((2, 3, 4), 2, 5, 7),
        scaled((3,), 100),
        sized((1, 2, 3, 2), 1, 2, 3, 10),
    ]
    if version >= 13:
        on_integers = node("Resize", ["q", "", "f"], "r", **exact)
        cases.append(_on_integers((1, 2, 3, 2), [on_integers], {"f": np.float32([1, 1, 2, 2])}))
    if version >= 18:
        cases.append(scaled((1, 2, 3, 2), 3, 2, axes=[-1, 2], antialias=0))
        cases.append(sized((1, 2, 3, 2), 9, axes=[2], keep_aspect_ratio_policy="stretch"))
    return cases


@_for("Identity")
def identity(version: int, rng: np.random.Generator) -> list[Case]:
    return [_single("Identity", (2, 3))]


@_for("Dropout")
def dropout(version: int, rng: np.random.Generator) -> list[Case]:
    if version < 12:
        return [_single("Dropout", (2, 3), ratio=0.3)]
    return [_single("Dropout", (2, 3)), _single("Dropout", (2, 3), {"r": np.float32(0.3), "t": np.array(False)})]


def _into_reshape(glue: list[onnx.NodeProto], shape: Shape, constants: dict[str, NDArray[Any]]) -> Case:
    """Shape arithmetic that ends in "s", the target of a Reshape of "x"."""
    return Case([*glue, node("Reshape", ["x", "s"], "y")], shape, constants)


@_for("Shape")
def shape(version: int, rng: np.random.Generator) -> list[Case]:
    cases = [_into_reshape([node("Shape", ["x"], "s")], (2, 3), {})]
    if version >= 15:
        tail = [node("Shape", ["x"], "a", start=-2, end=3), node("Concat", ["a", "m"], "s", axis=0)]
        cases.append(_into_reshape(tail, (4, 2, 3), {"m": ints(-1)}))
    return cases


@_for("Size")
def size(version: int, rng: np.random.Generator) -> list[Case]:
    glue = [node("Size", ["x"], "a"), node("Reshape", ["a", "one"], "s")]
    return [_into_reshape(glue, (2, 3), {"one": ints(1)})]


@_for("Constant")
def constant(version: int, rng: np.random.Generator) -> list[Case]:
    tensor = onnx.numpy_helper.from_array(floats(rng, 3))
    cases = [Case([node("Constant", [], "c", value=tensor), node("Add", ["x", "c"], "y")], (2, 3))]
    if version >= 12:
        cases += [
            Case([node("Constant", [], "c", value_float=0.3), node("Add", ["x", "c"], "y")], (2, 3)),
            Case([node("Constant", [], "c", value_floats=[0.3, 1.0]), node("Mul", ["x", "c"], "y")], (3, 2)),
            Case([node("Constant", [], "s", value_ints=[3, 2]), node("Reshape", ["x", "s"], "y")], (2, 3)),
            Case([node("Constant", [], "i", value_int=1), node("Gather", ["x", "i"], "y")], (2, 3)),
        ]
    return cases


@_for("ConstantOfShape")
def constant_of_shape(version: int, rng: np.random.Generator) -> list[Case]:
    value = onnx.numpy_helper.from_array(np.float32([0.3]))
    return [
        Case([node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y")], (2, 3), {"s": ints(2, 3)}),
        Case([node("ConstantOfShape", ["s"], "c", value=value), node("Add", ["x", "c"], "y")], (2, 3), {"s": ints(3)}),
    ]


@_for("Cast")
def cast(version: int, rng: np.random.Generator) -> list[Case]:
    number = onnx.TensorProto
    glue = [
        node("Shape", ["x"], "a"),
        node("Cast", ["a"], "b", to=number.INT32),
        node("Cast", ["b"], "s", to=number.INT64),
    ]
    to_float = [node("Cast", ["c"], "f", to=number.FLOAT), node("Mul", ["x", "f"], "y")]
    return [
        _into_reshape(glue, (2, 3), {}),
        Case(to_float, (2, 3), {"c": ints(1, 2, 3)}),
        _single("Cast", (2, 3), to=number.FLOAT),
    ]


@_for("CastLike")
def cast_like(version: int, rng: np.random.Generator) -> list[Case]:
    whole = [node("CastLike", ["c", "x"], "f"), node("Mul", ["x", "f"], "y")]
    return [Case(whole, (2, 3), {"c": ints(1, 2, 3)}), _single("CastLike", (2, 3), {"c": floats(rng, 1)})]


@_for("Range")
def range_(version: int, rng: np.random.Generator) -> list[Case]:
    glue = [node("Range", ["a", "b", "d"], "i"), node("Gather", ["x", "i"], "y")]
    return [Case(glue, (7, 2), {"a": np.array(5), "b": np.array(-1), "d": np.array(-2)})]


@_for("Equal")
def equal(version: int, rng: np.random.Generator) -> list[Case]:
    glue = [node("Equal", ["e", "m"], "q"), node("Where", ["q", "one", "e"], "s"), node("Expand", ["x", "s"], "y")]
    return [Case(glue, (2, 1), {"e": ints(4, -1, 3), "m": ints(-1), "one": ints(2)})]


def _comparison(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        glue = [node(operator, ["e", "m"], "q"), node("Where", ["q", "one", "e"], "s"), node("Expand", ["x", "s"], "y")]
        return [Case(glue, (2, 1), {"e": ints(4, 2, 3), "m": ints(3), "one": ints(2)})]

    return make


def _logical(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        glue = [node(operator, ["a", "b"], "q"), node("Where", ["q", "e", "f"], "s"), node("Expand", ["x", "s"], "y")]
        truth = {"a": np.array([True, True, False, False]), "b": np.array([True, False, True, False])}
        return [Case(glue, (1, 2, 1, 2), truth | {"e": ints(3, 2, 3, 2), "f": ints(1, 2, 1, 2)})]

    return make


for _operator in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
    CASES[_operator] = _comparison(_operator)
for _operator in ("And", "Or", "Xor"):
    CASES[_operator] = _logical(_operator)


@_for("Mod")
def mod(version: int, rng: np.random.Generator) -> list[Case]:
    def case(**attributes: Any) -> Case:
        glue = [
            node("Mod", ["a", "b"], "m", **attributes),
            node("Mul", ["m", "m"], "s"),
            node("Expand", ["x", "s"], "y"),
        ]
        return Case(glue, (1, 1), {"a": ints(-7, 8), "b": ints(4, -5)})

    return [case(), case(fmod=1)]


@_for("Not")
def not_(version: int, rng: np.random.Generator) -> list[Case]:
    glue = [
        *(node("Equal", ["e", "m"], "q"), node("Not", ["q"], "n")),
        *(node("Where", ["n", "e", "one"], "s"), node("Expand", ["x", "s"], "y")),
    ]
    return [Case(glue, (2, 1), {"e": ints(4, -1, 3), "m": ints(-1), "one": ints(2)})]


@_for("Where")
def where(version: int, rng: np.random.Generator) -> list[Case]:
    return equal(version, rng)


def _extreme(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        several = [node("Relu", ["x"], "r"), node("Neg", ["x"], "n"), node(operator, ["n", "c", "x", "r"], "y")]
        cases = [
            _single(operator, (2, 3)),
            _single(operator, (2, 9), {"c": np.float32(0.3)}),
            _single(operator, (2, 9), {"c": floats(rng, 2, 1)}),
            _in_front(operator, (4, 1), floats(rng, 3, 1, 5)),
            Case(several, (2, 3, 4), {"c": floats(rng, 3, 1)}),
        ]
        if version >= 12:
            shapes = [node(operator, ["a", "b"], "s"), node("Reshape", ["x", "s"], "y")]
            cases.append(Case(shapes, (2, 3), {"a": ints(3, 2), "b": ints(3, 2)}))
        return cases

    return make


CASES["Min"] = _extreme("Min")
CASES["Max"] = _extreme("Max")


def _spread(operator: str, **attributes: Any) -> Case:
    """The function at small and large arguments of both signs."""
    far = node("Mul", ["x", "scale"], "s"), node(operator, ["s"], "y", **attributes)
    return Case(list(far), (3, 13), {"scale": np.float32([[1e-3], [1], [9]])})


def _positive(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    """Functions that are not defined, or have a pole, at zero."""
    nodes = [node("Abs", ["x"], "a"), node("Add", ["a", "low"], "p"), node(operator, ["p"], "y")]
    return lambda version, rng: [Case(nodes, (2, 9), {"low": np.float32([0.3])})]


def _smooth(operator: str, *alphas: float) -> Callable[[int, np.random.Generator], list[Case]]:
    return lambda version, rng: [_spread(operator), *(_spread(operator, alpha=alpha) for alpha in alphas)]


for _operator in ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Mish", "HardSwish", "Exp", "Abs"):
    CASES[_operator] = _smooth(_operator)
for _operator in ("Sin", "Cos", "Sign"):
    CASES[_operator] = _smooth(_operator)
for _operator in ("Log", "Sqrt", "Reciprocal"):
    CASES[_operator] = _positive(_operator)
CASES["Elu"] = _smooth("Elu", 0.3, 2.5, -0.7)
CASES["Celu"] = _smooth("Celu", 0.3, 2.5)
CASES["Swish"] = _smooth("Swish", 1.702, -0.7)


@_for("Gelu")
def gelu(version: int, rng: np.random.Generator) -> list[Case]:
    return [_spread("Gelu"), _spread("Gelu", approximate="tanh"), _spread("Gelu", approximate="none")]


@_for("Selu")
def selu(version: int, rng: np.random.Generator) -> list[Case]:
    return [_spread("Selu"), _spread("Selu", alpha=0.5, gamma=2.0)]


@_for("HardSigmoid")
def hard_sigmoid(version: int, rng: np.random.Generator) -> list[Case]:
    return [_spread("HardSigmoid"), _spread("HardSigmoid", alpha=-0.4, beta=0.2)]


@_for("Pow")
def power(version: int, rng: np.random.Generator) -> list[Case]:
    away = [node("Abs", ["x"], "a"), node("Add", ["a", "low"], "b")]
    cases = [_single("Pow", (2, 9), {"p": np.float32(exponent)}) for exponent in (1, 2, 3, 6)]
    cases.append(_single("Pow", (9,), {"p": np.full((2, 1), 2, np.float32)}))
    for exponent in (0.5, -0.5, -1, -2, 1.7):
        constants = {"low": np.float32([0.3]), "p": np.float32(exponent)}
        cases.append(Case([*away, node("Pow", ["b", "p"], "y")], (2, 9), constants))
    return cases + ([_single("Pow", (2, 9), {"p": ints(2)})] if version >= 12 else [])


def _softmax(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        axes = [0, 1, 2] + ([-1, -3] if version >= 11 else [])
        cases = [_spread(operator), _single(operator, (2, 3, 4)), _single(operator, (5, 1), axis=1)]
        return cases + [_single(operator, (2, 3, 4), axis=axis) for axis in axes]

    return make


CASES["Softmax"] = _softmax("Softmax")
CASES["LogSoftmax"] = _softmax("LogSoftmax")


@_for("ReduceProd")
def reduce_prod(version: int, rng: np.random.Generator) -> list[Case]:
    return [_into_reshape([node("Shape", ["x"], "a"), node("ReduceProd", ["a"], "s")], (2, 3), {})]


MICROSOFT = "com.microsoft"
_GRID = {"s": np.float32(0.03), "z": np.uint8(120)}


def quantised_floats(rng: np.random.Generator, *shape: int, dtype: Any = np.int8) -> NDArray[Any]:
    """Weights that saturate nowhere."""
    low = 0 if dtype == np.uint8 else -64
    return rng.integers(low, low + 129, shape).astype(dtype)


def _on_integers(
    shape: Shape, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], zero: Any = _GRID["z"]
) -> Case:
    """Nodes from the quantised value "q" to the quantised value "r", with grids "s", "z" and "t", "u" around them."""
    around = [node("QuantizeLinear", ["x", "s", "z"], "q"), *nodes, node("DequantizeLinear", ["r", "t", "u"], "y")]
    grids = {"s": np.float32(0.03), "z": zero, "t": np.float32(0.041), "u": type(zero)(7)}
    return Case(around, shape, grids | constants)


@_for("QuantizeLinear")
def quantize_linear(version: int, rng: np.random.Generator) -> list[Case]:
    def there_and_back(zero: Any, scale: float) -> Case:
        nodes = [node("QuantizeLinear", ["x", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "y")]
        return Case(nodes, (2, 30), {"s": np.float32(scale), "z": zero})

    plain = Case([node("QuantizeLinear", ["x", "s"], "q"), node("DequantizeLinear", ["q", "s"], "y")], (9,), _GRID)
    return [there_and_back(np.uint8(128), 0.02), there_and_back(np.int8(-5), 0.25), plain]


@_for("DequantizeLinear")
def dequantize_linear(version: int, rng: np.random.Generator) -> list[Case]:
    def product(operator: str, shape: Shape, weight: Shape, channels: int | None, axis: int, **attributes: Any) -> Case:
        scales = np.float32(0.011) if channels is None else (0.01 + 0.01 * rng.random(channels)).astype(np.float32)
        constants = {
            "w": quantised_floats(rng, *weight),
            "ws": scales,
            "wz": np.zeros(scales.shape, np.int8),
            "b": rng.integers(-500, 500, channels or 4).astype(np.int32),
            "bs": np.float32(0.03) * scales,
        }
        along = {} if channels is None else {"axis": axis}
        bias = [node("DequantizeLinear", ["b", "bs"], "bd", **({"axis": 0} if along else {}))]
        operands = ["qd", "wd"] if operator == "MatMul" else ["qd", "wd", "bd"]
        nodes = [
            node("DequantizeLinear", ["q", "s", "z"], "qd"),
            node("DequantizeLinear", ["w", "ws", "wz"], "wd", **along),
            *(bias if operator != "MatMul" else []),
            node(operator, operands, "p", **attributes),
            node("Relu", ["p"], "a"),
            node("QuantizeLinear", ["a", "t", "u"], "r"),
        ]
        return _on_integers(shape, nodes, constants)

    return [
        product("Gemm", (2, 6), (6, 4), None, 0),
        product("MatMul", (2, 6), (6, 4), None, 0),
        *(
            []
            if version < 13
            else [
                product("Conv", (1, 3, 5, 5), (4, 3, 3, 3), 4, 0, pads=[1, 1, 1, 1], strides=[2, 2]),
                product("Gemm", (2, 6), (4, 6), 4, 0, transB=1),
                product("MatMul", (2, 6), (6, 4), 4, 1),
            ]
        ),
    ]


@_for("QLinearConv")
def qlinear_conv(version: int, rng: np.random.Generator) -> list[Case]:
    def case(weight: Shape, dtype: Any, zero: Any, *, per_channel: bool, bias: bool = True, **attributes: Any) -> Case:
        scale = (0.01 + 0.01 * rng.random(weight[0])).astype(np.float32) if per_channel else np.float32(0.02)
        constants = {
            "w": quantised_floats(rng, *weight, dtype=dtype),
            "ws": scale,
            "wz": np.full(scale.shape, 0 if dtype == np.int8 else 66, dtype),
        }
        names = ["q", "s", "z", "w", "ws", "wz", "t", "u"]
        if bias:
            constants["b"] = rng.integers(-900, 900, weight[0]).astype(np.int32)
            names.append("b")
        return _on_integers((1, 4, 6, 5), [node("QLinearConv", names, "r", **attributes)], constants, zero)

    return [
        case((6, 4, 3, 3), np.int8, np.uint8(120), per_channel=True, pads=[1, 1, 1, 1]),
        case((6, 2, 3, 3), np.uint8, np.uint8(0), per_channel=False, group=2, strides=[2, 2]),
        case((4, 1, 3, 2), np.int8, np.int8(-128), per_channel=False, group=4, dilations=[2, 1]),
        case((5, 4, 1, 1), np.int8, np.int8(3), per_channel=True, bias=False),
    ]


@_for("ConvInteger")
def conv_integer(version: int, rng: np.random.Generator) -> list[Case]:
    weight = {"w": quantised_floats(rng, 5, 3, 3, 3, dtype=np.uint8), "wz": np.uint8(60)}
    start = node("QuantizeLinear", ["x", "s", "z"], "q")
    cast = node("Cast", ["r"], "y", to=onnx.TensorProto.FLOAT)
    whole = node("ConvInteger", ["q", "w", "z", "wz"], "r", pads=[1, 1, 0, 0])
    plain = node("ConvInteger", ["q", "w"], "r")
    return [Case([start, each, cast], (1, 3, 5, 5), _GRID | weight) for each in (whole, plain)]


@_for("MatMulInteger")
def matmul_integer(version: int, rng: np.random.Generator) -> list[Case]:
    start = node("QuantizeLinear", ["x", "s", "z"], "q")
    tail = [
        node("Cast", ["r"], "f", to=onnx.TensorProto.FLOAT),
        node("Mul", ["f", "k"], "m"),
        node("Add", ["m", "b"], "y"),
    ]
    constants = _GRID | {"k": np.float32(0.01), "b": floats(rng, 5)}
    signed = {"w": quantised_floats(rng, 6, 5), "wz": np.int8(3)}
    unsigned = {"w": quantised_floats(rng, 6, 5, dtype=np.uint8), "wz": np.uint8(60)}
    whole = node("MatMulInteger", ["q", "w", "z", "wz"], "r")
    return [Case([start, whole, *tail], (2, 6), constants | weight) for weight in (signed, unsigned)] + [
        Case([start, node("MatMulInteger", ["q", "w"], "r"), *tail], (2, 6), constants | signed)
    ]


@_for("com.microsoft.MatMulIntegerToFloat")
def matmul_integer_to_float(version: int, rng: np.random.Generator) -> list[Case]:
    start = node("QuantizeLinear", ["x", "s", "z"], "q")
    constants = _GRID | {
        "w": quantised_floats(rng, 6, 5),
        "ws": np.float32(0.02),
        "wz": np.int8(3),
        "b": floats(rng, 5),
    }
    names = ["q", "w", "s", "ws", "z", "wz", "b"]
    return [
        Case([start, node("MatMulIntegerToFloat", names[:count], "y", domain=MICROSOFT)], (2, 6), constants)
        for count in (6, 7)
    ]


@_for("QLinearMatMul")
def qlinear_matmul(version: int, rng: np.random.Generator) -> list[Case]:
    def case(shape: Shape, dtype: Any, scale: Any, zero: Any) -> Case:
        constants = {"w": quantised_floats(rng, 6, 4, dtype=dtype), "ws": scale, "wz": np.full(scale.shape, 0, dtype)}
        names = ["q", "s", "z", "w", "ws", "wz", "t", "u"]
        return _on_integers(shape, [node("QLinearMatMul", names, "r")], constants, zero)

    channels = (0.01 + 0.01 * rng.random(4)).astype(np.float32)
    return [
        case((3, 6), np.int8, np.float32(0.02), np.uint8(128)),
        case((2, 3, 6), np.uint8, np.float32(0.02), np.uint8(0)),
        case((3, 6), np.int8, channels, np.int8(0)),
    ]


@_for("com.microsoft.QGemm")
def qgemm(version: int, rng: np.random.Generator) -> list[Case]:
    scale = (0.01 + 0.01 * rng.random(4)).astype(np.float32)
    constants = {
        "w": quantised_floats(rng, 4, 6),
        "ws": scale,
        "wz": np.zeros(4, np.int8),
        "b": rng.integers(-900, 900, 4).astype(np.int32),
    }
    names = ["q", "s", "z", "w", "ws", "wz", "b"]
    start = node("QuantizeLinear", ["x", "s", "z"], "q")
    to_float = node("QGemm", names, "y", transB=1, domain=MICROSOFT)
    return [
        _on_integers((3, 6), [node("QGemm", [*names, "t", "u"], "r", transB=1, domain=MICROSOFT)], constants),
        Case([start, to_float], (3, 6), _GRID | constants),
    ]


def _on_two_grids(operator: str) -> Callable[[int, np.random.Generator], list[Case]]:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        first = ["q", "s", "z"]
        constants = {"c": rng.integers(0, 256, (3, 1, 1)).astype(np.uint8), "cs": np.float32(0.02), "cz": np.uint8(99)}
        apply = node(operator, [*first, "c", "cs", "cz", "t", "u"], "r", domain=MICROSOFT)
        twice = node(operator, [*first, *first, "t", "u"], "r", domain=MICROSOFT)
        return [_on_integers((1, 3, 4, 4), [apply], constants), _on_integers((1, 3, 4, 4), [twice], {})]

    return make


CASES["com.microsoft.QLinearAdd"] = _on_two_grids("QLinearAdd")
CASES["com.microsoft.QLinearMul"] = _on_two_grids("QLinearMul")


def _on_one_grid(operator: str, *variants: dict[str, Any]) -> None:
    def make(version: int, rng: np.random.Generator) -> list[Case]:
        return [
            _on_integers(
                (1, 3, 6, 6),
                [node(operator, ["q", "s", "z", "t", "u"], "r", domain=MICROSOFT, **attributes)],
                {},
                zero,
            )
            for attributes in variants
            for zero in (np.uint8(120), np.int8(-7))
        ]

    CASES[f"{MICROSOFT}.{operator}"] = make


_on_one_grid("QLinearLeakyRelu", {"alpha": 0.3})
_on_one_grid("QLinearGlobalAveragePool", {})
_on_one_grid(
    "QLinearAveragePool",
    {"kernel_shape": [2, 3], "strides": [2, 1]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
)


@_for("com.microsoft.QLinearConcat")
def qlinear_concat(version: int, rng: np.random.Generator) -> list[Case]:
    nodes = [
        node("QuantizeLinear", ["x", "s2", "z2"], "q2"),
        node("QLinearConcat", ["t", "u", "q", "s", "z", "q2", "s2", "z2"], "r", axis=1, domain=MICROSOFT),
    ]
    return [_on_integers((1, 3, 4), nodes, {"s2": np.float32(0.017), "z2": np.uint8(128)})]
