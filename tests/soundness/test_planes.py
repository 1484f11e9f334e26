"""Planes above ReLUs lie above whatever was chosen, and are tighter than lines; proofs with planes survive writing and
reading, and those that do not fit are rejected. That leaves with planes hold is tested with those without."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL
from support.relu_networks import ReluNetwork, class_certificate, random_executions
from verify.bounds.activations import neuron_count, relus
from verify.bounds.crown import margin_functionals
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, decode, encode
from verify.proofs.paths import Split, splits_of
from verify.proofs.planes import fraction_count, planes_above, sheaves
from verify.proofs.split_trees import SplitProof, leaf_bounds, split_bounds
from verify.search import opening
from verify.search.backward import Backward, Fractions
from verify.search.branch_and_bound import search
from verify.search.partition import Partition

F32 = np.float32


@pytest.mark.parametrize("seed", range(20))
def test_planes_lie_above_and_touch(seed: int) -> None:
    """In exact arithmetic: above at every corner, and so everywhere, for what is below is convex; and no higher than
    need be."""
    rng = np.random.default_rng(seed)
    network = ReluNetwork.random(rng, [4, 5, 2], 2.0).network()
    (relu,) = relus(network.output)
    box = box_around(rng.random((1, 1, 4)).astype(F32), Fraction(1, 2), None)
    intervals = crown_intervals(network, box, REAL)
    fractions = rng.integers(0, 2 if seed % 2 else 256, (3, 5, 4)) / (1.0 if seed % 2 else 255.0)
    rows = np.array([0, 1, 2, 3, 4])
    found = planes_above(relu, rows, fractions, intervals, REAL)
    (operand,) = relu.operands
    primitive = operand.primitive
    corners = np.stack(np.meshgrid(*np.stack(box).reshape(2, 4).T), -1).reshape(-1, 4)
    relus_there = np.maximum(corners @ primitive.map.weight + primitive.bias.reshape(-1), 0.0)  # type: ignore[attr-defined]
    room = corners @ found.slope.swapaxes(1, 2) + found.offset[:, np.newaxis] - relus_there
    assert (room > 0).all()
    np.testing.assert_allclose(room.min(axis=1), 0.0, atol=1e-11)


def test_planes_are_tighter_than_lines() -> None:
    """Of relu(x + y) + relu(x - y) for x and y in [-1, 1], which is at most 2: lines above add up to x + 2, the best
    planes to (1 + y) + (1 - y)."""
    first = np.array([[1, 1], [1, -1]], F32)
    network = ReluNetwork([first, np.array([[-1], [-1]], F32)], [np.zeros(2, F32), np.zeros(1, F32)]).network()
    box = box_around(np.zeros((1, 1, 2), F32), Fraction(1), None)
    intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    neurons = np.ones(2, np.bool_)

    def bound(fractions: list[int] | None) -> float:
        (found,) = leaf_bounds(
            network.output,
            np.ones((1, 1)),
            intervals,
            FLOAT32_ANY_ORDER,
            neurons=neurons,
            paths=[[]],
            slopes=np.zeros((1, 2), np.uint8),
            multipliers=np.zeros(0, F32),
            fractions=None if fractions is None else np.array([fractions], np.uint8),
        )
        return float(found)

    assert bound(None) == pytest.approx(-3.0, abs=1e-5)
    assert bound([255, 0, 0, 255]) == pytest.approx(-4.0, abs=1e-5)
    assert bound([0, 255, 0, 255]) == pytest.approx(-2.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_bounds_in_torch_are_those_of_the_checker(seed: int) -> None:
    rng, network, box, _ = random_executions(3 * seed + 1)
    intervals = crown_intervals(network, box, REAL)
    output, count = network.output, neuron_count(network.output)
    before = [intervals[relu.operands[0]] for relu in relus(output)]
    live = np.concatenate([ends.upper.reshape(-1) for ends in before]) > 0  # the checker leaves the others out
    sides = np.where(live, rng.integers(-1, 2, (4, count)) * (rng.random((4, count)) < 0.3), 0)
    neurons = np.ones(count, np.bool_)
    slopes = rng.integers(0, 256, (4, count)).astype(np.uint8)
    fractions = rng.integers(0, 256, (2, fraction_count(output, neurons))).astype(np.uint8)
    multipliers = rng.random((4, count)).astype(F32)
    functional = rng.normal(size=output.shape)
    paths = [[Split(int(n), int(row[n])) for n in np.flatnonzero(row)] for row in sides]
    expected = leaf_bounds(
        output,
        functional,
        intervals,
        REAL,
        neurons=neurons,
        paths=paths,
        slopes=slopes,
        multipliers=multipliers[sides != 0],
        fractions=fractions.repeat(2, axis=0),
    )
    backward = Backward(output, torch.device("cpu"))
    lanes = backward.along(backward.lanes(intervals, functional[np.newaxis]).repeated(4), splits_of(paths))
    chosen = [
        Fractions(
            torch.tensor(sheaf.rows),
            torch.tensor(fractions[:, sheaf.where]).reshape(2, len(sheaf.rows), sheaf.inputs) / 255.0,
        )
        for sheaf in sheaves(output, neurons).values()
    ]
    above = backward.above(lanes.take(torch.tensor([0, 2])), chosen)  # each for two lanes
    start, multiplier = backward.values(slopes) / 255.0, backward.values(multipliers)
    found = backward.bounds(lanes, torch.arange(count), start, multiplier, above).bounds.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def problem() -> tuple[ReluNetwork, Network, Interval, int]:
    """Of a network with a single hidden layer, where lines above neurons leave much to be split; some of its neurons
    are inactive."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    made = ReluNetwork.random(rng, [10, 40, 3], 1.5)
    made.biases[0][::5] -= F32(50)
    centre = rng.random((1, 1, 10)).astype(F32)
    return made, made.network(), box_around(centre, Fraction(1, 3), None), int(made.run(centre[0], ALL)[0].argmax())


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    """Valid, with planes and splits."""
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=600)
    proof = outcome.proof
    assert proof
    assert any(tree.fractions is not None and len(tree.slopes) > 1 for tree in proof.trees)
    return class_certificate(network, label, box, proof)


