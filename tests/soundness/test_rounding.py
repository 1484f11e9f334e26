"""The rounding bounds, attacked with weights that make float32 sums go wrong, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, model, network_of, node, run
from verify.bounds.crown import crown_bounds
from verify.bounds.evaluation import bounds
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.relaxations import relaxation
from verify.core.intervals import Interval
from verify.core.linear_maps import Convolution
from verify.core.primitives import topological
from verify.core.rounding import FLOAT32_ANY_ORDER, FLOAT64_UNIT, REAL, Contract, kappa
from verify.core.windows import Window
from verify.model.network import Network

F32 = np.float32
MAGNITUDES = (1.0, 2.0**24, 2.0**-24, 2.0**60, 2.0**-60, 2.0**-126, 2.0**-140, 2.0**-149, 1e17, 3.0, 0.1)
weights_of_any_scale = st.builds(
    lambda m, s, f: F32(m * s * f), st.sampled_from(MAGNITUDES), st.sampled_from((-1, 1)), st.floats(0.5, 1.0, width=32)
)

inputs_of_any_scale = st.one_of(st.just(F32(0)), weights_of_any_scale)


@given(st.integers(1, 2**26), st.sampled_from((2.0**-24, FLOAT64_UNIT)))
def test_kappa_bounds_compound_rounding(roundings: int, unit: float) -> None:
    if roundings * unit > 1:
        return
    bound = Fraction(kappa(roundings, unit))
    if roundings <= 64:
        assert (1 + Fraction(unit)) ** roundings - 1 <= bound
    else:  # (1 + u)^k <= e^(ku) <= 1 + ku + (ku)^2 for ku <= 1, with exact rationals
        t = roundings * Fraction(unit)
        assert t + t * t <= bound


def at_point(network: Network, x: NDArray[np.float32], contract: Contract) -> tuple[Fraction, Fraction]:
    """The tighter ones of intervals and linear bounds."""
    point = x.astype(np.float64)[np.newaxis]
    ((lower, upper),) = bounds(network, Interval(point, point), contract)
    least, most = linear_bounds(network, Interval(point, point), contract)
    return Fraction(max(float(lower.item()), least)), Fraction(min(float(upper.item()), most))


def linear_bounds(network: Network, x: Interval, contract: Contract) -> tuple[float, float]:
    """Of the only output, by substitution back to the input."""
    tensors = list(topological(network.outputs))
    intervals = dict(zip(tensors, bounds(network, x, contract, tensors), strict=True))
    signs = np.array([1.0, -1.0]).reshape(1, 2, *[1] * len(network.output.shape))
    lower, negated = lower_bounds(network.output, signs, intervals, contract)[0].tolist()
    return lower, -negated


def dot_product(weights: NDArray[np.float32], bias: np.float32) -> bytes:
    nodes = [node("Gemm", ["x", "w", "b"], "y")]
    return model(nodes, [1, len(weights)], {"w": weights.reshape(-1, 1), "b": np.array([bias])})


@given(st.lists(st.tuples(weights_of_any_scale, inputs_of_any_scale), min_size=1, max_size=5), weights_of_any_scale)
def test_every_order_of_summation_stays_inside(terms: list[tuple[np.float32, np.float32]], bias: np.float32) -> None:
    weights, x = (np.array(column, F32) for column in zip(*terms, strict=True))
    network = network_of(dot_product(weights, bias))
    lower, upper = at_point(network, x[np.newaxis], FLOAT32_ANY_ORDER)
    exact = sum((Fraction(float(w)) * Fraction(float(v)) for w, v in terms), Fraction(float(bias)))
    assert lower <= exact <= upper
    real_lower, real_upper = at_point(network, x[np.newaxis], REAL)
    assert real_lower <= exact <= real_upper
    with np.errstate(all="ignore"):
        products = [*(w * v for w, v in terms), bias]
        for order in permutations(products):
            total = F32(0)
            for product in order:
                total = F32(total + product)
            assert lower <= Fraction(float(total)) <= upper


@given(st.lists(st.tuples(weights_of_any_scale, inputs_of_any_scale), min_size=2, max_size=12), st.data())
def test_every_tree_of_sums_stays_inside(terms: list[tuple[np.float32, np.float32]], data: st.DataObject) -> None:
    weights, x = (np.array(column, F32) for column in zip(*terms, strict=True))
    lower, upper = at_point(network_of(dot_product(weights, F32(0))), x[np.newaxis], FLOAT32_ANY_ORDER)
    with np.errstate(all="ignore"):
        sums = [w * v for w, v in terms]
        while len(sums) > 1:
            first = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
            second = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
            sums.append(F32(first + second))
    assert lower <= Fraction(float(sums[0])) <= upper


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_linear_bounds_leave_room_for_the_worst_order_and_little_more(sign: float) -> None:
    """A large number absorbs many small ones before another one cancels it."""
    count, large = 200, 2.0**24
    network = network_of(dot_product(np.array([*[sign] * count, large, -large], F32), F32(0)))
    point = np.ones((1, 1, count + 2))
    lower, upper = linear_bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    absorbed, exact = 0.0, sign * count
    assert lower <= absorbed <= upper
    assert max(exact - lower, upper - exact) < 1.1 * count


def test_a_window_of_a_convolution_that_sees_zeros_takes_nothing_from_others() -> None:
    """The same worst order, in one of two windows."""
    count, large = 200, 2.0**24
    weight = np.array([*[1.0] * count, large, -large], F32).reshape(1, -1, 1, 1)
    network = network_of(model([node("Conv", ["x", "w"], "y")], [1, count + 2, 1, 2], {"w": weight}))
    point = np.ones((1, *network.input.shape))
    point[..., 1] = 0.0
    x = Interval(point, point)
    (around,) = bounds(network, x, FLOAT32_ANY_ORDER)
    (lower,) = crown_bounds(network, x, np.array([1.0, 0.0]).reshape(1, 1, *network.output.shape), FLOAT32_ANY_ORDER)
    assert around.lower.flat[0] <= 0.0
    assert lower.item() <= 0.0
    assert around.upper.flat[0] >= count
    np.testing.assert_array_less(np.abs([around.lower.flat[1], around.upper.flat[1]]), 1e-30)


def test_inputs_that_are_zero_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=2000).astype(F32)
    live = rng.random(2000) < 0.01
    x = np.where(live, rng.normal(size=2000), 0.0).astype(F32)
    few = at_point(network_of(dot_product(weights[live], F32(1))), x[live][np.newaxis], FLOAT32_ANY_ORDER)
    many = at_point(network_of(dot_product(weights, F32(1))), x[np.newaxis], FLOAT32_ANY_ORDER)
    np.testing.assert_allclose(np.array(many, float), np.array(few, float), rtol=1e-9)


@given(st.integers(0, 2**32), st.sampled_from(((1, 1), (2, 2), (3, 3))), st.integers(1, 2), st.sampled_from((1, 2)))
def test_live_terms_of_a_convolution(seed: int, kernel: tuple[int, int], stride: int, groups: int) -> None:
    """As many as a convolution with weights of one adds up, up to the number of weights that are not zero."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(4, 2, *kernel)) * (rng.random((4, 1, 1, 1)) < 0.7)
    begin = tuple(int(pad) for pad in rng.integers(0, 2, 2))
    window = Window(kernel, (stride, stride), (1, 1), begin, (1, 0))
    live = rng.random((3, 2 * groups, 6, 5)) < 0.4
    found = Convolution(weight, window, groups).live_terms(live)
    counted = Convolution(np.ones_like(weight), window, groups)(live.astype(float))
    terms = np.count_nonzero(weight.reshape(4, -1), axis=1).max()
    np.testing.assert_array_equal(np.broadcast_to(found, counted.shape), np.minimum(counted, terms))


