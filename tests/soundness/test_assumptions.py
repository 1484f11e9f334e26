"""Whatever weights, slopes and multipliers a proof chooses: no counterexample leaves the bounds that assume one, and so
nothing false follows from them."""

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

from support.mutated_certificates import restated
from support.onnx_models import ALL
from support.relu_networks import ReluNetwork, class_certificate, random_executions
from verify.bounds.activations import neuron_count, relus
from verify.bounds.crown import margin_functionals
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.assumptions import Assumption, assumed
from verify.proofs.certificate import Certificate, Class, decode, encode
from verify.proofs.paths import Path, Split
from verify.proofs.split_trees import SplitProof, Tree, split_bounds
from verify.search import tightening
from verify.search.branch_and_bound import search
from verify.search.opening import Opening

F32 = np.float32


def random_assumption(
    rng: np.random.Generator, network: Network, neurons: NDArray[np.bool_], depth: int, *, leaf: int = 0
) -> Assumption:
    parts = list(relus(network.output).values())
    part = parts[int(rng.integers(len(parts)))]
    chosen = np.flatnonzero(rng.random(part.stop - part.start) < 0.7)
    chosen = chosen if len(chosen) else np.zeros(1, np.intp)
    count = len(chosen)
    return Assumption(
        leaf,
        depth,
        (part.start + chosen).astype(np.int32),
        rng.choice([0.0, 0.01, 0.3, 1.0, 50.0], (2, count)).astype(F32),
        rng.choice([0, 255, 100], (2, count, int(neurons.sum()))).astype(np.uint8),
        rng.choice([0.0, 0.1, 1.0, 30.0], (2, count, depth)).astype(F32),
    )


def lowest(runs: list[tuple[NDArray[np.float32], NDArray[np.float32]]], functional: NDArray[np.float64]) -> Any:
    """Values of the functional in each run."""
    return [y.astype(np.float64) @ functional[0] for y, _ in runs]


@pytest.mark.parametrize("seed", range(80))
def test_no_counterexample_leaves_its_bounds(seed: int) -> None:
    rng, network, box, runs = random_executions(seed)
    intervals: Any = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    count = neuron_count(network.output)
    neurons = rng.random(count) < 0.8
    functional = rng.normal(size=network.output.shape)
    values = lowest(runs, functional)
    # So that a few of the executions are counterexamples, or all.
    constant = -float(np.quantile(values[0], rng.choice([0.02, 0.3, 1.0])))
    nearest = runs[0][1][values[0].argmin()]
    path: Path = [
        Split(int(n), int(np.sign(nearest[n]) or 1)) for n in rng.permutation(count)[: int(rng.integers(0, count + 1))]
    ]
    for depth in sorted(rng.integers(0, len(path) + 1, 3).tolist()):
        found = assumed(
            network.output,
            functional,
            constant,
            intervals,
            FLOAT32_ANY_ORDER,
            neurons=neurons,
            path=path[:depth],
            assumption=random_assumption(rng, network, neurons, depth),
        )
        assert found is not None
        intervals = found
        for (_, inside), value in zip(runs, values, strict=True):
            there = value + constant <= 0
            for neuron, side, _ in path[:depth]:
                there &= side * inside[:, neuron] >= 0
            for relu, part in relus(network.output).items():
                low, high = (end.reshape(-1) for end in intervals[relu.operands[0]])
                assert (inside[there, part] >= low).all()
                assert (inside[there, part] <= high).all()


@pytest.mark.parametrize("seed", range(60))
def test_no_assumption_proves_what_is_false(seed: int) -> None:
    """Trees of any shape, with assumptions anywhere and of anything."""
    rng, network, box, runs = random_executions(1000 + seed)
    count = neuron_count(network.output)
    neurons = rng.random(count) < 0.8
    functional = rng.normal(size=network.output.shape)
    constant = -float(min(value.min() for value in lowest(runs, functional)))  # so that it is 0 there
    first, second = rng.permutation(count)[:2].tolist() if count > 1 else (0, 0)
    nodes = [[-1], [first, -1, -1], [first, second, -1, -1, -1]][int(rng.integers(3 if count > 1 else 2))]
    leaves = nodes.count(-1)
    depths = {1: [0], 2: [1, 1], 3: [2, 2, 1]}[leaves]
    assumptions = []
    for leaf, most in enumerate(depths):
        lowest_depth = 0 if leaf == 0 else most  # in order: nodes that begin at this leaf
        for depth in range(lowest_depth, most + 1):
            for _ in range(int(rng.integers(0, 3))):
                assumptions.append(random_assumption(rng, network, neurons, depth, leaf=leaf))
    tree = Tree(
        0,
        np.array(nodes, np.int32),
        rng.choice([0, 255, 100], (leaves, int(neurons.sum()))).astype(np.uint8),
        rng.choice([0.0, 0.1, 1.0, 30.0], sum(depths)).astype(F32),
        assumptions=tuple(assumptions),
    )
    with np.errstate(all="ignore"):
        (bound,) = split_bounds(
            network,
            box,
            functional[np.newaxis],
            np.array([constant]),
            FLOAT32_ANY_ORDER,
            SplitProof(neurons, (), (tree,)),
        )
    assert not bound > 0


