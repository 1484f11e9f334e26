"""Smooth functions in proofs: lines of chosen slopes, splits of what they read, and bounds that assume counterexamples.
What is proved about them holds for onnxruntime's executions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.mutated_certificates import restated, with_another_byte
from support.onnx_models import ALL, DISABLED, model, network_of, node, session
from support.relu_networks import class_certificate
from verify.bounds.activations import activations, smooth
from verify.bounds.crown import margin_functionals
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.check import check
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, Array
from verify.errors import Problem, Rejected
from verify.proofs.assumptions import Assumption, assumed
from verify.proofs.certificate import Certificate, Class, decode, encode
from verify.proofs.paths import LEAF, Path, Split, leaf_paths
from verify.proofs.split_trees import SplitProof, leaf_bounds
from verify.search.branch_and_bound import search

F32 = np.float32
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("Sigmoid", {}), ("Tanh", {}), ("Gelu", {}), ("Softplus", {}), ("HardSwish", {}), ("Mish", {}), ("Erf", {})),
    *(("Elu", {"alpha": 1.5}), ("Softsign", {}), ("Sin", {}), ("Exp", {}), ("Relu", {})),
)


class Smooth:
    """Two hidden layers, whose insides can be looked at."""

    def __init__(self, seed: int, *, scale: float = 1.5, kinds: tuple[int, int] | None = None) -> None:
        rng = np.random.default_rng(seed)
        sizes = (3, 7, 6, 3)
        weights = {
            f"w{layer}": (scale * rng.normal(size=pair) / np.sqrt(pair[0])).astype(F32)
            for layer, pair in enumerate(pairwise(sizes))
        }
        weights |= {f"b{layer}": (0.3 * rng.normal(size=size)).astype(F32) for layer, size in enumerate(sizes[1:])}
        (first, some), (second, others) = (KINDS[n] for n in kinds or rng.integers(len(KINDS), size=2))
        nodes = [
            node("Gemm", ["x", "w0", "b0"], "h"),
            node(first, ["h"], "f", **some),
            node("Gemm", ["f", "w1", "b1"], "k"),
            node(second, ["k"], "g", **others),
            node("Gemm", ["g", "w2", "b2"], "y"),
        ]
        self.content = model(nodes, (1, 3), weights, opset=22)
        self.looked_into = model(nodes, (1, 3), weights, outputs=("y", "h", "k"), opset=22)
        self.network = network_of(self.content)
        self.smooth = smooth(self.network.output)

    def runs(self, points: NDArray[np.float32]) -> list[tuple[Array, Array]]:
        """Outputs, and what all neurons read, points x numbers."""
        found = []
        for level in (DISABLED, ALL):
            look = session(self.looked_into, level=level)
            executions = [np.concatenate(look.run(None, {"x": x[np.newaxis]}), axis=1)[0] for x in points]
            both = np.stack(executions).astype(np.float64)
            found.append((both[:, :3], both[:, 3:]))
        return found

    def some_path(self, rng: np.random.Generator, read: Array, lower: Array, upper: Array) -> Path:
        """To a part that the execution is in; smooth neurons may be split several times."""
        path = []
        for neuron in rng.permutation(len(read))[: int(rng.integers(0, 9))].tolist():
            for _ in range(int(rng.integers(1, 4)) if self.smooth[neuron] else 1):
                place = rng.choice(
                    [lower[neuron], upper[neuron], read[neuron], rng.uniform(lower[neuron], upper[neuron])]
                )
                point = float(F32(place)) if self.smooth[neuron] else 0.0
                path.append(Split(neuron, 1 if read[neuron] >= point else -1, point))
        return path


def points_in(box: Interval, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    lowest, highest = (end[0].reshape(-1).astype(F32) for end in box)
    share = rng.random((count, len(lowest)))
    share[count // 2 :] = np.round(share[count // 2 :])
    return np.clip((lowest + share * (highest - lowest)).astype(F32), lowest, highest)


def along(path: Path, read: Array) -> NDArray[np.bool_]:
    """Which executions take a path."""
    there = np.ones(len(read), np.bool_)
    for neuron, side, point in path:
        there &= side * (read[:, neuron] - point) >= 0
    return there


def around(made: Smooth, rng: np.random.Generator) -> tuple[Interval, dict[Any, Interval], Array, Array]:
    """A box, intervals of the network there, and the ends of those of what neurons read."""
    box = box_around(rng.random((1, 1, 3)).astype(F32), Fraction(int(rng.integers(1, 12)), 12), None)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(made.network, box, FLOAT32_ANY_ORDER)
    before = [intervals[each.operands[0]] for each in activations(made.network.output)]
    lower, upper = (np.concatenate([each[end].reshape(-1) for each in before]) for end in (0, 1))
    return box, intervals, lower, upper


@pytest.mark.parametrize("seed", range(60))
def test_no_execution_in_a_leaf_falls_below_its_bound(seed: int) -> None:
    made, rng = Smooth(seed), np.random.default_rng(seed)
    box, intervals, lower, upper = around(made, rng)
    runs = made.runs(points_in(box, rng, 200))
    count = len(made.smooth)
    paths = [made.some_path(rng, runs[0][1][rng.integers(200)], lower, upper) for _ in range(12)]
    neurons = rng.random(count) < 0.8
    functional = rng.normal(size=(1, 3))
    multipliers = rng.choice([0.0, 0.1, 1.0, 30.0], sum(map(len, paths)))
    signed = np.concatenate(
        [np.zeros(0, np.bool_), *(~made.smooth[[each.neuron for each in path]] for path in paths if path)]
    )
    multipliers *= np.where(signed, 1, rng.choice([-1, 1], len(signed)))
    with np.errstate(all="ignore"):
        bounds = leaf_bounds(
            made.network.output,
            functional,
            intervals,
            FLOAT32_ANY_ORDER,
            neurons=neurons,
            paths=paths,
            slopes=rng.choice([0, 255, 100, 128, 129], (len(paths), int(neurons.sum()))).astype(np.uint8),
            multipliers=multipliers.astype(F32),
        )
    assert np.isfinite(bounds).any()
    for y, read in runs:
        for path, bound in zip(paths, bounds, strict=True):
            assert not (y[along(path, read)] @ functional[0] < bound).any()


@pytest.mark.parametrize("seed", range(40))
def test_no_counterexample_leaves_bounds_that_assume_one(seed: int) -> None:
    made, rng = Smooth(seed), np.random.default_rng(100 + seed)
    box, intervals, lower, upper = around(made, rng)
    runs = made.runs(points_in(box, rng, 200))
    functional = rng.normal(size=(1, 3))
    values = [y @ functional[0] for y, _ in runs]
    constant = -float(np.quantile(values[0], rng.choice([0.02, 0.3, 1.0])))
    path = made.some_path(rng, runs[0][1][values[0].argmin()], lower, upper)
    for part in activations(made.network.output).values():
        chosen = part.start + np.flatnonzero(rng.random(part.stop - part.start) < 0.7)
        count = len(chosen)
        assumption = Assumption(
            0,
            len(path),
            chosen.astype(np.int32),
            rng.choice([0.0, 0.01, 0.3, 1.0, 50.0], (2, count)).astype(F32),
            rng.choice([0, 255, 100, 128], (2, count, len(made.smooth))).astype(np.uint8),
            rng.choice([0.0, 0.1, 1.0, 30.0], (2, count, len(path))).astype(F32),
        )
        if not count:
            continue
        with np.errstate(all="ignore"):
            found = assumed(
                made.network.output,
                functional,
                constant,
                intervals,
                FLOAT32_ANY_ORDER,
                neurons=np.ones(len(made.smooth), np.bool_),
                path=path,
                assumption=assumption,
            )
        assert found is not None
        intervals = found
        for (_, read), value in zip(runs, values, strict=True):
            there = along(path, read) & (value + constant <= 0)
            for each, numbers in activations(made.network.output).items():
                low, high = (end.reshape(-1) for end in intervals[each.operands[0]])
                assert not (read[there, numbers] < low).any()
                assert not (read[there, numbers] > high).any()


def random_tree(rng: np.random.Generator, of_smooth: NDArray[np.bool_], depth: int) -> tuple[list[int], list[float]]:
    """Nodes and points; each ReLU once at most on the way to a leaf, as it is the number of the depth."""
    if depth == 0 or rng.random() < 0.2:
        return [LEAF], []
    neuron = depth - 1 if rng.random() < 0.5 else int(rng.choice(np.flatnonzero(of_smooth)))
    points = [float(F32(rng.normal()))] if of_smooth[neuron] else []
    halves = [random_tree(rng, of_smooth, depth - 1) for _ in range(2)]
    return [neuron, *halves[0][0], *halves[1][0]], [*points, *halves[0][1], *halves[1][1]]


SOME = np.array([False, False, True, False, False, True, True])


@pytest.mark.parametrize("seed", range(30))
def test_every_execution_is_in_a_leaf_of_a_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, points = random_tree(rng, SOME, 6)
    paths = list(leaf_paths(np.array(nodes, np.int32), SOME, np.array(points, F32)))
    read = rng.normal(size=(200, len(SOME)))
    read[:, SOME][:50] = rng.choice([*points, 0.0], (50, int(SOME.sum())))
    leaves = np.sum([along(path, read) for path in paths], axis=0)
    assert (leaves >= 1).all()
    assert (leaves == 1).any()


@pytest.mark.parametrize("points", [[], [0.5], [0.5, np.nan], [0.5, np.inf], [0.5, 0.5, 0.5]])
def test_a_tree_without_a_number_for_each_split_of_a_smooth_function_is_rejected(points: list[float]) -> None:
    nodes = np.array([2, 5, LEAF, LEAF, 0, LEAF, LEAF], np.int32)
    with pytest.raises(Rejected, match="split"):
        list(leaf_paths(nodes, SOME, np.array(points, F32)))
    assert len(list(leaf_paths(nodes, SOME, np.array([0.5, 0.25], F32)))) == 4


MADE = Smooth(4, scale=2.5, kinds=(1, 0))


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return splitting_certificate()


def splitting_certificate(device: torch.device | None = None) -> Certificate:
    """Valid, with splits of smooth functions, and bounds that assume a counterexample."""
    torch.set_num_threads(1)
    centre = np.random.default_rng(1).random((4, 1, 1, 3)).astype(F32)[3]
    box = box_around(centre, Fraction(1, 3), None)
    label = int(MADE.runs(centre[0])[0][0].argmax())
    functionals, constants = margin_functionals(MADE.network, np.array([label]))
    asked = MADE.network, box, functionals, constants, FLOAT32_ANY_ORDER
    (outcome,) = search(*asked, branch=True, seconds=600, device=device)
    assert outcome.proof
    assert any(tree.points is not None and tree.assumptions for tree in outcome.proof.trees)
    return class_certificate(MADE.network, label, box, outcome.proof)


def test_another_device_finds_the_same(certificate: Certificate, pretended_device: torch.device) -> None:
    assert encode(splitting_certificate(pretended_device)) == encode(certificate)


def accepted(content: bytes, rng: np.random.Generator) -> bool:
    """Whether the checker accepts the file; an error if what that says is false."""
    try:
        found = decode(content)
        check(found, MADE.network)
    except Problem:
        return False
    assert isinstance(found.claim, Class)
    box = Interval(*(end[np.newaxis].astype(np.float64) for end in (found.lower, found.upper)))
    for y, _ in MADE.runs(points_in(box, rng, 60)):
        assert (y[:, found.claim.label, np.newaxis] > np.delete(y, found.claim.label, axis=1)).all()
    return True


def moved(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """With one number of a tree changed: a point, or what it bounds with."""
    assert isinstance(certificate.proof, SplitProof)
    trees = list(certificate.proof.trees)
    number = int(rng.choice([n for n, tree in enumerate(trees) if tree.points is not None]))
    kind = str(rng.choice(["points", "nodes", "slopes", "multipliers"], p=[0.55, 0.15, 0.15, 0.15]))
    values = np.array(getattr(trees[number], kind))
    if values.size:
        new = {
            "points": lambda: rng.choice([0.0, -0.5, 1.0, 1e-3, np.nan, np.inf, 1e30]),
            "nodes": lambda: rng.choice([LEAF, 0, 8, 12]),
            "slopes": lambda: rng.integers(256),
            "multipliers": lambda: rng.normal(),
        }[kind]
        values.reshape(-1)[rng.integers(values.size)] = new()
    trees[number] = replace(trees[number], **{kind: values})
    return replace(certificate, proof=replace(certificate.proof, trees=tuple(trees)))


def test_it_survives_writing_and_reading(certificate: Certificate) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    assert accepted(encode(certificate), np.random.default_rng(0))


@pytest.mark.parametrize("change", [moved, restated])
def test_one_changed_number_is_rejected_or_still_a_proof(
    change: Callable[[Certificate, np.random.Generator], Certificate], certificate: Certificate
) -> None:
    rng = np.random.default_rng(0)
    assert {accepted(encode(change(certificate, rng)), rng) for _ in range(60)} == {False, True}


def test_one_changed_byte_is_rejected_or_still_a_proof(certificate: Certificate) -> None:
    rng, content = np.random.default_rng(0), encode(certificate)
    assert sum(accepted(with_another_byte(content, rng), rng) for _ in range(100)) < 100


def test_points_are_what_proves_it(certificate: Certificate) -> None:
    """Far away they divide nothing."""
    proof = certificate.proof
    assert isinstance(proof, SplitProof)
    trees = [replace(t, points=None if t.points is None else np.full_like(t.points, 1e30)) for t in proof.trees]
    with pytest.raises(Rejected):
        check(replace(certificate, proof=replace(proof, trees=tuple(trees))), MADE.network)
