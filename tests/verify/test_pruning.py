"""A pruned network computes what the whole one does, and its bounds are those of the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from support.onnx_models import ALL, model, network_of, node
from support.relu_networks import ReluNetwork
from verify.bounds import neuron_bounds
from verify.bounds.activations import relus
from verify.bounds.cones import intervals_of
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.pruning import neurons_of, pruned
from verify.boxes import box_around
from verify.core.interpreter import evaluate
from verify.core.intervals import Interval
from verify.core.primitives import POINT_RULES, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Contract
from verify.model.network import Network
from verify.proofs.split_trees import split_bounds
from verify.search.branch_and_bound import search

SEEDS = range(30)


def made(seed: int) -> ReluNetwork:
    """Most neurons of some layers are inactive, in one all of them."""
    found = ReluNetwork.random(np.random.default_rng(seed), [4, 7, 6, 8, 3], (0.0, 1.0, 3.0)[seed % 3])
    for layer, bias in enumerate(found.biases[:-1]):
        bias -= np.float32((0.0, 2.0, 0.5, 100.0)[(seed + layer) % 4])
    return found


def box_in(network: Network, seed: int, eps: Fraction = Fraction(1, 4)) -> Interval:
    return box_around(np.random.default_rng(seed).random((1, *network.input.shape)).astype(np.float32), eps, None)


def intervals_by(network: Network, box: Interval, contract: Contract) -> dict[str, Interval]:
    with np.errstate(all="ignore"):
        found = crown_intervals(network, box, contract)
    return {f"{tensor.name} {type(tensor.primitive).__name__}": ends for tensor, ends in found.items()}


def test_inactive_neurons_are_left_out() -> None:
    network = made(3).network()
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box_in(network, 3), FLOAT32_ANY_ORDER)
    part = pruned(network.output, intervals)
    numbers = neurons_of(part, network.output)
    whole = [relu.operands[0] for relu in relus(network.output)]
    live = [int((intervals[tensor].upper > 0).sum()) for tensor in whole]
    assert 0 in live
    assert [len(numbers[relu]) for relu in relus(part.tensor)] == [max(1, count) for count in live]
    assert part.tensor.shape == network.output.shape


def test_what_follows_is_as_it_was() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 6)), "v": rng.normal(size=(6, 8)), "k": rng.normal(size=(3, 2, 1, 1))}
    constants = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    constants |= {"b": np.float32([-9, 0, 0, -9, 0, 0]), "s": np.float32([1, 2] * 4), "to": np.array([1, 2, 2, 2])}
    nodes = [
        node("Gemm", ["x", "w", "b"], "z"),
        node("Relu", ["z"], "r"),
        node("MatMul", ["r", "v"], "p"),
        node("Relu", ["p"], "q"),
        node("Mul", ["q", "s"], "m"),
        node("Reshape", ["m", "to"], "i"),
        node("Conv", ["i", "k"], "c"),
        node("Relu", ["c"], "d"),
        node("ReduceMean", ["d"], "y", axes=[2, 3], keepdims=0),
    ]
    network = network_of(model(nodes, [1, 4], constants))
    box = box_in(network, 0)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    part = pruned(network.output, intervals)
    assert sum(tensor.shape != source.shape for tensor, (source, _) in part.parts.items()) == 2
    x = (box.lower + box.upper) / 2
    (value,) = evaluate([part.tensor], POINT_RULES, {network.input: x})
    np.testing.assert_allclose(value, evaluate([network.output], POINT_RULES, {network.input: x})[0], rtol=1e-12)
    functionals, constants_added = np.eye(3)[np.newaxis, :1, np.newaxis], np.array([[1e-3]])
    (outcome,) = search(
        network, box, functionals, constants_added, FLOAT32_ANY_ORDER, branch=True, seconds=60.0, intervals=intervals
    )
    assert outcome.proof
    assert (split_bounds(network, box, functionals[0], constants_added[0], FLOAT32_ANY_ORDER, outcome.proof) > 0).all()


@pytest.mark.parametrize("scale", [1e2, 1e6, 1e9])
def test_the_checker_bounds_the_root_as_the_search_does(scale: float) -> None:
    """Inactive neurons of huge magnitude cost accuracy, unless they are left out."""
    found = ReluNetwork.random(np.random.default_rng(11), [3, 16, 8, 3], 2.0)
    found.biases[0][::2] -= np.float32(scale)
    network = found.network()
    box = box_in(network, 1)
    functionals = np.array([[[[1.0, -1.0, 0.5]]]])
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
        part = pruned(network.output, intervals)
        (whole,) = lower_bounds(network.output, functionals, intervals, FLOAT32_ANY_ORDER)
        (cut,) = lower_bounds(part.tensor, functionals, intervals_of(part, intervals), FLOAT32_ANY_ORDER)
    assert cut > whole
    constants = -(whole + cut)[np.newaxis] / 2
    (outcome,) = search(
        network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=False, seconds=60.0, intervals=intervals
    )
    assert outcome.proof
    assert (split_bounds(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER, outcome.proof) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pruned_network_computes_the_same(seed: int) -> None:
    network = made(seed).network()
    box = box_in(network, seed)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    points = box.lower + np.random.default_rng(seed).random((50, *network.input.shape)) * (box.upper - box.lower)
    order = list(topological([network.output]))
    expected = dict(zip(order, evaluate(order, POINT_RULES, {network.input: points}), strict=True))
    part = pruned(network.output, intervals)
    values = evaluate(list(part.parts), POINT_RULES, {network.input: points})
    for value, (source, where) in zip(values, part.parts.values(), strict=True):
        np.testing.assert_allclose(value, expected[source][:, *where], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_of_neurons_are_the_same_and_hold(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, box = made(seed).network(), box_in(made(seed).network(), seed)
    whole = {contract: intervals_by(network, box, contract) for contract in (REAL, FLOAT32_ANY_ORDER)}
    monkeypatch.setattr(
        neuron_bounds, "_CACHED", 1
    )  # so that lanes are bounded one after the other, by pruned networks
    for contract, expected in whole.items():
        for name, found in intervals_by(network, box, contract).items():
            for mine, other in zip(found, expected[name], strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
    lower, upper = (end[0, 0].astype(np.float32) for end in box)
    points = np.where(np.random.default_rng(seed).random((200, *lower.shape)) < 0.5, lower, upper)
    _, inside = made(seed).run(points, ALL)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    before = [intervals[relu.operands[0]] for relu in relus(network.output)]
    low, high = (np.concatenate([ends[which].reshape(-1) for ends in before]) for which in (0, 1))
    assert (inside >= low).all()
    assert (inside <= high).all()


def test_what_is_proved_of_a_pruned_network_is_checked_of_the_whole() -> None:
    """Numbers of neurons in the proof are those of the whole network."""
    found = ReluNetwork.random(np.random.default_rng(11), [3, 16, 8, 3], 2.0)
    found.biases[0][::2] -= np.float32(100)
    network = found.network()
    box = box_around(np.full((1, *network.input.shape), 0.5, np.float32), Fraction(1, 2), None)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    functionals = np.array([[[1.0, -1.0, 0.5]]])[:, :, np.newaxis]
    points = np.stack(np.meshgrid(*3 * [np.linspace(0, 1, 17)]), axis=-1).reshape(-1, 3).astype(np.float32)
    least = (found.run(points, ALL)[0].astype(np.float64) @ functionals.reshape(3)).min()
    constants = np.array([[0.3 - least]])  # so that it takes splits to prove the sum positive
    (outcome,) = search(
        network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=60.0, intervals=intervals
    )
    assert outcome.branched
    assert outcome.proof
    assert outcome.proof.refinements
    assert all((refinement.neurons >= 16).all() for refinement in outcome.proof.refinements)
    lower = split_bounds(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER, outcome.proof)
    assert (lower > 0).all()
    assert not outcome.proof.neurons[:16:2].any()
