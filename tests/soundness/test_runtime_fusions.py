"""Networks whose float32 value changes when a runtime fuses, folds or moves operators: bounds must hold for every way.

Each is built so that onnxruntime itself gives different values, or zero or infinity, at some optimisation level.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support.executions import executions
from support.onnx_models import ALL, DISABLED, EXTENDED, model, network_of, node, run, session
from support.scan_functions import fast_gelu_nodes, gelu_nodes, hard_swish_nodes, mish_nodes
from verify.bounds.crown import crown_bounds
from verify.bounds.evaluation import bounds
from verify.boxes import box_around
from verify.core.functions import Function
from verify.core.intervals import Interval
from verify.core.primitives import Clip, Linear, topological
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem

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


def _wide() -> NDArray[np.float32]:
    """Numbers of both signs, from subnormal to large, dense where activations bend."""
    positive = np.concatenate([np.geomspace(1e-42, 1e12, 90), np.linspace(0.01, 12, 410)])
    return np.concatenate([positive, -positive]).astype(F32)[np.newaxis]


def gelu_written_out() -> Fusion:
    return *gelu_nodes(), _wide()


def gelu_by_tanh_written_out() -> Fusion:
    return *fast_gelu_nodes(), _wide()


def _gelu_of(before: list[onnx.NodeProto], constants: dict[str, Any]) -> Fusion:
    """Gelu, written out, of the value "t"."""
    nodes, own = gelu_nodes()
    for each in nodes:
        each.input[:] = ["t" if name == "x" else name for name in each.input]
    return [*before, *nodes], own | constants, _wide()


def gelu_behind_a_bias() -> Fusion:
    return _gelu_of([node("Add", ["x", "bias"], "t")], {"bias": np.linspace(-3, 3, 1000, dtype=F32)})


def gelu_behind_a_product() -> Fusion:
    before = [node("MatMul", ["x", "w"], "m"), node("Add", ["bias", "m"], "t")]
    weights = np.random.default_rng(0).normal(size=(1000, 8)).astype(F32)
    return _gelu_of(before, {"bias": np.linspace(-3, 3, 8, dtype=F32), "w": weights})


def quick_gelu() -> Fusion:
    nodes = [node("Mul", ["x", "a"], "s"), node("Sigmoid", ["s"], "t"), node("Mul", ["x", "t"], "y")]
    return nodes, {"a": F32(1.702)}, _wide()


def sigmoid_linear_unit() -> Fusion:
    return [node("Sigmoid", ["x"], "t"), node("Mul", ["t", "x"], "y")], {}, _wide()


def hard_swish_written_out() -> Fusion:
    return hard_swish_nodes(), {}, _wide()


def mish_written_out() -> Fusion:
    return mish_nodes(), {}, _wide()


def half_first_gelu() -> Fusion:
    nodes = [
        *(node("Mul", ["x", "root"], "a"), node("Erf", ["a"], "b"), node("Add", ["one", "b"], "c")),
        *(node("Mul", ["x", "half"], "d"), node("Mul", ["c", "d"], "y")),
    ]
    return nodes, {"root": F32(np.sqrt(0.5)), "one": F32(1), "half": F32(0.5)}, _wide()


def square_written_out() -> Fusion:
    return [node("Mul", ["x", "x"], "y")], {}, _wide()


def quotient_times_a_value() -> Fusion:
    nodes = [
        *(node("Abs", ["x"], "a"), node("Clip", ["a", "low"], "p"), node("Sqrt", ["p"], "r")),
        *(node("Div", ["one", "r"], "i"), node("Mul", ["i", "x"], "y")),
    ]
    return nodes, {"one": F32(1), "low": F32(1e-6)}, _wide()


def root_mean_square_normalisation() -> Fusion:
    nodes = [
        *(node("Pow", ["x", "two"], "q"), node("ReduceMean", ["q"], "m", axes=[-1]), node("Add", ["m", "eps"], "v")),
        *(node("Sqrt", ["v"], "r"), node("Div", ["x", "r"], "n"), node("Mul", ["n", "scale"], "y")),
    ]
    return nodes, {"two": F32(2), "eps": F32(1e-5), "scale": np.linspace(-1, 1, 1000, dtype=F32)}, _wide()


def softmax_behind_a_bias() -> Fusion:
    nodes = [node("Add", ["x", "bias"], "t"), node("Softmax", ["t"], "y", axis=-1)]
    return nodes, {"bias": np.linspace(-3, 3, 1000, dtype=F32)}, _wide()


def _activation_behind_a_convolution(*activation: onnx.NodeProto) -> Fusion:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(16, 16, 3, 3)).astype(F32)
    nodes = [node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]), *activation]
    return nodes, {"w": weights}, rng.normal(size=(1, 16, 8, 8)).astype(F32)


def sigmoid_behind_a_convolution() -> Fusion:
    return _activation_behind_a_convolution(node("Sigmoid", ["c"], "y"))


def tanh_behind_a_convolution() -> Fusion:
    return _activation_behind_a_convolution(node("Tanh", ["c"], "y"))


def hard_sigmoid_behind_a_convolution() -> Fusion:
    return _activation_behind_a_convolution(node("HardSigmoid", ["c"], "y", alpha=0.3, beta=0.4))


def swish_behind_a_convolution() -> Fusion:
    return _activation_behind_a_convolution(node("Sigmoid", ["c"], "s"), node("Mul", ["c", "s"], "y"))


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


def _refused(nodes: list[onnx.NodeProto], constants: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelProblem, match=reason):
        network_of(model(nodes, [1, 8], constants))


@pytest.mark.parametrize(("name", "value"), [("root", 1.4142), ("one", 1.00001), ("half", 0.500003)])
def test_constants_that_a_runtime_takes_for_those_of_gelu_are_refused(name: str, value: float) -> None:
    nodes, constants = gelu_nodes()
    _refused(nodes, constants | {name: F32(value)}, "nearly one of Gelu's")


def test_the_constants_of_the_approximation_are_watched_as_well() -> None:
    nodes, constants = fast_gelu_nodes()
    _refused(nodes, constants | {"root": F32(0.79788)}, "nearly one of Gelu's")


@pytest.mark.parametrize("of_mean", [["x", "n"], ["n", "x"], ["x", "t"]], ids=["other", "swapped", "transposed"])
def test_what_is_not_quite_a_variance_is_refused(of_mean: list[str]) -> None:
    """Nobody has thought of how runtimes compute it."""
    nodes = [
        *(node("ReduceMean", ["x"], "m", axes=[-1]), node("ReduceMean", ["x"], "n", axes=[1])),
        *(node("Transpose", ["m"], "t", perm=[0, 2, 1]), node("Sub", of_mean, "d"), node("Mul", ["d", "d"], "q")),
        *(node("ReduceMean", ["q"], "v", axes=[-1]), node("Add", ["v", "eps"], "w")),
        *(node("Sqrt", ["w"], "r"), node("Div", ["d", "r"], "y")),
    ]
    with pytest.raises(ModelProblem, match="a variance that is not one of layer normalisation"):
        network_of(model(nodes, ["n", 3, 3], {"eps": F32(1e-5)}))


WRITTEN_OUT = (
    *(gelu_written_out, gelu_by_tanh_written_out, quick_gelu, sigmoid_linear_unit, hard_swish_written_out),
    *(mish_written_out, half_first_gelu, square_written_out),
)


@pytest.mark.parametrize("fusion", WRITTEN_OUT, ids=lambda fusion: fusion.__name__)
def test_activations_that_are_written_out_are_bounded_as_one_function(fusion: Any) -> None:
    nodes, constants, _ = fusion()
    content = model(nodes, [1, 2], constants)
    box = Interval(np.array([[[-2.0, -0.5]]]), np.array([[[1.0, 3.0]]]))
    ((lower, upper),) = bounds(network_of(content), box, FLOAT32_ANY_ORDER)
    oracle = session(content)
    x = np.linspace(box.lower[0], box.upper[0], 2001, dtype=F32)
    y = np.concatenate([oracle.run(None, {"x": row})[0] for row in x])
    np.testing.assert_allclose(lower[0, 0], y.min(axis=0), atol=2e-5)
    np.testing.assert_allclose(upper[0, 0], y.max(axis=0), atol=2e-5)


def _near_misses() -> dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]]:
    """What looks like an activation that is written out, and is none."""
    gelu, constants = gelu_nodes()
    fast, fast_constants = fast_gelu_nodes()

    def changed(nodes: list[onnx.NodeProto], at: int, inputs: list[str]) -> list[onnx.NodeProto]:
        copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
        copies[at].input[:] = inputs
        return [node("Relu", ["x"], "other"), *copies]

    def gated(*gate: onnx.NodeProto, by: str = "x") -> list[onnx.NodeProto]:
        return [node("Relu", ["x"], "other"), *gate, node("Mul", [by, "g"], "y")]

    third = {"third": F32(1 / 3), "half": F32(0.5), "one": F32(1)}
    return {
        "gelu of another": (changed(gelu, 0, ["other", "root"]), constants),
        "gelu times another": (changed(gelu, 3, ["other", "c"]), constants),
        "gelu with another constant": (gelu, constants | {"root": F32(2)}),
        "gelu plus two": (gelu, constants | {"one": F32(2)}),
        "tanh of another cube": (changed(fast, 0, ["other", "three"]), fast_constants),
        "tanh of another sum": (changed(fast, 2, ["other", "b"]), fast_constants),
        "tanh times another": (changed(fast, 6, ["other", "f"]), fast_constants),
        "tanh of a square": (fast, fast_constants | {"three": F32(2)}),
        "tanh, another factor": (fast, fast_constants | {"k": F32(0.05)}),
        "sigmoid of another": (gated(node("Sigmoid", ["other"], "g")), {}),
        "sigmoid times another": (gated(node("Sigmoid", ["x"], "g"), by="other"), {}),
        "sigmoid of a sum": (gated(node("Add", ["x", "half"], "s"), node("Sigmoid", ["s"], "g")), third),
        "sigmoid plus one": (gated(node("Sigmoid", ["x"], "s"), node("Add", ["s", "one"], "g")), third),
        "a sigmoid that is absorbed": (
            gated(node("Sigmoid", ["x"], "s"), node("Add", ["s", "big"], "t"), node("Sub", ["t", "big"], "g")),
            {"big": BIG},
        ),
        "an argument that is absorbed": (
            gated(node("Add", ["x", "big"], "s"), node("Sub", ["s", "big"], "t"), node("Sigmoid", ["t"], "g")),
            {"big": BIG},
        ),
        "an argument that overflows": (
            gated(node("Mul", ["x", "huge"], "s"), node("Mul", ["s", "tiny"], "t"), node("Sigmoid", ["t"], "g")),
            {"huge": F32(3e38), "tiny": F32(1 / 3e38)},
        ),
        "a third of a sigmoid": (gated(node("Sigmoid", ["x"], "s"), node("Mul", ["s", "third"], "g")), third),
        "mish of another": (gated(node("Softplus", ["other"], "s"), node("Tanh", ["s"], "g")), {}),
        "hard sigmoid": (gated(node("HardSigmoid", ["x"], "g", alpha=0.3)), {}),
        "hard sigmoid of another": (gated(node("HardSigmoid", ["other"], "g", alpha=1 / 6)), {}),
        "clipped to another range": (gated(node("Clip", ["x", "third", "one"], "g")), third),
    }


@pytest.mark.parametrize("kind", _near_misses())
def test_what_only_looks_like_an_activation_is_not_taken_for_one(kind: str) -> None:
    nodes, constants = _near_misses()[kind]
    content = model(nodes, [1, 400], constants)
    x = np.linspace(-4, 4, 400, dtype=F32)[np.newaxis]
    point = x[np.newaxis].astype(np.float64)
    ((lower, upper),) = bounds(network_of(content), Interval(point, point), FLOAT32_ANY_ORDER)
    for level in (DISABLED, ALL):
        (actual,) = run(content, x, level=level)
        unbounded = np.isnan(lower[0]) & np.isnan(upper[0]) & (kind == "an argument that overflows")
        assert (unbounded | ((lower[0] <= actual) & (actual <= upper[0]))).all()


@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_a_factor_that_the_model_computes_is_no_constant_of_an_activation(operator: str) -> None:
    """x sigmoid(c x), where rounding after rounding leaves c far from one."""
    rng = np.random.default_rng(0)
    factors: list[np.float32] = []
    value = np.sqrt(F32(1.2345))
    while len(factors) < 60:  # whose products are rounded upwards
        factor = F32(1 + rng.uniform(-1e-3, 1e-3))
        if float(value * factor) > 1.00000002 * float(value) * float(factor):
            factors, value = [*factors, factor], value * factor
    nodes = [node("Sqrt", ["c"], "c0")]
    nodes += [node("Mul", [f"c{i}", f"f{i}"], f"c{i + 1}") for i in range(len(factors))]
    nodes += [node(operator, ["x", f"c{len(factors)}"], "a"), node("Sigmoid", ["a"], "s"), node("Mul", ["x", "s"], "y")]
    constants = {"c": F32(1.2345), **{f"f{i}": factor for i, factor in enumerate(factors)}}
    content = model(nodes, ["n", 4], constants)
    network = network_of(content)
    x = np.linspace(-8, 8, 4, dtype=F32).reshape(1, 1, 4)
    ((lower, upper),) = bounds(network, box_around(x, Fraction(0), None), FLOAT32_ANY_ORDER)
    assert np.isfinite(lower).all()
    for y in executions(content, x[:, 0]):
        assert not ((y < lower[0]) | (y > upper[0])).any()
    functions = {t.primitive.name for t in topological(network.outputs) if isinstance(t.primitive, Function)}
    assert "Swish" not in functions


def test_an_output_that_the_model_computes_beforehand_is_refused() -> None:
    with pytest.raises(ModelProblem, match="does not depend on the input"):
        network_of(model([node("Sqrt", ["c"], "y"), node("Relu", ["x"], "z")], [1, 3], {"c": F32([2, 3, 5])}))


SEVERAL = {
    "two sums": [node("Add", ["d", "r"], "t"), node("Add", ["t", "s"], "y")],
    "a sum of three": [node("Sum", ["r", "d", "s"], "y")],
    "joined and summed": [node("Concat", ["s", "d", "r"], "j", axis=1), node("ReduceSum", ["j", "one"], "y")],
    "stacked and summed": [
        *(node("Unsqueeze", [name, "one"], f"{name}1") for name in "rds"),
        *(node("Concat", ["r1", "d1", "s1"], "j", axis=1), node("ReduceSum", ["j", "one"], "y", keepdims=0)),
    ],
    "joined, moved and summed": [
        *(node("Concat", ["s", "d", "r"], "j", axis=1), node("Transpose", ["j"], "t", perm=[1, 0])),
        *(node("ReduceSum", ["t", "zero"], "u"), node("Transpose", ["u"], "y", perm=[1, 0])),
    ],
    "joined, doing nothing, and summed": [
        *(
            node("Concat", ["s", "d", "r"], "j", axis=1),
            node("Mul", ["j", "unit"], "i"),
            node("Add", ["i", "nil"], "k0"),
        ),
        node("ReduceSum", ["k0", "one"], "y"),
    ],
    "joined, joined along another axis, and summed": [
        *(node("Concat", ["s", "d", "r"], "j", axis=1), node("Concat", ["j", "j"], "k0", axis=0)),
        *(node("ReduceSum", ["k0", "one"], "u"), node("Slice", ["u", "zero", "one", "zero"], "y")),
    ],
    "a mean": [node("Mean", ["d", "r", "s"], "m"), node("Mul", ["m", "three"], "y")],
}


@pytest.mark.parametrize("way", SEVERAL)
def test_residuals_are_added_inside_a_product_however_the_sum_is_written(way: str) -> None:
    """4096 terms of a little more than half a unit in the last place of the residuals, each rounded up."""
    terms = 4096
    constants = {
        "w": np.full((terms, 1), F32(1.01 * 2.0**-24)),
        **{"zero": np.array([0]), "k": np.array([terms]), "one": np.array([1]), "three": F32(3)},
        **{"unit": F32(1), "nil": F32(0)},
        **{"l": np.array([terms + 1]), "m2": np.array([terms + 2])},
    }
    nodes = [
        node("Slice", ["x", "zero", "k", "one"], "h"),
        node("Slice", ["x", "k", "l", "one"], "r"),
        node("Slice", ["x", "l", "m2", "one"], "s"),
        node("MatMul", ["h", "w"], "d"),
        *SEVERAL[way],
    ]
    used = {name for each in nodes for name in each.input}
    content = model(nodes, [1, terms + 2], {name: value for name, value in constants.items() if name in used})
    x = np.ones((1, terms + 2), F32)
    x[0, -1] = 0.25
    total = x[0, terms] + x[0, terms + 1]
    for each in range(terms):
        total += F32(constants["w"][each, 0] * x[0, each])
    box = box_around(x[np.newaxis], Fraction(0), None)
    network = network_of(content)
    ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
    assert lower.item() <= total <= upper.item()
    below, above = crown_bounds(network, box, np.array([[[[1.0]], [[-1.0]]]]), FLOAT32_ANY_ORDER)[0]
    assert below <= total <= -above
    for y in executions(content, x[np.newaxis, 0]):
        assert lower.item() <= y.item() <= upper.item()


@pytest.mark.parametrize("nested", [False, True])
def test_a_row_of_residuals_is_added_inside_a_product(nested: bool) -> None:
    """One minus one, between which 40 residuals of half a unit in the last place are added, each rounded up."""
    small = F32(1.01 * 2.0**-24)
    nodes = [
        *(node("Slice", ["x", "zero", "two", "one"], "h"), node("Slice", ["x", "two", "end", "one"], "r")),
        node("MatMul", ["h", "w"], "d"),
    ]
    if nested:
        nodes += [node("Split", ["r"], ["r1", "r2"], axis=1), node("Concat", ["d", "r1"], "e", axis=1)]
    nodes += [node("Concat", ["e", "r2"] if nested else ["d", "r"], "j", axis=1), node("ReduceSum", ["j", "one"], "y")]
    constants = {"w": F32([[1], [-1]]), "zero": np.array([0]), "one": np.array([1])}
    content = model(nodes, ["n", 42], constants | {"two": np.array([2]), "end": np.array([42])})
    x = np.full((1, 42), small)
    x[0, :2] = 1
    total = F32(1)
    for residual in x[0, 2:]:
        total += residual
    total -= F32(1)
    box = box_around(x[np.newaxis], Fraction(0), None)
    ((lower, upper),) = bounds(network_of(content), box, FLOAT32_ANY_ORDER)
    assert lower.item() <= total <= upper.item()
    assert total > 41 * small  # far from the real number, 40.4 times as much


def test_values_that_are_joined_along_another_axis_are_no_residuals() -> None:
    """As the tokens of a transformer are, whose means over features would have bounds as wide as a product's."""
    nodes = [
        *(node("MatMul", ["x", "w"], "a"), node("MatMul", ["x", "v"], "b"), node("Concat", ["a", "b"], "j", axis=0)),
        node("ReduceMean", ["j"], "y", axes=[1]),
    ]
    constants = {"w": np.ones((500, 4), F32), "v": np.ones((500, 4), F32)}
    (joined,) = network_of(model(nodes, [1, 500], constants)).outputs
    assert isinstance(joined.primitive, Linear)
    assert joined.primitive.roundings < 30


