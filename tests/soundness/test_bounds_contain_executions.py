"""No execution leaves the bounds: not for random inputs, not for corners, not for attacked ones; tolerance zero.

The oracle is onnxruntime, at several optimisation levels, thread counts and batch sizes.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from support.executions import attacked_points, box_of, executions, sampled_points
from support.onnx_models import ALL, DISABLED, network_of, session
from support.random_networks import random_network
from verify.bounds import bounds, values
from verify.crown import crown_margins
from verify.intervals import Interval
from verify.margins import margin_bounds
from verify.rounding import FLOAT32_ANY_ORDER


@pytest.mark.parametrize("seed", range(60))
def test_at_a_point_the_network_means_what_onnxruntime_computes(seed: int) -> None:
    content, shape = random_network(1000 + seed)
    network = network_of(content)
    x = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    point = x.astype(np.float64)
    (ours,) = values(network, point)
    ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    assert ((lower <= ours) & (ours <= upper)).all()
    for level in (DISABLED, ALL):
        oracle = session(content, level=level)
        for lane in range(len(x)):
            (actual,) = oracle.run(None, {"x": x[lane]})
            assert ((lower[lane] <= actual) & (actual <= upper[lane])).all()
            np.testing.assert_allclose(actual, ours[lane], rtol=1e-3, atol=1e-3 * np.abs(ours).max())


@pytest.mark.parametrize("seed", range(150))
def test_no_execution_leaves_the_bounds(seed: int) -> None:
    content, shape = random_network(seed)
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