@given(
    st.lists(st.tuples(weights_of_any_scale, inputs_of_any_scale), min_size=1, max_size=4),
    weights_of_any_scale,
    weights_of_any_scale,
    weights_of_any_scale,
    st.floats(2.0**-40, 2.0**40, width=32),
)
def test_batch_norm_stays_inside_whether_folded_or_not(
    terms: list[tuple[np.float32, np.float32]], gamma: np.float32, beta: np.float32, mu: np.float32, variance: float
) -> None:
    weights, x = (np.array(column, F32) for column in zip(*terms, strict=True))
    constants = {
        "w": weights.reshape(1, -1, 1, 1),
        "s": np.array([gamma]),
        "t": np.array([beta]),
        "m": np.array([mu]),
        "v": np.array([variance], F32),
    }
    nodes = [node("Conv", ["x", "w"], "c"), node("BatchNormalization", ["c", "s", "t", "m", "v"], "y")]
    content = model(nodes, [1, len(weights), 1, 1], constants)
    point = x.reshape(1, -1, 1, 1)
    network, box = network_of(content), Interval(*(point[np.newaxis].astype(np.float64),) * 2)
    if not np.isfinite(bounds(network, box, FLOAT32_ANY_ORDER)[0].lower).all():
        return  # refused: an intermediate result may overflow
    lower, upper = at_point(network, point, FLOAT32_ANY_ORDER)
    for level in (DISABLED, ALL):
        (actual,) = run(content, point, level=level)
        assert lower <= Fraction(actual.item()) <= upper
    s = F32(gamma / np.sqrt(F32(variance + F32(1e-5))))
    with np.errstate(all="ignore"):
        folded = sum((F32(F32(w * s) * v) for w, v in terms), F32(F32(beta) - F32(mu * s)))
    assert lower <= Fraction(float(folded)) <= upper