def test_another_device_finds_the_same(certificate: Certificate, pretended_device: torch.device) -> None:
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals, constants, FLOAT32_ANY_ORDER
    (outcome,) = search(*asked, branch=True, seconds=600, device=pretended_device)
    assert outcome.proof
    assert encode(class_certificate(network, label, box, outcome.proof)) == encode(certificate)


def test_it_survives_writing_and_reading(certificate: Certificate) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    check(again, problem()[1])


def with_fractions(certificate: Certificate, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Certificate:
    proof = certificate.proof
    assert isinstance(proof, SplitProof)
    trees = [
        tree if tree.fractions is None else replace(tree, fractions=change(tree.fractions)) for tree in proof.trees
    ]
    return replace(certificate, proof=replace(proof, trees=tuple(trees)))


def test_planes_are_what_proves_it(certificate: Certificate) -> None:
    """Neither does it hold with lines, whose fractions are all the same, nor with the planes of another leaf."""
    network = problem()[1]
    for change in (np.zeros_like, lambda fractions: np.full_like(fractions, 128), lambda fractions: fractions[::-1]):
        with pytest.raises(Rejected):
            check(with_fractions(certificate, change), network)


def test_planes_that_do_not_fit_are_rejected(certificate: Certificate) -> None:
    network = problem()[1]
    for change in (lambda each: each[:, :-1], lambda each: np.append(each, each[:, :1], axis=1)):
        with pytest.raises(Rejected, match="lacks planes"):
            check(decode(encode(with_fractions(certificate, change))), network)
    fields = json.loads(encode(certificate))
    for shape in ([-1, 1], [1.5, 1], "x", None, [2**40, 1], [5], [1, 5]):
        for tree in fields["proof"]["trees"]:
            tree["fractions"]["shape"] = shape
        with pytest.raises(Rejected):
            decode(json.dumps(fields).encode())


def test_what_could_not_be_read_is_not_accepted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody writes it."""
    network, content = problem()[1], encode(certificate)
    monkeypatch.setattr("verify.proofs.arrays._MOST_BYTES", 4000)
    with pytest.raises(Rejected, match="too large"):
        decode(content)
    with pytest.raises(Rejected, match="too large"):
        check(certificate, network)


def test_a_box_is_not_inflated_before_its_size_is_known(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.proofs.arrays._MOST_BYTES", 8 * certificate.lower.size - 1)
    monkeypatch.setattr("verify.proofs.certificate.unpacked", None)
    with pytest.raises(Rejected, match="too large"):
        decode(encode(certificate))


def test_boxes_with_planes_and_without_end_together_as_they_do_alone() -> None:
    made, network, box, _ = problem()
    lanes = [box, Interval(*(np.clip(end, 0.4, 0.5) for end in box)), Interval(box.lower + 0.1, box.upper - 0.1)]
    together = Interval(*(np.concatenate(ends) for ends in zip(*lanes, strict=True)))
    labels = [int(made.run(each.lower[0].astype(F32), ALL)[0].argmax()) for each in lanes]
    functionals, constants = margin_functionals(network, np.array(labels))
    asked = network, together, functionals, constants, FLOAT32_ANY_ORDER
    found = list(search(*asked, branch=True, seconds=60.0))
    planes = []
    for lane, (own, outcome) in enumerate(zip(lanes, found, strict=True)):
        problem_of_lane = network, own, functionals[lane : lane + 1], constants[lane : lane + 1], FLOAT32_ANY_ORDER
        (alone,) = search(*problem_of_lane, branch=True, seconds=60.0)
        assert alone.ending is outcome.ending
        if proof := outcome.proof:
            lower = split_bounds(network, own, functionals[lane], constants[lane], FLOAT32_ANY_ORDER, proof)
            assert (lower > 0).all()
            planes.append(any(tree.fractions is not None for tree in proof.trees))
    assert set(planes) == {False, True}


def test_changed_planes_are_rejected_or_still_a_proof(certificate: Certificate) -> None:
    """Whatever they are, what is accepted holds where onnxruntime executes the model: so that a search for planes with
    mistakes could do no harm."""
    made, network, box, label = problem()
    rng = np.random.default_rng(0)
    wider = Interval(box.lower - 0.05, box.upper + 0.05)
    accepted = 0
    for attempt in range(60):
        changed = with_fractions(
            certificate,
            lambda each: np.where(rng.random(each.shape) < 10.0 ** -rng.integers(1, 4), 255 - each, each).astype(
                np.uint8
            ),
        )
        lower, upper = (end[0].astype(F32) for end in (wider if attempt % 2 else box))
        try:
            check(replace(changed, lower=lower, upper=upper), network)
        except Rejected:
            continue
        accepted += 1
        points = np.clip((lower + rng.random((200, 10)) * (upper - lower)).astype(F32), lower, upper)
        assert (made.run(points, ALL)[0].argmax(1) == label).all()
    assert 0 < accepted < 60


def test_what_is_proved_of_a_part_of_the_network_is_checked_of_the_whole() -> None:
    """The search works on the network without inactive neurons, also of those that a dense layer with planes reads."""
    torch.set_num_threads(1)
    found = ReluNetwork.random(np.random.default_rng(11), [3, 16, 12, 3], 2.0)
    found.biases[0][::2] -= F32(100)
    network = found.network()
    box = box_around(np.full((1, *network.input.shape), 0.5, F32), Fraction(1, 2), None)
    intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    functionals = np.array([[[1.0, -1.0, 0.5]]])[:, :, np.newaxis]
    points = np.stack(np.meshgrid(*3 * [np.linspace(0, 1, 17)]), axis=-1).reshape(-1, 3).astype(F32)
    least = (found.run(points, ALL)[0].astype(np.float64) @ functionals.reshape(3)).min()
    constants = np.array([[0.05 - least]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Partition, "grow", lambda *asked: False)
        for name in ("_WORTH_TRYING", "_WORTH_PLANES"):
            patch.setattr(opening, name, -1.0)
        (outcome,) = search(
            network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=60.0, intervals=intervals
        )
    proof = outcome.proof
    assert proof
    (tree,) = proof.trees
    assert tree.fractions is not None
    assert tree.fractions.shape[1] == fraction_count(network.output, proof.neurons)
    assert (split_bounds(network, box, functionals[0], constants[0], FLOAT32_ANY_ORDER, proof) > 0).all()
