"""Products as quadratic forms of few inputs: no execution leaves the bounds, which see squares and what cancels."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.executions import executions, sampled_points
from support.onnx_models import model, network_of, node
from verify.bounds import affine_forms
from verify.bounds.crown import crown_bounds
from verify.bounds.linear_bounds import TwoSided
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.quadratics import Axes, Curvature, curved, least
from verify.bounds.relaxations import relaxation
from verify.bounds.steps import Relaxation
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array

F32 = np.float32


def form_of(rng: np.random.Generator, size: int, kind: str) -> Array:
    """A matrix of a kind, of a random scale."""
    q = rng.normal(size=(size, size))
    if kind in ("positive", "negative", "nearly positive"):
        q = q @ q.T * (-1.0 if kind == "negative" else 1.0)
    if kind == "nearly positive":
        q -= 0.05 * np.trace(q) / size * np.eye(size)
    if kind == "of rank one":
        q = np.outer(q[0], q[-1])
    if kind == "without squares":
        np.fill_diagonal(q, 0.0)
    return q * 10.0 ** rng.integers(-12, 12)


KINDS = ["any", "positive", "negative", "nearly positive", "of rank one", "without squares"]


def exactly(q: Array, b: Array, z: list[Fraction]) -> Fraction:
    linear = sum((Fraction(float(x)) * y for x, y in zip(b, z, strict=True)), Fraction(0))
    pairs = product(range(len(z)), repeat=2)
    return sum((Fraction(float(q[i, j])) * z[i] * z[j] for i, j in pairs), linear)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(KINDS), st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_quadratic_form_with_a_linear_one_is_nowhere_below_its_bound(
    seed: int, size: int, kind: str, share: float
) -> None:
    """In exact rational numbers: at corners, at random points, and where a descent ends."""
    rng = np.random.default_rng(seed)
    q = form_of(rng, size, kind)
    b = share * np.abs(q).max() * rng.normal(size=size)
    with np.errstate(all="ignore"):
        added, rounding = (float(x[0, 0]) for x in least(q[np.newaxis, np.newaxis], b[np.newaxis, np.newaxis]))
    lowest = Fraction(added) - Fraction(rounding) - sum((abs(Fraction(float(x))) for x in b), Fraction(0))
    points = [*product((-1.0, 1.0), repeat=size), *rng.uniform(-1, 1, (10, size))]
    both = q + q.T
    for point in rng.uniform(-1, 1, (5, size)):
        for _ in range(100):
            point = np.clip(point - (b + both @ point) / (np.abs(both).sum() + 1e-300), -1, 1)
        points.append(point)
    assert all(exactly(q, b, [Fraction(float(x)) for x in point]) >= lowest for point in points)


def test_the_bound_of_a_convex_form_is_nearly_its_least_value() -> None:
    """Which is inside of the box, on its sides or at a corner."""
    rng = np.random.default_rng(0)
    q = np.stack([form_of(rng, 4, "positive") for _ in range(200)])
    q /= np.trace(q, axis1=1, axis2=2)[:, np.newaxis, np.newaxis]
    b = rng.normal(size=(200, 4)) * rng.choice([0.0, 0.1, 1.0], (200, 1))
    (added,), (rounding,) = least(q[np.newaxis], b[np.newaxis])
    point = np.zeros((200, 4))
    for _ in range(3000):
        point = np.clip(point - 0.4 * (b + 2 * (q @ point[..., np.newaxis])[..., 0]), -1, 1)
    true = (b * point).sum(1) + np.einsum("ni,nij,nj->n", point, q, point) + np.abs(b).sum(1)
    assert (added <= true + 1e-12).all()
    squares = np.einsum("nii->n", q)
    alone = squares - np.abs(q).sum(axis=(1, 2))  # squares at zero, mixed terms at their least
    assert (true - added).mean() < 0.1 * (true - alone).mean()
    assert (rounding < 1e-11).all()


def moment(rng: np.random.Generator, *, slopes: bool = True) -> bytes:
    """V(x) - V(x') and V(x) for V(x) = x P x and x' = x - f(x), for three numbers x and an f with ReLUs, or without."""
    nodes = [
        *(node("MatMul", ["x", "P"], "r"), node("Mul", ["x", "r"], "s"), node("MatMul", ["s", "ones"], "v")),
        *(node("MatMul", ["x", "w"], "h"), node("Relu" if slopes else "Identity", ["h"], "i")),
        *(node("MatMul", ["i", "u"], "f"), node("Sub", ["x", "f"], "n")),
        *(node("MatMul", ["n", "P"], "t"), node("Mul", ["n", "t"], "q"), node("MatMul", ["q", "ones"], "o")),
        *(node("Sub", ["v", "o"], "d"), node("Concat", ["d", "v"], "y", axis=1)),
    ]
    root = rng.normal(size=(3, 3))
    weights = {
        "P": (root @ root.T).astype(F32),
        "ones": np.ones((3, 1), F32),
        "w": rng.normal(size=(3, 6)).astype(F32),
        "u": (0.05 * rng.normal(size=(6, 3))).astype(F32),
    }
    return model(nodes, ["n", 3], weights)


def gated(rng: np.random.Generator) -> bytes:
    """Products of different values, one of them with all others, and products of products, of four numbers."""
    nodes = [
        *(node("MatMul", ["x", "w"], "a"), node("MatMul", ["x", "u"], "c"), node("Sigmoid", ["c"], "g")),
        *(node("Mul", ["a", "g"], "p"), node("Slice", ["x", "from", "to", "axis"], "one")),
        *(node("Mul", ["p", "one"], "q"), node("Mul", ["one", "one"], "square"), node("Sub", ["q", "square"], "k")),
        node("MatMul", ["k", "v"], "y"),
    ]
    weights = {name: rng.normal(size=size).astype(F32) for name, size in (("w", (4, 5)), ("u", (4, 5)), ("v", (5, 2)))}
    places = {"from": np.array([1]), "to": np.array([2]), "axis": np.array([1])}
    return model(nodes, ["n", 4], weights | places)


def flat_bounds(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Array:
    with monkeypatch.context() as patched, np.errstate(all="ignore"):
        patched.setattr(affine_forms, "_MOST_CURVED", 0)
        return crown_bounds(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [moment, gated])
@pytest.mark.parametrize("seed", range(24))
def test_no_execution_leaves_its_bounds(kind: object, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are they looser than without quadratic forms by more than half of what those reach."""
    rng = np.random.default_rng(seed)
    content = kind(rng)  # type: ignore[operator]
    network = network_of(content)
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 100), Fraction(1, 4), Fraction(2), Fraction(30))[seed % 6]
    centre = rng.normal(size=(1, *network.input.shape)) * 10.0 ** rng.integers(-1, 3)
    box = box_around(centre.astype(F32), eps, None)
    rows = np.concatenate([np.eye(2), -np.eye(2), rng.normal(size=(8, 2))]).reshape(1, 12, *network.output.shape)
    with np.errstate(all="ignore"):
        found = crown_bounds(network, box, rows, FLOAT32_ANY_ORDER)
    assert np.isfinite(found).all()
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    values = np.concatenate(executions(content, points)).reshape(-1, 2).astype(np.float64)
    exact = [
        [
            sum(Fraction(float(r)) * Fraction(float(v)) for r, v in zip(row, value, strict=True))
            for row in rows[0].reshape(12, 2)
        ]
        for value in values[::17]
    ]
    assert (np.concatenate([values, -values], axis=1) >= found[0, :4]).all()
    assert all(value >= Fraction(float(bound)) for each in exact for value, bound in zip(each, found[0], strict=True))
    flat = flat_bounds(monkeypatch, network, box, rows, FLOAT32_ANY_ORDER)
    reach = np.abs(flat).max() + 1e-30
    assert (found >= flat - 0.5 * reach).all()


