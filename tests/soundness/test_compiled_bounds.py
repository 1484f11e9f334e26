"""Bounds compiled to ONNX and run in float32: never tighter than the truth, and close to the rigorous ones.

They must contain every execution of the network, and the intervals of exact arithmetic, whose ends real inputs of the
box reach layer by layer; tolerance zero. They must certify no network that misbehaves.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support.attention import gated_by_its_mean, heads
from support.onnx_models import ALL, DISABLED, model, network_of, node, session
from support.quantised_networks import FORMS, random_quantised_network
from support.random_networks import random_network
from support.scan_functions import WAYS, Way
from verify.bounds.evaluation import bounds
from verify.bounds.margins import margin_bounds
from verify.boxes import box_around
from verify.compiled import compile_bounds
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem
from verify.model.network import Network, load
from verify.tasks.samples import read_data, samples_of

F32 = np.float32
UNIT_RANGE = (0.0, 1.0)
EXPORTED = Path(__file__).parents[2] / "exported"


class Compiled:
    """The bounds of a network as the graph yields them."""

    def __init__(self, network: Network, input_range: tuple[float, float] | None = UNIT_RANGE) -> None:
        graph = compile_bounds(network, input_range)
        onnx.checker.check_model(graph, full_check=True)
        self.sessions = [session(graph.SerializeToString(), level=level) for level in (DISABLED, ALL)]

    def __call__(self, x: NDArray[np.float32], eps: float) -> list[dict[str, Any]]:
        names = [output.name for output in self.sessions[0].get_outputs()]
        radius = np.array(eps, F32)
        return [dict(zip(names, oracle.run(None, {"x": x, "eps": radius}), strict=True)) for oracle in self.sessions]


CASES = [(None, 100), *((form, 30) for form in FORMS)]


@pytest.mark.parametrize(("form", "seed"), [(form, seed) for form, count in CASES for seed in range(count)])
def test_random_networks_stay_within_their_compiled_bounds(form: str | None, seed: int) -> None:
    content, shape = random_quantised_network(seed, form=form) if form else random_network(seed)
    network = network_of(content)
    compiled = Compiled(network)
    rng = np.random.default_rng(seed)
    x = rng.random((4, *shape[1:])).astype(F32)
    eps = (0.0, 1e-6, 2 / 255, 0.1, 0.5)[seed % 5]
    exact = Fraction(float(F32(eps)))
    box = box_around(x[:, np.newaxis], exact, UNIT_RANGE)
    labels = np.zeros(len(x), np.int64)
    for found in compiled(x, eps):
        labels = found["logits"].argmax(axis=1)
        ((lower, upper),) = bounds(network, box, REAL)
        assert ((found["lower"] <= found["logits"]) & (found["logits"] <= found["upper"])).all()
        assert (found["lower"] <= lower.reshape(len(x), -1)).all()
        assert (upper.reshape(len(x), -1) <= found["upper"]).all()
        for contract in (REAL, FLOAT32_ANY_ORDER):
            assert (found["margins"] <= margin_bounds(network, box, labels, contract)).all()
        assert np.array_equal(found["certified"], (found["margins"] > 0).all(axis=1))
    for lane in range(len(x)):
        lowest, highest = (end[lane].astype(F32) for end in box)
        share = np.round(rng.random((50, *lowest.shape[1:])))
        points = np.where(share > 0, highest, lowest).astype(F32).reshape(-1, *shape[1:])
        for oracle in (session(content), session(content, level=DISABLED)):
            (logits,) = oracle.run(None, {"x": points})
            for found in compiled(x, eps):
                assert (found["lower"][lane] <= logits).all()
                assert (logits <= found["upper"][lane]).all()
                label = found["logits"][lane].argmax()
                others = np.arange(logits.shape[1]) != label
                differences = (logits[:, [label]].astype(np.float64) - logits).min(axis=0)
                assert (found["margins"][lane] <= differences)[others].all()


@pytest.mark.parametrize("name", ["mnist-0.1-small", "mnist-0.1-small-int8"])
def test_shipped_students_are_bounded_as_tightly_as_by_the_rigorous_engine(name: str) -> None:
    """Except that a quantised logit may lie one step further, where the graph's own rounding crosses a tie."""
    network = load(EXPORTED / f"{name}.onnx")
    data = samples_of(read_data("mnist"), network, start=0, count=100)
    x = data.inputs.reshape(-1, *network.input.shape[1:])
    box = box_around(data.inputs, Fraction(float(F32(0.1))), UNIT_RANGE)
    ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
    width = (upper - lower).reshape(len(x), -1)
    step = network.output.grid.scale.item() if network.output.grid else 0.0
    for found in Compiled(network)(x, 0.1):
        wider = (found["upper"].astype(np.float64) - found["lower"]) - 1.05 * width
        assert (wider <= step).all()
        assert (wider <= 0).mean() >= 0.95
        margins = margin_bounds(network, box, found["logits"].argmax(axis=1), FLOAT32_ANY_ORDER).min(axis=1)
        assert np.array_equal(found["certified"], margins > 0)


