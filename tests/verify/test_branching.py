"""Which neuron a search splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.onnx_models import model, network_of, node
from support.relu_networks import ReluNetwork
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.intervals import Interval
from verify.core.rounding import REAL
from verify.model.network import Network
from verify.proofs.paths import LEAF
from verify.search.backward import Backward
from verify.search.branching import best_splits
from verify.search.lanes import Lanes

CPU = torch.device("cpu")


class Situation:
    """The first output over [-1, 1], in two lanes; no neuron is split in the first lane, and one in the second."""

    def __init__(self, network: Network) -> None:
        self.backward = Backward(network.output, CPU)
        ones = np.ones((1, *network.input.shape))
        intervals = crown_intervals(network, Interval(-ones, ones), REAL)
        functional = np.zeros((1, *network.output.shape))
        functional.reshape(-1)[0] = 1.0
        lanes = self.backward.lanes(intervals, functional).repeated(2)
        sides = torch.zeros_like(lanes.fixed)
        if lanes.open.any():
            sides[1, lanes.open[1].nonzero()[0, 0]] = 1.0
        self.lanes = self.backward.split(lanes, sides, lanes.lower, lanes.upper)
        self.chosen = torch.arange(self.backward.neurons)
        self.slopes = torch.full_like(lanes.fixed, 0.5)
        self.multipliers = 0.1 * sides.abs()

    def bounds(self, lanes: Lanes) -> torch.Tensor:
        return self.backward.bounds(lanes, self.chosen, self.slopes, self.multipliers).bounds

    def promises(self, target: float) -> torch.Tensor:
        """Of a split of each neuron, by trying all of them: lanes x neurons, -inf where it is not open."""
        halves = torch.stack([torch.stack([self._half(n, side) for side in (1.0, -1.0)]) for n in self.chosen.tolist()])
        short = halves - target
        return torch.where(self.lanes.open, (short.clamp(max=0.0).sum(1) + short.amin(1)).T, -torch.inf)

    def _half(self, neuron: int, side: float) -> torch.Tensor:
        sides = self.lanes.side.clone()
        sides[:, neuron] = side
        return self.bounds(self.backward.split(self.lanes, sides, self.lanes.lower, self.lanes.upper))

    def splits(self, target: float) -> list[int]:
        lanes, chosen, slopes, multipliers = self.lanes, self.chosen, self.slopes, self.multipliers
        targets = torch.full((len(lanes),), target)
        neurons, _, direction = best_splits(self.backward, lanes, chosen, slopes, multipliers, targets)
        torch.testing.assert_close(direction, self.backward.bounds(lanes, chosen, slopes, multipliers).direction)
        return neurons


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("target", [0.0, 100.0])
def test_the_best_of_few_neurons_is_split(seed: int, target: float) -> None:
    """With so few neurons that all are tried out, it is the best one."""
    situation = Situation(ReluNetwork.random(np.random.default_rng(seed), [2, 2, 1, 2]).network())
    promises = situation.promises(target)
    for neuron, promise in zip(situation.splits(target), promises, strict=True):
        if neuron == LEAF:
            assert (promise == -torch.inf).all()
        else:
            assert promise[neuron] >= promise.max() - 1e-5


def test_estimates_lead_to_one_of_the_best_neurons_of_many() -> None:
    """The neuron that is split promises more than nearly all others, though only a few of them are tried out."""
    better = []
    for seed in range(20):
        situation = Situation(ReluNetwork.random(np.random.default_rng(seed), [6, 20, 20, 2]).network())
        for neuron, promise in zip(situation.splits(0.0), situation.promises(0.0), strict=True):
            better.append(int((promise > promise[neuron] + 1e-6).sum()))
    assert np.mean(better) < 0.2
    assert max(better) < 3


@pytest.mark.parametrize(
    ("nodes", "neurons"),
    [
        ([node("Relu", ["x"], "r"), node("Neg", ["r"], "y")], [0, LEAF]),
        ([node("LeakyRelu", ["x"], "r", alpha=0.25), node("Neg", ["r"], "y")], [0, LEAF]),
        ([node("Relu", ["x"], "r"), node("Add", ["r", "one"], "s"), node("Div", ["one", "s"], "y")], [0, LEAF]),
        ([node("Gemm", ["x", "one"], "y")], [LEAF, LEAF]),
    ],
    ids=["relu", "leaky", "behind-a-division", "none"],
)
def test_a_single_neuron_is_split_once(nodes: list[Any], neurons: list[int]) -> None:
    network = network_of(model(nodes, ["n", 1], {"one": np.ones((1, 1), np.float32)}))
    assert Situation(network).splits(0.0) == neurons