def test_it_proves_what_lines_alone_do_not() -> None:
    """That relu(x) - relu(x - 0.1) + 0.3 x + 0.4 > 0 for x in [-1, 1]. The line above the second neuron costs so much
    that it seems to fail for large x; where it fails, x is at most 0.12 by x <= relu(x), and that line costs little."""
    first = np.array([[1, 1, 1]], F32)
    biases = [np.array([0, -0.1, 2], F32), np.zeros(1, F32)]
    network = ReluNetwork([first, np.array([[1], [-1], [0.3]], F32)], biases).network()
    box = box_around(np.zeros((1, 1, 1), F32), Fraction(1), None)

    def bound(assumptions: tuple[Assumption, ...]) -> float:
        slopes = np.zeros((1, 3), np.uint8)
        tree = Tree(0, np.array([-1], np.int32), slopes, np.zeros(0, F32), assumptions=assumptions)
        proof = SplitProof(np.ones(3, np.bool_), (), (tree,))
        (found,) = split_bounds(network, box, np.ones((1, 1, 1)), np.array([-0.2]), FLOAT32_ANY_ORDER, proof)
        return float(found)

    assumption = Assumption(
        0,
        0,
        np.array([1], np.int32),
        np.full((2, 1), 1.2, F32),
        np.full((2, 1, 3), 255, np.uint8),
        np.zeros((2, 1, 0), F32),
    )
    assert bound(()) < -0.1
    assert 0 < bound((assumption,)) < 1e-300  # more than that it is positive does not follow
    assert 0 < bound((assumption,) * 9) < 1e-300


def problem() -> tuple[ReluNetwork, Network, Interval, int]:
    """Behind two hidden layers, so that lines leave much to be split."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(8)
    made = ReluNetwork.random(rng, [6, 24, 24, 3], 1.0)
    centre = rng.random((1, 1, 6)).astype(F32)
    return made, made.network(), box_around(centre, Fraction(2, 5), None), int(made.run(centre[0], ALL)[0].argmax())


def forced(patch: pytest.MonkeyPatch) -> None:
    """Let searches assume counterexamples soon, and nothing else that might make splits needless."""
    patch.setattr(tightening, "_SPLITS_PER_NEURON", 0.0)
    patch.setattr("verify.search.trees._RECENT", 4)
    patch.setattr(Opening, "_divide", lambda *_: None)
    patch.setattr(Opening, "_raise_planes", lambda *_: None)


def assuming_certificate() -> Certificate:
    """Valid, with assumptions at a root and at other nodes."""
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    with pytest.MonkeyPatch.context() as patch:
        forced(patch)
        (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=60)
    assert outcome.proof
    depths = {each.depth > 0 for tree in outcome.proof.trees for each in tree.assumptions}
    assert depths == {False, True}
    return class_certificate(network, label, box, outcome.proof)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return assuming_certificate()


def test_it_survives_writing_and_reading(certificate: Certificate) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    check(again, problem()[1])


def test_values_beyond_torch_end_the_search_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that overflow in float32 gain nothing, and nothing that could be measured."""
    forced(monkeypatch)
    rng = np.random.default_rng(5)
    weights = [(rng.normal(size=shape) * 1e22 / shape[0] ** 0.5).astype(F32) for shape in ((6, 24), (24, 24), (24, 3))]
    network = ReluNetwork(weights, [np.zeros(len(weight.T), F32) for weight in weights]).network()
    centre = rng.random((1, 1, 6)) * 1e-31
    box = Interval(*((centre + shift).astype(F32).astype(np.float64) for shift in (-1e-31, 1e-31)))
    functionals, constants = margin_functionals(network, np.array([0]))
    (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=1)
    assert outcome.proof is None


def with_assumptions(
    certificate: Certificate, change: Callable[[tuple[Assumption, ...]], tuple[Assumption, ...]]
) -> Certificate:
    proof = certificate.proof
    assert isinstance(proof, SplitProof)
    trees = [replace(tree, assumptions=change(tree.assumptions)) for tree in proof.trees]
    return replace(certificate, proof=replace(proof, trees=tuple(trees)))


def test_assumptions_are_what_proves_it(certificate: Certificate) -> None:
    network = problem()[1]
    for change in (
        lambda each: (),
        lambda each: tuple(replace(one, weights=np.zeros_like(one.weights)) for one in each),
    ):
        with pytest.raises(Rejected):
            check(with_assumptions(certificate, change), network)