def classifier(weights: NDArray[np.float32]) -> Network:
    nodes = [node("Gemm", ["x", "w1"], "p"), node("Relu", ["p"], "h"), node("Gemm", ["h", "w2"], "y")]
    return network_of(model(nodes, ["n", len(weights)], {"w1": weights, "w2": np.array([[2, 0], [0, 1]], F32)}))


@pytest.mark.parametrize(
    ("x", "eps"),
    [
        ([np.nan, 0.5], 0.01),
        ([np.inf, 0.5], 0.01),
        ([0.9, 1.5], 0.01),
        ([0.9, -0.5], 0.01),
        ([0.9, 0.5], -0.01),
        ([0.9, 0.5], np.nan),
    ],
)
def test_nothing_is_certified_outside_the_input_range_or_for_a_meaningless_radius(x: list[float], eps: float) -> None:
    sane, strange = np.array([[0.9, 0.5]], F32), np.array([x], F32)
    compiled = Compiled(classifier(np.eye(2, dtype=F32)))
    for found in compiled(sane, 0.01):
        assert found["certified"].tolist() == [True]
    for found in compiled(strange, eps):
        assert found["certified"].tolist() == [False]
        assert found["lower"].tolist() == [[-np.inf] * 2]


def test_a_sum_that_might_overflow_is_looked_at() -> None:
    """Without an input range, the weights alone do not rule overflow out."""
    network = classifier(np.diag(np.array([1e28, 1e28], F32)))
    compiled = Compiled(network, None)
    for found in compiled(np.array([[0.9, 0.1], [0.9e-10, 0.1e-10], [3e38, 0], [1e15, 0]], F32), 0.0):
        assert found["certified"].tolist() == [True, True, False, False]
        assert found["lower"][2:].tolist() == [[-np.inf] * 2] * 2


def test_weights_that_always_might_overflow_are_refused() -> None:
    with pytest.raises(ModelProblem, match="overflow"):
        compile_bounds(classifier(np.diag(np.array([1e38, 1], F32))), None)


def steep(slope: float, network_end: list[tuple[str, list[str], str]]) -> bytes:
    """A slope beyond what float32 holds: the second class overtakes the first one inside the box."""
    weights = {
        "w1": np.diag(np.array([1, 1e20], F32)),
        "w2": np.array([[0, 1], [0, 0]], F32),
        "b2": np.array([0.5, 0], F32),
    }
    nodes = [node("Gemm", ["x", "w1"], "p"), node("LeakyRelu", ["p"], "h", alpha=slope)]
    return model([*nodes, *(node(*each) for each in network_end)], ["n", 2], weights)


@pytest.mark.parametrize(
    ("content", "x", "eps"),
    [
        (steep(1e30, [("Relu", ["h"], "r"), ("Gemm", ["r", "w2", "b2"], "y")]), [0.1, -1], 0.8),
        (steep(-1e30, [("Identity", ["h"], "y")]), [-1, -1], 0.0),
    ],
)
def test_a_number_that_is_none_certifies_nothing(content: bytes, x: list[float], eps: float) -> None:
    """Runtimes pass over NaN when they look for the least or the largest number."""
    compiled = Compiled(network_of(content), (-1.0, 1.0))
    for found in compiled(np.array([x], F32), eps):
        assert found["certified"].tolist() == [False]
        assert found["lower"].tolist() == [[-np.inf] * 2]


