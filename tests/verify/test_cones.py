"""A cone computes what the network computes in its block, and bounds by cones are those by the whole network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from support.executions import box_of
from support.onnx_models import model, network_of, node
from support.random_networks import random_network
from verify.bounds import neuron_bounds
from verify.bounds.cones import tilings
from verify.bounds.maxima import with_relus
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.interpreter import evaluate
from verify.core.intervals import Interval
from verify.core.primitives import POINT_RULES, Tensor, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, Array
from verify.model.network import Network


def points_of(network: Network, seed: int, count: int) -> dict[Tensor, Array]:
    """The values of every tensor at inputs in `box_of(seed)`."""
    box = box_of(seed, network.input.shape)
    share = np.random.default_rng(seed).random((count, *network.input.shape))
    x = box.lower + share * (box.upper - box.lower)
    order = list(topological([network.output]))
    with np.errstate(all="ignore"):
        return dict(zip(order, evaluate(order, POINT_RULES, {network.input: x}), strict=True))


@pytest.mark.parametrize("edge", [1, 2, 3])
@pytest.mark.parametrize("seed", range(30))
def test_blocks_of_one_kind_compute_the_network_each_in_its_place(seed: int, edge: int) -> None:
    content, _ = random_network(seed)
    network = network_of(content) if seed % 2 else with_relus(network_of(content))
    expected = points_of(network, seed, 2)
    for tensor in expected:
        if tensor is network.input or not tensor.varies:
            continue
        covered = np.zeros(math.prod(tensor.shape), np.intp)
        for tiles in tilings(tensor, edge):
            np.add.at(covered, tiles.inside, 1)
            blocks = np.arange(len(tiles.inside))
            seen = tiles.at(blocks % 2, blocks)
            known = {
                piece: seen.cut(piece, expected[source])
                for piece, (source, _) in seen.parts.items()
                if source is network.input and not piece.operands
            }
            with np.errstate(all="ignore"):
                pieces = evaluate(list(seen.parts), POINT_RULES, known)
            for piece, value in zip(seen.parts, pieces, strict=True):
                found = seen.cut(piece, expected[seen.parts[piece][0]])
                np.testing.assert_allclose(*np.broadcast_arrays(value, found), rtol=1e-9, atol=1e-12)
            result = expected[tensor].reshape(2, -1)[(blocks % 2)[:, np.newaxis], tiles.inside]
            np.testing.assert_array_equal(seen.cut(seen.tensor, expected[tensor]).reshape(-1), result.reshape(-1))
        assert (covered == 1).all()


@pytest.mark.parametrize("seed", range(40))
def test_bounds_in_blocks_hold_and_are_as_tight(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = random_network(seed)
    network = network_of(content) if seed % 2 else with_relus(network_of(content))
    box = box_of(seed, network.input.shape)

    def intervals_in_blocks(edge: int, cheap: int) -> dict[Tensor, Interval]:
        monkeypatch.setattr(neuron_bounds, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, edge))
        monkeypatch.setattr(neuron_bounds, "_CHEAP", cheap)  # below which ends are bounded both at once
        with np.errstate(all="ignore"):
            return crown_intervals(network, box, FLOAT32_ANY_ORDER)

    whole, parts = intervals_in_blocks(100, 2**30), intervals_in_blocks(2, 0)
    for tensor, values in points_of(network, seed, 50).items():
        lower, upper = parts[tensor]
        assert not (values < lower).any()
        assert not (values > upper).any()
        for mine, other in zip(parts[tensor], whole[tensor], strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)


RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w1": RANDOM.normal(size=(2, 1, 3, 3)).astype(np.float32),
    "w2": RANDOM.normal(size=(2, 2, 1, 1)).astype(np.float32),
    "w3": RANDOM.normal(size=(2, 3, 3, 3)).astype(np.float32),
    "k": RANDOM.normal(size=(1, 1, 7, 7)).astype(np.float32),
    "v": RANDOM.normal(size=(1, 1, 9, 1)).astype(np.float32),
}
START = [node("Conv", ["x", "w1"], "a", pads=[1] * 4), node("Relu", ["a"], "b")]
END = [node("GlobalAveragePool", ["d"], "g"), node("Flatten", ["g"], "y")]
ODD = {
    "blocks of padding alone": [node("Conv", ["b", "w2"], "c", pads=[12] * 4), node("Relu", ["c"], "d")],
    "padding alone below a bias that varies": [
        *(node("Conv", ["b", "w2"], "n", pads=[1] * 4), node("Add", ["n", "v"], "c"), node("Sigmoid", ["c"], "d")),
    ],
    "a padded pooling": [
        node("MaxPool", ["b"], "m", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        *(node("Conv", ["m", "w2"], "c"), node("Relu", ["c"], "d")),
    ],
    "poolings that overlap": [
        node("MaxPool", ["b"], "l", kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 0, 1]),
        node("MaxPool", ["l"], "m", kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 1, 0]),
        *(node("Conv", ["m", "w2"], "c"), node("Relu", ["c"], "d")),
    ],
    "a pooling with a rest, before a ReLU": [
        *(node("Conv", ["b", "w2"], "m"), node("MaxPool", ["m"], "c", kernel_shape=[2, 3], strides=[2, 2])),
        node("Relu", ["c"], "d"),
    ],
    "a constant beside several lanes": [
        *(node("Concat", ["b", "k"], "l", axis=1), node("Conv", ["l", "w3"], "c"), node("Relu", ["c"], "d")),
    ],
}


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize("edge", [1, 2, 3, 4])
@pytest.mark.parametrize("middle", ODD.values(), ids=ODD)
def test_bounds_in_blocks_of_odd_networks_hold(
    middle: list[Any], edge: int, rewritten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {name for each in (*START, *middle) for name in each.input}
    weights = {name: value for name, value in WEIGHTS.items() if name in used}
    network = network_of(model([*START, *middle, *END], [1, 1, 7, 7], weights))
    network = with_relus(network) if rewritten else network
    x = RANDOM.random((3, *network.input.shape))
    monkeypatch.setattr(neuron_bounds, "_CHEAP", 0)
    monkeypatch.setattr(neuron_bounds, "_CACHED", 1)  # so that lanes are bounded one after the other
    monkeypatch.setattr(neuron_bounds, "cheapest_tilings", lambda tensor, wanted: tilings(tensor, edge))
    with np.errstate(all="ignore"):
        found = crown_intervals(network, Interval(x - 0.1, x + 0.1), FLOAT32_ANY_ORDER)
    for share in RANDOM.random((20, *x.shape)):
        order = list(topological([network.output]))
        for tensor, value in zip(
            order, evaluate(order, POINT_RULES, {network.input: x - 0.1 + 0.2 * share}), strict=True
        ):
            assert (found[tensor].lower <= value).all()
            assert (value <= found[tensor].upper).all()
