"""Whatever slopes, multipliers and splits a proof chooses: no execution in a leaf falls below the leaf's bound, and the
leaves cover all executions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from support.onnx_models import ALL
from support.relu_networks import ReluNetwork, random_executions
from verify.bounds import linear_bounds
from verify.bounds.activations import neuron_count, relus
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.steps import Choice
from verify.boxes import box_around
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import Rejected
from verify.proofs.paths import LEAF, Path, Split, leaf_paths
from verify.proofs.planes import fraction_count
from verify.proofs.split_trees import leaf_bounds


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_no_execution_in_a_leaf_falls_below_its_bound(seed: int, planes: bool) -> None:
    rng, network, box, runs = random_executions(seed)
    intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)

    count = neuron_count(network.output)
    neurons = rng.random(count) < 0.8
    paths: list[Path] = []
    for _ in range(8):  # the part that some execution is in, so that it holds at least that one
        reference = runs[0][1][rng.integers(len(runs[0][1]))]
        chosen = rng.permutation(count)[: int(rng.integers(0, count + 1))]
        paths.append([Split(int(n), int(np.sign(reference[n]) or rng.choice([-1, 1]))) for n in chosen])
    functional = rng.normal(size=network.output.shape)
    multipliers = rng.choice([0.0, 0.1, 1.0, 30.0], sum(map(len, paths))).astype(np.float32)
    fractions = rng.integers(0, 256, (len(paths), fraction_count(network.output, neurons)), np.uint8)
    fractions[::2] = np.where(fractions[::2] > 127, 255, 0)  # such are facets of the convex hull
    bounds = leaf_bounds(
        network.output,
        functional,
        intervals,
        FLOAT32_ANY_ORDER,
        neurons=neurons,
        paths=paths,
        slopes=rng.choice([0, 255, 100], (len(paths), int(neurons.sum()))).astype(np.uint8),
        multipliers=multipliers,
        fractions=fractions if planes else None,
    )
    assert np.isfinite(bounds).all()
    for y, inside in runs:
        for path, bound in zip(paths, bounds, strict=True):
            there = np.all(
                [side * inside[:, neuron] >= 0 for neuron, side, _ in path] or [np.full(len(y), True)], axis=0
            )
            assert (y[there].astype(np.float64) @ functional[0] >= bound).all()


def test_bounds_do_not_depend_on_how_many_are_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    network = ReluNetwork.random(rng, [3, 6, 5, 4], 1.5).network()
    boxes = box_around(rng.random((4, 1, 3)).astype(np.float32), Fraction(1, 4), None)
    intervals = crown_intervals(network, boxes, FLOAT32_ANY_ORDER)
    choices = {
        relu: Choice(
            rng.random((4, 7, *relu.shape)), rng.integers(-1, 2, (4, *relu.shape)), rng.random((4, *relu.shape))
        )
        for relu in relus(network.output)
    }
    functionals = rng.normal(size=(4, 7, *network.output.shape))
    together = lower_bounds(network.output, functionals, intervals, FLOAT32_ANY_ORDER, choices)
    for coefficients in (1, 20, 50):
        monkeypatch.setattr(linear_bounds, "_CACHED", coefficients)
        apart = lower_bounds(network.output, functionals, intervals, FLOAT32_ANY_ORDER, choices)
        np.testing.assert_allclose(apart, together, rtol=1e-12, atol=1e-12)


def test_zero_belongs_to_both_halves() -> None:
    """y = relu(x) - x at x = 0 alone: each half must have a bound of at most zero, and the exact one."""
    weights = [np.array([[1.0]], np.float32), np.array([[1.0]], np.float32)]
    network = ReluNetwork(weights, [np.zeros(1, np.float32)] * 2).network()
    box = box_around(np.zeros((1, 1, 1), np.float32), Fraction(0), None)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
        bounds = leaf_bounds(
            network.output,
            np.ones((1, 1)),
            intervals,
            FLOAT32_ANY_ORDER,
            neurons=np.zeros(1, bool),
            paths=[[Split(0, 1)], [Split(0, -1)]],
            slopes=np.zeros((2, 0), np.uint8),
            multipliers=np.zeros(2, np.float32),
        )
    assert (bounds <= 0).all()
    assert (bounds > -1e-30).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e30, 3e38])
def test_no_multiplier_proves_what_is_false(value: float) -> None:
    made = ReluNetwork.random(np.random.default_rng(0), [2, 4, 4, 1])
    network = made.network()
    box = box_around(np.full((1, 1, 2), 0.5, np.float32), Fraction(1, 2), None)
    intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    points = np.random.default_rng(0).random((200, 2)).astype(np.float32)
    outputs, inside = made.run(points, ALL)
    with np.errstate(all="ignore"):
        for neuron in range(8):
            side = int(np.sign(inside[0, neuron]) or 1)
            (bound,) = leaf_bounds(
                network.output,
                np.ones((1, 1)),
                intervals,
                FLOAT32_ANY_ORDER,
                neurons=np.zeros(8, bool),
                paths=[[Split(neuron, side)]],
                slopes=np.zeros((1, 0), np.uint8),
                multipliers=np.array([value], np.float32),
            )
            assert not bound > outputs[side * inside[:, neuron] >= 0].min()


SIGNED = np.zeros(100, np.bool_)
"""A hundred ReLUs."""


def random_tree(rng: np.random.Generator, depth: int) -> list[int]:
    if depth == 0 or rng.random() < 0.3:
        return [LEAF]
    return [depth - 1, *random_tree(rng, depth - 1), *random_tree(rng, depth - 1)]


def splits_of(nodes: Sequence[int]) -> int:
    """On all paths of a tree together."""
    depths, total = [0], 0
    for node in nodes:
        depth = depths.pop()
        if node == LEAF:
            total += depth
        else:
            depths += [depth + 1, depth + 1]
    return total


@pytest.mark.parametrize("seed", range(30))
def test_every_pattern_of_signs_is_in_a_leaf_of_a_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = np.array(random_tree(rng, 6), np.int32)
    paths = list(leaf_paths(nodes, SIGNED, splits=splits_of(nodes)))
    assert len(paths) == (len(nodes) + 1) // 2
    for pattern in range(2**6):
        signs = [1 if pattern >> neuron & 1 else -1 for neuron in range(6)]
        assert sum(all(signs[neuron] == side for neuron, side, _ in path) for path in paths) == 1


@pytest.mark.parametrize("seed", range(30))
def test_a_list_of_nodes_that_is_no_tree_is_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = random_tree(rng, 5)
    position = int(rng.integers(len(nodes)))
    with pytest.raises(Rejected):
        list(leaf_paths(np.array(nodes, np.int32), SIGNED, splits=splits_of(nodes) + 1))
    for broken in (
        nodes[:position],
        [*nodes, LEAF],
        [*nodes, *nodes],
        [*nodes[:position], LEAF if nodes[position] != LEAF else 0, *nodes[position + 1 :]],
    ):
        with pytest.raises(Rejected):
            list(leaf_paths(np.array(broken, np.int32), SIGNED, splits=splits_of(nodes)))