@pytest.mark.parametrize("first", ["Mul", "Div"])
def test_constants_that_round_twice_may_be_computed_at_once(first: str) -> None:
    """A product less its rounded value is zero, or its rounding error where a runtime fuses the two."""
    a, b = F32(1 + 2.0**-12), F32(3)
    rounded = a * F32(1 + 2.0**-12) if first == "Mul" else a / b
    nodes = [node(first, ["a", "b"], "p"), node("Sub", ["p", "c"], "e"), node("Add", ["x", "e"], "y")]
    constants = {"a": a, "b": a if first == "Mul" else b, "c": rounded}
    with pytest.raises(ModelProblem, match="not accurate"):
        network_of(model(nodes, ["n", 1], constants))


def test_exact_constants_are_constants_whatever_is_computed_of_them() -> None:
    nodes = [
        *(node("Mul", ["a", "b"], "p"), node("Sub", ["p", "c"], "e"), node("Div", ["e", "b"], "d")),
        *(node("Add", ["d", "a"], "f"), node("Clip", ["x", "f"], "y")),  # whose end has to be a constant
    ]
    constants = {"a": F32(0.375), "b": F32(1024), "c": F32(100)}
    clipped = network_of(model(nodes, ["n", 1], constants)).output.primitive
    assert isinstance(clipped, Clip)
    assert clipped.lower == (0.375 * 1024 - 100) / 1024 + 0.375
