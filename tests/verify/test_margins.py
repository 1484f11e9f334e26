from __future__ import annotations

import numpy as np
import pytest

from support.onnx_models import model, network_of, node
from support.random_networks import random_network
from verify.bounds.evaluation import bounds
from verify.bounds.margins import classes, margin_bounds
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem


def test_shared_weights_cancel_in_a_margin() -> None:
    """Both logits are the same sum plus a constant: their bounds overlap widely, their difference does not vary."""
    constants = {"w": np.ones((20, 2), np.float32), "b": np.array([1, 0], np.float32)}
    network = network_of(model([node("Gemm", ["x", "w", "b"], "y")], [1, 20], constants))
    box = Interval(np.zeros((2, 1, 20)), np.ones((2, 1, 20)))
    margins = margin_bounds(network, box, np.array([0, 1]), FLOAT32_ANY_ORDER)
    assert margins[0, 1] == pytest.approx(1, abs=1e-3)
    assert margins[1, 0] == pytest.approx(-1, abs=1e-3)
    assert np.isposinf(margins[[0, 1], [0, 1]]).all()
    ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
    assert lower[0, 0, 0] - upper[0, 0, 1] < -18


@pytest.mark.parametrize("seed", range(20))
def test_margins_are_never_looser_than_the_difference_of_the_logits_bounds(seed: int) -> None:
    content, shape = random_network(seed)
    network = network_of(content)
    x = np.random.default_rng(seed).random((4, *shape))
    box = Interval(x - 0.05, x + 0.05)
    labels = np.arange(4)
    margins = margin_bounds(network, box, labels, REAL)
    ((lower, upper),) = bounds(network, box, REAL)
    separate = lower[:, 0][np.arange(4), labels][:, np.newaxis] - upper[:, 0]
    rows = ~np.eye(4, dtype=bool)
    assert (margins[rows] >= separate[rows] - 1e-9 * (1 + np.abs(separate[rows]))).all()


def test_without_a_final_product_the_difference_of_the_bounds_is_used() -> None:
    network = network_of(model([node("Relu", ["x"], "y")], [1, 3], {}))
    box = Interval(np.array([[[1.0, 0.0, -1.0]]]), np.array([[[2.0, 0.5, 4.0]]]))
    margins = margin_bounds(network, box, np.array([0]), FLOAT32_ANY_ORDER)
    assert margins[0, 1] == pytest.approx(0.5)
    assert margins[0, 2] == pytest.approx(-3)


def test_a_map_of_features_is_no_classifier() -> None:
    network = network_of(model([node("Relu", ["x"], "y")], [1, 3, 2], {}))
    with pytest.raises(ModelProblem, match="one vector"):
        classes(network)
