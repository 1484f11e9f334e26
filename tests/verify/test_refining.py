"""Slopes that are found block by block make bounds as tight as those found over whole layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from support.executions import box_of
from support.onnx_models import model, network_of, node
from support.random_networks import random_network
from verify.bounds.activations import is_relu
from verify.bounds.cones import tilings
from verify.bounds.maxima import with_relus
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.refinements import Slopes
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import REAL, Array
from verify.model.network import Network
from verify.search import refining
from verify.search.backward import Backward
from verify.search.refining import slopes_of_elements


def widths(network: Network, box: Interval, *, slopes: bool = True) -> dict[Tensor, Array]:
    """Of what ReLUs read; slopes: have each optimised, rather than CROWN's."""
    backward = Backward(network.output, torch.device("cpu"))

    def choose(activation: Tensor, intervals: Mapping[Tensor, Interval]) -> Slopes | None:
        (operand,) = activation.operands
        low, high = (end.reshape(-1) for end in intervals[operand])
        elements = np.flatnonzero((low < 0) & (high > 0))
        if not slopes or not is_relu(activation) or not len(elements):
            return None
        return slopes_of_elements(backward.of(operand), elements, intervals, lambda: False)

    with np.errstate(all="ignore"):
        found = crown_intervals(network, box, REAL, choose=choose)
    return {relu: np.subtract(*found[relu.operands[0]][::-1]) for relu in backward.activations if is_relu(relu)}


def convolutions(seed: int, *, stride: int, groups: int) -> Network:
    rng = np.random.default_rng(seed)
    shapes = {"u": (4, 1, 3, 3), "v": (4, 4 // groups, 3, 3), "w": (3, 4, 2, 2)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        node("Conv", ["x", "u"], "a", pads=[1] * 4),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "v"], "c", strides=[stride] * 2, group=groups, pads=[1] * 4),
        node("LeakyRelu" if seed % 2 else "Relu", ["c"], "d"),
        node("Conv", ["d", "w"], "e"),
        node("Relu", ["e"], "f"),
        node("GlobalAveragePool", ["f"], "g"),
        node("Flatten", ["g"], "y"),
    ]
    return network_of(model(nodes, [1, 1, 8, 7], weights))


@pytest.mark.parametrize("edge", [1, 3])
@pytest.mark.parametrize(("seed", "stride", "groups"), [(0, 1, 1), (1, 2, 1), (2, 1, 2), (3, 2, 4)])
def test_blocks_of_convolutions(
    seed: int, stride: int, groups: int, edge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = convolutions(seed, stride=stride, groups=groups), np.random.default_rng(seed).random((1, 1, 1, 8, 7))
    box = Interval(x - 0.2, x + 0.2)
    monkeypatch.setattr(refining, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, 100))
    whole, plain = widths(network, box), widths(network, box, slopes=False)
    monkeypatch.setattr(refining, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, edge))
    parts = widths(network, box)
    last = list(parts)[-1]
    assert whole[last].sum() < 0.99 * plain[last].sum()
    for relu, found in parts.items():
        np.testing.assert_allclose(found, whole[relu], rtol=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_blocks_of_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = random_network(seed)
    network = with_relus(network_of(content))
    box = box_of(seed, network.input.shape)
    monkeypatch.setattr(refining, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, 100))
    whole = widths(network, box)
    monkeypatch.setattr(refining, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, 2))
    for relu, found in widths(network, box).items():
        np.testing.assert_allclose(found, whole[relu], rtol=1e-2, atol=1e-6)
