"""Quantised models that runtimes do not execute as they are written, or that are malformed, are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented

from support.onnx_models import ALL, DISABLED, model, network_of, node, run
from verify.bounds.evaluation import bounds
from verify.bounds.margins import margin_bounds
from verify.boxes import box_around, parse_eps
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem
from verify.model.operators import supported
from verify.proofs.certificate import Certificate, Class, Rejected, decode, encode

Constants = dict[str, NDArray[Any]]
RNG = np.random.default_rng(3)
CONSTANTS: Constants = {
    "xs": np.float32(0.03),
    "xz": np.uint8(120),
    "ys": np.float32(0.05),
    "yz": np.uint8(128),
    "w": RNG.integers(-64, 65, (6, 4)).astype(np.int8),
    "ws": np.float32(0.01),
    "wz": np.int8(0),
    "u": np.full(6, 20, np.int8),
    "b": RNG.integers(-500, 500, 4).astype(np.int32),
    "bs": np.float32(0.03) * np.float32(0.01),
    "near": np.float32(0.03) * np.float32(0.01) * np.float32(1 + 2.0**-20),
    "f": RNG.normal(size=4).astype(np.float32),
    "v": RNG.normal(size=(6, 4)).astype(np.float32),
    "half": np.full((2, 4), 0.3, np.float32),
    "one": np.float32(1),
    **{"zero": np.array([0]), "two": np.array([2]), "one64": np.array([1])},
}
QUANTISE = [node("QuantizeLinear", ["x", "xs", "xz"], "q"), node("DequantizeLinear", ["q", "xs", "xz"], "d")]
WEIGHTS = node("DequantizeLinear", ["w", "ws", "wz"], "wd")
BIAS = node("DequantizeLinear", ["b", "bs"], "bd")
END = [node("QuantizeLinear", ["p", "ys", "yz"], "r"), node("DequantizeLinear", ["r", "ys", "yz"], "y")]
SOUND = [*QUANTISE, WEIGHTS, BIAS, node("Gemm", ["d", "wd", "bd"], "p"), *END]


def content_of(nodes: list[onnx.NodeProto], changed: Constants | None = None, *, opset: int = 17) -> bytes:
    return model(nodes, [1, 6], CONSTANTS | (changed or {}), opset=opset)


def refusal(content: bytes) -> str:
    """Why the model is refused, in one line; empty if it is not."""
    try:
        network_of(content)
    except ModelProblem as problem:
        return str(problem).replace("\n", "NOT ONE LINE")
    return ""


def test_the_model_that_the_tests_spoil_is_sound() -> None:
    assert refusal(content_of(SOUND)) == ""


NOT_AS_WRITTEN: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "from one grid to another": ([*QUANTISE, node("Identity", ["d"], "p"), *END], "one grid to another"),
    "a softmax": ([*QUANTISE, node("Softmax", ["d"], "p"), *END], "a softmax that is quantised"),
    "from one grid to another, times one": ([*QUANTISE, node("Mul", ["d", "one"], "p"), *END], "one grid to another"),
    "weights alone": ([WEIGHTS, node("MatMul", ["x", "wd"], "y")], "or neither"),
    "weights alone in a Gemm": ([WEIGHTS, node("Gemm", ["x", "wd", "f"], "y")], "or neither"),
    "float weights": ([*QUANTISE, node("Gemm", ["d", "v", "f"], "p"), *END], "the weights beside"),
    "float bias": ([*QUANTISE, WEIGHTS, node("Gemm", ["d", "wd", "f"], "p"), *END], "the bias beside"),
    "float bias added": (
        [*QUANTISE, WEIGHTS, node("MatMul", ["d", "wd"], "m"), node("Add", ["m", "f"], "p"), *END],
        "a float summand or factor",
    ),
    "float bias added before what a QuantizeLinear moves across": (
        [
            *[*QUANTISE, WEIGHTS, node("MatMul", ["d", "wd"], "m"), node("Add", ["m", "f"], "a")],
            *[node("Slice", ["a", "zero", "two", "one64"], "p"), *END],
        ],
        "a float summand or factor",
    ),
    "int32 constant added": (
        [*QUANTISE, WEIGHTS, node("MatMul", ["d", "wd"], "m"), BIAS, node("Add", ["m", "bd"], "p"), *END],
        "as the bias of a product only",
    ),
    "factor of a Gemm": ([*QUANTISE, WEIGHTS, BIAS, node("Gemm", ["d", "wd", "bd"], "p", alpha=2.0), *END], "alpha"),
    "weights as a vector": (
        [*QUANTISE, node("DequantizeLinear", ["u", "ws", "wz"], "wd"), node("MatMul", ["d", "wd"], "y")],
        "two axes",
    ),
    "float weights behind an Identity": (
        [*QUANTISE, node("Identity", ["d"], "i"), node("Gemm", ["i", "v", "f"], "p"), *END],
        "or neither",
    ),
    "float weights behind a Slice": (
        [*QUANTISE, node("Slice", ["d", "zero", "two", "one64"], "i"), node("MatMul", ["i", "half"], "p"), *END],
        "or neither",
    ),
    "weights of two values behind a Slice": (
        [*QUANTISE, node("Slice", ["d", "zero", "one64", "one64"], "i"), node("MatMul", ["i", "i"], "p"), *END],
        "or neither",
    ),
    "weights alone behind an Identity": (
        [*QUANTISE, node("Identity", ["d"], "i"), WEIGHTS, node("MatMul", ["i", "wd"], "y")],
        "or neither",
    ),
    "weights alone behind a Relu": (
        [*QUANTISE, node("Relu", ["d"], "i"), WEIGHTS, node("MatMul", ["i", "wd"], "y")],
        "or neither",
    ),
    "a bias with a scale of its own": (
        [*QUANTISE, WEIGHTS, node("DequantizeLinear", ["b", "near"], "bd"), node("Gemm", ["d", "wd", "bd"], "p"), *END],
        "product of the other two scales",
    ),
    "a negative integer, which may not exist": (
        [QUANTISE[0], node("Neg", ["q"], "n"), node("DequantizeLinear", ["n", "xs", "xz"], "y")],
        "arithmetic in uint8",
    ),
    "transposed weights": ([*QUANTISE, WEIGHTS, node("Transpose", ["wd"], "t"), node("MatMul", ["d", "t"], "y")], ""),
    "weights of two values": ([*QUANTISE, node("MatMul", ["d", "d"], "y")], ""),
}


@pytest.mark.parametrize("what", NOT_AS_WRITTEN)
def test_what_runtimes_change_is_refused(what: str) -> None:
    nodes, reason = NOT_AS_WRITTEN[what]
    found = refusal(content_of(nodes))
    assert found
    assert reason in found


def test_runtimes_really_change_it() -> None:
    """Otherwise the refusals above would be for nothing; how many depends on the runtime's version."""
    x = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
    changed = 0
    for nodes, _ in list(NOT_AS_WRITTEN.values())[:10]:
        plain, other = (run(content_of(nodes), x, level=level)[0] for level in (DISABLED, ALL))
        changed += not np.allclose(plain, other, rtol=1e-4, atol=1e-4)
    assert changed >= 3


