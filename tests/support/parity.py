"""The search computes the bounds that the checker does, in float32."""

from __future__ import annotations

import numpy as np
import torch

from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.intervals import Interval
from verify.core.rounding import REAL
from verify.model.network import Network
from verify.search.backward import Backward


def require_parity(network: Network, boxes: Interval, *, tolerance: float = 1e-4) -> None:
    """Of a random functional over each box, with CROWN's slopes."""
    lanes = len(boxes.lower)
    functionals = np.random.default_rng(0).normal(size=(lanes, 1, *network.output.shape))
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, boxes, REAL)
        expected = lower_bounds(network.output, functionals, intervals, REAL)[:, 0]
    backward = Backward(network.output, torch.device("cpu"))
    around = backward.lanes(intervals, functionals[:, 0])
    every = torch.arange(backward.neurons)
    found = backward.bounds(around, every, around.fixed, torch.zeros_like(around.fixed)).bounds
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)