def test_weights_near_the_end_of_float32_are_refused() -> None:
    with pytest.raises(ModelProblem, match="too large"):
        compile_bounds(classifier(np.diag(np.array([1, np.finfo(F32).max], F32))), (-(2.0**-30), 2.0**-30))


SCALES = (0.0, 2.0**-149, 2.0**-127, 2.0**-126, 2.0**-60, 1e-3, 0.1, 1.0, 3.0, 10.0, 80.0, 1e6)


def arguments(way: Way, x: NDArray[np.float64]) -> NDArray[np.float32]:
    """The same magnitudes, and no negative numbers where the function is not defined there."""
    return (np.abs(x) if way.function.domain[0][0] >= 0 else x).astype(F32)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_smooth_function_leaves_its_compiled_bounds(way: Way) -> None:
    rng = np.random.default_rng(sum(map(ord, way.name)))
    content = model(way.nodes, ["n", 37], way.constants, opset=way.opset)
    network = network_of(content)
    compiled, oracles = Compiled(network, None), [session(content, level=level) for level in (DISABLED, ALL)]
    bounded = 0
    for eps in (0.0, 1e-42, 1e-30, 1e-6, 0.01, 0.5, 8.0):
        scales = [rng.choice(SCALES[:end], (3, 37)) for end in (-4, None)]
        x = arguments(way, np.concatenate(scales) * rng.uniform(-1, 1, (6, 37)))
        if np.isfinite([end for piece in way.function.domain for end in piece]).any():
            # A graph says nothing of a sample that leaves the domain anywhere.
            away = np.maximum(eps, [[2.0**-20], [0.1], [0.6]]) * rng.uniform(1.1, 3, (3, 37))
            x[3:] = arguments(way, rng.choice([-1, 1], away.shape) * away)
        x[:3, 30:] = arguments(way, rng.uniform(-2, 2, ()))  # so that some are near where the function turns
        lower, upper = box_around(x[:, np.newaxis], Fraction(float(F32(eps))), None)
        points = [np.clip(x + F32(eps) * rng.choice([-1, 0.3, 1], x.shape), lower[:, 0], upper[:, 0]) for _ in range(6)]
        for found in compiled(x, eps):
            bounded += int(np.isfinite(found["lower"]).sum())
            for point in (x, *points):
                for oracle in oracles:
                    (y,) = oracle.run(None, {"x": point.astype(F32)})
                    known = np.isfinite(found["lower"])
                    assert (~known | ((found["lower"] <= y) & (y <= found["upper"]))).all()
    assert bounded > 300


@pytest.mark.parametrize("operator", ["Sin", "Cos"])
def test_no_wave_leaves_its_compiled_bounds_where_it_turns(operator: str) -> None:
    """Around multiples of pi / 2 of every magnitude, whose distances float32 tells only roughly."""
    rng = np.random.default_rng(0)
    content = model([node(operator, ["x"], "y")], ["n", 50], {})
    network = network_of(content)
    compiled, oracle = Compiled(network, None), session(content)
    multiples = np.round(rng.choice([-1, 1], (200, 50)) * 2 ** rng.uniform(0, 14.3, (200, 50)))
    x = (multiples * np.pi / 2).astype(F32)
    for eps in (0.0, 1e-6, 1e-3, 2e-3, 4e-3, 0.1, 1.6, 3.2):
        points = [x + F32(eps * share) for share in (-1, -0.3, 0, 1)]
        ((low, high),) = bounds(network, Interval(points[0].astype(np.float64), points[-1].astype(np.float64)), REAL)
        for found in compiled(x, eps):
            assert np.isfinite(found["lower"]).all()
            assert (found["lower"] <= low).all()
            assert (high <= found["upper"]).all()
            for point in points:
                (y,) = oracle.run(None, {"x": point})
                assert ((found["lower"] <= y) & (y <= found["upper"])).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_compiled_bounds_of_smooth_functions_are_tight(way: Way) -> None:
    network = network_of(model(way.nodes, ["n", 37], way.constants, opset=way.opset))
    x = np.random.default_rng(0).uniform(-2, 2, (8, 37)).astype(F32)
    if np.isfinite([end for piece in way.function.domain for end in piece]).any():
        x = 0.8 + 0.5 * np.abs(x)
    box = box_around(x[:, np.newaxis], Fraction(float(F32(0.05))), (-2.0, 2.0))
    ((low, high),) = bounds(network, box, FLOAT32_ANY_ORDER)
    for found in Compiled(network, (-2.0, 2.0))(x, 0.05):
        width = (high - low).reshape(8, 37)
        assert (found["upper"].astype(np.float64) - found["lower"] <= 1.001 * width + 1e-4).all()


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_what_is_certified_behind_a_softmax_is_a_strict_order(operator: str) -> None:
    rng = np.random.default_rng(1)
    nodes = [node("Gemm", ["x", "w"], "z"), node(operator, ["z"], "y", axis=-1)]
    content = model(nodes, ["n", 5], {"w": np.eye(5, dtype=F32)})
    compiled, oracle = Compiled(network_of(content), None), session(content)
    ties = proofs = 0
    for gap in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
        for scale in (1e-6, 1.0, 30.0):
            x = (scale * rng.normal(size=(40, 5))).astype(F32)
            x[:, 1] = x.max(axis=1)
            x[:, 0] = x[:, 1] + F32(gap * max(scale, 1.0))
            (y,) = oracle.run(None, {"x": x})
            strict = (y[:, :1] > y[:, 1:]).all(axis=1)
            for found in compiled(x, 0.0):
                ties += int((~strict & (x[:, 0] > x[:, 1])).sum())
                proofs += int(found["certified"].sum())
                assert (strict | ~found["certified"]).all()
    assert ties > 20
    assert proofs > 100