def product(weights: NDArray[Any], kind: str, dtype: Any = np.uint8) -> bytes:
    """x W on integers, for a matrix of one column."""
    zeros = {"xz": np.array(120, np.uint8) if dtype == np.uint8 else np.array(0, np.int8)}
    constants = zeros | {"w": weights.reshape(-1, 1), "wz": np.array(0, weights.dtype), "yz": zeros["xz"]}
    start = node("QuantizeLinear", ["x", "xs", "xz"], "q")
    if kind == "MatMulInteger":
        nodes = [start, node(kind, ["q", "w", "xz", "wz"], "i"), node("Cast", ["i"], "y", to=onnx.TensorProto.FLOAT)]
    elif kind == "qdq":
        nodes = [start, QUANTISE[1], WEIGHTS, node("MatMul", ["d", "wd"], "y")]
    elif kind == "QLinearConv":
        kernel = [node("Reshape", ["q", "shape"], "image")]
        apply = node(kind, ["image", "xs", "xz", "w", "ws", "wz", "ys", "yz"], "i")
        nodes = [start, *kernel, apply, node("DequantizeLinear", ["i", "ys", "yz"], "y")]
        constants |= {"w": weights.reshape(1, -1, 1), "shape": np.array([1, len(weights), 1])}
    else:
        names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
        nodes = [start, node("QLinearMatMul", names, "i"), node("DequantizeLinear", ["i", "ys", "yz"], "y")]
    return model(nodes, [1, len(weights)], CONSTANTS | constants)


@pytest.mark.parametrize("kind", ["MatMulInteger", "QLinearMatMul", "QLinearConv", "qdq"])
@pytest.mark.parametrize(
    ("weights", "saturates"),
    [
        ([64, 64, 64], False),
        ([127, 1, -127], False),
        ([100, 0, 0, 0, 29], True),
        ([-128, 5, -1], True),
        ([-64, -64, 127, -1], False),
        ([127, 127], True),
    ],
)
def test_weights_that_saturate_beside_uint8_are_refused(kind: str, weights: list[int], saturates: bool) -> None:
    """255 * 100 + 255 * 29 does not fit in 16 bits."""
    found = refusal(product(np.array(weights, np.int8), kind))
    assert ("seven bits" in found) == bool(found) == saturates


