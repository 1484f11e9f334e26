"""The network in torch against its other domains; attacks find what is planted and report nothing unconfirmed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL, model, network_of, node, run
from support.operator_cases import CASES, cases_of
from support.random_networks import random_network
from support.relu_networks import ReluNetwork
from verify.bounds.evaluation import values
from verify.boxes import box_around
from verify.core.primitives import POINT_RULES
from verify.errors import ModelProblem
from verify.model.operators import supported
from verify.search import points
from verify.search.points import differentiable
from verify.tasks.attack import misclassification_search, witness_search
from verify.tasks.decision import cases_for
from verify.tasks.effort import Effort
from verify.tasks.runtime import Runtime
from verify.tasks.vnnlib import parse
from verify.tasks.witnesses import Stage, confirmed

F32 = np.float32
Floats = NDArray[np.float32]


def test_every_primitive_has_a_rule_in_torch() -> None:
    assert set(points.POINT_RULES) == set(POINT_RULES)


@pytest.mark.parametrize("seed", range(15))
def test_torch_computes_what_the_network_computes(seed: int) -> None:
    network = network_of(random_network(seed)[0])
    x = np.random.default_rng(seed).normal(size=(3, *network.input.shape))
    (expected,) = values(network, x)
    found = differentiable(network, dtype=torch.float64)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", sorted(CASES))
def test_torch_follows_every_operator(operator: str) -> None:
    versions = supported()[operator]
    version = max((version for version in versions if version <= 17), default=min(versions))
    for case in cases_of(operator, version):
        if len(case.outputs) == 1:
            opset = 17 if "." in operator else max(version, 9)
            network = network_of(model(case.nodes, case.shape, case.constants, opset=opset))
            x = np.random.default_rng(0).normal(size=(2, *network.input.shape))
            found = differentiable(network, dtype=torch.float64)(torch.tensor(x)).numpy()
            np.testing.assert_allclose(found, values(network, x)[0], rtol=1e-10, atol=1e-10)


@pytest.fixture
def detector() -> bytes:
    """y = (0, relu(x_0 + x_1 - 1.9) + relu(-x_2 - 0.95) - 0.04): the second exceeds the first near two corners."""
    first = np.array([[1, 0], [1, 0], [0, -1]], F32)
    second = np.array([[0, 1], [0, 1]], F32)
    constants = {"w": first, "b": np.array([-1.9, -0.95], F32), "v": second, "c": np.array([0, -0.04], F32)}
    nodes = [node("Gemm", ["x", "w", "b"], "p"), node("Relu", ["p"], "h"), node("Gemm", ["h", "v", "c"], "y")]
    return model(nodes, ["n", 3], constants)


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)" for name in names)


def boxed(low: str, high: str, count: int = 3) -> str:
    return "".join(f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(count))


def test_a_planted_counterexample_is_found_and_lies_in_the_box(detector: bytes) -> None:
    network = network_of(detector)
    property = parse((declared(3, 2) + boxed("-1", "0.99") + "(assert (>= Y_1 Y_0))").encode())
    search = witness_search(network, property, Runtime(detector, network))
    witness = search(cases_for(network, property), Stage.FIRST)
    assert witness is not None
    assert all(-1 <= Fraction(float(x)) <= Fraction("0.99") for x in witness.x)
    assert witness.point == [Fraction(float(x)) for x in witness.x]
    (y,) = run(detector, witness.x[np.newaxis])
    assert np.array_equal(y[0], witness.y)
    assert y[0, 1] >= y[0, 0]
    again = search(cases_for(network, property), Stage.FIRST)
    assert again is not None
    assert np.array_equal(again.x, witness.x)


def test_every_constraint_of_a_conjunction_counts(detector: bytes) -> None:
    network = network_of(detector)
    runtime = Runtime(detector, network)
    for last, exists in (("(<= (+ X_0 X_1 X_2) 0)", True), ("(>= X_2 0.5)", True), ("(<= (+ X_0 X_1) 0)", True)):
        body = f"{boxed('-1', '1')}(assert (and (>= Y_1 Y_0) {last}))"
        property = parse((declared(3, 2) + body).encode())
        witness = witness_search(network, property, runtime)(cases_for(network, property), Stage.LAST)
        assert (witness is not None) == exists, last
    impossible = parse((declared(3, 2) + boxed("-1", "1") + "(assert (>= Y_1 0.2))").encode())
    assert witness_search(network, impossible, runtime)(cases_for(network, impossible), Stage.FIRST) is None


def test_only_one_of_many_cases_holds_a_counterexample(detector: bytes) -> None:
    network = network_of(detector)
    boxes = "".join(f"(and (>= X_0 {i / 20}) (<= X_0 {(i + 1) / 20}) (>= Y_1 0))" for i in range(20))
    body = "".join(f"(assert (>= X_{i} 0.5))(assert (<= X_{i} 1))" for i in (1, 2)) + f"(assert (or {boxes}))"
    property = parse((declared(3, 2) + body).encode())
    cases = cases_for(network, property)
    assert len(cases) == 20
    witness = witness_search(network, property, Runtime(detector, network))(cases, Stage.FIRST)
    assert witness is not None
    assert witness.x[0] >= 0.9


def test_neither_signs_nor_a_saturated_softmax_hide_a_counterexample() -> None:
    """Class 1 wins where at least 38 of 40 inputs exceed one half: in no corner that one comes by at random, and the
    derivatives of the network are zero."""
    votes = np.zeros((40, 2), F32)
    votes[:, 1] = 100
    constants = {"half": F32(0.5), "w": votes, "b": F32([0, -3550])}
    nodes = [
        *(node("Sub", ["x", "half"], "p"), node("Sign", ["p"], "s")),
        *(node("Gemm", ["s", "w", "b"], "z"), node("Softmax", ["z"], "y")),
    ]
    content = model(nodes, ["n", 40], constants)
    network = network_of(content)
    property = parse((declared(40, 2) + boxed("-1", "1", 40) + "(assert (>= Y_1 Y_0))").encode())
    witness = witness_search(network, property, Runtime(content, network))(cases_for(network, property), Stage.FIRST)
    assert witness is not None
    assert (witness.x > 0.5).sum() >= 38


class Liar:
    """Claims outputs that the network does not have."""

    def __init__(self, y: list[float]) -> None:
        self.y = np.array(y, F32)

    def output(self, x: Floats) -> Floats:
        return self.y


def test_what_the_deployed_network_does_not_reproduce_is_no_counterexample(detector: bytes) -> None:
    network = network_of(detector)
    property = parse((declared(3, 2) + boxed("-1", "1") + "(assert (> Y_1 Y_0))").encode())
    (case,) = cases_for(network, property)
    corner, centre = np.array([1, 1, -1], F32), np.zeros(3, F32)
    assert confirmed(property, case, corner, Runtime(detector, network)) is not None
    assert confirmed(property, case, centre, Runtime(detector, network)) is None
    assert confirmed(property, case, centre, Liar([0, 1])) is not None
    for y in ([1, 0], [0, 0], [np.nan, np.nan], [0, np.inf], [0, np.nan]):
        assert confirmed(property, case, corner, Liar(y)) is None
        assert witness_search(network, property, Liar(y))([case], Stage.FIRST) is None
    outside = np.array([np.nextafter(F32(1), F32(2)), 1, -1], F32)
    for x in (outside, np.array([1, 1, np.nan], F32), np.array([1, 1, -np.inf], F32)):
        assert confirmed(property, case, x, Liar([0, 1])) is None


def test_misclassified_inputs_lie_in_the_boxes_and_are_confirmed(detector: bytes) -> None:
    network = network_of(detector)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (30, 3)).astype(F32)
    box = box_around(x[:, np.newaxis], Fraction(1, 5), (-1.0, 1.0))
    labels = np.zeros(30, np.int64)
    search = misclassification_search(network, Runtime(detector, network), Effort(steps=20, restarts=4))
    found = dict(search(x[:, np.newaxis], labels, box))
    corners = np.stack([box.upper[:, 0, 0], box.upper[:, 0, 1], box.lower[:, 0, 2]], axis=1).astype(F32)
    possible = set(np.flatnonzero(run(detector, corners)[0].argmax(axis=1)))  # the worst corner of each box
    assert set(found) == possible
    assert 0 < len(found) < 30
    for lane, counterexample in found.items():
        assert (counterexample >= box.lower[lane]).all()
        assert (counterexample <= box.upper[lane]).all()
        assert run(detector, counterexample.reshape(1, 3))[0].argmax() == 1
    assert not dict(misclassification_search(network, Liar([1, 0]), Effort())(x[:, np.newaxis], labels, box))


@pytest.mark.parametrize("quickly", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_that_are_attacked_together_keep_their_counterexamples(seed: int, quickly: bool) -> None:
    """Some end sooner than others, and are left out of what follows."""
    made = ReluNetwork.random(np.random.default_rng(seed), [3, 8, 8, 3], 2.0)
    x = np.random.default_rng(100 + seed).random((20, 1, 3)).astype(F32)
    labels = made.run(x[:, 0], ALL)[0].argmax(axis=1).astype(np.int64)
    box = box_around(x, Fraction(1, 5), None)

    class Deployed:
        def output(self, x: Any) -> Any:
            return made.run(x.reshape(1, 3), ALL)[0].reshape(-1)

    search = misclassification_search(made.network(), Deployed(), Effort(steps=40, restarts=4))
    found = dict(search(x, labels, box, quickly=quickly))
    assert 0 < len(found) < 20
    for lane, counterexample in found.items():
        assert ((box.lower[lane] <= counterexample) & (counterexample <= box.upper[lane])).all()
        assert made.run(counterexample.reshape(1, 3), ALL)[0].argmax() != labels[lane]


def test_the_runtime_runs_the_file_that_was_read(detector: bytes) -> None:
    network = network_of(detector)
    with pytest.raises(ModelProblem, match="changed"):
        Runtime(detector + b"\0", network)
