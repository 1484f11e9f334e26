"""The search itself: its bounds are the checker's, and it ends as it says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from support.onnx_models import ALL, model, network_of, node, run
from support.parity import require_parity
from support.random_networks import random_network
from support.relu_networks import ReluNetwork
from verify.bounds.activations import activations, neuron_count, smooth
from verify.bounds.crown import margin_functionals
from verify.bounds.maxima import with_relus
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.primitives import Constant, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array
from verify.proofs.paths import Path, Split, splits_of
from verify.proofs.split_trees import leaf_bounds, split_bounds
from verify.search.backward import Backward, _ThroughRelu
from verify.search.branch_and_bound import Outcome, search
from verify.search.trees import Ending


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_bounds_in_torch_are_those_of_the_checker(seed: int, pooling: bool) -> None:
    content, shape = random_network(seed)
    network = network_of(content) if pooling else with_relus(network_of(content))
    rng = np.random.default_rng(seed)
    box = box_around(rng.random((1, *shape)).astype(np.float32), Fraction(1, 20), None)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, REAL)
    count, lanes = neuron_count(network.output), 3
    slopes = rng.integers(0, 256, (lanes, count)).astype(np.uint8)
    before = [intervals[each.operands[0]] for each in activations(network.output)]
    lower, upper = (np.concatenate([np.zeros(0), *(each[end].reshape(-1) for each in before)]) for end in (0, 1))
    bends = smooth(network.output)
    # The checker leaves inactive ReLUs out.
    sides = np.where((upper > 0) | bends, rng.integers(-1, 2, (lanes, count)), 0)
    points = np.where(bends, (lower + rng.random((lanes, count)) * (upper - lower)).astype(np.float32), 0.0)
    paths: list[Path] = [[] for _ in range(lanes)]
    for lane, n in np.argwhere(sides).tolist():
        side, point = int(sides[lane, n]), float(points[lane, n])
        if bends[n]:  # from the other side first
            end = (upper if side > 0 else lower)[n]
            paths[lane].append(Split(n, -side, float(np.float32(point + rng.random() * (end - point)))))
        paths[lane].append(Split(n, side, point))
    multipliers = (0.1 * rng.random((lanes, count))).astype(np.float32) * np.where(bends, rng.choice([-1, 1], count), 1)
    functional = rng.normal(size=network.output.shape)
    with np.errstate(all="ignore"):
        expected = leaf_bounds(
            network.output,
            functional,
            intervals,
            REAL,
            neurons=np.ones(count, bool),
            paths=paths,
            slopes=slopes,
            multipliers=np.array(
                [multipliers[lane, n] for lane, path in enumerate(paths) for n, *_ in path], np.float32
            ),
        )
    backward = Backward(network.output, torch.device("cpu"))
    around = backward.lanes(intervals, functional[np.newaxis]).repeated(lanes)
    split = backward.along(around, splits_of(paths))
    every = torch.arange(count)
    found = backward.bounds(split, every, backward.values(slopes) / 255.0, backward.values(multipliers)).bounds
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_slopes_and_multipliers(seed: int) -> None:
    """In float64, against differences and against the formula as it is written down."""
    random = torch.Generator().manual_seed(seed)
    a, below, added, above, offset = torch.randn(5, 3, 6, generator=random, dtype=torch.float64)
    covered = torch.rand(3, 6, generator=random) < 0.3  # by planes
    above, offset = above * ~covered, offset * ~covered
    leaves = [each.requires_grad_() for each in (a, below, added)]

    def passed(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _ThroughRelu.apply(*leaves, above, offset)  # type: ignore[no-untyped-call,no-any-return]

    assert torch.autograd.gradcheck(passed, leaves)
    positive, negative = a.clamp(min=0), a.clamp(max=0)
    torch.testing.assert_close(passed(*leaves)[0], added + positive * below + negative * above)
    torch.testing.assert_close(passed(*leaves)[1], (negative * offset).sum(1))


@pytest.mark.parametrize("seed", range(12))
def test_networks_of_all_operators_are_searched_and_what_is_found_is_a_proof(seed: int) -> None:
    content, shape = random_network(seed)
    network = with_relus(network_of(content))
    centre = np.random.default_rng(seed).random((1, *shape)).astype(np.float32)
    box = box_around(centre, Fraction(1, 30), None)
    label = np.array([run(content, centre[0])[0].argmax()])
    functionals, constants = margin_functionals(network, label)
    (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=0.3)
    if outcome.proof:
        found = split_bounds(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER, outcome.proof)
        assert (found > 0).all()


def test_constants_without_axes_are_bounded() -> None:
    """As padded pooling leaves them, written as ReLUs."""
    content, shape = random_network(9085)
    network = with_relus(network_of(content))
    assert any(isinstance(each.primitive, Constant) and not each.shape for each in topological([network.output]))
    box = box_around(np.random.default_rng(0).random((1, *shape)).astype(np.float32), Fraction(1, 30), None)
    require_parity(network, box)


MADE = ReluNetwork.random(np.random.default_rng(11), [3, 8, 8, 3], 2.0)
NETWORK = MADE.network()
CENTRES = np.random.default_rng(3).random((4, 1, 3)).astype(np.float32)
RADII = (Fraction(4, 5), Fraction(1, 5), Fraction(1, 10), Fraction(2, 5))
LABELS = MADE.run(CENTRES[:, 0], ALL)[0].argmax(axis=1)
BOX = Interval(
    *map(
        np.concatenate,
        zip(*(box_around(CENTRES[[i]], eps, None) for i, eps in enumerate(RADII)), strict=True),
    )
)


def outcomes(box: Interval, functionals: Array, constants: Array, **options: object) -> list[Outcome]:
    settings = {"branch": True, "seconds": 60.0, **options}
    return list(search(NETWORK, box, functionals, constants, FLOAT32_ANY_ORDER, **settings))  # type: ignore[arg-type]


def test_boxes_that_are_searched_together_end_as_they_do_alone() -> None:
    functionals, constants = margin_functionals(NETWORK, LABELS)
    together = outcomes(BOX, functionals, constants)
    assert {Ending.PROVED, Ending.UNDECIDED} >= {outcome.ending for outcome in together}
    assert any(outcome.branched for outcome in together)
    for lane, outcome in enumerate(together):
        own = Interval(*(end[lane : lane + 1] for end in BOX))
        (alone,) = outcomes(own, functionals[lane : lane + 1], constants[lane : lane + 1])
        assert alone.ending is outcome.ending
        if outcome.proof:
            found = split_bounds(NETWORK, own, functionals[lane], constants[lane], FLOAT32_ANY_ORDER, outcome.proof)
            assert (found > 0).all()


def test_a_search_finds_the_same_proof_again() -> None:
    functionals, constants = margin_functionals(NETWORK, LABELS)
    first, second = (outcomes(BOX, functionals, constants)[0].proof for _ in range(2))
    assert first
    assert second
    for one, other in zip(first.trees, second.trees, strict=True):
        assert np.array_equal(one.nodes, other.nodes)
        assert np.array_equal(one.slopes, other.slopes)
        assert np.array_equal(one.multipliers, other.multipliers)


def test_any_functional_and_constant_can_be_proved_and_no_false_one() -> None:
    """c y + d for a d on either side of the least value that sampling finds."""
    rng = np.random.default_rng(0)
    share = rng.random((4000, 3))
    share[2000:] = np.round(share[2000:])
    points = (BOX.lower[0] + share * (BOX.upper[0] - BOX.lower[0])).astype(np.float32)
    own = Interval(*(end[:1] for end in BOX))
    functional = rng.normal(size=(1, 1, *NETWORK.output.shape))
    least = float((MADE.run(points, ALL)[0].astype(np.float64) @ functional[0, 0, 0]).min())
    assert outcomes(own, functional, np.array([[-least + 3.0]]))[0].ending is Ending.PROVED
    assert outcomes(own, functional, np.array([[-least - 0.01]]), seconds=1.0)[0].ending is not Ending.PROVED


def test_a_search_needs_no_gradients_of_its_caller() -> None:
    """An interrupt may leave them disabled."""
    functionals, constants = margin_functionals(NETWORK, LABELS)
    expected = outcomes(BOX, functionals, constants)
    with torch.no_grad():
        found = outcomes(BOX, functionals, constants)
    assert [outcome.ending for outcome in found] == [outcome.ending for outcome in expected]
    assert any(outcome.branched for outcome in found)


def test_whoever_refutes_a_box_ends_its_search() -> None:
    functionals, constants = margin_functionals(NETWORK, (LABELS + 1) % 3)
    seen: list[tuple[int, Array]] = []

    def refute(box: int, point: Array) -> bool:
        seen.append((box, point))
        return True

    found = outcomes(BOX, functionals, constants, refute=refute)
    assert all(outcome.ending is Ending.REFUTED for outcome in found)
    for box, point in seen:
        assert ((BOX.lower[box] <= point) & (point <= BOX.upper[box])).all()


def test_a_box_without_time_left_ends_without_any_work_on_it() -> None:
    functionals, constants = margin_functionals(NETWORK, LABELS)
    for outcome in outcomes(BOX, functionals, constants, seconds=0.0, interrupts=True):
        assert outcome.ending is Ending.TIMEOUT


def test_a_proof_of_something_else_proves_nothing() -> None:
    functionals, constants = margin_functionals(NETWORK, LABELS)
    outcome = outcomes(BOX, functionals, constants)[0]
    assert outcome.proof
    own = Interval(*(end[:1] for end in BOX))
    proof = replace(outcome.proof, trees=(), parts=None)
    assert not (split_bounds(NETWORK, own, functionals[0], constants[0], FLOAT32_ANY_ORDER, proof) > 0).all()


def test_neurons_above_none_that_are_open_are_searched() -> None:
    """The first layer is active everywhere, so that no bound of the second one has a slope to choose."""
    rng = np.random.default_rng(0)
    second = rng.normal(size=(4, 4))
    weights = {
        "w1": rng.normal(size=(3, 4)).astype(np.float32),
        "b1": np.full(4, 100, np.float32),
        "w2": (second - second.mean(axis=0)).astype(np.float32),
        "b2": np.zeros(4, np.float32),
        "w3": rng.normal(size=(4, 2)).astype(np.float32),
    }
    layers = [
        *(node("Gemm", ["x", "w1", "b1"], "a"), node("Relu", ["a"], "b"), node("Gemm", ["b", "w2", "b2"], "c")),
        *(node("Relu", ["c"], "d"), node("MatMul", ["d", "w3"], "y")),
    ]
    network = network_of(model(layers, [1, 3], weights))
    x = rng.random((1, 1, 3))
    box = Interval(x - 0.5, x + 0.5)
    functionals = np.array([[1.0, -1.0], [-1.0, 1.0]]).reshape(1, 2, *network.output.shape)
    for constant in (0.0, 6.0, 10.0):
        (found,) = search(network, box, functionals, np.full((1, 2), constant), REAL, branch=True, seconds=60)
        assert found.ending is (Ending.PROVED if constant == 10.0 else Ending.UNDECIDED)
