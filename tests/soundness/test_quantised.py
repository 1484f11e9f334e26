"""Quantised networks: integers as onnxruntime computes them, bounds that no execution leaves, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from support.executions import assert_no_execution_leaves_the_bounds
from support.onnx_models import ALL, BASIC, DISABLED, EXTENDED, model, network_of, node, session
from support.quantised_graphs import random_quantised_graph
from support.quantised_networks import FORMS, random_quantised_network
from support.random_networks import random_network
from verify.bounds.crown import crown_bounds, crown_margins
from verify.bounds.evaluation import bounds, values
from verify.bounds.margins import margin_bounds
from verify.core.intervals import Interval
from verify.core.primitives import Linear, topological
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem


@pytest.mark.parametrize("seed", range(40))
def test_integers_are_those_of_onnxruntime_bit_for_bit(seed: int) -> None:
    content, shape = random_quantised_network(5000 + seed, "qoperator", products_only=True)
    network = network_of(content)
    x = np.random.default_rng(seed).normal(size=(200, *shape)).astype(np.float32)
    x[:50] = np.round(4 * x[:50]) / 4  # many of them at ties
    x[-1], x[-2] = 1e30, -1e30
    (ours,) = values(network, x.astype(np.float64))
    step = network.output.primitive.map.scale.item()
    for level, threads in ((DISABLED, 1), (EXTENDED, 2), (ALL, 1), (ALL, 2)):
        (actual,) = session(content, level=level, threads=threads).run(None, {"x": x.reshape(-1, *shape[1:])})
        assert np.array_equal(np.rint(actual / step), np.rint(ours.reshape(actual.shape) / step))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(40))
def test_no_execution_leaves_the_bounds(seed: int, form: str) -> None:
    content, shape = random_quantised_network(seed, form)
    assert_no_execution_leaves_the_bounds(content, shape, seed)


def classifier(weight: NDArray[np.int8], bias: NDArray[np.int32], scales: NDArray[np.float32], form: str) -> bytes:
    """Of inputs from zero on, in one product of integers. scales: of the inputs, the weights and the logits."""
    constants = {"s": scales[0], "v": scales[1], "u": scales[2], "z": np.uint8(0), "o": np.int8(0), "w": weight}
    quantised = node("QuantizeLinear", ["x", "s", "z"], "q")
    product = ["q", "s", "z", "w", "v", "o"]
    if form == "float logits":
        nodes = [quantised, node("QGemm", [*product, "b"], "y", domain="com.microsoft")]
        constants["b"] = bias
    else:
        nodes = [
            *(quantised, node("QLinearMatMul", [*product, "u", "z"], "p")),
            node("DequantizeLinear", ["p", "u", "z"], "y"),
        ]
    return model(nodes, [1, len(weight)], {name: np.asarray(value) for name, value in constants.items()})


@pytest.mark.parametrize("form", ["float logits", "quantised logits"])
@pytest.mark.parametrize("seed", range(30))
def test_zeros_among_the_factors_of_integers_take_nothing_from_what_rounds_behind(seed: int, form: str) -> None:
    rng = np.random.default_rng(seed)
    count, live = 1000, int(rng.integers(1, 20))
    weight = rng.integers(-60, 61, (count, 4)).astype(np.int8)
    scales = rng.uniform(0.01, 1.0, 3).astype(np.float32) * np.float32([1, 1, 1000])
    content = classifier(weight, rng.integers(-1000, 1000, 4).astype(np.int32), scales, form)
    network = network_of(content)
    x = np.zeros((1, count), np.float32)
    x[0, :live] = rng.integers(1, 256, live) * scales[0]
    point = Interval(*(x[np.newaxis].astype(np.float64),) * 2)
    logits = session(content).run(None, {"x": x})[0].astype(np.float64)
    (around,) = bounds(network, point, FLOAT32_ANY_ORDER)
    lower = crown_bounds(network, point, np.eye(4).reshape(1, 4, *network.output.shape), FLOAT32_ANY_ORDER)
    for least in (around.lower.reshape(1, 4), lower):
        assert (least <= logits).all()
    for label in range(4):
        gaps = np.delete(logits[0, label] - logits[0], label)
        for margins in (margin_bounds, crown_margins):
            (found,) = margins(network, point, np.array([label]), FLOAT32_ANY_ORDER)
            assert (np.delete(found, label) <= gaps).all()


@pytest.mark.parametrize("seed", range(40))
def test_only_additions_of_zero_do_not_round(seed: int) -> None:
    made = random_quantised_network(seed, FORMS[seed % len(FORMS)]) if seed % 2 else random_network(seed)
    rng = np.random.default_rng(seed)
    for tensor in topological([network_of(made[0]).output]):
        primitive = tensor.primitive
        if not isinstance(primitive, Linear):
            continue
        live = rng.random((2, *tensor.operands[0].shape)) < rng.choice([0.0, 0.1, 0.5, 1.0])
        found = primitive.live_roundings(live)
        assert (found <= primitive.roundings).all()
        if primitive.additions:
            ones = primitive.map(live.astype(np.float64)) - primitive.map(np.zeros(live.shape))
            assert (found >= 2 + (ones != 0)).all()
        else:
            assert (found == primitive.roundings).all()
        assert (primitive.live_roundings(np.ones_like(live)) <= primitive.roundings).all()


@pytest.mark.parametrize("block", range(4))
def test_whatever_a_runtime_makes_of_a_graph_is_refused_or_within_bounds(block: int) -> None:
    """Merged grids, weights and biases that are quantised on the way, dropped clips: at a point there is nothing else
    that bounds could hide it in."""
    accepted = 0
    for seed in range(60 * block, 60 * (block + 1)):
        content, shape = random_quantised_graph(seed)
        try:
            network = network_of(content)
        except ModelProblem:
            continue
        accepted += 1
        x = np.random.default_rng(seed).normal(size=(30, *shape)).astype(np.float32)
        x[:10] = np.round(32 * x[:10]) / 32
        point = x.astype(np.float64)
        ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
        for level in (DISABLED, BASIC, EXTENDED, ALL):
            try:
                oracle = session(content, level=level)
            except Exception:  # onnxruntime fails on some graphs that it has transformed
                continue
            actual = oracle.run(None, {"x": x.reshape(-1, *shape[1:])})[0].reshape(lower.shape)
            assert ((lower <= actual) & (actual <= upper)).all(), f"graph {seed}"
    assert accepted > 15
