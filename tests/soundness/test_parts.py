"""Bounds over the executions with given signs: no such execution falls below them, and none is overlooked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL, model, network_of, node, run
from support.random_networks import random_network
from support.relu_networks import ReluNetwork, class_certificate, random_executions
from support.stored_arrays import stored
from verify.bounds.activations import activations, neuron_count, relus, smooth
from verify.bounds.crown import margin_functionals
from verify.bounds.evaluation import values
from verify.bounds.refinements import Refinement
from verify.boxes import box_around
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Unreachable, decode, encode
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.parts import Parts
from verify.proofs.paths import LEAF, Path, Split
from verify.proofs.split_trees import SplitProof, split_bounds
from verify.search.branch_and_bound import search
from verify.search.partition import Partition
from verify.tasks import case_search
from verify.tasks.decision import Answer, cases_for, decide
from verify.tasks.vnnlib import parse

F32 = np.float32


@pytest.mark.parametrize("seed", range(60))
def test_no_execution_with_the_signs_falls_below_a_bound(seed: int) -> None:
    rng, network, box, runs = random_executions(seed)
    functionals = rng.normal(size=(2, *network.output.shape))
    parts = parts_of(network, box, functionals)
    if seed % 2:
        parts.refine(*some_slopes(rng, network))
    for count in (1, 8):  # in a single lane other code is at work
        paths = [some_path(rng, runs[0][1][rng.integers(len(runs[0][1]))], network) for _ in range(count)]
        bounds, intervals = parts.over(paths)
        assert np.isfinite(bounds).all()
        better = parts.steepened(paths, (bounds, intervals), some_choices(rng, parts, paths))
        assert (better >= bounds).all()
        bounds = better
        before = [intervals[relu.operands[0]] for relu in relus(parts.inside)]
        least, most = (np.concatenate([end[which] for end in before], axis=-1)[:, 0] for which in (0, 1))
        for y, inside in runs:
            for lane, path in enumerate(paths):
                there = with_signs(inside, path)
                assert (y[there].astype(np.float64) @ functionals[:, 0].T >= bounds[lane]).all()
                assert (inside[there][:, parts.numbers] >= least[lane]).all()
                assert (inside[there][:, parts.numbers] <= most[lane]).all()


def parts_of(
    network: Network, box: Interval, functionals: NDArray[Any], constants: NDArray[Any] | None = None
) -> Parts:
    """Without chosen slopes."""
    added = np.zeros(len(functionals)) if constants is None else constants
    parts = Parts(network, box, functionals, added, FLOAT32_ANY_ORDER)
    parts.refine(np.zeros(neuron_count(network.output), np.bool_), ())
    return parts


def some_path(rng: np.random.Generator, reference: NDArray[Any], network: Network) -> Path:
    """To a part that one execution at least is in."""
    signed = np.flatnonzero(~smooth(network.output))
    chosen = rng.permutation(signed)[: int(rng.integers(0, min(len(signed), 6) + 1))]
    return [Split(int(n), int(np.sign(reference[n]) or rng.choice([-1, 1]))) for n in chosen]


def some_slopes(rng: np.random.Generator, network: Network) -> tuple[NDArray[np.bool_], list[Refinement]]:
    """For some of the neurons, about some of them."""
    numbers = activations(network.output)
    neurons = rng.random(neuron_count(network.output)) < 0.7
    refinements = []
    for relu, part in numbers.items():
        refined = (part.start + np.flatnonzero(rng.random(part.stop - part.start) < 0.7)).astype(np.int32)
        width = sum(int(neurons[numbers[below]].sum()) for below in activations(relu.operands[0]))
        if len(refined):
            slopes = rng.choice([0, 100, 255], (2, len(refined), width)).astype(np.uint8)
            refinements.append(Refinement(refined, slopes))
    return neurons, refinements


def some_choices(rng: np.random.Generator, parts: Parts, paths: list[Path]) -> PartSlopes:
    """Of slopes and multipliers, for most of the functionals."""
    part, functional = np.nonzero(rng.random((len(paths), len(parts.functionals))) < 0.8)
    slopes = rng.choice([0, 100, 128, 255], (len(part), int(parts.neurons.sum()))).astype(np.uint8)
    multipliers = rng.choice([-1.0, 0.0, 0.1, 3.0], (len(part), max(map(len, paths)))).astype(F32)
    return PartSlopes(part.astype(np.int32), functional.astype(np.int32), slopes, multipliers)


def with_signs(inside: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    """Which executions the part holds."""
    return np.asarray(
        np.all([side * inside[:, neuron] >= 0 for neuron, side, _ in path] or [np.full(len(inside), True)], axis=0)
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_same_for_convolutions_leaky_and_smooth_functions(seed: int) -> None:
    """Against the values of the real network, which the contract allows as well."""
    rng = np.random.default_rng(seed)
    network = network_of(random_network(seed)[0])
    before = [each.operands[0] for each in activations(network.output)]
    if not before:
        return
    centre = rng.random(network.input.shape).astype(F32)
    box = box_around(centre[np.newaxis], Fraction(int(rng.integers(1, 10)), 40), None)
    points = box.lower + rng.random((200, *network.input.shape)) * (box.upper - box.lower)
    y, *read = values(network, points, [network.output, *before])
    inside = np.concatenate([each.reshape(len(points), -1) for each in read], axis=1)
    functionals = rng.normal(size=(2, *network.output.shape))
    parts = parts_of(network, box, functionals)
    if seed % 2:
        parts.refine(*some_slopes(rng, network))
    for count in (1, 5):
        paths = [some_path(rng, inside[rng.integers(len(points))], network) for _ in range(count)]
        bounds, intervals = parts.over(paths)
        bounds = parts.steepened(paths, (bounds, intervals), some_choices(rng, parts, paths))
        assert not np.isposinf(bounds).any()
        for lane, path in enumerate(paths):
            there = with_signs(inside, path)
            found = y[there].reshape(there.sum(), -1) @ functionals.reshape(2, -1).T
            assert not (found < bounds[lane]).any()
            ends = [
                [end[lane].reshape(-1) for end in intervals[each.operands[0]]] for each in activations(parts.inside)
            ]
            least, most = (np.concatenate([end[which] for end in ends]) for which in (0, 1))
            assert not (inside[there][:, parts.numbers] < least).any()
            assert not (inside[there][:, parts.numbers] > most).any()


def test_a_part_without_executions_is_proved() -> None:
    """Where x <= 1 the second layer reads 3 and -0.5 at least, and at most."""
    parts = parts_of(pair().network(), around(1, 1), np.array([[[-1.0, -1.0]]]))
    bounds, _ = parts.over(
        [
            [],
            [Split(0, 1), Split(1, 1)],
            [Split(1, -1)],
            [Split(1, 1), Split(3, 1)],
            [Split(1, -1), Split(2, -1)],
            [Split(1, -1), Split(3, 1)],
        ]
    )
    assert np.isfinite(bounds[:4]).all()
    assert np.isposinf(bounds[4:]).all()


def pair() -> ReluNetwork:
    """relu(x) and relu(x - 1), then relu(relu(x - 1) + 3) and relu(relu(x - 1) - 0.5)."""
    weights = [np.ones((1, 2)), np.array([[0, 0], [1, 1]]), np.eye(2)]
    biases = [np.array([0, -1]), np.array([3, -0.5]), np.zeros(2)]
    return ReluNetwork([w.astype(F32) for w in weights], [b.astype(F32) for b in biases])


def around(centre: float, radius: int) -> Interval:
    return box_around(np.full((1, 1, 1), centre, F32), Fraction(radius), None)


def test_signs_tighten_what_lies_behind() -> None:
    """relu(x) - relu(x) is zero, which CROWN sees only over the signs of x, and so does whoever reads it."""
    weights = [np.ones((1, 2)), np.array([[1], [-1]]), np.array([[-1]])]
    network = ReluNetwork([w.astype(F32) for w in weights], [np.zeros(n, F32) for n in (2, 1, 1)]).network()
    parts = parts_of(network, around(0.5, 1), np.ones((1, 1, 1)))
    bounds, intervals = parts.over([[], [Split(0, 1), Split(1, 1)], [Split(0, -1), Split(1, -1)]])
    assert bounds[0] < -0.4
    assert (bounds[1:] > -1e-5).all()
    behind = intervals[list(relus(parts.inside))[1].operands[0]]
    assert behind.upper[0] > 0.3
    assert (behind.upper[1:] < 1e-5).all()


@pytest.mark.parametrize("behind", ["Concat", "Div"])
def test_constants_stand_beside_parts(behind: str) -> None:
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.normal(size=(2, 5)).astype(F32),
        "b": rng.normal(size=5).astype(F32),
        "c": np.full((1, 5), 2, F32),
        "v": rng.normal(size=(10 if behind == "Concat" else 5, 3)).astype(F32),
        "one": np.ones(1, F32),
    }
    nodes = [node("Gemm", ["x", "w", "b"], "g"), node("Relu", ["g"], "r"), node("Add", ["r", "one"], "s")]
    nodes.append(node("Concat", ["r", "c"], "h", axis=1) if behind == "Concat" else node("Div", ["c", "s"], "h"))
    content = model([*nodes, node("MatMul", ["h", "v"], "y")], [1, 2], constants)
    network, box = network_of(content), box_around(np.full((1, 1, 2), 0.5, F32), Fraction(1), None)
    label = int(run(content, np.full((1, 2), 0.5, F32))[0].argmax())
    functionals, added = margin_functionals(network, np.array([label]))
    parts = parts_of(network, box, functionals[0], added[0])
    bounds, _ = parts.over([[], [Split(0, 1), Split(1, -1)], [Split(1, 1)]])
    assert np.isfinite(bounds[0]).all()
    Partition(parts, np.arange(3), torch.device("cpu")).grow(2.0, 1e9, lambda worst, direction: False)


def test_what_is_known_of_a_part_is_not_computed_again() -> None:
    parts = parts_of(pair().network(), around(1, 1), np.array([[[1.0, 0.0]]]))
    nodes = np.array([1, LEAF, 0, LEAF, LEAF], np.int32)
    parts.over([[Split(1, 1)], [Split(1, -1), Split(0, 1)], [Split(1, -1), Split(0, -1)]])
    first = parts.least(nodes, np.array([True]))
    parts._bounded = None  # type: ignore[assignment,method-assign]
    np.testing.assert_array_equal(parts.least(nodes, np.array([True])), first)


def problem() -> tuple[ReluNetwork, Network, Interval, int]:
    """A network and a box that takes splits."""
    made = ReluNetwork.random(np.random.default_rng(19), [3, 8, 8, 3], 2.0)
    centre = np.random.default_rng(3).random((1, 1, 3)).astype(F32)
    return made, made.network(), box_around(centre, Fraction(1, 4), None), int(made.run(centre[0], ALL)[0].argmax())


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    """Valid, with nothing but parts."""
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    parts = Parts(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER)
    parts.refine(np.ones(neuron_count(network.output), np.bool_), ())
    growing = Partition(parts, np.arange(len(constants[0])), torch.device("cpu"))
    assert growing.grow(60.0, 1.0, lambda worst, direction: False)
    assert len(growing.nodes) > 5
    assert growing.slopes is not None
    assert growing.slopes.multipliers.any()
    proof = SplitProof(np.ones(neuron_count(network.output), np.bool_), (), (), growing.nodes, growing.slopes)
    return class_certificate(network, label, box, proof)


def test_it_survives_writing_and_reading(certificate: Certificate) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    check(again, problem()[1])


def test_parts_that_are_left_out_are_missed(certificate: Certificate) -> None:
    """Every tree with one number changed is a proof, too, or rejected; one that is cut short is rejected."""
    made, network, box, label = problem()
    assert isinstance(certificate.proof, SplitProof)
    nodes = certificate.proof.parts
    assert nodes is not None
    points = box.lower + np.random.default_rng(0).random((500, 1, 3)) * (box.upper - box.lower)
    logits, _ = made.run(points[:, 0].astype(F32), ALL)
    assert (logits.argmax(axis=1) == label).all()  # so that what is accepted is true
    rejected = 0
    for place in range(len(nodes)):
        for value in (LEAF, 0, 7, 15, 16, -2):
            changed = nodes.copy()
            changed[place] = value
            try:
                check(replace(certificate, proof=replace(certificate.proof, parts=changed)), network)
            except Rejected:
                rejected += 1
    assert rejected > len(nodes)
    for cut in (nodes[:-1], nodes[1:], np.append(nodes, LEAF).astype(np.int32), nodes[:0]):
        with pytest.raises(Rejected):
            check(replace(certificate, proof=replace(certificate.proof, parts=cut)), network)


def test_parts_are_what_proves_it(certificate: Certificate) -> None:
    _, network, box, label = problem()
    assert isinstance(certificate.proof, SplitProof)
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER
    assert (split_bounds(*asked, certificate.proof) > 0).all()
    assert not (split_bounds(*asked, replace(certificate.proof, parts=None)) > 0).all()


MISFITS: dict[str, Callable[[PartSlopes], PartSlopes]] = {
    "a part that does not exist": lambda known: known._replace(part=known.part + np.int32(2**20)),
    "in another order": lambda known: known.rows(np.arange(len(known.part))[::-1]),
    "twice": lambda known: known.rows(np.repeat(np.arange(len(known.part)), 2)),
    "a functional that does not exist": lambda known: known._replace(functional=known.functional + np.int32(3)),
    "fewer neurons": lambda known: known._replace(slopes=known.slopes[:, 1:]),
    "more neurons": lambda known: known._replace(slopes=np.repeat(known.slopes, 2, axis=1)),
    "splits without multipliers": lambda known: known._replace(multipliers=known.multipliers[:, :0]),
}


@pytest.mark.parametrize("what", MISFITS)
def test_slopes_that_do_not_fit_are_rejected(certificate: Certificate, what: str) -> None:
    assert isinstance(certificate.proof, SplitProof)
    assert certificate.proof.part_slopes is not None
    proof = replace(certificate.proof, part_slopes=MISFITS[what](certificate.proof.part_slopes))
    with pytest.raises(Rejected, match="slopes of its parts"):
        check(decode(encode(replace(certificate, proof=proof))), problem()[1])


@pytest.mark.parametrize("bound", [-1e6, 1e6])
def test_one_part_has_slopes_for_many_functionals(bound: float) -> None:
    """More than are bounded at a time."""
    network = ReluNetwork.random(np.random.default_rng(0), [2, 4096, 60], 1.0).network()
    functionals = np.eye(60).reshape(60, *network.output.shape)
    neurons = np.arange(4096) < 3
    slopes = PartSlopes(
        np.zeros(60, np.int32), np.arange(60, dtype=np.int32), np.zeros((60, 3), np.uint8), np.zeros((60, 1), F32)
    )
    box = Interval(np.zeros((1, *network.input.shape)), np.ones((1, *network.input.shape)))
    asked = network, box, functionals, np.full(60, -bound), FLOAT32_ANY_ORDER
    for nodes in ([LEAF], [0, LEAF, LEAF]):
        proof = SplitProof(neurons, (), (), np.array(nodes, np.int32), slopes)
        assert (split_bounds(*asked, proof) > 0).all() == (bound < 0)


def test_changed_slopes_and_multipliers_are_rejected_or_still_a_proof(certificate: Certificate) -> None:
    assert isinstance(certificate.proof, SplitProof)
    known = certificate.proof.part_slopes
    assert known is not None
    rng, rejected = np.random.default_rng(0), 0
    for number in range(150):
        slopes, multipliers = known.slopes.copy(), known.multipliers.copy()
        row = rng.integers(len(slopes))
        if number % 2:
            slopes[row] = rng.integers(0, 256, slopes.shape[1])
        else:
            multipliers[row, rng.integers(multipliers.shape[1])] = rng.choice([-1, 0, 10, 1e30, np.inf, np.nan])
        changed = known._replace(slopes=slopes, multipliers=multipliers)
        try:
            check(replace(certificate, proof=replace(certificate.proof, part_slopes=changed)), problem()[1])
        except Rejected:
            rejected += 1
    assert 0 < rejected < 150
    with pytest.raises(Rejected, match="do not prove it"):
        check(replace(certificate, proof=replace(certificate.proof, part_slopes=None)), problem()[1])


@pytest.mark.parametrize(
    "parts",
    [
        {"shape": [3]},
        {"shape": [-1], "data": ""},
        {"shape": [True], "data": ""},
        {"shape": [2**22], "data": ""},
        {"shape": [2**40], "data": ""},
        stored(np.zeros(0, "<i4")),
        stored(np.full(2, LEAF, "<i4")),
        [],
        3,
    ],
)
def test_malformed_parts_are_rejected(certificate: Certificate, parts: Any) -> None:
    fields = json.loads(encode(certificate))
    fields["proof"]["parts"] = parts
    with pytest.raises(Rejected):
        decode(json.dumps(fields).encode())


def test_a_tree_that_splits_a_neuron_twice_on_its_way_is_rejected(certificate: Certificate) -> None:
    fields = json.loads(encode(certificate))
    nodes = np.array([0, 1, 0, LEAF, LEAF, LEAF, LEAF], "<i4")
    fields["proof"] |= {"parts": stored(nodes)}
    del fields["proof"]["part_slopes"]
    with pytest.raises(Rejected, match="twice"):
        check(decode(json.dumps(fields).encode()), problem()[1])


def deep_problem() -> tuple[Network, Interval, int]:
    """Of two other classes, optimised slopes exclude one and parts the other."""
    torch.set_num_threads(1)
    made = ReluNetwork.random(np.random.default_rng(15), [6, 16, 16, 16, 16, 3], 1.6)
    centre = np.random.default_rng(3).random((1, 1, 6)).astype(F32)
    return made.network(), box_around(centre, Fraction(6, 40), None), int(made.run(centre[0], ALL)[0].argmax())


def test_what_is_known_of_parts_at_unequal_depths_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    parts = Parts(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER)
    parts.refine(np.ones(neuron_count(network.output), np.bool_), ())
    growing = Partition(parts, np.arange(len(constants[0])), torch.device("cpu"))
    assert growing.grow(60.0, 1.0, lambda worst, direction: False)
    monkeypatch.setattr(Parts, "_bounded", None)
    assert growing.slopes is not None
    assert (parts.least(growing.nodes, np.ones(3, np.bool_), growing.slopes) > 0).all()


def test_a_search_for_parts_leaves_nothing_to_compute_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, box, label = deep_problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER
    parts = Parts(*asked)
    searched = network, box, functionals, constants, FLOAT32_ANY_ORDER
    (outcome,) = search(*searched, branch=True, seconds=60, parts=[parts])
    proof = outcome.proof
    assert proof
    assert proof.parts is not None
    assert len(proof.trees) == 1
    assert proof.refinements
    anew = split_bounds(*asked, proof)
    monkeypatch.setattr(Parts, "_bounded", None)
    found = split_bounds(*asked, proof, parts)
    np.testing.assert_allclose(found, anew, rtol=1e-9)
    assert (found > 0).all()
    monkeypatch.undo()
    other = replace(proof, refinements=())  # is about bounds that nothing is remembered of
    np.testing.assert_array_equal(split_bounds(*asked, other, parts), split_bounds(*asked, other))


def test_another_device_finds_the_same(pretended_device: torch.device) -> None:
    network, box, label = deep_problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals, constants, FLOAT32_ANY_ORDER
    found = []
    for device in (torch.device("cpu"), pretended_device):
        (outcome,) = search(*asked, branch=True, seconds=60, device=device)
        assert outcome.proof
        assert outcome.proof.parts is not None
        found.append(encode(class_certificate(network, label, box, outcome.proof)))
    assert found[0] == found[1]


def test_what_is_remembered_of_another_problem_is_not_used() -> None:
    network, box, label = deep_problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER
    narrow = Parts(network, Interval(box.lower, box.lower), functionals[0], constants[0], FLOAT32_ANY_ORDER)
    proof = SplitProof(np.zeros(neuron_count(network.output), np.bool_), (), (), np.array([LEAF], np.int32))
    narrow.refine(proof.neurons, ())
    bounds, _ = narrow.over([[]])
    with pytest.raises(ValueError, match="read-only"):
        bounds += 1
    with pytest.raises(ValueError, match="read-only"):
        narrow.whole[network.output].lower[:] = 1
    assert not (split_bounds(*asked, proof) > 0).all()
    np.testing.assert_array_equal(split_bounds(*asked, proof, narrow), split_bounds(*asked, proof))


def test_nothing_lies_behind_a_single_layer_of_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts would have bounds no better than those of splits, which cost less."""
    torch.set_num_threads(1)
    made = ReluNetwork.random(np.random.default_rng(15), [6, 16, 3], 1.6)
    centre = np.random.default_rng(3).random((1, 1, 6)).astype(F32)
    network, box = made.network(), box_around(centre, Fraction(1, 4), None)
    functionals, constants = margin_functionals(network, made.run(centre[0], ALL)[0].argmax(1))
    monkeypatch.setattr(Partition, "grow", None)
    (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=60)
    assert outcome.branched


