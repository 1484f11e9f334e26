"""Proofs over parts of a box: the parts cover it, whatever tree is accepted, and what they prove is true."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soundness.test_complete import NEAR_TIE, least_margin
from support.mutated_certificates import with_another_byte, with_other_parts
from support.onnx_models import ALL, DISABLED, model, network_of, node
from support.relu_networks import ReluNetwork
from support.stored_arrays import stored
from verify.bounds.activations import neuron_count
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class, Unreachable, decode, encode
from verify.proofs.exclusion import Exclusion
from verify.proofs.input_splits import InputSplits, parts
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.paths import LEAF
from verify.proofs.properties import Constraint
from verify.search.slopes_of_parts import SlopesOfParts
from verify.tasks.decision import Answer, cases_for, decide
from verify.tasks.vnnlib import Property, parse

F32 = np.float32
BOX = Interval(np.array([[-1.0, 0.0, 0.25]]), np.array([[1.0, 0.5, 0.25]]))  # the last input is a single number


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_splits(rng: np.random.Generator, box: Interval, depth: int) -> InputSplits:
    """With cuts anywhere inside, which may be near an end."""
    nodes: list[int] = []
    cuts: list[float] = []

    def grow(lower: NDArray[np.float64], upper: NDArray[np.float64], depth: int) -> None:
        axis = int(rng.integers(2))
        cut = float(F32(lower[axis] + rng.random() * (upper[axis] - lower[axis])))
        if depth == 0 or rng.random() < 0.2 or not lower[axis] < cut < upper[axis]:
            nodes.append(LEAF)
            return
        nodes.append(axis)
        cuts.append(cut)
        below, above = upper.copy(), lower.copy()
        below[axis] = above[axis] = cut
        grow(lower, below, depth - 1)
        grow(above, upper, depth - 1)

    grow(box.lower[0], box.upper[0], depth)
    return InputSplits(np.array(nodes, np.int32), np.array(cuts, F32), "crown")


@pytest.mark.parametrize("seed", range(20))
def test_every_input_is_in_a_part_and_parts_share_only_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    proof = random_splits(rng, BOX, 6)
    found = list(parts(BOX, proof))
    assert len(found) == len(proof.cuts) + 1
    lower, upper = (np.concatenate(ends) for ends in zip(*found, strict=True))
    assert np.isclose(np.prod((upper - lower)[:, :2], axis=1).sum(), 1.0)
    points = (BOX.lower + rng.random((300, 3)) * (BOX.upper - BOX.lower)).astype(F32)
    points[:100, int(rng.integers(2))] = rng.choice([*proof.cuts, F32(0.25)], 100)
    points = np.clip(points, BOX.lower, BOX.upper)
    inside = ((lower[:, None] <= points) & (points <= upper[:, None])).all(axis=2)
    assert inside.any(axis=0).all()


TREE = InputSplits(np.array([0, 1, LEAF, LEAF, 0, LEAF, LEAF], np.int32), np.array([0, 0.25, 0.5], F32), "crown")

BROKEN: dict[str, tuple[list[int], list[float]]] = {
    "a branch is missing": ([0, 1, LEAF, LEAF, 0, LEAF], [0, 0.25, 0.5]),
    "the last subtree is missing": ([0, 1, LEAF, LEAF], [0, 0.25]),
    "no tree": ([], []),
    "it goes on": ([0, 1, LEAF, LEAF, 0, LEAF, LEAF, LEAF], [0, 0.25, 0.5]),
    "a cut is missing": ([0, 1, LEAF, LEAF, 0, LEAF, LEAF], [0, 0.25]),
    "a cut is left over": ([0, 1, LEAF, LEAF, 0, LEAF, LEAF], [0, 0.25, 0.5, 0.5]),
    "a cut outside the box": ([0, LEAF, LEAF], [1.5]),
    "a cut at an end": ([0, LEAF, LEAF], [1.0]),
    "a cut outside the part": ([0, 0, LEAF, LEAF, LEAF], [0.0, 0.5]),
    "a cut that is no number": ([0, LEAF, LEAF], [np.nan]),
    "an infinite cut": ([0, LEAF, LEAF], [-np.inf]),
    "an input that does not exist": ([3, LEAF, LEAF], [0.0]),
    "a negative input": ([-2, LEAF, LEAF], [0.3]),
    "an input without width": ([2, LEAF, LEAF], [0.25]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_tree_over_the_box_is_rejected(what: str) -> None:
    assert len(list(parts(BOX, TREE))) == 4
    nodes, cuts = BROKEN[what]
    with pytest.raises(Rejected):
        list(parts(BOX, InputSplits(np.array(nodes, np.int32), np.array(cuts, F32), "crown")))


def property_of(inputs: int, outputs: int, assertion: str, low: float = 0, high: float = 1) -> Property:
    names = [*(f"X_{i}" for i in range(inputs)), *(f"Y_{i}" for i in range(outputs))]
    box = "".join(f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(inputs))
    return parse(("".join(f"(declare-const {n} Real)" for n in names) + box + f"(assert {assertion})").encode())


def proved(network: Network, property: Property, *, slopes: bool = True) -> Certificate:
    """slopes: whether it may choose some."""
    with pytest.MonkeyPatch.context() as patch:
        if not slopes:
            patch.setattr(SlopesOfParts, "found", lambda *_: None)
        decision = decide(network, property, contract=FLOAT32_ANY_ORDER, method="complete")
    assert (decision.answer, decision.decided_by) == (Answer.UNSAT, "complete")
    (case,) = cases_for(network, property)
    assert isinstance(decision.proofs[0], InputSplits)
    lower, upper = (end.astype(F32).reshape(network.input.shape) for end in (case.lower, case.upper))
    claim = Unreachable(tuple(case.alternatives))
    return Certificate(network.sha256, "m.onnx", "float32-any-order", claim, lower, upper, decision.proofs[0])


def test_a_sum_of_constraints_may_exclude_what_none_of_them_does() -> None:
    """x and -x are never both below -0.1, though each of them is somewhere."""
    constants = {"w": np.array([[1, -1]], F32), "b": np.zeros(2, F32)}
    network = network_of(model([node("Gemm", ["x", "w", "b"], "y")], [1, 1], constants))
    property = property_of(1, 2, "(and (<= Y_0 -0.1) (<= Y_1 -0.1))", low=-1)
    certificate = decode(encode(proved(network, property)))
    check(certificate, network)
    assert isinstance(certificate.proof, InputSplits)
    assert not len(certificate.proof.cuts)
    for weights in ([0, 0], [255, 0], [0, 1], [1, 2]):
        proof = replace(certificate.proof, weights=np.array([weights], np.uint8))
        with pytest.raises(Rejected, match="do not prove it"):
            check(replace(certificate, proof=proof), network)
    for shape in ((1, 1), (1, 3), (2, 2), (0, 2)):
        with pytest.raises(Rejected):
            check(replace(certificate, proof=replace(certificate.proof, weights=np.ones(shape, np.uint8))), network)


def test_what_is_found_of_a_part_does_not_depend_on_the_parts_beside_it(network: Network) -> None:
    """Or else a proof that was established piece by piece might not be confirmed as a whole."""
    lower, upper = np.array([[0.4, 0.7], [0.0, 0.0]]), np.array([[0.6, 0.9], [1.0, 1.0]])
    together, alone = (
        crown_intervals(
            network,
            Interval(*(end[:count].reshape(-1, *network.input.shape) for end in (lower, upper))),
            FLOAT32_ANY_ORDER,
        )
        for count in (2, 1)
    )
    for tensor, own in alone.items():
        for end, other in zip(own, together[tensor], strict=True):
            np.testing.assert_allclose(end[0], other[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_linear_function_that_a_bound_comes_from_is_below_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = ReluNetwork.random(rng, [3, 8, 8, 2], 2.0)
    network = made.network()
    lower = rng.random((4, 3))
    boxes = Interval(*(end.reshape(-1, *network.input.shape) for end in (lower, lower + 0.2)))
    functionals = rng.normal(size=(4, 5, *network.output.shape))
    directions = np.full((4, 5, 3), np.nan)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, boxes, FLOAT32_ANY_ORDER)
        found = lower_bounds(network.output, functionals, intervals, FLOAT32_ANY_ORDER, directions=directions)
    least = np.minimum(directions * lower[:, None], directions * (lower + 0.2)[:, None]).sum(axis=2)
    for lane in range(4):
        points = (lower[lane] + 0.2 * rng.random((200, 3))).astype(F32)
        y = made.run(points, ALL)[0].astype(np.float64) @ functionals[lane].reshape(5, -1).T
        assert (y >= found[lane] - least[lane] + points @ directions[lane].T - 1e-9).all()


def test_bounds_settle_only_what_they_exclude(network: Network) -> None:
    """Exactly: y0 <= 0.1 is excluded by a bound above the decimal, and not by the float64 number below it."""
    property = property_of(2, 2, "(or (<= Y_0 0.1) (and (<= Y_0 -5) (<= Y_1 -5)))")
    (case,) = cases_for(network, property)
    boxes = Interval(*(np.tile(end, (4, 1)) for end in (case.lower, case.upper)))
    above = float(np.nextafter(0.1, 1.0))  # the float64 nearest to 0.1 is above the decimal, too
    below = float(np.nextafter(0.1, 0.0))
    lower = np.array([[above, -9.0, 0.0], [below, 9.0, 9.0], [np.nan, 9.0, 9.0], [9.0, -5.0, -5.0]])
    exclusion = Exclusion(network, case.alternatives, FLOAT32_ANY_ORDER, "crown")
    assert exclusion.settle(boxes, None, None, lower).tolist() == [True, False, False, False]
    weights = np.array([[255, 128, 128], [255, 0, 0], [1, 0, 255], [0, 1, 1]], np.uint8)
    # 255 y0 <= 25.5, y0 <= 0.1 or nothing; and 128 y0 + 128 y1 <= -1280, nothing, 255 y1 <= -1275 or y0 + y1 <= -10.
    sums = np.array([[26.0, -1279.0], [26.0, 0.0], [1.0, -1275.0], [0.0, 1.0]])
    assert exclusion.settle(boxes, weights, None, sums).tolist() == [True, False, False, False]
    sums[1, 1] = 1.0  # which nobody can know of nothing
    assert exclusion.settle(boxes, weights, None, sums).tolist() == [True, False, False, False]


LEAF_ALONE = np.array([LEAF], np.int32), np.zeros(0, F32)


def about(network: Network, alternatives: list[list[Constraint]], lower: float, upper: float) -> Certificate:
    """Without a proof yet."""
    ends = (np.full(network.input.shape, end, F32) for end in (lower, upper))
    claim = Unreachable(tuple(map(tuple, alternatives)))
    return Certificate(network.sha256, "m.onnx", "float32-any-order", claim, *ends, InputSplits(*LEAF_ALONE, "crown"))


@pytest.mark.parametrize("times", [1, 2, 3, 4, 8])
def test_sums_that_float64_does_not_hold_prove_nothing(times: int) -> None:
    """2^53 + 1 is 2^53 in float64, however often one is added. At y = (-1, -1) all of these constraints hold."""
    network = network_of(model([node("Identity", ["x"], "y")], [1, 2], {}))
    large = Constraint((), ((0, Fraction(2**53)), (1, Fraction(-(2**53)))), Fraction(0), False)
    alternative = [large, *[Constraint((), ((0, Fraction(1)),), Fraction(-1), False)] * 50]
    stated = about(network, [alternative] * times, -1, -1)
    proof = InputSplits(*LEAF_ALONE, "crown", np.ones((1, 51 * times), np.uint8))
    with pytest.raises(Rejected, match="do not prove it"):
        check(replace(stated, proof=proof), network)


@pytest.mark.parametrize("kind", ["inputs alone", "coefficients that float64 does not hold", "nothing"])
def test_without_bounded_constraints_nothing_is_proved(network: Network, kind: str) -> None:
    on_inputs = [Constraint(((0, Fraction(1)),), (), Fraction(5), False)]
    large = [Constraint((), ((0, Fraction(2**60)),), Fraction(2**70), False)]
    stated = about(network, [{"inputs alone": on_inputs, "nothing": []}.get(kind, large)], 0, 1)
    none = PartSlopes(
        *np.zeros((2, 0), np.int32), np.zeros((0, neuron_count(network.output)), np.uint8), np.zeros((0, 0), F32)
    )
    for slopes in (None, none):
        with pytest.raises(Rejected, match="do not prove it"):
            check(replace(stated, proof=InputSplits(*LEAF_ALONE, "crown", None, slopes)), network)


@pytest.mark.parametrize("bound", [-1000, 1000])
def test_one_part_of_a_wide_network_has_slopes_for_many_functionals(bound: int) -> None:
    wide = ReluNetwork.random(np.random.default_rng(0), [3, 5, 4500], 1.0).network()
    stated = about(wide, [[Constraint((), ((i, Fraction(1)),), Fraction(bound), False)] for i in range(40)], 0, 1)
    slopes = np.full((40, neuron_count(wide.output)), 128, np.uint8)
    pairs = PartSlopes(np.zeros(40, np.int32), np.arange(40, dtype=np.int32), slopes, np.zeros((40, 0), F32))
    proof = InputSplits(*LEAF_ALONE, "crown", None, pairs)
    if bound < 0:
        check(replace(stated, proof=proof), wide)
    else:
        with pytest.raises(Rejected, match="do not prove it"):
            check(replace(stated, proof=proof), wide)


def random_slopes(rng: np.random.Generator, parts: int, functionals: int, neurons: int) -> PartSlopes:
    """For some of the pairs of parts and functionals."""
    part, functional = np.nonzero(rng.random((parts, functionals)) < 0.7)
    slopes = rng.choice([rng.integers(0, 256, (len(part), neurons)), 255 * rng.integers(0, 2, (len(part), neurons))])
    return PartSlopes(
        part.astype(np.int32), functional.astype(np.int32), slopes.astype(np.uint8), np.zeros((len(part), 0), F32)
    )


@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_a_search_is_told_of_parts_is_true(network: Network, weighted: bool, sloped: bool) -> None:
    low, first, second = (float(end) for end in np.quantile(MADE.run(GRID, ALL)[0], 0.3, axis=0)[[0, 0, 1]])
    property = property_of(2, 2, f"(or (<= Y_0 {low}) (and (<= Y_0 {first}) (<= Y_1 {second})))")
    (case,) = cases_for(network, property)
    lower = np.random.default_rng(0).random((30, 2)).astype(F32).astype(np.float64)
    boxes = Interval(lower, lower + 2.0**-5)
    weights = np.tile(np.array([[1, 2, 3]], np.uint8), (30, 1)) if weighted else None
    exclusion = Exclusion(network, case.alternatives, FLOAT32_ANY_ORDER, "crown")
    slopes = random_slopes(np.random.default_rng(1), 30, 2 if weighted else 3, neuron_count(network.output))
    with np.errstate(all="ignore"):
        found = exclusion.over(boxes)(weights)
        if sloped:
            before = found.excess
            found.steepen(slopes)
            changed = np.argwhere(found.excess != before).tolist()
            assert set(map(tuple, changed)) <= set(zip(slopes.part.tolist(), slopes.functional.tolist(), strict=True))
            assert changed
    for lane in range(30):
        points = (lower[lane] + 2.0**-5 * GRID[::400]).astype(F32)
        y = MADE.run(points, ALL)[0].astype(np.float64)
        if weighted:
            violated = np.stack([y[:, 0] - low, 2 * (y[:, 0] - first) + 3 * (y[:, 1] - second)], axis=1)
        else:
            violated = y[:, [0, 0, 1]] - [low, first, second]
        assert (violated >= found.excess[lane]).all()
    every = np.ones(30, np.bool_)
    settled = found.settle(every)
    fresh = Exclusion(network, case.alternatives, FLOAT32_ANY_ORDER, "crown")
    assert settled.any()
    assert not settled.all()
    np.testing.assert_array_equal(settled, fresh(boxes, weights, slopes if sloped else None))
    for remembering in (exclusion, fresh):
        np.testing.assert_array_equal(settled, remembering(boxes, weights, slopes if sloped else None))


def test_a_bound_far_away_does_not_hinder_another_alternative(network: Network) -> None:
    property = property_of(2, 2, f"(or (<= Y_0 {LEAST - 0.05}) (<= Y_1 -1e12))")
    decision = decide(network, property, contract=FLOAT32_ANY_ORDER, method="complete", seconds=60)
    assert decision.answer is Answer.UNSAT


@pytest.mark.parametrize("seed", range(40))
def test_comparisons_with_bounds_are_exact(network: Network, seed: int) -> None:
    """Of numbers beside the bounds, which float64 mostly cannot hold; sums exclude no more than exact ones."""
    rng = np.random.default_rng(seed)
    denominators = (1, 2**60, 3, 10**9 + 7)
    bounds = [Fraction(int(rng.integers(-(10**9), 10**9)), denominators[rng.integers(4)]) for _ in range(4)]
    strict = rng.random(4) < 0.5
    rows = [
        Constraint.of((), ((0, Fraction(int(rng.integers(1, 5)))), (1, Fraction(7))), bound, bool(sharp))
        for bound, sharp in zip(bounds, strict, strict=True)
    ]
    exclusion = Exclusion(network, [(rows[0], rows[1]), (rows[2],), (rows[3],)], FLOAT32_ANY_ORDER, "crown")
    beside = [[np.nextafter(float(b), way) for way in (-np.inf, float(b), np.inf)] for b in bounds]
    lower = np.array([[each[rng.integers(3)] for each in beside] for _ in range(60)])
    boxes = Interval(*np.zeros((2, 60, 2)))
    violated = np.array([[row.excluded_by(Fraction(x)) for row, x in zip(rows, lane, strict=True)] for lane in lower])
    expected = (violated[:, 0] | violated[:, 1]) & violated[:, 2] & violated[:, 3]
    assert exclusion.settle(boxes, None, None, lower).tolist() == expected.tolist()
    weights = rng.integers(0, 256, (60, 4)).astype(np.uint8)
    for lane, own in enumerate(weights.tolist()):
        total = sum((w * b for w, b in zip(own[:2], bounds[:2], strict=True)), Fraction(0))
        near = float(total) * (1 + rng.choice([-1e-15, 0.0, 1e-15, 1e-12]))
        least = np.array([[near, 256.0 * max(bounds[2] + 1, 1), 256.0 * max(bounds[3] + 1, 1)]])
        one = Interval(*(end[:1] for end in boxes))
        settled = exclusion.settle(one, weights[lane : lane + 1], None, least)
        sharp = any(w and s for w, s in zip(own[:2], strict[:2], strict=True))
        truly = any(own[:2]) and (Fraction(near) >= total if sharp else Fraction(near) > total)
        assert not settled[0] or (truly and own[2] and own[3])
        assert settled[0] or not (Fraction(near) > total + abs(total) * Fraction(1, 10**13) and all(own[1:]))


@pytest.mark.parametrize("weighted", [False, True])
def test_many_alternatives_take_no_more_memory_than_their_functionals(network: Network, weighted: bool) -> None:
    """Neither all pairs of an alternative and a constraint, nor all lanes at once."""
    rows = [Constraint.of((), ((0, Fraction(1)),), Fraction(-1000 - number), False) for number in range(2**12)]
    exclusion = Exclusion(network, [(row,) for row in rows], FLOAT32_ANY_ORDER, "ibp")
    boxes = Interval(*np.random.default_rng(0).random((2, 2**9, 2)).cumsum(axis=0))
    tracemalloc.start()
    try:
        assert exclusion(boxes, np.ones((2**9, 2**12), np.uint8) if weighted else None, None).all()
        assert tracemalloc.get_traced_memory()[1] < 2**28  # a bit for each would take 2^30 bytes
    finally:
        tracemalloc.stop()


MADE = ReluNetwork.random(np.random.default_rng(5), [2, 8, 8, 2], 2.0)
GRID = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 201, dtype=F32)]), axis=-1).reshape(-1, 2)
LEAST = float(MADE.run(GRID, ALL)[0][:, 0].min())


@pytest.fixture(scope="module")
def network() -> Network:
    return MADE.network()


@pytest.fixture(scope="module")
def certificate(network: Network) -> Certificate:
    return tight_certificate(network)


def tight_certificate(network: Network) -> Certificate:
    """Of a property that takes many parts to prove."""
    torch.set_num_threads(1)
    return proved(network, property_of(2, 2, f"(<= Y_0 {LEAST - 0.05})"), slopes=False)


def three_alternatives() -> Property:
    """Each of which is nearly reached."""
    first, second = MADE.run(GRID, ALL)[0].astype(np.float64).T
    ends = LEAST - 0.002, (second - first).min() - 0.002, second.max() + 0.002
    return property_of(2, 2, f"(or (<= Y_0 {ends[0]}) (<= (- Y_1 Y_0) {ends[1]}) (>= Y_1 {ends[2]}))")


@pytest.fixture(scope="module")
def sloped(network: Network) -> Certificate:
    return sloped_certificate(network)


def sloped_certificate(network: Network) -> Certificate:
    """With slopes of its own at some of the parts."""
    torch.set_num_threads(1)
    found = proved(network, three_alternatives())
    assert isinstance(found.proof, InputSplits)
    assert found.proof.part_slopes is not None
    return found


@pytest.fixture(scope="module")
def weighted(network: Network) -> Certificate:
    """About a conjunction whose parts are reachable one by one, and another alternative."""
    torch.set_num_threads(1)
    y = MADE.run(GRID, ALL)[0].astype(np.float64)
    first, second = np.quantile(y, 0.3, axis=0)
    room = float(np.maximum(y[:, 0] - first, y[:, 1] - second).min())
    ends = first + room - 0.05, second + room - 0.05
    assert (y.min(axis=0) < ends).all()
    formula = f"(or (and (<= Y_0 {ends[0]}) (<= Y_1 {ends[1]})) (<= (+ Y_0 Y_1) {y.sum(axis=1).min() - 0.1}))"
    found = proved(network, property_of(2, 2, formula), slopes=False)
    assert isinstance(found.proof, InputSplits)
    assert found.proof.weights is not None
    assert (np.count_nonzero(found.proof.weights[:, :2], axis=1) > 1).any()
    return found


def accepted(content: bytes, network: Network) -> bool:
    """Whether it is valid, in which case what it says holds on a grid; a problem other than a rejection fails."""
    try:
        found = decode(content)
        check(found, network)
    except Rejected:
        return False
    assert isinstance(found.claim, Unreachable)
    points = found.lower + GRID * (found.upper - found.lower)
    for level in (DISABLED, ALL):
        y = MADE.run(points.astype(F32), level)[0].astype(np.float64)
        for conjunction in found.claim.alternatives:
            violated = [
                sum(float(c) * y[:, i] for i, c in constraint.outputs) > float(constraint.bound)
                for constraint in conjunction
            ]
            assert np.any(violated, axis=0).all()
    return True


def test_a_certificate_survives_writing_and_reading(
    certificate: Certificate, weighted: Certificate, sloped: Certificate, network: Network
) -> None:
    for each in (certificate, weighted, sloped):
        again = decode(encode(each))
        assert encode(again) == encode(each)
        assert accepted(encode(again), network)


def test_changed_bytes_and_trees_are_rejected_or_still_a_proof(certificate: Certificate, network: Network) -> None:
    rng, content, outcomes = np.random.default_rng(0), encode(certificate), set()
    for number in range(300):
        changed = encode(with_other_parts(certificate, rng)) if number % 2 else with_another_byte(content, rng)
        outcomes.add(accepted(changed, network))
    assert outcomes == {False, True}


@pytest.mark.parametrize("kind", ["weighted", "sloped"])
def test_changed_choices_are_rejected_or_still_a_proof(
    kind: str, network: Network, request: pytest.FixtureRequest
) -> None:
    original = request.getfixturevalue(kind)
    rng, content, outcomes = np.random.default_rng(1), encode(original), set()
    for number in range(200):
        changed = encode(with_other_parts(original, rng)) if number % 2 else with_another_byte(content, rng)
        outcomes.add(accepted(changed, network))
    assert outcomes == {False, True}


def test_slopes_save_parts_and_no_part_is_proved_without_its_own(sloped: Certificate, network: Network) -> None:
    without = proved(network, three_alternatives(), slopes=False).proof
    assert isinstance(without, InputSplits)
    assert isinstance(sloped.proof, InputSplits)
    assert sloped.proof.part_slopes is not None
    assert len(sloped.proof.cuts) < len(without.cuts) / 1.3
    known = sloped.proof.part_slopes
    for lost in (0, len(known.part) - 1):
        fewer = known.rows(np.delete(np.arange(len(known.part)), lost))
        for others in (fewer, None):
            with pytest.raises(Rejected, match="do not prove it"):
                check(replace(sloped, proof=replace(sloped.proof, part_slopes=others)), network)


MISFITS: dict[str, Callable[[PartSlopes], PartSlopes]] = {
    "a part that does not exist": lambda known: known._replace(part=known.part + np.int32(2**20)),
    "a negative part": lambda known: known._replace(part=known.part - np.int32(known.part[0] + 1)),
    "in another order": lambda known: PartSlopes(*(each[::-1] for each in known)),
    "twice": lambda known: PartSlopes(*(np.repeat(each, 2, axis=0) for each in known)),
    "a functional that does not exist": lambda known: known._replace(functional=known.functional + np.int32(2)),
    "a negative functional": lambda known: known._replace(functional=known.functional - np.int32(2)),
    "fewer neurons": lambda known: known._replace(slopes=known.slopes[:, 1:]),
    "multipliers of splits that there are none of": lambda known: known._replace(
        multipliers=np.ones((len(known.part), 1), F32)
    ),
    "more neurons": lambda known: known._replace(slopes=np.repeat(known.slopes, 2, axis=1)),
}


@pytest.mark.parametrize("what", MISFITS)
def test_slopes_that_do_not_fit_are_rejected(what: str, sloped: Certificate, network: Network) -> None:
    assert isinstance(sloped.proof, InputSplits)
    assert sloped.proof.part_slopes is not None
    proof = replace(sloped.proof, part_slopes=MISFITS[what](sloped.proof.part_slopes))
    with pytest.raises(Rejected, match="slope"):
        check(decode(encode(replace(sloped, proof=proof))), network)


def test_bounds_without_slopes_to_choose_have_none(sloped: Certificate, network: Network) -> None:
    assert isinstance(sloped.proof, InputSplits)
    for way in ("ibp", "crown-ibp"):
        with pytest.raises(Rejected, match="slopes"):
            check(replace(sloped, proof=replace(sloped.proof, way=way)), network)


SLOPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no slopes": lambda proof: proof.pop("part_slopes"),
    "slopes that are a list": lambda proof: proof.update(part_slopes=[]),
    "fewer pairs than slopes": lambda proof: proof["part_slopes"].update(part=stored(np.zeros(1, "<i4"))),
    "a negative number of pairs": lambda proof: proof["part_slopes"]["part"].update(shape=[-1]),
    "pairs as a truth value": lambda proof: proof["part_slopes"]["part"].update(shape=[True]),
    "more neurons than memory": lambda proof: proof["part_slopes"]["slopes"].update(shape=[2**20, 2**20]),
    "no neurons": lambda proof: proof["part_slopes"].update(
        slopes=stored(np.zeros((*proof["part_slopes"]["part"]["shape"], 0), np.uint8))
    ),
    "no parts": lambda proof: proof["part_slopes"].pop("part"),
    "a bomb": lambda proof: proof["part_slopes"]["slopes"].update(data=stored(np.zeros(2**24, np.uint8))["data"]),
}


@pytest.mark.parametrize("what", SLOPES)
def test_malformed_slopes_are_rejected_in_a_sentence(what: str, sloped: Certificate, network: Network) -> None:
    fields = json.loads(encode(sloped))
    SLOPES[what](fields["proof"])
    assert not accepted(json.dumps(fields).encode(), network)


WEIGHTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no weights": lambda proof: proof.pop("weights"),
    "weights of another number of constraints": lambda proof: proof.update(
        weights=stored(np.ones((proof["weights"]["shape"][0], 2), np.uint8))
    ),
    "no number of constraints": lambda proof: proof["weights"].update(shape=proof["weights"]["shape"][:1]),
    "more constraints than memory": lambda proof: proof["weights"].update(shape=[2**20, 2**20]),
    "no constraints": lambda proof: proof.update(weights=stored(np.ones((proof["weights"]["shape"][0], 0), np.uint8))),
    "weights for fewer leaves": lambda proof: proof.update(
        weights=stored(np.ones((1, proof["weights"]["shape"][1]), np.uint8))
    ),
    "a bomb": lambda proof: proof["weights"].update(data=stored(np.zeros(2**24, np.uint8))["data"]),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_malformed_weights_are_rejected_in_a_sentence(what: str, weighted: Certificate, network: Network) -> None:
    fields = json.loads(encode(weighted))
    WEIGHTS[what](fields["proof"])
    assert not accepted(json.dumps(fields).encode(), network)


def test_no_tree_proves_what_is_false(network: Network) -> None:
    """Of parts as small as those around the counterexample, too."""
    (case,) = cases_for(network, property_of(2, 2, f"(<= Y_0 {LEAST})"))
    lower, upper = (end.astype(F32).reshape(network.input.shape) for end in (case.lower, case.upper))
    box = Interval(case.lower[None], case.upper[None])
    for seed in range(10):
        proof = random_splits(np.random.default_rng(seed), box, 9)
        claim = Unreachable(tuple(case.alternatives))
        with pytest.raises(Rejected, match="do not prove it"):
            check(Certificate(network.sha256, "", "float32-any-order", claim, lower, upper, proof), network)


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown way": lambda proof: proof.update(way="hope"),
    "a way that is no text": lambda proof: proof.update(way=["crown"]),
    "a node more": lambda proof: proof.update(nodes=stored(np.full(proof["nodes"]["shape"][0] + 1, LEAF, "<i4"))),
    "no nodes": lambda proof: proof.update(nodes=stored(np.zeros(0, "<i4"))),
    "more leaves than memory": lambda proof: proof["cuts"].update(shape=[2**60]),
    "leaves as a float": lambda proof: proof["cuts"].update(shape=[float(proof["cuts"]["shape"][0])]),
    "no cuts": lambda proof: proof.pop("cuts"),
    "a bomb": lambda proof: proof["nodes"].update(data=stored(np.zeros(2**22, np.int32))["data"]),
    "a chain without an end": lambda proof: proof.update(
        nodes=stored(np.zeros(2**21 - 1, "<i4")), cuts=stored(np.full(2**20 - 1, 0.5, "<f4"))
    ),
    "too many leaves": lambda proof: proof.update(
        nodes=stored(np.zeros(2**21 + 1, "<i4")), cuts=stored(np.full(2**20, 0.5, "<f4"))
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_proof_is_rejected_in_a_sentence(what: str, certificate: Certificate, network: Network) -> None:
    fields = json.loads(encode(certificate))
    HOSTILE[what](fields["proof"])
    assert not accepted(json.dumps(fields).encode(), network)


def test_splits_of_inputs_prove_no_class(certificate: Certificate, network: Network) -> None:
    with pytest.raises(Rejected):
        check(replace(certificate, claim=Class(0)), network)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_decided_is_what_the_exact_oracle_says(seed: int) -> None:
    """Thresholds around the exact least difference of two outputs."""
    rng = np.random.default_rng(100 + seed)
    inputs = int(rng.integers(1, 4))
    made = ReluNetwork.random(rng, [inputs, *(int(n) for n in rng.integers(3, 7, 2)), 2], 0.0 if seed % 4 == 0 else 2.0)
    network = made.network()
    least = least_margin(made, np.zeros(inputs), np.ones(inputs), 0)
    for away in (-0.5, -0.01, 0.01, 0.5):
        property = property_of(inputs, 2, f"(<= (- Y_0 Y_1) {least + away:.9f})")
        decision = decide(
            network, property, contract=FLOAT32_ANY_ORDER, method="complete", seconds=60 if away < 0 else 0.1
        )
        assert (decision.answer is Answer.UNSAT) == (away < -NEAR_TIE)
