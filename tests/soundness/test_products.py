"""Products and quotients of values that depend on the input: no execution leaves its bounds, which tell how the value
varies."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain

import numpy as np
import onnx
import pytest
import torch

from support.attention import attention, gated_by_its_mean, heads
from support.executions import executions, sampled_points
from support.onnx_models import model, network_of, node
from support.parity import require_parity
from verify.bounds.crown import crown_bounds
from verify.bounds.evaluation import bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.primitives import Product, Softmax
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem
from verify.model import network as reading
from verify.search.backward import Backward


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("before", "after"), [(1.0, 0.5), (0.5, 1.0), (3.0, 0.1), (1e-3, 300.0), (2e3, 1e-3)])
def test_no_execution_of_attention_leaves_its_bounds(seed: int, before: float, after: float) -> None:
    rng = np.random.default_rng(seed)
    require_bounds(attention(rng, before, after), 12, rng, seed)


@pytest.mark.parametrize("seed", range(16))
def test_no_execution_of_values_that_are_repeated_in_products_leaves_its_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    require_bounds(heads(rng), 24, rng, seed)
    require_bounds(gated_by_its_mean(), 12, rng, seed, batch=1)


def require_bounds(content: bytes, outputs: int, rng: np.random.Generator, seed: int, *, batch: int = 60) -> None:
    network = network_of(content)
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 100), Fraction(1, 4))[seed % 4]
    box = box_around(rng.normal(size=(1, 1, 3, 4)).astype(np.float32), eps, None)
    with np.errstate(all="ignore"):
        ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
        rows = np.concatenate([np.eye(outputs), -np.eye(outputs)]).reshape(1, 2 * outputs, *network.output.shape)
        linear = crown_bounds(network, box, rows, FLOAT32_ANY_ORDER)
    assert np.isfinite(linear).all()
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    for some in np.split(points, len(points) // batch):
        values = np.concatenate(executions(content, some)).reshape(-1, outputs)
        assert (values >= lower.reshape(outputs)).all()
        assert (values <= upper.reshape(outputs)).all()
        assert (np.concatenate([values, -values], axis=1) >= linear[0]).all()


def test_bounds_of_a_product_are_off_by_the_product_of_the_radii() -> None:
    """(a + b) (a - b) over a small box, of which intervals alone would make much more."""
    nodes = [
        node("MatMul", ["x", "sum"], "s"),
        node("MatMul", ["x", "difference"], "d"),
        node("Mul", ["s", "d"], "y"),
    ]
    weights = {"sum": np.float32([[1], [1]]), "difference": np.float32([[1], [-1]])}
    network = network_of(model(nodes, ["n", 2], weights))
    radius = Fraction(1, 128)
    box = box_around(np.float32([[[2, 1]]]), radius, None)
    (lower, upper), r = crown_bounds(network, box, np.float64([1, -1]).reshape(1, 2, 1, 1), REAL)[0], float(radius)
    # 3 + 4 da - 2 db + da^2 - db^2, of magnitudes up to r
    assert 3 - 6 * r - 4.001 * r * r <= lower <= 3 - 6 * r
    assert 3 + 6 * r <= -upper <= 3 + 6 * r + 4.001 * r * r


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("power", range(1, 7))
def test_bounds_hold_where_float64_loses_products_of_errors(power: int, divided: bool) -> None:
    """Of s t^n times r t^n, or r t^n divided by 1 / (s t^n + 2^60), times 2^53, over boxes of s and r around zero: what
    the real numbers make of them, which may be subnormal in float64."""
    t, radius, scale = np.float32(1e-29), np.float32(1.5e-17), 2.0**53
    nodes = [node("Gather", ["x", name + "_at"], name, axis=1) for name in "srt"]
    for name in "sr":
        for step in range(power):
            nodes.append(node("Mul", [name if step == 0 else f"{name}_{step - 1}", "t"], f"{name}_{step}"))
    first, second = (f"{name}_{power - 1}" for name in "sr")
    if divided:
        nodes += [node("Add", [first, "shift"], "d"), node("Div", ["one", "d"], "i"), node("Div", [second, "i"], "y")]
    else:
        nodes.append(node("Mul", [first, second], "y"))
    weights = {f"{name}_at": np.int64([at]) for at, name in enumerate("srt")}
    network = network_of(model(nodes, [1, 3], weights | {"one": np.float32([1]), "shift": np.float32([2**60])}))
    ends = (np.array([[[end, end, t]]], np.float32) for end in (-radius, radius))
    box = Interval(*(end.astype(np.float64) for end in ends))
    each = Fraction(float(radius)) * Fraction(float(t)) ** power
    largest = each * (each + 2**60) if divided else each**2
    functionals = scale * np.float64([1, -1]).reshape(1, 2, 1, 1)
    for refine in (False, True):
        for bound in crown_bounds(network, box, functionals, REAL, refine=refine)[0].tolist():
            assert Fraction(bound) <= -largest * Fraction(scale)


@pytest.mark.parametrize("several", [False, True])
def test_the_search_bounds_products_as_the_checker_does(several: bool) -> None:
    rng = np.random.default_rng(0)
    network = network_of(heads(rng) if several else attention(rng, 0.5, 1.0))
    require_parity(network, box_around(rng.normal(size=(3, 1, 3, 4)).astype(np.float32), Fraction(1, 50), None))


def shares(rng: np.random.Generator, sign: float, room: float) -> bytes:
    """Numbers of either sign by the sum of their squares and some room, or less than nothing."""
    nodes = [
        *(node("MatMul", ["x", "w"], "a"), node("Mul", ["a", "a"], "s")),
        node("ReduceSum", ["s", "axes"], "t", keepdims=1),
        *(node("Mul", ["t", "sign"], "u"), node("Add", ["u", "room"], "b")),
        *(node("Div", ["a", "b"], "q"), node("MatMul", ["q", "v"], "y")),
    ]
    weights = {"w": rng.normal(size=(4, 5)).astype(np.float32), "v": rng.normal(size=(5, 3)).astype(np.float32)}
    numbers = {"sign": np.float32(sign), "room": np.float32(sign * room), "axes": np.array([1])}
    return model(nodes, ["n", 4], weights | numbers)


@pytest.mark.parametrize("room", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(8))
def test_no_execution_of_quotients_leaves_its_bounds(seed: int, sign: float, room: float) -> None:
    rng = np.random.default_rng(seed)
    content = shares(rng, sign, room)
    network = network_of(content)
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 20), Fraction(1))[seed % 4]
    box = box_around(rng.normal(size=(1, 1, 4)).astype(np.float32), eps, None)
    rows = np.concatenate([np.eye(3), -np.eye(3), rng.normal(size=(10, 3))]).reshape(1, 16, 1, 3)
    with np.errstate(all="ignore"):
        linear = crown_bounds(network, box, rows, FLOAT32_ANY_ORDER)
    assert np.isfinite(linear).all()
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    for y in executions(content, points):
        assert (y.reshape(len(y), 3) @ rows.reshape(16, 3).T >= linear[0]).all()


@pytest.mark.parametrize("centre", [(2, 4), (-1, 4), (0, -3), (5, 1), (0.1, 1.5)])
@pytest.mark.parametrize("radius", [Fraction(1, 10**6), Fraction(1, 16), Fraction(3, 4)])
def test_no_corner_of_a_quotient_of_two_inputs_leaves_its_bounds(centre: tuple[float, float], radius: Fraction) -> None:
    """Beside the inputs themselves, so that each corner is the worst one for some functional."""
    rng = np.random.default_rng(0)
    weights = {"a": np.float32([[1], [0]]), "b": np.float32([[0], [1]])}
    nodes = [node("MatMul", ["x", "a"], "c"), node("MatMul", ["x", "b"], "d"), node("Div", ["c", "d"], "e")]
    content = model([*nodes, node("Concat", ["e", "x"], "y", axis=1)], ["n", 2], weights)
    box = box_around(np.float32([[centre]]), radius, None)
    slopes = rng.normal(size=(40, 2)) * np.repeat([0.1, 1.0], 20)[:, np.newaxis]
    rows = np.concatenate([np.repeat([[1.0], [-1.0]], 20, axis=0), slopes], axis=1).reshape(1, 40, 1, 3)
    found = crown_bounds(network_of(content), box, rows, FLOAT32_ANY_ORDER)[0]
    assert np.isfinite(found).all()
    for y in executions(content, sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 200)):
        assert (y.reshape(len(y), 3) @ rows.reshape(40, 3).T >= found).all()


def test_bounds_of_a_quotient_are_off_by_second_order() -> None:
    """a / b near 2 / 4, of which intervals alone would know that it lies within r / 4 + r / 8."""
    weights = {"a": np.float32([[1], [0]]), "b": np.float32([[0], [1]])}
    nodes = [node("MatMul", ["x", "a"], "c"), node("MatMul", ["x", "b"], "d"), node("Div", ["c", "d"], "e")]
    # less what a / b is to first order
    nodes += [node("MatMul", ["x", "w"], "f"), node("Sub", ["e", "f"], "y")]
    network = network_of(model(nodes, ["n", 2], weights | {"w": np.float32([[0.25], [-0.125]])}))
    radius = Fraction(1, 16)
    box = box_around(np.float32([[[2, 4]]]), radius, None)
    (lower, upper), r = crown_bounds(network, box, np.float64([1, -1]).reshape(1, 2, 1, 1), REAL)[0], float(radius)
    assert 0.5 - 0.15 * r * r <= lower <= 0.5
    assert 0.5 <= -upper <= 0.5 + 0.15 * r * r


@pytest.mark.parametrize("eps", [Fraction(1, 20), Fraction(1)])
def test_the_search_bounds_quotients_as_the_checker_does(eps: Fraction) -> None:
    rng = np.random.default_rng(0)
    network = network_of(shares(rng, 1.0, 0.5))
    require_parity(network, box_around(rng.normal(size=(3, 1, 4)).astype(np.float32), eps, None))


SCALES = {"big": np.float32(1e30), "small": np.float32(1e-30), "one": np.float32(1), "rows": np.array([0, 0, 1])}
TURNED = node("Transpose", ["b"], "t", perm=[0, 2, 1])


@pytest.mark.parametrize("size", [1e5, 1e-8])
@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Mul", ["x", "small"], "a"),
            node("Mul", ["x", "big"], "c"),
            node("Gather", ["c", "rows"], "b", axis=1),
            TURNED,
            node("MatMul", ["a", "t"], "y"),
        ],
        [
            node("Mul", ["x", "big"], "a"),
            node("Mul", ["x", "small"], "c"),
            node("Gather", ["c", "rows"], "b", axis=1),
            TURNED,
            node("MatMul", ["a", "t"], "y"),
        ],
        [
            node("Mul", ["x", "big"], "c"),
            node("Add", ["c", "one"], "d"),
            node("Mul", ["d", "small"], "a"),
            node("Transpose", ["x"], "t", perm=[0, 2, 1]),
            node("MatMul", ["a", "t"], "y"),
        ],
    ],
    ids=["small and big", "big and small", "one after the other"],
)
def test_a_runtime_may_move_one_of_two_scalars_that_cancel(nodes: list[onnx.NodeProto], size: float) -> None:
    content = model(nodes, ["n", 2, 3], {name: SCALES[name] for each in nodes for name in each.input if name in SCALES})
    network = network_of(content)
    x = np.full((1, 1, 2, 3), size, np.float32)
    ((lower, upper),) = bounds(network, box_around(x, Fraction(0), None), FLOAT32_ANY_ORDER)
    for y in executions(content, x[:, 0]):
        assert not (y[0] < lower[0, 0]).any()
        assert not (y[0] > upper[0, 0]).any()
        assert np.isfinite(y).all() or np.isnan(lower).any()


def test_several_heads_are_taken_from_one_product() -> None:
    """Of which only the first part is scaled."""
    rng = np.random.default_rng(0)
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Reshape", ["h", "heads"], "g"),
        node("Transpose", ["g"], "f", perm=[2, 0, 3, 1, 4]),
        *(node("Gather", ["f", f"i{i}"], name, axis=0) for i, name in enumerate("qkv")),
        node("Mul", ["q", "s"], "qs"),
        node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2]),
        node("MatMul", ["qs", "kt"], "a"),
        node("Softmax", ["a"], "p", axis=-1),
        node("MatMul", ["p", "v"], "o"),
        node("Reshape", ["o", "flat"], "y"),
    ]
    constants = {"w": rng.normal(size=(8, 24)).astype(np.float32), "s": np.float32(0.5)}
    constants |= {f"i{i}": np.array(i) for i in range(3)}
    constants |= {"heads": np.array([-1, 3, 3, 2, 4]), "flat": np.array([-1, 24])}
    content = model(nodes, ["n", 3, 8], constants)
    network = network_of(content)
    box = box_around(rng.normal(size=(1, 1, 3, 8)).astype(np.float32), Fraction(1, 50), None)
    rows = np.concatenate([np.eye(24), -np.eye(24)]).reshape(1, 48, *network.output.shape)
    with np.errstate(all="ignore"):
        linear = crown_bounds(network, box, rows, FLOAT32_ANY_ORDER)
    assert np.isfinite(linear).all()
    for y in executions(content, sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 40)):
        assert (np.concatenate([y, -y], axis=1) >= linear).all()


def test_a_wide_softmax_is_bounded_by_its_interval() -> None:
    """In every lane alike, and by the search as well."""
    width = 600
    nodes = [node("Softmax", ["x"], "p", axis=-1), node("MatMul", ["p", "w"], "y")]
    weights = {"w": np.random.default_rng(0).normal(size=(width, 1)).astype(np.float32)}
    network = network_of(model(nodes, ["n", width], weights))
    boxes = box_around(np.random.default_rng(1).random((2, 1, width)).astype(np.float32), Fraction(1, 10), None)
    row = np.ones((2, 1, *network.output.shape))
    with np.errstate(all="ignore"):
        both = crown_bounds(network, boxes, row, REAL)
        alone = crown_bounds(network, Interval(boxes.lower[:1], boxes.upper[:1]), row[:1], REAL)
        intervals = crown_intervals(network, boxes, REAL)
    np.testing.assert_allclose(both[:1], alone, rtol=1e-12)
    backward = Backward(network.output, torch.device("cpu"))
    none = torch.zeros(2, 0)
    found = backward.bounds(backward.lanes(intervals, row[:, 0]), torch.zeros(0, dtype=torch.int64), none, none).bounds
    np.testing.assert_allclose(found.numpy(), both[:, 0], rtol=1e-4, atol=1e-4)


def test_a_small_file_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of a MatMul are counted where it is read, though its results are few."""
    transposed = node("Transpose", ["x"], "t", perm=[0, 2, 1])
    content = model(
        [transposed, *(node("MatMul", ["t", "x"], f"y{i}") for i in range(20))], [1, 1, 300], {}, outputs=["y0"]
    )
    network_of(content)
    monkeypatch.setattr(reading, "_LARGEST_TOTAL", 2**23)
    with pytest.raises(ModelProblem, match="too large"):
        network_of(content)


def test_what_products_and_softmax_read_is_bounded_by_linear_bounds() -> None:
    network = network_of(heads(np.random.default_rng(0)))
    box = box_around(np.random.default_rng(1).normal(size=(1, 1, 3, 4)).astype(np.float32), Fraction(1, 100), None)
    loose, tight = (crown_intervals(network, box, REAL, refine=refine) for refine in (False, True))
    read = [t.operands for t in tight if isinstance(t.primitive, Softmax | Product)]
    widths = np.array([[np.mean(x[t].upper - x[t].lower) for x in (loose, tight)] for t in chain(*read)])
    assert (widths[:, 1] <= widths[:, 0]).all()
    assert (widths[:, 1] < 0.9 * widths[:, 0]).any()
    (scores,) = next(t.operands for t in tight if isinstance(t.primitive, Softmax))
    assert np.mean(tight[scores].upper - tight[scores].lower) < 0.9 * np.mean(loose[scores].upper - loose[scores].lower)