def gated() -> bytes:
    """A softmax inside a network, and quotients of what depends on the input."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(4, 4)).astype(F32) for name in ("q", "k", "v")} | {"one": F32(1)}
    nodes = [
        *(node("MatMul", ["x", name], f"x{name}") for name in ("q", "k", "v")),
        node("Softmax", ["xq"], "gates", axis=-1),
        node("Mul", ["gates", "xv"], "gated"),
        node("LogSoftmax", ["gated"], "logarithms", axis=-1),
        *(node("Mul", ["xk", "xk"], "squares"), node("Add", ["squares", "one"], "positive")),
        node("Div", ["logarithms", "positive"], "quotients"),
        node("ReduceSum", ["quotients", "axis"], "y", keepdims=0),
    ]
    return model(nodes, ["n", 3, 4], {**weights, "axis": np.array([1], np.int64)}, opset=18)


@pytest.mark.parametrize(
    ("content", "batch"), [(gated(), 16), (heads(np.random.default_rng(0)), 16), (gated_by_its_mean(), 1)]
)
def test_softmax_quotients_and_products_inside_a_network(content: bytes, batch: int) -> None:
    network = network_of(content)
    compiled, oracles = Compiled(network, (-1.0, 1.0)), [session(content, level=level) for level in (DISABLED, ALL)]
    rng = np.random.default_rng(1)
    for eps in (0.0, 1e-4, 0.01, 0.3):
        x = rng.uniform(-1, 1, (batch, 3, 4)).astype(F32)
        box = box_around(x[:, np.newaxis], Fraction(float(F32(eps))), (-1.0, 1.0))
        lowest, highest = (end[:, 0].astype(F32) for end in box)
        points = [np.where(rng.random(x.shape) < 0.5, lowest, highest).astype(F32) for _ in range(50)]
        ((low, high),) = bounds(network, box, FLOAT32_ANY_ORDER)
        for found in compiled(x, eps):
            assert np.isfinite(found["lower"]).all()
            width = (high - low).reshape(len(x), -1)
            assert (found["upper"].astype(np.float64) - found["lower"] <= 1.05 * width + 1e-3).all()
            for oracle in oracles:
                for point in (x, *points):
                    (y,) = oracle.run(None, {"x": point})
                    assert ((found["lower"] <= y) & (y <= found["upper"])).all()


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_no_softmax_leaves_its_compiled_bounds(operator: str) -> None:
    rng = np.random.default_rng(2)
    content = model([node(operator, ["x"], "s", axis=-1), node("Neg", ["s"], "y")], ["n", 9], {}, opset=18)
    compiled = Compiled(network_of(content), None)
    oracles = [session(content, level=level) for level in (DISABLED, ALL)]
    for eps in (0.0, 1e-30, 1e-3, 0.5, 60.0):
        scale = rng.choice([0.0, 2.0**-149, 1e-20, 1e-3, 1.0, 30.0, 90.0, 1e4, 1e8], (200, 1))
        x = (scale * rng.uniform(-1, 1, (200, 9))).astype(F32)
        lower, upper = x - F32(eps), x + F32(eps)
        for found in compiled(x, eps):
            assert np.isfinite(found["lower"]).all()
            for number in range(9):  # its extremes among others
                one = np.arange(9) == number
                for point in (x, np.where(one, lower, upper), np.where(one, upper, lower)):
                    for oracle in oracles:
                        (y,) = oracle.run(None, {"x": point})
                        assert ((found["lower"] <= y) & (y <= found["upper"])).all()


def test_a_divisor_that_may_be_zero_certifies_nothing() -> None:
    nodes = [node("Add", ["x", "two"], "a"), node("Div", ["a", "x"], "y")]
    compiled = Compiled(network_of(model(nodes, ["n", 2], {"two": F32(2)})))
    for found in compiled(np.array([[0.5, 0.9], [0.05, 0.9]], F32), 0.1):
        assert found["certified"].tolist() == [True, False]
        assert np.isfinite(found["lower"]).all(axis=1).tolist() == [True, False]


def test_a_root_behind_a_relu_is_bounded_where_that_may_be_zero() -> None:
    """What is known of a ReLU in the graph does not reach below zero."""
    weights = {"w": np.array([[1, -0.1], [0, 0.9]], F32)}
    nodes = [node("Gemm", ["x", "w"], "g"), node("Relu", ["g"], "r"), node("Sqrt", ["r"], "y")]
    for found in Compiled(network_of(model(nodes, ["n", 2], weights)))(np.array([[0.9, 0.1]], F32), 0.01):
        assert found["margins"][0, 1] > 0.84


def test_an_exponential_is_bounded_wherever_it_is_far_from_overflow() -> None:
    compiled = Compiled(network_of(model([node("Exp", ["x"], "y")], ["n", 2], {})), (-1e4, 1e4))
    for found in compiled(np.array([[60, -9e3], [95, 0]], F32), 1.0):
        assert np.isfinite(found["lower"]).all(axis=1).tolist() == [True, False]


def test_a_factor_that_overflows_although_inputs_are_small_is_refused() -> None:
    """A runtime may fold the scale of the batch norm into the weights, or divide by the square root first."""
    weights = {"w": np.eye(2, dtype=F32) * F32(2.0**-12), "b": np.zeros(2, F32), "m": np.zeros(2, F32)}
    weights |= {"s": np.full(2, 2.0**100, F32), "v": np.full(2, 2.0**-56, F32)}
    nodes = [node("Gemm", ["x", "w"], "g"), node("BatchNormalization", ["g", "s", "b", "m", "v"], "y", epsilon=0.0)]
    with pytest.raises(ModelProblem, match="overflow"):
        compile_bounds(network_of(model(nodes, ["n", 2], weights)), (-(2.0**-100), 2.0**-100))


def test_a_clip_as_wide_as_float32_does_not_matter() -> None:
    ends = {"low": F32(np.finfo(F32).min), "high": F32(np.finfo(F32).max), "w": np.eye(2, dtype=F32)}
    nodes = [node("Gemm", ["x", "w"], "g"), node("Clip", ["g", "low", "high"], "y")]
    for found in Compiled(network_of(model(nodes, ["n", 2], ends)))(np.array([[0.9, 0.1]], F32), 0.01):
        assert found["margins"][0, 1] > 0.77


def test_padding_with_infinity_before_a_pool_and_a_function() -> None:
    nodes = [
        node("Pad", ["x"], "p", pads=[0, 0, 1, 0, 0, 1], value=-np.inf),
        node("MaxPool", ["p"], "m", kernel_shape=[2], strides=[1]),
        *(node("Sigmoid", ["m"], "s"), node("Flatten", ["s"], "y")),
    ]
    content = model(nodes, ["n", 1, 2], {}, opset=10)
    x = np.array([[[0.9, 0.1]]], F32)
    (y,) = session(content).run(None, {"x": x})
    for found in Compiled(network_of(content))(x, 0.0):
        assert ((found["lower"] <= y) & (y <= found["upper"])).all()