def test_what_does_not_saturate_is_accepted() -> None:
    full = np.array([127, 127, -128, -128])
    assert refusal(product(full.astype(np.int8), "QLinearMatMul", np.int8)) == ""
    assert refusal(product((full + 128).astype(np.uint8), "QLinearMatMul")) == ""
    assert refusal(product((full + 128).astype(np.uint8), "qdq")) == ""
    assert refusal(product(full.astype(np.int8), "qdq", np.int8))  # runtimes turn the activations into uint8


@pytest.mark.parametrize("kind", ["MatMulInteger", "QLinearMatMul", "qdq"])
def test_sums_that_may_leave_int32_are_refused(kind: str) -> None:
    """255 * 255 * 33026 > 2^31."""
    assert refusal(product(np.full(33025, 255, np.uint8), kind)) == ""
    assert "int32" in refusal(product(np.full(33026, 255, np.uint8), kind))


def test_a_bias_that_may_leave_int32_is_refused() -> None:
    assert "int32" in refusal(content_of(SOUND, {"b": np.full(4, 2**31 - 1, np.int32)}))


HOSTILE: dict[str, Constants] = {
    "scale 0": {"xs": np.float32(0)},
    "negative scale": {"xs": np.float32(-0.03)},
    "scale nan": {"xs": np.float32(np.nan)},
    "scale inf": {"xs": np.float32(np.inf)},
    "subnormal scale": {"xs": np.float32(1e-40)},
    "huge scale": {"ys": np.float32(1e30)},
    "float64 scale": {"xs": np.float64(0.03)},
    "integer scale": {"xs": np.int32(1)},
    "two scales": {"xs": np.full(2, 0.03, np.float32)},
    "no scale": {"xs": np.zeros(0, np.float32)},
    "matrix of scales": {"ws": np.full((6, 4), 0.01, np.float32), "wz": np.zeros((6, 4), np.int8)},
    "scale for each row": {"ws": np.full(6, 0.01, np.float32), "wz": np.zeros(6, np.int8)},
    "negative scale of weights": {"ws": np.float32(-0.01), "bs": np.float32(-0.0003)},
    "float zero point": {"xz": np.float32(120)},
    "zero point of 16 bits": {"xz": np.uint16(120)},
    "two zero points": {"xz": np.zeros(2, np.uint8)},
    "zero point of other weights": {"wz": np.uint8(0)},
    "weights of 16 bits": {"w": np.ones((6, 4), np.int16), "wz": np.int16(0)},
    "weights of 32 bits": {"w": np.ones((6, 4), np.int32), "wz": np.int32(0)},
    "bias of 8 bits": {"b": np.ones(4, np.int8)},
    "other scale of the bias": {"bs": np.float32(0.000301)},
    "bias of another length": {"b": np.ones(3, np.int32)},
    "bias as a column": {"b": np.ones((4, 1), np.int32)},
    "weights of another height": {"w": np.ones((5, 4), np.int8)},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_grids_are_refused(what: str) -> None:
    assert refusal(content_of(SOUND, HOSTILE[what]))


@pytest.mark.parametrize("attributes", [{"axis": 2}, {"axis": -3}, {"axis": 0}])
def test_channels_along_another_axis_are_refused(attributes: dict[str, int]) -> None:
    weights = node("DequantizeLinear", ["w", "ws", "wz"], "wd", **attributes)
    many = {"w": np.ones((4, 4), np.int8), "ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}
    start = [node("Slice", ["x", "begin", "end", "axes"], "c"), node("QuantizeLinear", ["c", "xs", "xz"], "q")]
    many |= {"begin": np.array([0]), "end": np.array([4]), "axes": np.array([1])}
    nodes = [*start, QUANTISE[1], weights, node("MatMul", ["d", "wd"], "y")]
    assert refusal(content_of(nodes, many))


def test_blocks_are_refused() -> None:
    weights = node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0, block_size=2)
    blocks = {"ws": np.full((3, 4), 0.01, np.float32), "wz": np.zeros((3, 4), np.int8)}
    nodes = [*QUANTISE, weights, node("MatMul", ["d", "wd"], "y")]
    assert "blocks" in refusal(content_of(nodes, blocks, opset=21))


def test_scales_that_depend_on_the_data_are_refused_with_advice() -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z"], "i"),
        node("Cast", ["i"], "y", to=onnx.TensorProto.FLOAT),
    ]
    assert "depend on the data" in refusal(content_of(nodes))


