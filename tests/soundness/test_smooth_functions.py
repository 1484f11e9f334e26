"""Smooth functions, as onnxruntime computes them, inside intervals of every scale: none may leave its bounds."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp

from support.onnx_models import ALL, DISABLED, model, network_of, node, session
from support.scan_functions import WAYS, Way
from verify.bounds.activations import activations
from verify.bounds.crown import crown_margins
from verify.bounds.evaluation import bounds
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.margins import margin_bounds
from verify.bounds.steps import Choice
from verify.core.intervals import Interval
from verify.core.primitives import topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Contract
from verify.core.softmax import enclosure, plane

F32 = np.float32
SCALES = (
    0.0,
    2.0**-149,
    2.0**-140,
    2.0**-127,
    2.0**-126,
    2.0**-60,
    1e-3,
    0.1,
    1.0,
    3.0,
    10.0,
    20.0,
    88.0,
    104.0,
    2.0**70,
)
Floats = NDArray[np.float32]


def intervals(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """From subnormal to huge: points, narrow ones, and wide ones between two scales."""
    ends = rng.choice(SCALES, (2, count)) * rng.choice([-1.0, 1.0], (2, count)) * rng.uniform(0.5, 1.0, (2, count))
    first, second = ends.astype(F32)
    narrow = rng.random(count) < 0.5
    second = np.where(narrow, first + np.abs(first) * F32(rng.choice([0.0, 1e-6, 0.01, 0.3])), second).astype(F32)
    return np.minimum(first, second), np.maximum(first, second)


def points_of(rng: np.random.Generator, lower: Floats, upper: Floats, count: int) -> Floats:
    """Ends and inner points of each interval."""
    share = rng.random((count, lower.size))
    share[: count // 2] = np.round(share[: count // 2])
    inside = lower.astype(np.float64) + share * (upper.astype(np.float64) - lower)
    return np.clip(inside.astype(F32), lower, upper)


def as_box(*ends: Floats) -> Interval:
    return Interval(*(end.astype(np.float64)[np.newaxis] for end in ends))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_execution_leaves_the_bounds(way: Way) -> None:
    rng = np.random.default_rng(sum(map(ord, way.name)))
    size = 37
    content = model(way.nodes, [size], way.constants, opset=way.opset)
    network = network_of(content)
    oracles = [session(content, level=level) for level in (DISABLED, ALL)]
    bounded = 0
    for _ in range(20):
        lower, upper = intervals(rng, size)
        ((low, high),) = bounds(network, as_box(lower, upper), FLOAT32_ANY_ORDER)
        unknown = np.isnan(low[0])
        assert (unknown == np.isnan(high[0])).all()
        bounded += int((~unknown).sum())
        for x in points_of(rng, lower, upper, 8):
            for oracle in oracles:
                y = oracle.run(None, {"x": x})[0]
                assert (unknown | ((low[0] <= y) & (y <= high[0]))).all()
    assert bounded > 100


@pytest.mark.parametrize("contract", [FLOAT32_ANY_ORDER, REAL], ids=lambda contract: contract.name)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_lines_around_a_function_contain_it(way: Way, contract: Contract) -> None:
    """a y is bounded by linear bounds, for functionals a of both signs, in boxes from narrow to wide."""
    if contract is REAL and "written out" in way.name:
        pytest.skip("its constants are float32 numbers, not those of the function")
    rng = np.random.default_rng(len(way.name))
    size = 24
    content = model(way.nodes, [size], way.constants, opset=way.opset)
    network = network_of(content)
    centre = rng.normal(size=size) * rng.choice([0.1, 1.0, 8.0], size)
    radius = rng.choice([0.0, 1e-7, 1e-3, 0.3, 4.0], size)
    lower, upper = (centre - radius).astype(F32), (centre + radius).astype(F32)
    box = as_box(lower, upper)
    everything = list(topological([network.output]))
    known = dict(zip(everything, bounds(network, box, contract, outputs=everything), strict=True))
    functionals = np.concatenate([np.eye(size), -np.eye(size)])[np.newaxis]
    with np.errstate(all="ignore"):
        found = lower_bounds(network.output, functionals, known, contract)[0]
    low, high = found[:size], -found[size:]
    oracle = session(content)
    for x in points_of(rng, lower, upper, 200):
        with np.errstate(all="ignore"):
            y = oracle.run(None, {"x": x})[0] if contract is FLOAT32_ANY_ORDER else way.function.apply(x.astype(float))
        slack = 0.0 if contract is FLOAT32_ANY_ORDER else 1e-12 * np.abs(y)  # the oracle's own error
        assert (np.isnan(low) | ((low <= y + slack) & (y - slack <= high))).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_execution_falls_below_lines_of_chosen_slopes_within_chosen_parts(way: Way) -> None:
    """For functionals of both signs, in boxes from narrow to wide, and with any multipliers."""
    rng = np.random.default_rng(len(way.name))
    size, lanes, count = 24, 6, 4
    content = model(way.nodes, [size], way.constants, opset=way.opset)
    network = network_of(content)
    centre = rng.normal(size=size) * rng.choice([0.1, 1.0, 8.0], size)
    radius = rng.choice([0.0, 1e-7, 1e-3, 0.3, 4.0], size)
    lower, upper = (centre - radius).astype(F32), (centre + radius).astype(F32)
    everything = list(topological([network.output]))
    known = dict(
        zip(everything, bounds(network, as_box(lower, upper), FLOAT32_ANY_ORDER, outputs=everything), strict=True)
    )
    functionals = rng.normal(size=(lanes, count, size))
    sign = rng.integers(-1, 2, (lanes, size))
    point = (lower + rng.random((lanes, size)) * (upper - lower)).astype(F32)
    least, largest = np.where(sign > 0, point, -np.inf), np.where(sign < 0, point, np.inf)
    choices = {
        tensor: Choice(
            np.where(rng.random((lanes, count, size)) < 0.1, np.nan, rng.random((lanes, count, size))),
            sign,
            rng.choice([0.0, -0.5, 0.5, 3.0], (lanes, size)),
            None,
            Interval(least, largest),
        )
        for tensor in activations(network.output)
        if tensor.operands == (network.input,)
    }
    with np.errstate(all="ignore"):
        found = lower_bounds(network.output, functionals, known, FLOAT32_ANY_ORDER, choices)
    if not choices:  # the function is written out in other operations, or reads what these compute
        return
    oracle, seen = session(content), 0
    for x in points_of(rng, lower, upper, 60):
        for lane in range(lanes):
            inside = np.clip(x, least[lane], largest[lane]).astype(F32)
            with np.errstate(all="ignore"):
                y = oracle.run(None, {"x": inside})[0].reshape(-1).astype(np.float64)
                values = functionals[lane] @ y
            assert not (values < found[lane]).any()
            seen += int(np.isfinite(found[lane]).sum())
    assert seen or np.isnan(known[network.output].lower).any()


@pytest.mark.parametrize(
    ("operator", "lower", "upper"),
    [
        *(("Exp", 0, 90), ("Log", 0, 1), ("Log", -1, 1), ("Sqrt", -1e-30, 1), ("Reciprocal", -1, 1)),
        *(("Reciprocal", 0, 1), ("Sin", 0, 32769), ("Cos", -32769, -32769)),
    ],
)
@pytest.mark.parametrize("contract", [FLOAT32_ANY_ORDER, REAL], ids=lambda contract: contract.name)
def test_where_a_function_is_undefined_or_overflows_nothing_is_known(
    operator: str, lower: float, upper: float, contract: Contract
) -> None:
    network = network_of(model([node(operator, ["x"], "y")], [1], {}))
    ((low, high),) = bounds(network, as_box(np.array([lower], F32), np.array([upper], F32)), contract)
    if operator == "Exp" and contract is REAL:
        assert np.isfinite(high).all()
    else:
        assert np.isnan(low).all()
        assert np.isnan(high).all()


@pytest.mark.parametrize("operator", ["Sin", "Cos"])
def test_waves_lie_in_their_bounds_wherever_they_turn(operator: str) -> None:
    """In intervals that begin or end at, just before or just behind multiples of pi / 2, of every magnitude. Over the
    real numbers the bounds are those of many digits."""
    rng = np.random.default_rng(0)
    size = 400
    content = model([node(operator, ["x"], "y")], [size], {})
    network = network_of(content)
    oracles = [session(content, level=level) for level in (DISABLED, ALL)]
    for _ in range(5):
        multiples = np.round(rng.choice([-1, 1], size) * 2 ** rng.uniform(0, np.log2(20_800), size))
        first = (multiples * np.pi / 2).astype(F32)
        first = first + rng.integers(-2, 3, size).astype(F32) * np.spacing(np.abs(first))
        second = np.where(
            rng.random(size) < 0.5,
            first + rng.integers(0, 3, size).astype(F32) * np.spacing(np.abs(first)),
            first + rng.choice([0.01, 1.0, 3.1, 3.2, 4.8, 6.2, 6.3, 30.0], size),
        ).astype(F32)
        lower, upper = np.minimum(first, second), np.maximum(first, second)
        ((low, high),) = bounds(network, as_box(lower, upper), FLOAT32_ANY_ORDER)
        assert np.isfinite(low).all()
        for x in points_of(rng, lower, upper, 20):
            for oracle in oracles:
                y = oracle.run(None, {"x": x})[0]
                assert ((low[0] <= y) & (y <= high[0])).all()
        ((low, high),) = bounds(network, as_box(lower, upper), REAL)
        wave = mpmath.sin if operator == "Sin" else mpmath.cos
        with mpmath.workdps(40):
            for start, end, l, u in zip(lower, upper, low[0], high[0], strict=True):
                start, end = mpmath.mpf(float(start)), mpmath.mpf(float(end))
                turns = range(int(mpmath.ceil(2 * start / mpmath.pi)), int(mpmath.floor(2 * end / mpmath.pi)) + 1)
                values = [wave(start), wave(end), *(wave(k * mpmath.pi / 2) for k in turns)]
                assert mpmath.mpf(float(l)) <= min(values) <= mpmath.mpf(float(l)) + 1e-10
                assert mpmath.mpf(float(u)) - 1e-10 <= max(values) <= mpmath.mpf(float(u))


def test_bounds_are_not_clipped_to_the_range_of_the_function() -> None:
    for operator, (least, most) in {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softmax": (0.0, 1.0)}.items():
        network = network_of(model([node(operator, ["x"], "y")], [1, 2], {}))
        point = np.array([[-100.0, 100.0]], F32)
        ((low, high),) = bounds(network, as_box(point, point), FLOAT32_ANY_ORDER)
        assert low[0, 0, 0] < least
        assert high[0, 0, 1] > most


def softmax_model(operator: str, count: int) -> bytes:
    return model([node(operator, ["x"], "y", axis=-1)], [1, count], {})


@pytest.mark.parametrize("count", [1, 2, 3, 10, 17, 300])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_no_softmax_leaves_its_bounds(operator: str, count: int) -> None:
    rng = np.random.default_rng(count)
    content = softmax_model(operator, count)
    network = network_of(content)
    oracles = [session(content, level=level) for level in (DISABLED, ALL)]
    for scale in (1e-40, 1e-3, 1.0, 10.0, 100.0, 1e4, 1e30):
        for width in (0.0, 1e-6, 0.1, 1.0, 20.0):
            centre = scale * rng.normal(size=count)
            lower, upper = (centre - width * rng.random(count)).astype(F32), (centre + width).astype(F32)
            ((low, high),) = bounds(network, as_box(lower[np.newaxis], upper[np.newaxis]), FLOAT32_ANY_ORDER)
            assert np.isfinite(low).all()
            assert np.isfinite(high).all()
            for x in points_of(rng, lower, upper, 12):
                for oracle in oracles:
                    y = oracle.run(None, {"x": x[np.newaxis]})[0]
                    assert (low[0] <= y).all()
                    assert (y <= high[0]).all()


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_the_real_softmax_is_bounded_tightly(operator: str) -> None:
    rng = np.random.default_rng(0)
    network = network_of(softmax_model(operator, 7))
    for scale in (1e-3, 1.0, 10.0, 1000.0):
        x = (scale * rng.normal(size=(1, 7))).astype(F32)
        ((low, high),) = bounds(network, as_box(x, x), REAL)
        with mpmath.workdps(2000):
            powers = [mpmath.exp(mpmath.mpf(float(v))) for v in x[0]]
            exact = [p / sum(powers) for p in powers]
            exact = exact if operator == "Softmax" else [mpmath.log(v) for v in exact]
            for value, l, u in zip(exact, low[0, 0], high[0, 0], strict=True):
                assert mpmath.mpf(float(l)) <= value <= mpmath.mpf(float(u))
                assert u - l <= 1e-10 * (1 + abs(value))


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_a_proof_behind_a_softmax_is_one_of_a_strict_order(operator: str) -> None:
    """Logits that differ by a few units in the last place become equal probabilities: none of these is proved."""
    rng = np.random.default_rng(1)
    content = softmax_model(operator, 5)
    network, oracle = network_of(content), session(content)
    ties = proofs = 0
    for scale in (1e-6, 1.0, 30.0):
        for gap in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
            for _ in range(20):
                x = (scale * rng.normal(size=(1, 5))).astype(F32)
                x[0, 1] = x[0].max()
                x[0, 0] = x[0, 1] + F32(gap * max(scale, 1.0))
                margins = margin_bounds(network, as_box(x, x), np.array([0]), FLOAT32_ANY_ORDER)
                y = oracle.run(None, {"x": x})[0][0]
                strict = bool((y[0] > y[1:]).all())
                ties += x[0, 0] > x[0, 1] and not strict
                proofs += bool((margins > 0).all())
                assert strict or not (margins > 0).all()
    assert ties > 20
    assert proofs > 100


@pytest.mark.parametrize("prove", [margin_bounds, crown_margins], ids=["ibp", "crown"])
def test_a_final_softmax_costs_next_to_nothing(prove: Any) -> None:
    rng = np.random.default_rng(2)
    constants = {"w": rng.normal(size=(20, 4)).astype(F32), "b": rng.normal(size=4).astype(F32)}
    plain = [node("Gemm", ["x", "w", "b"], "y")]
    ending = [node("Gemm", ["x", "w", "b"], "z"), node("Softmax", ["z"], "p"), node("Reshape", ["p", "s"], "y")]
    networks = [
        network_of(model(plain, ["n", 20], constants)),
        network_of(model(ending, ["n", 20], constants | {"s": np.array([-1, 4])})),
    ]
    x = rng.random((6, 1, 20))
    box = Interval(x, x + 0.01)
    labels = np.arange(6) % 4
    logits, probabilities = (prove(network, box, labels, FLOAT32_ANY_ORDER) for network in networks)
    others = np.isfinite(logits)
    assert (probabilities[others] < logits[others]).all()
    assert (probabilities[others] > logits[others] - 1e-4).all()
    assert np.isposinf(probabilities[~others]).all()


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.1, 1.0, 30.0])
def test_a_softmax_stays_around_its_plane(width: float, logarithm: bool) -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 17):
        centre = rng.normal(scale=rng.choice([0.1, 3.0, 30.0], (200, 1)), size=(200, count))
        radius = width * rng.random((200, count))
        lower, upper = centre - radius, centre + radius
        found = plane(lower, upper, logarithm, REAL)
        low, high = enclosure(lower, upper, logarithm, REAL)
        assert (found.deviation <= (high - low) / 2 * (1 + 1e-9) + 1e-9 * (1 + np.abs(low) + np.abs(high))).all()
        for _ in range(20):
            share = np.round(rng.random(lower.shape)) if rng.random() < 0.5 else rng.random(lower.shape)
            x = np.clip(lower + share * (upper - lower), lower, upper)
            others = np.stack([logsumexp(np.delete(x, i, axis=1), axis=1) for i in range(count)], axis=1)
            y = -np.logaddexp(0.0, others - x)  # near zero more accurate than a difference
            y = y if logarithm else np.exp(y)
            around = (found.slope @ x[..., np.newaxis])[..., 0] + found.offset
            assert (np.abs(y - around) <= found.deviation).all()


def test_the_plane_of_a_softmax_is_off_by_little_over_a_small_box() -> None:
    """By the square of the radius, while its interval is as wide as the radius."""
    x = np.random.default_rng(0).normal(size=(50, 6))
    for radius in (1e-2, 1e-3):
        found = plane(x - radius, x + radius, False, REAL)
        assert found.deviation.max() < 3 * radius**2
        assert np.abs(found.slope).max() > 0.1
