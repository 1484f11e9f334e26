"""Maxima as ReLUs compute the same, and what is proved about them holds for onnxruntime's executions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, model, network_of, node, run, session
from support.random_networks import random_network
from verify.bounds.activations import neuron_count, relus
from verify.bounds.crown import margin_problem
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.maxima import with_relus
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.check import check
from verify.core.interpreter import evaluate
from verify.core.intervals import Interval
from verify.core.linear_maps import Convolution
from verify.core.primitives import POINT_RULES, Clip, Linear, MaxPool, Tensor, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array
from verify.errors import Rejected
from verify.proofs.certificate import Certificate, Class, decode, encode
from verify.proofs.paths import Path, Split
from verify.proofs.split_trees import SplitProof, leaf_bounds
from verify.search.branch_and_bound import search

F32 = np.float32

WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "two by two": ((1, 2, 6, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}, 3),
    "overlapping": ((1, 1, 7, 5), {"kernel_shape": [3, 3], "strides": [2, 2]}, 8),
    "padded": ((1, 2, 5, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 8),
    "with a rest": ((1, 1, 5, 7), {"kernel_shape": [2, 3], "strides": [2, 2]}, 5),
    "rounded up": ((1, 1, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 3),
    "padded at one end": ((1, 1, 5, 4), {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 0]}, 3),
    "dilated": ((1, 1, 6, 6), {"kernel_shape": [2, 3], "dilations": [2, 1]}, 5),
    "along one axis": ((1, 3, 9), {"kernel_shape": [3], "strides": [3]}, 2),
    "along three": ((1, 1, 4, 2, 4), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, 7),
    "of one element": ((1, 1, 4, 4), {"kernel_shape": [1, 1]}, 0),
}
"""By a name: the input's shape, attributes, and how many ReLUs an element takes."""


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_pooling_computes_the_same_with_a_relu_per_further_element(name: str, behind: bool) -> None:
    shape, attributes, each = WINDOWS[name]
    pool = node("MaxPool", ["x"], "p" if behind else "y", **attributes)
    content = model([pool, node("Relu", ["p"], "y")] if behind else [pool], shape, {})
    network = network_of(content)
    rewritten = with_relus(network)
    assert not any(isinstance(tensor.primitive, MaxPool) for tensor in topological([rewritten.output]))
    size = int(np.prod(network.output.shape))
    assert neuron_count(rewritten.output) == each * size + behind * int(np.prod(shape))
    x = np.random.default_rng(0).integers(-2, 3, (20, *shape)).astype(F32)  # with ties
    (found,) = evaluate([rewritten.output], POINT_RULES, {rewritten.input: x.astype(np.float64)})
    for lane in range(len(x)):
        np.testing.assert_array_equal(found[lane], run(content, x[lane])[0])


@pytest.mark.parametrize("name", WINDOWS)
def test_linear_bounds_count_an_element_for_each_window_that_it_wins(name: str) -> None:
    """Between boxes whose ends are whole numbers, over the real numbers; many windows share their largest element."""
    shape, attributes, _ = WINDOWS[name]
    network = network_of(model([node("MaxPool", ["x"], "y", **attributes)], shape, {}))
    rng = np.random.default_rng(1)
    lower = rng.integers(-2, 3, (30, *network.input.shape)).astype(np.float64)
    lower += 10.0 * (rng.random(lower.shape) < 0.2)
    upper = lower + rng.integers(0, 2, lower.shape)
    box = Interval(lower, upper)
    functionals = rng.choice([-1.0, 1.0], (30, 8, *network.output.shape))
    with np.errstate(all="ignore"):
        found = lower_bounds(network.output, functionals, crown_intervals(network, box, REAL), REAL)
    assert np.isfinite(found).all()
    for _ in range(30):
        x = lower + (upper - lower) * rng.integers(0, 2, lower.shape)
        (y,) = evaluate([network.output], POINT_RULES, {network.input: x})
        assert (found <= (functionals * y[:, np.newaxis]).reshape(30, 8, -1).sum(axis=2)).all()
    fixed = Interval(lower, lower)
    with np.errstate(all="ignore"):
        found = lower_bounds(network.output, functionals, crown_intervals(network, fixed, REAL), REAL)
    (y,) = evaluate([network.output], POINT_RULES, {network.input: lower})
    least = (functionals * y[:, np.newaxis]).reshape(30, 8, -1).sum(axis=2)
    assert (found <= least).all()
    np.testing.assert_allclose(found, least, atol=1e-9)  # and no looser than its own rounding