def test_a_clip_before_a_tiny_scale_is_refused() -> None:
    """onnxruntime drops a Clip whose ends come within 2^-23 of the grid's, though that be many steps."""
    nodes = [
        node("Clip", ["x", "low", "high"], "c"),
        node("QuantizeLinear", ["c", "xs", "xz"], "q"),
        node("DequantizeLinear", ["q", "xs", "xz"], "y"),
    ]
    tiny = {"xs": np.float32(1e-9), "low": np.float32(0), "high": np.float32(6e-8)}
    assert "drop it" in refusal(content_of(nodes, tiny))
    assert refusal(content_of(nodes, tiny | {"xs": np.float32(0.01)})) == ""


def test_float_arithmetic_on_integers_is_refused() -> None:
    nodes = [QUANTISE[0], node("Add", ["q", "q"], "y")]
    assert "uint8" in refusal(content_of(nodes))


def test_bounds_of_an_integer_product_are_the_exact_hull() -> None:
    """Of all integers between the ends: attained, and nothing beyond; so is every bound that follows."""
    nodes = [QUANTISE[0], node("MatMulInteger", ["q", "w", "xz", "wz"], "y")]
    content = model(nodes, [1, 3], CONSTANTS | {"w": np.array([[3], [-5], [7]], np.int8)})
    box = Interval(np.full((1, 1, 3), -0.06), np.full((1, 1, 3), 0.09))
    ((lower, upper),) = bounds(network_of(content), box, REAL)
    assert lower.item() == 3 * -2 - 5 * 3 + 7 * -2
    assert upper.item() == 3 * 3 - 5 * -2 + 7 * 3


def test_margins_survive_the_rounding_of_the_logits() -> None:
    """Both logits move together by far more than their difference, which is still bounded, up to a step."""
    weights = np.array([[60, 56], [60, 60], [60, 60], [60, 60], [-60, -60], [60, 60]], np.int8)
    for nodes in (SOUND, [*QUANTISE, WEIGHTS, BIAS, node("Gemm", ["d", "wd", "bd"], "y")]):
        content = content_of(nodes, {"w": weights, "b": np.array([1200, 0], np.int32), "ys": np.float32(0.1)})
        box = Interval(np.full((1, 1, 6), -0.5), np.full((1, 1, 6), 0.5))
        margins = margin_bounds(network_of(content), box, np.array([0]), FLOAT32_ANY_ORDER)
        assert 0 < margins[0, 1] <= 0.4


def test_certificates_of_quantised_models_are_checked_anew() -> None:
    network = network_of(content_of(SOUND))
    image = np.full((1, 1, 6), 0.4, np.float32)
    label = int(run(content_of(SOUND), image[0])[0].argmax())
    box = box_around(image, parse_eps("0.001"), None)
    lower, upper = (end[0].astype(np.float32) for end in box)
    proof = Certificate(network.sha256, "model.onnx", "float32-any-order", Class(label), lower, upper, "ibp")
    check(decode(encode(proof)), network)
    wrong = Certificate(network.sha256, "model.onnx", "float32-any-order", Class((label + 1) % 4), lower, upper, "ibp")
    with pytest.raises(Rejected):
        check(wrong, network)


def test_an_operator_on_integers_is_refused_or_what_onnxruntime_makes_of_them() -> None:
    """The magnitude of -128, for one, is no int8 number. Every operator of a single operand, on every integer."""
    accepted = set()
    for name in supported():
        if "." in name or name in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for dtype in (np.int8, np.uint8):
            limits = np.iinfo(dtype)
            x = np.arange(limits.min, limits.max + 1, dtype=np.float32)
            ends = {"s": np.float32(1), "z": np.array(0, dtype)}
            nodes = [node("QuantizeLinear", ["x", "s", "z"], "q"), node(name, ["q"], "r")]
            content = model([*nodes, node("DequantizeLinear", ["r", "s", "z"], "y")], [1, len(x)], ends)
            try:
                (actual,) = run(content, x[np.newaxis], level=DISABLED)
                ((lower, upper),) = bounds(
                    network_of(content), Interval(*2 * [x[np.newaxis, np.newaxis].astype(float)]), FLOAT32_ANY_ORDER
                )
            except (ModelProblem, Fail, InvalidArgument, InvalidGraph, NotImplemented):
                continue
            accepted.add(name)
            assert ((lower.reshape(actual.shape) <= actual) & (actual <= upper.reshape(actual.shape))).all(), name
    assert {"Relu", "Identity"} <= accepted
