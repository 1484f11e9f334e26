"""No execution leaves the bounds: not for random inputs, not for corners, not for attacked ones; tolerance zero.

The oracle is onnxruntime, at several optimisation levels, thread counts and batch sizes.
"""

from __future__ import annotations

import numpy as np
import pytest

from support.executions import assert_no_execution_leaves_the_bounds
from support.onnx_models import ALL, DISABLED, network_of, session
from support.random_networks import random_network
from verify.bounds.evaluation import bounds, values
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER


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
    assert_no_execution_leaves_the_bounds(content, shape, seed)
