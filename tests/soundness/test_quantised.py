"""Quantised networks: integers as onnxruntime computes them, bounds that no execution leaves, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from support.executions import assert_no_execution_leaves_the_bounds
from support.onnx_models import ALL, BASIC, DISABLED, EXTENDED, network_of, session
from support.quantised_graphs import random_quantised_graph
from support.quantised_networks import FORMS, random_quantised_network
from verify.bounds import bounds, values
from verify.errors import ModelProblem
from verify.intervals import Interval
from verify.rounding import FLOAT32_ANY_ORDER


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