def test_a_property_is_decided_by_parts_of_the_whole_network() -> None:
    """The search works on the network without inactive neurons, the certificate is about the file."""
    network, box, label = deep_problem()
    others = [other for other in range(3) if other != label]
    lines = [f"(declare-const X_{i} Real)" for i in range(6)] + [f"(declare-const Y_{i} Real)" for i in range(3)]
    for i, (low, high) in enumerate(zip(*(end.reshape(-1) for end in box), strict=True)):
        lines += [f"(assert (>= X_{i} {low:.60f}))", f"(assert (<= X_{i} {high:.60f}))"]
    lines.append("(assert (or " + " ".join(f"(and (>= Y_{other} Y_{label}))" for other in others) + "))")
    found = []
    for few in (0, 20):  # splits of neurons, then of inputs
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(case_search, "_FEW_INPUTS", few)
            property = parse("\n".join(lines).encode())
            found.append(decide(network, property, contract=FLOAT32_ANY_ORDER, method="complete", seconds=60))
    assert [each.answer for each in found] == [Answer.UNSAT] * 2
    (proof,) = found[0].proofs
    assert isinstance(proof, SplitProof)
    assert proof.parts is not None
    claim = Unreachable(cases_for(network, property)[0].alternatives)
    lower, upper = (end[0].astype(F32) for end in box)
    certificate = Certificate(network.sha256, "m.onnx", "float32-any-order", claim, lower, upper, proof)
    check(decode(encode(certificate)), network)


def test_a_counterexample_on_the_way_ends_the_search() -> None:
    network, box, label = deep_problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    shown: list[Any] = []

    def show(worst: NDArray[np.intp], direction: torch.Tensor) -> bool:
        assert direction.shape == (1, 1, 6)
        shown.extend(worst)
        return True

    growing = Partition(parts_of(network, box, functionals[0], constants[0]), np.arange(3), torch.device("cpu"))
    assert not growing.grow(60.0, 1.0, show)
    assert len(shown) == 1
    assert shown[0] != label


def test_a_search_that_stopped_goes_on_where_it_was() -> None:
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    growing = Partition(parts_of(network, box, functionals[0], constants[0]), np.arange(3), torch.device("cpu"))
    assert not growing.grow(0.0, 1.0, lambda worst, direction: False)
    assert not growing.grow(60.0, 0.0, lambda worst, direction: False)
    assert len(growing.nodes) > 1
    assert growing.grow(60.0, 1.0, lambda worst, direction: False)