@given(st.lists(st.tuples(weights_of_any_scale, st.integers(-4, 4), st.integers(-4, 4)), min_size=1), st.data())
def test_what_rounding_takes_over_a_box_it_takes_at_most_in_every_part(
    rows: list[tuple[np.float32, int, int]], data: st.DataObject
) -> None:
    weights = np.array([weight for weight, _, _ in rows], F32)
    ends = np.sort([(first, second) for _, first, second in rows], axis=1)
    inner = np.sort([[data.draw(st.integers(int(low), int(high))) for _ in range(2)] for low, high in ends], axis=1)
    tensor = network_of(dot_product(weights, F32(1))).output
    charges = []
    for box in (inner, ends):
        lower, upper = box.T.astype(np.float64).reshape(2, 1, 1, -1)
        intervals = {tensor.operands[0]: Interval(lower, upper), tensor: Interval(*np.zeros((2, 1, 1, 1)))}
        charges.append(relaxation(tensor, intervals, FLOAT32_ANY_ORDER).charge.item())
    assert charges[0] <= charges[1] * (1 + 1e-12)


def test_a_sum_that_absorbs_its_terms_is_not_trusted() -> None:
    """2^24 + 1 - 2^24: zero or one, by the order; the real-number contract believes in one."""
    network = network_of(dot_product(np.array([2.0**24, 1.0, -(2.0**24)], F32), F32(0)))
    ones = np.ones((1, 3), F32)
    lower, upper = at_point(network, ones, FLOAT32_ANY_ORDER)
    assert lower <= 0
    assert upper >= 1
    real_lower, real_upper = at_point(network, ones, REAL)
    assert Fraction(1, 2) < real_lower <= 1 <= real_upper


@pytest.mark.parametrize(
    "weights",
    [[3e38, 3e38, -3e38], [1e30], [2.0**126, 2.0**126]],
    ids=["sum", "product", "exactly-at-the-limit"],
)
def test_what_may_overflow_proves_nothing(weights: list[float]) -> None:
    content = dot_product(np.array(weights, F32), F32(0))
    point = np.full((1, 1, len(weights)), 1e9)
    ((lower, upper),) = bounds(network_of(content), Interval(point, point), FLOAT32_ANY_ORDER)
    assert np.isnan(lower).all()
    assert np.isnan(upper).all()


def test_possible_overflow_is_not_clipped_away() -> None:
    nodes = [node("Mul", ["x", "big"], "m"), node("Sub", ["m", "m"], "d"), node("Clip", ["d", "zero", "one"], "y")]
    constants = {"big": F32(3e38), "zero": F32(0), "one": F32(1)}
    point = np.full((1, 1), 100.0)
    ((lower, upper),) = bounds(network_of(model(nodes, [1], constants)), Interval(point, point), FLOAT32_ANY_ORDER)
    assert np.isnan(lower).all()
    assert np.isnan(upper).all()