def test_what_cancels_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quadratic function falls from one moment to the next: by little, beside the curvature of either."""
    network = network_of(moment(np.random.default_rng(0), slopes=False))
    box = box_around(np.ones((1, 1, 3), F32), Fraction(1, 4), None)
    rows = np.float64([[1, 0], [-1, 0], [0, 1]]).reshape(1, 3, 1, 2)
    with np.errstate(all="ignore"):
        (found,) = crown_bounds(network, box, rows, REAL)
    (flat,) = flat_bounds(monkeypatch, network, box, rows, REAL)
    ends = Interval(box.lower[:, 0], box.upper[:, 0])
    points = sampled_points(ends, np.random.default_rng(1), 3000)
    d, v = executions(moment(np.random.default_rng(0), slopes=False), points)[-1].reshape(-1, 2).T
    true = np.array([d.min(), -d.max(), v.min()])
    assert (true - found < 0.2 * (true - flat)).all()


@pytest.mark.parametrize(("numbers", "curved"), [(2**22, 2**14), (60, 2**14), (2**22, 3), (12, 3)])
def test_quadratic_forms_do_not_depend_on_the_lanes_beside(
    numbers: int, curved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may have none, as too many of their inputs vary, or none at all; nor on how many are bounded at a time."""
    monkeypatch.setattr(affine_forms, "_MOST_CURVED", curved)
    monkeypatch.setattr(affine_forms, "_FEW_INPUTS", 2)
    monkeypatch.setattr(affine_forms, "_MOST_NUMBERS", numbers)
    rng = np.random.default_rng(3)
    network = network_of(moment(rng))
    centre, radius = (
        rng.normal(size=(5, 1, 3)),
        0.2 * np.float64([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]),
    )
    ends = (np.asarray(centre + sign * radius[:, np.newaxis], F32).astype(np.float64) for sign in (-1, 1))
    boxes = Interval(*ends)
    rows = np.broadcast_to(np.float64([[1, 0], [-1, 0], [0, 1]]).reshape(1, 3, 1, 2), (5, 3, 1, 2))
    with np.errstate(all="ignore"):
        together = crown_bounds(network, boxes, rows, FLOAT32_ANY_ORDER)
        alone = [
            crown_bounds(network, Interval(*(end[lane : lane + 1] for end in boxes)), rows[:1], FLOAT32_ANY_ORDER)
            for lane in range(5)
        ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-12, atol=1e-12)


def test_a_functional_and_its_negation_have_forms_of_opposite_signs() -> None:
    network = network_of(moment(np.random.default_rng(4), slopes=False))
    box = box_around(np.ones((1, 1, 3), F32), Fraction(1, 4), None)
    curvatures: dict[Tensor, Axes | Curvature] = {}
    rows = np.eye(2).reshape(1, 2, 1, 2)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, REAL, curvatures=curvatures)

        def relaxed(tensor: Tensor) -> Relaxation:
            around = relaxation(tensor, intervals, REAL)
            return curved(tensor, around, intervals, REAL, curvatures[tensor]) if tensor in curvatures else around

        both = TwoSided(network.output, rows, relaxed)
        lower = both.lower(np.float64([[1, 1, -1, -1]]), np.array([[0, 1, 0, 1]]))
        each = crown_bounds(network, box, np.concatenate([rows, -rows], axis=1), REAL)
    np.testing.assert_allclose(lower, each, rtol=1e-12)
