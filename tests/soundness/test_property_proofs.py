"""Properties are never proved where a float32 execution, or an exact point, contradicts them; nor by a forged proof."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.mutated_certificates import restated, with_another_byte
from support.onnx_models import ALL, DISABLED, model, network_of, node, run
from support.random_networks import random_network
from support.relu_networks import ReluNetwork
from verify.bounds.methods import ALPHA_CROWN, COMPLETE, FUNCTIONAL_PROOFS, METHODS
from verify.check import check
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem
from verify.proofs.certificate import Certificate, Rejected, Unreachable, decode, encode
from verify.proofs.input_splits import InputSplits
from verify.proofs.properties import Constraint, holds
from verify.proofs.split_trees import SplitProof
from verify.tasks.attack import witness_search
from verify.tasks.decision import Answer, cases_for, decide
from verify.tasks.runtime import Runtime
from verify.tasks.vnnlib import parse

F32 = np.float32
F = Fraction


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)" for name in names)


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("seed", range(6))
def test_no_execution_at_a_point_of_the_box_has_what_is_proved_unreachable(seed: int, method: str) -> None:
    """Thresholds are set near the outputs that onnxruntime yields, so that some of the properties hold and some do not;
    sampled and corner points look for what contradicts a proof."""
    content, shape = random_network(seed)
    network = network_of(content)
    rng = np.random.default_rng(seed)
    centre = rng.random(shape).astype(F32)
    lower, upper = (centre - F32(0.01)).reshape(-1), (centre + F32(0.01)).reshape(-1)
    share = np.concatenate([rng.random((30, lower.size)), rng.integers(0, 2, (30, lower.size))])
    points = np.clip((lower + share * (upper.astype(np.float64) - lower)).astype(F32), lower, upper)
    outputs = [
        run(content, point.reshape(network.input.shape), level=level)[0].reshape(-1)
        for point in points
        for level in (DISABLED, ALL)
    ]
    count = outputs[0].size
    spread = np.ptp(outputs, axis=0) + 1e-3 * (1.0 + np.abs(outputs).max(axis=0))
    box = "".join(
        f"(assert (>= X_{i} {float(low)!r}))(assert (<= X_{i} {float(high)!r}))"
        for i, (low, high) in enumerate(zip(lower, upper, strict=True))
    )
    proved = 0
    for reach in (0.0, 0.5, 5.0, 50.0, 5000.0):
        parts = []
        for _ in range(3):
            i, j = rng.choice(count, 2, replace=False)
            weights = rng.choice([-3, -2, -1, 1, 2, 3], 2)
            least = min(weights[0] * float(y[i]) + weights[1] * float(y[j]) for y in outputs)
            bound = float(least - reach * (np.abs(weights) @ spread[[i, j]]))
            parts.append(f"(and (<= (+ (* {weights[0]} Y_{i}) (* {weights[1]} Y_{j})) {bound!r}) (<= Y_{i} 1e9))")
        property = parse((declared(lower.size, count) + box + f"(assert (or {' '.join(parts)}))").encode())
        decision = decide(network, property, contract=FLOAT32_ANY_ORDER, method=method)
        if decision.answer is Answer.UNSAT:
            proved += 1
            for point, y in zip(np.repeat(points, 2, axis=0), outputs, strict=True):
                assert not holds(property.formula, [F(float(v)) for v in point], [F(float(v)) for v in y])
    assert proved > 0


def absorbing() -> bytes:
    """(2^24 + x) - 2^24 is 0 or 2 in float32 for x = 1, depending on how it is rounded; over the reals it is 1."""
    constants = {"v": np.full((1, 1), 1, F32), "c": np.full(1, 2.0**24, F32), "w": np.ones((1, 1), F32)}
    nodes = [node("Gemm", ["x", "v", "c"], "h"), node("Relu", ["h"], "r"), node("Gemm", ["r", "w", "d"], "y")]
    return model(nodes, [1, 1], constants | {"d": np.full(1, -(2.0**24), F32)})


def test_what_only_real_arithmetic_excludes_is_not_proved() -> None:
    network = network_of(absorbing())
    body = "(assert (>= X_0 1))(assert (<= X_0 1))(assert (or (<= Y_0 0.5) (>= Y_0 1.5)))"
    property = parse((declared(1, 1) + body).encode())
    for method in ("ibp", "crown"):
        assert decide(network, property, contract=REAL, method=method).answer is Answer.UNSAT
        assert decide(network, property, contract=FLOAT32_ANY_ORDER, method=method).answer is Answer.UNKNOWN
    y = float(run(absorbing(), np.ones((1, 1), F32))[0].item())
    assert not 0.5 < y < 1.5


def identity() -> bytes:
    return model([node("Relu", ["x"], "y")], [1, 2], {})


@pytest.mark.parametrize(
    ("assertion", "answer"),
    [
        ("(> Y_0 1.0001)", Answer.UNSAT),
        ("(>= Y_0 1)", Answer.UNKNOWN),
        ("(< Y_0 0.2499)", Answer.UNSAT),
        ("(<= Y_0 0.25)", Answer.UNKNOWN),
        ("(and (<= Y_0 0.5) (> Y_1 1.0001))", Answer.UNSAT),
        ("(or (<= Y_0 0.5) (> Y_1 1.0001))", Answer.UNKNOWN),
        ("(or (< Y_0 0.2499) (> Y_1 1.0001))", Answer.UNSAT),
        ("(> (+ X_0 X_1) 2)", Answer.UNSAT),
        ("(>= (+ X_0 X_1) 2)", Answer.UNKNOWN),
        ("(> (+ X_0 Y_1) 2.0001)", Answer.UNSAT),
        ("(< 1 0)", Answer.UNSAT),
        ("(<= 0 1)", Answer.UNKNOWN),
        (f"(>= (+ (* {2**60} Y_0) (* {2**60 + 1} Y_1)) {2**70})", Answer.UNKNOWN),  # no float64 holds the coefficients
    ],
)
def test_strict_and_other_inequalities_and_what_mixes_inputs_and_outputs(assertion: str, answer: Answer) -> None:
    box = "".join(f"(assert (>= X_{i} 0.25))(assert (<= X_{i} 1))" for i in range(2))
    property = parse((declared(2, 2) + box + f"(assert {assertion})").encode())
    for method in ("ibp", "crown"):
        assert decide(network_of(identity()), property, contract=FLOAT32_ANY_ORDER, method=method).answer is answer


@pytest.mark.parametrize("few", [0, 20])
def test_a_property_that_takes_splits_to_prove_has_a_certificate(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two alternatives, one is out of reach by little, the other one has a constraint that any bound excludes;
    proved by splits of neurons and of inputs."""
    monkeypatch.setattr("verify.tasks.case_search._FEW_INPUTS", few)
    made = ReluNetwork.random(np.random.default_rng(5), [2, 8, 8, 2], 2.0)
    network = made.network()
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 201, dtype=F32)]), axis=-1).reshape(-1, 2)
    least = float(made.run(grid, ALL)[0][:, 0].min()) - 0.05
    box = "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(2))
    text = f"{declared(2, 2)}{box}(assert (or (<= Y_0 {least}) (and (>= Y_0 {least}) (>= Y_1 1000))))"
    property = parse(text.encode())
    assert decide(network, property, contract=FLOAT32_ANY_ORDER, method="crown").answer is Answer.UNKNOWN
    decision = decide(network, property, contract=FLOAT32_ANY_ORDER, method="complete")
    assert (decision.answer, decision.decided_by) == (Answer.UNSAT, "complete")
    (case,) = cases_for(network, property)
    lower, upper = (end.astype(F32).reshape(network.input.shape) for end in (case.lower, case.upper))
    claim = Unreachable(tuple(case.alternatives))
    found = Certificate(network.sha256, "m.onnx", "float32-any-order", claim, lower, upper, decision.proofs[0])
    check(decode(encode(found)), network)
    (constraint,), other = claim.alternatives
    false = Unreachable(((constraint._replace(bound=constraint.bound + 1),), other))
    with pytest.raises(Rejected):
        check(replace(found, claim=false), network)