ELEMENTWISE = {
    "ReLU6": ("Clip", [0.0, 6.0], 2),
    "hard tanh": ("Clip", [-1.0, 1.0], 2),
    "a lower end": ("Clip", [-0.5], 1),
    "an upper end": ("Clip", ["", 0.5], 1),
    "the larger of two": ("Max", ["x"], 1),
    "the smaller of two": ("Min", ["x"], 1),
}
"""By a name: the operator, what it reads beside its operand, and how many ReLUs an element takes."""


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_maxima_compute_the_same(name: str) -> None:
    operator, others, each = ELEMENTWISE[name]
    constants = {f"c{i}": np.array(other, F32) for i, other in enumerate(others) if isinstance(other, float)}
    names = [f"c{i}" if isinstance(other, float) else other for i, other in enumerate(others)]
    nodes = [node("Mul", ["x", "w"], "a"), node(operator, ["a", *names], "y")]
    content = model(nodes, [1, 5], {**constants, "w": np.array([[3, -2, 0.5, -1, 1]], F32)})
    rewritten = with_relus(network_of(content))
    assert not any(isinstance(tensor.primitive, Clip | MaxPool) for tensor in topological([rewritten.output]))
    assert neuron_count(rewritten.output) == 5 * each
    x = np.random.default_rng(0).integers(-4, 5, (20, 1, 5)).astype(F32) / 2
    (found,) = evaluate([rewritten.output], POINT_RULES, {rewritten.input: x.astype(np.float64)})
    for lane in range(len(x)):
        np.testing.assert_array_equal(found[lane], run(content, x[lane])[0])


def test_limits_far_away_cost_nothing() -> None:
    """Exporters write the largest float32 number for none; a difference of it would round away everything else."""
    found = []
    for limits in ([0.0, 3.4028235e38], [0.0]):
        constants = {f"c{i}": np.array(limit, F32) for i, limit in enumerate(limits)}
        nodes = [node("Clip", ["x", *constants], "a"), node("Gemm", ["a", "w"], "y")]
        network = with_relus(network_of(model(nodes, [1, 2], {**constants, "w": np.array([[1], [-1]], F32)})))
        box = box_around(np.array([[[0.5, -0.5]]], F32), Fraction(1), None)
        with np.errstate(all="ignore"):
            intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
            found.append(lower_bounds(network.output, np.ones((1, 1, 1, 1)), intervals, FLOAT32_ANY_ORDER).item())
    assert abs(found[0] - found[1]) < 1e-9
    assert found[1] > -1.01


def test_other_poolings_stay_what_they_are() -> None:
    constant_around = [node("Pad", ["x", "pads", "one"], "a"), node("MaxPool", ["a"], "y", kernel_shape=[2, 2])]
    padded = model(
        constant_around, [1, 1, 4, 4], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.array(1.0, F32)}
    )
    large = model([node("MaxPool", ["x"], "y", kernel_shape=[9, 9])], [1, 1, 9, 9], {})
    plain = model([node("Relu", ["x"], "y")], [1, 4], {})
    for content in (padded, large, plain):
        network = network_of(content)
        assert with_relus(network) is network


WITH_MAXIMA = [seed for seed in range(130) if with_relus(n := network_of(random_network(seed)[0])) is not n]


@pytest.mark.parametrize("seed", WITH_MAXIMA)
def test_no_execution_leaves_the_bounds(seed: int) -> None:
    content, shape = random_network(seed)
    network = network_of(content)
    rng = np.random.default_rng(seed)
    box = box_around(rng.random((1, *shape)).astype(F32), (Fraction(1, 10), Fraction(1, 2))[seed % 2], None)
    with np.errstate(all="ignore"):
        (lower, upper), (before, after) = (
            crown_intervals(each, box, FLOAT32_ANY_ORDER)[each.output] for each in (with_relus(network), network)
        )
    lowest, highest = (end[0].astype(F32) for end in box)
    for share in (rng.random((40, *shape)), np.round(rng.random((80, *shape)))):
        points = np.clip((lowest + share * (highest - lowest)).astype(F32), lowest, highest)
        for level in (DISABLED, ALL):
            onnxruntime = session(content, level=level)
            y = np.stack([onnxruntime.run(None, {"x": x})[0] for x in points])
            assert not (y < lower).any()
            assert not (y > upper).any()
    assert (np.isfinite(lower) == np.isfinite(before)).all()
    assert (np.isfinite(upper) == np.isfinite(after)).all()