def test_the_residual_meets_every_rounding_of_the_sum_it_is_added_in() -> None:
    """A runtime may start a dot product from the residual, which then absorbs the small terms one by one."""
    count = 200
    nodes = [
        node("Slice", ["x", "zero", "n", "axis"], "small"),
        node("Slice", ["x", "n", "end", "axis"], "residual"),
        node("Gemm", ["small", "w"], "dot"),
        node("Add", ["dot", "residual"], "y"),
    ]
    constants = {
        "w": np.ones((count, 1), F32),
        "zero": np.array([0]),
        "n": np.array([count]),
        "end": np.array([count + 1]),
        "axis": np.array([1]),
    }
    x = np.ones((1, count + 1), F32)
    x[0, -1] = 2.0**24
    network = network_of(model(nodes, [1, count + 1], constants))
    lower, upper = at_point(network, x, FLOAT32_ANY_ORDER)
    assert lower <= 2**24 <= upper  # every one absorbed
    assert lower <= 2**24 + count <= upper


@pytest.mark.parametrize("count", [2, 10, 50])
@pytest.mark.parametrize("residuals", [1, 2, 3, 6])
def test_residuals_of_many_sums_may_be_added_inside_one_product(count: int, residuals: int) -> None:
    """Two large terms cancel, one rounds down and one up; in between every small number is absorbed."""
    nodes, constants = [node("Gemm", ["x", "w", "b"], "y0")], {"axis": np.array([1])}
    for index in range(residuals):
        constants |= {f"at{index}": np.array([count + index]), f"end{index}": np.array([count + index + 1])}
        nodes.append(node("Slice", ["x", f"at{index}", f"end{index}", "axis"], f"r{index}"))
        nodes.append(node("Add", [f"y{index}", f"r{index}"], f"y{index + 1}"))
    weights = np.array([673, *[1] * (count - 2), -1549, *[0] * residuals], F32)
    x = np.array([24929, *[1] * (count - 2), 10831, *[1] * residuals], F32)
    constants |= {"w": weights.reshape(-1, 1), "b": np.ones(1, F32)}
    total = weights[0] * x[0]
    for _ in range(count - 2 + 1 + residuals):
        total = F32(total + F32(1))
    total = F32(total + weights[count - 1] * x[count - 1])
    network = network_of(model(nodes, [1, len(x)], constants, outputs=[f"y{residuals}"]))
    lower, upper = at_point(network, x[np.newaxis], FLOAT32_ANY_ORDER)
    assert lower <= Fraction(float(total)) <= upper


@pytest.mark.parametrize("uses", [1024, 4096])
def test_the_own_rounding_of_coefficients_that_many_uses_add_up_is_bounded(uses: int) -> None:
    """y = (2^56 x + T) - 2^56 x, for the sum T of as many values 2 x: the coefficients of x absorb those of T."""
    names = [f"p{index}" for index in range(uses)]
    nodes = [node("Add", ["x", "x"], name) for name in names]
    while len(names) > 1:
        pairs = list(zip(names[::2], names[1::2], strict=True))
        nodes += [node("Add", pair, f"s{len(nodes) + index}") for index, pair in enumerate(pairs)]
        names = [each.output[0] for each in nodes[-len(pairs) :]]
    nodes += [
        node("Mul", ["x", "big"], "first"),
        node("Mul", ["x", "big"], "second"),
        node("Add", ["first", names[0]], "sum"),
        node("Sub", ["sum", "second"], "y"),
    ]
    network = network_of(model(nodes, [1, 1], {"big": np.array([2.0**56], F32)}))
    box = Interval(np.full((1, 1, 1), -1.0), np.full((1, 1, 1), -0.5))
    for refine in (False, True):
        (lower,) = crown_bounds(network, box, np.ones((1, 1, 1, 1)), REAL, refine=refine)
        assert lower[0] <= -2 * uses
