"""Networks whose float32 value changes when a runtime fuses, folds or moves operators: bounds must hold for every way.

Each is built so that onnxruntime itself gives different values, or zero or infinity, at some optimisation level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, EXTENDED, model, network_of, node, run
from verify.bounds import bounds
from verify.intervals import Interval
from verify.rounding import FLOAT32_ANY_ORDER

F32 = np.float32
BIG = F32(2**24)
"""Absorbs every one that is added to it singly."""

Fusion = tuple[list[onnx.NodeProto], dict[str, Any], NDArray[np.float32]]
SUBTRACT = node("Sub", ["s", "big"], "y")


def _sparse_ones(rows: int) -> NDArray[np.float32]:
    """rows x 65536 with 64 ones in each row, far apart."""
    weights = np.zeros((rows, 65536), F32)
    weights[:, ::1024] = 1
    return weights


def bias_behind_a_transposed_product() -> Fusion:
    nodes = [node("Transpose", ["x"], "t"), node("MatMul", ["w", "t"], "m"), node("Add", ["m", "b"], "s"), SUBTRACT]
    return nodes, {"w": _sparse_ones(2), "b": np.full((2, 1), BIG), "big": BIG}, np.ones((1, 65536), F32)


def batch_norm_behind_a_reshaped_product() -> Fusion:
    nodes = [
        node("MatMul", ["x", "w"], "m"),
        node("Reshape", ["m", "shape"], "r"),
        node("BatchNormalization", ["r", "one", "b", "zero", "one"], "s", epsilon=0.0),
        SUBTRACT,
    ]
    constants = {"w": _sparse_ones(2).T, "b": np.full(2, BIG), "big": BIG, "one": np.ones(2, F32)}
    return nodes, constants | {"zero": np.zeros(2, F32), "shape": np.array([1, 2, 1])}, np.ones((1, 65536), F32)


def the_same_addition_twice() -> Fusion:
    nodes = [
        node("MatMul", ["x", "w"], "m"),
        node("Add", ["m", "b"], "s1"),
        node("Add", ["m", "b"], "s2"),
        node("Concat", ["s1", "s2"], "s", axis=1),
        SUBTRACT,
    ]
    return nodes, {"w": _sparse_ones(2).T, "b": np.full(2, BIG), "big": BIG}, np.ones((1, 65536), F32)


def bias_computed_from_constants() -> Fusion:
    nodes = [node("Mul", ["k1", "k2"], "k"), node("MatMul", ["x", "w"], "m"), node("Add", ["m", "k"], "s"), SUBTRACT]
    constants = {"w": _sparse_ones(2).T, "k1": np.full(2, BIG), "k2": np.ones(2, F32), "big": BIG}
    return nodes, constants, np.ones((1, 65536), F32)


def _residual(between: list[onnx.NodeProto], operands: tuple[str, str], *, factor: bool = False) -> Fusion:
    """A convolution c of many ones and a residual r of 2^24, added by way of `between`."""
    weights = np.zeros((16, 512, 3, 3), F32)
    weights[:, ::16, 1, 1] = 1
    nodes = [
        node("Conv", ["x", "w0", "big16"], "r"),
        node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
        *between,
        node("Add", operands, "s"),
        node("Relu", ["s"], "p"),
        node("Sub", ["p", "big"], "y"),
    ]
    constants = {"w": weights, "w0": np.zeros((16, 512, 1, 1), F32), "big16": np.full(16, BIG), "big": BIG}
    if factor:
        constants |= {"k1": np.full((16, 1, 1), 0.5, F32), "k2": np.full((16, 1, 1), 2, F32)}
    return nodes, constants, np.ones((1, 512, 4, 4), F32)


def residual_added_directly() -> Fusion:
    return _residual([], ("r", "c"))


def residual_added_behind_transpositions() -> Fusion:
    turned = [node("Transpose", [name], name + "t", perm=[0, 2, 3, 1]) for name in "cr"]
    return _residual(turned, ("rt", "ct"))


def residual_added_behind_cancelling_transpositions() -> Fusion:
    there_and_back = [
        node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
        node("Transpose", ["t"], "u", perm=[0, 3, 1, 2]),
    ]
    return _residual(there_and_back, ("r", "u"))


def residual_added_behind_a_computed_factor() -> Fusion:
    return _residual([node("Mul", ["k1", "k2"], "k"), node("Mul", ["c", "k"], "m")], ("r", "m"), factor=True)


def _scaled_convolution(weight: float, factor: float, x: float, *, moved: bool) -> Fusion:
    scaled = [node("Mul", ["c", "k"], "y")]
    if moved:
        scaled = [
            node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
            node("Mul", ["t", "k"], "u"),
            node("Transpose", ["u"], "y", perm=[0, 3, 1, 2]),
        ]
    constants = {"w": np.full((2, 4, 1, 1), weight, F32), "k": np.full((2,) if moved else (2, 1, 1), factor, F32)}
    return [node("Conv", ["x", "w"], "c"), *scaled], constants, np.full((1, 4, 2, 2), x, F32)


def scale_that_underflows_in_the_weights() -> Fusion:
    return _scaled_convolution(1e-25, 1e-25, 1e30, moved=False)


def scale_that_overflows_in_the_weights() -> Fusion:
    return _scaled_convolution(1e25, 1e25, 1e-30, moved=False)


def moved_scale_that_underflows_in_the_weights() -> Fusion:
    return _scaled_convolution(1e-25, 1e-25, 1e30, moved=True)


def moved_scale_that_overflows_in_the_weights() -> Fusion:
    return _scaled_convolution(1e25, 1e25, 1e-30, moved=True)


def _scaled_product(before: float, weight: float, x: float, after: float | None = None) -> Fusion:
    nodes = [node("Mul", ["x", "k"], "t"), node("MatMul", ["t", "w"], "y" if after is None else "m")]
    constants = {"k": F32(before), "w": np.full((4, 2), weight, F32)}
    if after is not None:
        nodes.append(node("Mul", ["m", "l"], "y"))
        constants["l"] = F32(after)
    return nodes, constants, np.full((1, 4), x, F32)


def scale_before_a_product_that_underflows() -> Fusion:
    return _scaled_product(1e30, 1e-30, 1e-20)


def scale_before_a_product_that_overflows() -> Fusion:
    return _scaled_product(1e-20, 1e20, 1e20)


def scales_on_both_sides_of_a_product() -> Fusion:
    return _scaled_product(1e25, 1e-30, 1e-15, after=1e25)


def factor_of_a_gemm_that_underflows() -> Fusion:
    return [node("Gemm", ["x", "w"], "y", alpha=1e30)], {"w": np.full((4, 2), 1e-30, F32)}, np.full((1, 4), 1e-20, F32)


def factor_of_a_gemm_that_overflows() -> Fusion:
    return [node("Gemm", ["x", "w"], "y", alpha=1e-30)], {"w": np.full((4, 2), 1e30, F32)}, np.full((1, 4), 1e10, F32)


def mean_whose_sum_overflows() -> Fusion:
    return [node("ReduceMean", ["x"], "y", axes=[1])], {}, np.full((1, 400), 1e37, F32)


def average_whose_sum_overflows() -> Fusion:
    return [node("GlobalAveragePool", ["x"], "y")], {}, np.full((1, 1, 20, 20), 1e37, F32)


def padding_that_becomes_that_of_a_pool() -> Fusion:
    nodes = [node("Pad", ["x", "pads"], "p"), node("MaxPool", ["p"], "y", kernel_shape=[2, 2], strides=[2, 2])]
    return nodes, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, np.full((1, 1, 4, 4), -1, F32)


FUSIONS = [value for value in list(vars().values()) if getattr(value, "__annotations__", {}) == {"return": "Fusion"}]


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion.__name__)
def test_bounds_hold_for_every_arrangement(fusion: Any) -> None:
    nodes, constants, x = fusion()
    content = model(nodes, x.shape, constants)
    point = x[np.newaxis].astype(np.float64)
    ((lower, upper),) = bounds(network_of(content), Interval(point, point), FLOAT32_ANY_ORDER)
    outcomes = [run(content, x, level=level)[0] for level in (DISABLED, EXTENDED, ALL)]
    for actual in outcomes:
        unbounded = np.isnan(lower[0]) & np.isnan(upper[0])  # nothing is claimed
        assert (unbounded | ((lower[0] <= actual) & (actual <= upper[0]))).all()


def test_the_arrangements_really_differ() -> None:
    """Otherwise the test above would show nothing; which of them fire depends on the runtime's version."""
    firing = []
    for fusion in FUSIONS:
        nodes, constants, x = fusion()
        content = model(nodes, x.shape, constants)
        plain, *others = (run(content, x, level=level)[0] for level in (DISABLED, EXTENDED, ALL))
        if any(not np.allclose(plain, other, rtol=1e-3, atol=0, equal_nan=True) for other in others):
            firing.append(fusion.__name__)
    assert len(firing) >= 8, firing
