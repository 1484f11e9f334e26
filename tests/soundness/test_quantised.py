"""Quantised networks: integers as onnxruntime computes them, bounds that no execution leaves, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from support.executions import attacked_points, box_of, executions, sampled_points
from support.onnx_models import ALL, DISABLED, EXTENDED, network_of, session
from support.quantised_networks import FORMS, random_quantised_network
from verify.bounds import bounds, values
from verify.crown import crown_margins
from verify.intervals import Interval
from verify.margins import margin_bounds
from verify.rounding import FLOAT32_ANY_ORDER


@pytest.mark.parametrize("seed", range(60))
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
@pytest.mark.parametrize("seed", range(60))
def test_no_execution_leaves_the_bounds(seed: int, form: str) -> None:
    content, shape = random_quantised_network(seed, form)
    network = network_of(content)
    box = box_of(seed, shape)
    ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()
    oracle = session(content)
    points = np.concatenate(
        [
            sampled_points(box, np.random.default_rng(seed), 60).reshape(-1, *shape[1:]),
            attacked_points(Interval(*(end[0] for end in box)), lambda x: oracle.run(None, {"x": x})[0]),
        ]
    )
    labels = np.arange(lower.shape[-1])
    everywhere = Interval(*(np.repeat(end, len(labels), axis=0) for end in box))
    methods = (margin_bounds, crown_margins, partial(crown_margins, refine=False))
    margins = [method(network, everywhere, labels, FLOAT32_ANY_ORDER) for method in methods]
    others = ~np.eye(len(labels), dtype=bool)
    for logits in executions(content, points):
        assert (lower[0] <= logits).all()
        assert (logits <= upper[0]).all()
        differences = logits.astype(np.float64)[:, :, np.newaxis] - logits[:, np.newaxis]
        for found in margins:
            assert (found[others] <= differences.min(axis=0)[others]).all()