def test_inputs_fixed_to_decimals_do_not_hinder_splits_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1 lies between two numbers of float32, which are the ends of its interval."""
    monkeypatch.setattr("verify.tasks.case_search._FEW_INPUTS", 2)
    made = ReluNetwork.random(np.random.default_rng(5), [4, 8, 8, 2], 2.0)
    points = np.random.default_rng(0).random((20_000, 4)).astype(F32)
    points[:, 2:] = F32(0.1)
    least = float(made.run(points, ALL)[0][:, 0].min()) - 0.1
    box = "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(2))
    box += "".join(f"(assert (= X_{i} 0.1))" for i in (2, 3))
    property = parse(f"{declared(4, 2)}{box}(assert (<= Y_0 {least}))".encode())
    assert decide(made.network(), property, contract=FLOAT32_ANY_ORDER, method="crown").answer is Answer.UNKNOWN
    decision = decide(made.network(), property, contract=FLOAT32_ANY_ORDER, method="complete")
    assert decision.answer is Answer.UNSAT
    assert isinstance(decision.proofs[0], InputSplits)


def test_the_same_ways_bound_margins_and_functionals() -> None:
    assert {way for ways in METHODS.values() for way in ways} - {ALPHA_CROWN, COMPLETE} <= set(FUNCTIONAL_PROOFS)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return proved()


def proved() -> Certificate:
    """Two alternatives that the identity does not reach."""
    network = network_of(identity())
    box = "".join(f"(assert (>= X_{i} 0.25))(assert (<= X_{i} 1))" for i in range(2))
    text = declared(2, 2) + box + "(assert (or (and (<= Y_0 0.125) (<= Y_1 9)) (> (- (* 2 Y_0) X_1) 7/4)))"
    (case,) = cases_for(network, parse(text.replace("7/4", "1.76").encode()))
    ends = (end.astype(F32).reshape(1, 2) for end in (case.lower, case.upper))
    found = Certificate(
        network.sha256, "model.onnx", "float32-any-order", Unreachable(tuple(case.alternatives)), *ends, "ibp"
    )
    check(found, network)
    return found


def test_a_certificate_survives_writing_and_reading(certificate: Certificate) -> None:
    again = decode(encode(certificate))
    assert again.claim == certificate.claim
    assert encode(again) == encode(certificate)


def accepted(content: bytes) -> Certificate | None:
    try:
        found = decode(content)
        check(found, network_of(identity()))
    except Rejected:
        return None
    return found


def assert_true(found: Certificate, rng: np.random.Generator) -> None:
    """What the certificate says holds at sampled points and corners, exactly."""
    assert isinstance(found.claim, Unreachable)
    points = found.lower + rng.random((10, 2)) * (found.upper.astype(np.float64) - found.lower)
    for x in (*points.astype(F32), found.lower[0], found.upper[0]):
        exact = [F(float(value)) for value in x]
        y = [max(value, F(0)) for value in exact]
        assert not any(all(c.holds(exact, y) for c in each) for each in found.claim.alternatives)


def test_one_changed_byte_or_number_is_rejected_or_still_a_proof(certificate: Certificate) -> None:
    content = encode(certificate)
    rng = np.random.default_rng(0)
    for number in range(400):
        changed = encode(restated(certificate, rng)) if number % 2 else with_another_byte(content, rng)
        if (found := accepted(changed)) is not None:
            assert_true(found, rng)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing unreachable": lambda p: p | {"alternatives": []},
    "an alternative that always holds": lambda p: p | {"alternatives": [*p["alternatives"], []]},
    "another kind": lambda p: p | {"kind": "class", "label": 0},
    "no kind": lambda p: {"alternatives": p["alternatives"]},
    "a fractional coefficient": lambda p: changed(p, outputs=[[0, 1.5]]),
    "a true coefficient": lambda p: changed(p, outputs=[[0, True]]),
    "an index twice": lambda p: changed(p, outputs=[[0, 1], [0, 1]]),
    "a negative index": lambda p: changed(p, outputs=[[-1, 1]]),
    "an absent output": lambda p: changed(p, outputs=[[2, 1]]),
    "an absent input": lambda p: changed(p, inputs=[[2, 1]]),
    "a number as bound": lambda p: changed(p, bound=-1),
    "no number as bound": lambda p: changed(p, bound="nan"),
    "a bound over zero": lambda p: changed(p, bound="1/0"),
    "an endless bound": lambda p: changed(p, bound="1e999999999"),
    "a number for strict": lambda p: changed(p, strict=0),
    "a number as terms": lambda p: changed(p, outputs=1),
    "three numbers in a term": lambda p: changed(p, outputs=[[0, 1, 2]]),
    "a looser bound": lambda p: changed(p, bound="1/2"),
}


def changed(property: Any, **fields: Any) -> Any:
    """The property with fields of its first constraint, which is the one that proves the alternative, changed."""
    again = json.loads(json.dumps(property))
    for constraint in again["alternatives"][0]:
        constraint |= fields
    return again


@pytest.mark.parametrize("what", CHANGES)
def test_changed_properties_are_rejected(certificate: Certificate, what: str) -> None:
    fields = json.loads(encode(certificate))
    fields["property"] = CHANGES[what](fields["property"])
    assert accepted(json.dumps(fields).encode()) is None


def test_a_model_with_another_number_of_inputs_is_refused(tmp_path: Path) -> None:
    property = parse((declared(3, 2) + "(assert (<= X_0 1))").encode())
    with pytest.raises(Exception, match="about 3 inputs, but the model has 2"):
        decide(network_of(identity()), property, contract=REAL, method="ibp")


@pytest.mark.parametrize("bound", ["(<= X_0 1e400)", "(<= Y_0 1e400)", "(>= Y_0 1e400)", "(>= (* 1e-400 Y_0) 1)"])
def test_numbers_beyond_floats_are_an_answer_or_a_sentence(bound: str) -> None:
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))(assert {bound})"
    content = model([node("Relu", ["x"], "y")], [1, 1], {})
    network = network_of(content)
    with contextlib.suppress(ModelProblem):
        attack = witness_search(network, parse(text.encode()), Runtime(content, network))
        decision = decide(network, parse(text.encode()), contract=FLOAT32_ANY_ORDER, method="complete", attack=attack)
        assert decision.answer in (Answer.SAT if bound.startswith("(<=") else Answer.UNSAT, Answer.UNKNOWN)


@pytest.mark.parametrize(
    ("shape", "fits"), [([1, 2, 3], True), ([6], True), ([2, 3], True), ([3, 2], False), ([1, 3, 2], False)]
)
def test_a_declared_shape_is_that_of_the_model(shape: list[int], fits: bool) -> None:
    network = network_of(model([node("Relu", ["x"], "y")], [1, 2, 3], {}))
    sizes, zeros = (",".join(map(str, each)) for each in (shape, [0] * len(shape)))
    text = (
        f"(vnnlib-version <2.0>)(declare-network f (declare-input X Real [{sizes}])"
        f"(declare-output Y Real [1,2,3]))(assert (<= X[{zeros}] 0))"
    )
    with pytest.raises(ModelProblem, match="does not bound the input" if fits else "declares an input"):
        cases_for(network, parse(text.encode()))


def test_a_proof_by_splits_of_what_no_bound_of_outputs_excludes_is_rejected() -> None:
    network = network_of(identity())
    huge = Constraint(((0, F(1)),), (), F(-1), False)
    claim = Unreachable(((huge,),))
    proof = SplitProof(np.zeros(2, np.bool_), (), ())
    ends = np.zeros((1, 2), F32), np.ones((1, 2), F32)
    with pytest.raises(Rejected):
        check(Certificate(network.sha256, "", "float32-any-order", claim, *ends, proof), network)