class Pooled:
    """Convolution, pooling, a dense layer, in front of and behind a ReLU; whose convolutions can be looked at."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = (1, 1, 6, 6)
        weights = {
            "w": (rng.normal(size=(2, 1, 3, 3)) / 3).astype(F32),
            "b": rng.normal(size=2).astype(F32) / 3,
            "v": (rng.normal(size=(2, 2, 2, 2)) / 2).astype(F32),
            "m": rng.normal(size=(8, 3)).astype(F32),
        }
        nodes = [
            node("Conv", ["x", "w", "b"], "c", pads=[1] * 4),
            *([node("Relu", ["c"], "r")] if seed % 2 else []),
            node("MaxPool", ["r" if seed % 2 else "c"], "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "v"], "d"),
            node("Relu", ["d"], "e"),
            node("Flatten", ["e"], "f"),
            node("Gemm", ["f", "m"], "y"),
        ]
        self.content = model(nodes, self.shape, weights)
        self.looked_into = model(nodes, self.shape, weights, outputs=("y", "c", "d"))
        self.network = network_of(self.content)

    def runs(self, points: NDArray[np.float32]) -> list[tuple[Array, Array]]:
        """Outputs, and what all neurons of the rewritten network read, points x neurons."""
        network = with_relus(self.network)
        first, second = (tensor for tensor in topological([network.output]) if is_convolution(tensor))
        read = [relu.operands[0] for relu in relus(network.output)]
        found = []
        for level in (DISABLED, ALL):
            look = session(self.looked_into, level=level)
            executions = [look.run(None, {"x": x}) for x in points]
            y, c, d = (np.stack(values).astype(np.float64) for values in zip(*executions, strict=True))
            # Whatever a runtime computes is deployed; what it does not, the differences, is exact.
            known = {network.input: points.astype(np.float64), first: c, second: d}
            values = [known[each] if each in known else evaluate([each], POINT_RULES, known)[0] for each in read]
            found.append((y, np.concatenate([value.reshape(len(points), -1) for value in values], axis=1)))
        return found


def is_convolution(tensor: Tensor) -> bool:
    return isinstance(tensor.primitive, Linear) and isinstance(tensor.primitive.map, Convolution)


def points_in(box: Interval, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    lowest, highest = (end[0].astype(F32) for end in box)
    share = rng.random((count, *lowest.shape))
    share[count // 2 :] = np.round(share[count // 2 :])
    return np.clip((lowest + share * (highest - lowest)).astype(F32), lowest, highest)


@pytest.mark.parametrize("seed", range(24))
def test_executions_with_the_signs_of_splits_stay_above_bounds_over_these(seed: int) -> None:
    made, rng = Pooled(seed), np.random.default_rng(seed)
    network = with_relus(made.network)
    box = box_around(rng.random((1, *made.shape)).astype(F32), Fraction(1, 4), None)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, FLOAT32_ANY_ORDER)
    count = neuron_count(network.output)
    assert count == (72 if seed % 2 else 0) + 3 * 18 + 8
    functional = rng.normal(size=network.output.shape)
    runs = made.runs(points_in(box, rng, 300))
    seen = 0
    for _ in range(20):
        reference = runs[0][1][rng.integers(300)]
        split = rng.permutation(count)[: int(rng.integers(1, 4))]
        path: Path = [Split(int(neuron), 1 if reference[neuron] >= 0 else -1) for neuron in split]
        with np.errstate(all="ignore"):
            (bound,) = leaf_bounds(
                network.output,
                functional,
                intervals,
                FLOAT32_ANY_ORDER,
                neurons=np.ones(count, bool),
                paths=[path],
                slopes=rng.integers(0, 256, (1, count)).astype(np.uint8),
                multipliers=rng.choice([0.0, 0.1, 1.0], len(path)).astype(F32),
            )
        assert np.isfinite(bound)
        for y, read in runs:
            inside = np.all([side * read[:, neuron] >= 0 for neuron, side, _ in path], axis=0)
            seen += int(inside.sum())
            assert (y[inside].reshape(-1, 3) @ functional.reshape(3) >= bound).all()
    assert seen > 1000


@pytest.fixture(scope="module")
def proved() -> tuple[Pooled, Certificate]:
    """A proof that splits maxima."""
    torch.set_num_threads(1)
    made, centre = Pooled(28), np.random.default_rng(28).random((1, 1, 1, 6, 6)).astype(F32)
    label = int(run(made.content, centre[0])[0].argmax())
    box = box_around(centre, Fraction(1, 5), None)
    problem, functionals, constants = margin_problem(made.network, box, np.array([label]), FLOAT32_ANY_ORDER)
    asked = problem, box, functionals, constants, FLOAT32_ANY_ORDER
    (outcome,) = search(*asked, branch=True, seconds=60)
    assert outcome.proof
    split = np.concatenate([tree.nodes for tree in outcome.proof.trees])
    maxima = [part for relu, part in relus(problem.output).items() if relu.operands[0].shape == (1, 2, 3, 3)]
    assert any(((part.start <= split) & (split < part.stop)).any() for part in maxima)
    lower, upper = (end[0].astype(F32) for end in box)
    claim = Class(label)
    return made, Certificate(made.network.sha256, "m", "float32-any-order", claim, lower, upper, outcome.proof)


def test_a_proof_that_splits_maxima_is_checked_and_true(proved: tuple[Pooled, Certificate]) -> None:
    made, certificate = proved
    again = decode(encode(certificate))
    check(again, network_of(made.content))
    assert isinstance(again.claim, Class)
    box = Interval(certificate.lower[np.newaxis].astype(np.float64), certificate.upper[np.newaxis].astype(np.float64))
    for y, _ in made.runs(points_in(box, np.random.default_rng(0), 500)):
        assert (y.reshape(500, -1).argmax(axis=1) == again.claim.label).all()


def test_it_proves_nothing_else(proved: tuple[Pooled, Certificate]) -> None:
    made, certificate = proved
    assert isinstance(certificate.proof, SplitProof)
    assert isinstance(certificate.claim, Class)
    other = Class((certificate.claim.label + 1) % 3)
    for field in ({"claim": other}, {"upper": certificate.upper + F32(0.3)}):
        with pytest.raises(Rejected):
            check(Certificate(**{**vars(certificate), **field}), made.network)