MISFITS: dict[str, Callable[[Assumption], Assumption]] = {
    "a negative weight": lambda one: replace(one, weights=-np.ones_like(one.weights)),
    "a weight that is no number": lambda one: replace(one, weights=np.full_like(one.weights, np.nan)),
    "an infinite weight": lambda one: replace(one, weights=np.full_like(one.weights, np.inf)),
    "neurons that do not exist": lambda one: replace(one, neurons=one.neurons + 1000),
    "negative neurons": lambda one: replace(one, neurons=one.neurons - 1000),
    "neurons twice": lambda one: replace(one, neurons=np.repeat(one.neurons[:1], len(one.neurons))),
    "a leaf that does not exist": lambda one: replace(one, leaf=one.leaf + 10**6),
    "too few slopes": lambda one: replace(one, slopes=one.slopes[:, :, 1:]),
    "too deep": lambda one: replace(
        one, depth=one.depth + 40, multipliers=np.zeros((2, len(one.neurons), one.depth + 40), F32)
    ),
    "no neurons": lambda one: replace(
        one,
        neurons=one.neurons[:0],
        weights=one.weights[:, :0],
        slopes=one.slopes[:, :0],
        multipliers=one.multipliers[:, :0],
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_is_rejected(what: str, certificate: Certificate) -> None:
    changed = with_assumptions(certificate, lambda each: tuple(map(MISFITS[what], each)))
    with pytest.raises(Rejected):
        check(changed, problem()[1])
    with pytest.raises(Rejected):
        check(decode(encode(changed)), problem()[1])


def test_malformed_fields_are_rejected(certificate: Certificate) -> None:
    for name in ("leaf", "depth", "neurons", "weights", "slopes", "multipliers"):
        for value in (-1, 1.5, "x", None, 2**40, [], {}, {"shape": [0, 0], "data": ""}):
            fields = json.loads(encode(certificate))
            for tree in fields["proof"]["trees"]:
                for one in tree.get("assumptions", ()):
                    one[name] = value
            with pytest.raises(Rejected):
                check(decode(json.dumps(fields).encode()), problem()[1])
    for value in (-1, "x", None, [3], {"leaf": 0}):
        fields = json.loads(encode(certificate))
        fields["proof"]["trees"][0]["assumptions"] = value
        with pytest.raises(Rejected):
            check(decode(json.dumps(fields).encode()), problem()[1])


def changed(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """With one number of an assumption in each tree changed."""

    def change(each: tuple[Assumption, ...]) -> tuple[Assumption, ...]:
        if not each:
            return each
        which = int(rng.integers(len(each)))
        name = str(rng.choice(["weights", "slopes", "multipliers", "neurons"]))
        values = np.array(getattr(each[which], name))
        if values.size:
            place = rng.integers(values.size)
            values.reshape(-1)[place] = rng.integers(256) if name == "slopes" else rng.choice([0, 1, 7, 40])
        return tuple(replace(one, **{name: values}) if row == which else one for row, one in enumerate(each))

    return with_assumptions(certificate, change)


def accepted(content: bytes, network: Network, rng: np.random.Generator) -> bool:
    """Whether the checker accepts a file; then the label that it names wins wherever one looks."""
    try:
        found = decode(content)
        check(found, network)
    except Rejected:
        return False
    share = rng.random((500, *found.lower.shape[1:]))
    share[250:] = np.round(share[250:])
    points = (found.lower + share * (found.upper.astype(np.float64) - found.lower)).astype(F32)
    assert isinstance(found.claim, Class)
    logits, _ = problem()[0].run(np.clip(points, found.lower, found.upper), ALL)
    assert (logits[:, found.claim.label, np.newaxis] > np.delete(logits, found.claim.label, axis=1)).all()
    return True


def test_changed_numbers_are_rejected_or_still_a_proof(certificate: Certificate) -> None:
    rng, network = np.random.default_rng(0), problem()[1]
    assert {accepted(encode(changed(certificate, rng)), network, rng) for _ in range(60)} == {False, True}


def test_what_proves_something_else_is_rejected_or_true(certificate: Certificate) -> None:
    rng, network = np.random.default_rng(1), problem()[1]
    assert False in {accepted(encode(restated(certificate, rng)), network, rng) for _ in range(60)}


def test_another_device_finds_the_same(certificate: Certificate, pretended_device: torch.device) -> None:
    _, network, box, label = problem()
    functionals, constants = margin_functionals(network, np.array([label]))
    asked = network, box, functionals, constants, FLOAT32_ANY_ORDER
    with pytest.MonkeyPatch.context() as patch:
        forced(patch)
        (outcome,) = search(*asked, branch=True, seconds=60, device=pretended_device)
    assert outcome.proof
    assert encode(class_certificate(network, label, box, outcome.proof)) == encode(certificate)
