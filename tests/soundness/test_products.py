"""Products of values that depend on the input: no execution leaves its bounds, which tell how the value varies."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch

from support.executions import executions, sampled_points
from support.onnx_models import model, network_of, node
from verify.bounds import bounds
from verify.boxes import box_around
from verify.crown import crown_bounds, crown_intervals
from verify.intervals import Interval
from verify.linear_bounds import lower_bounds
from verify.rounding import FLOAT32_ANY_ORDER, REAL
from verify.search.backward import Backward
from verify.search.box_bounds import BoxBounds


def attention(rng: np.random.Generator, before: float, after: float) -> bytes:
    """A residual block of self-attention over three tokens of four numbers, with scales around its first product."""
    weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in ("q", "k", "v")}
    nodes: list[onnx.NodeProto] = [
        *(node("MatMul", ["x", name], f"{name}0") for name in weights),
        node("Mul", ["q0", "before"], "q1"),
        node("Transpose", ["k0"], "k1", perm=[0, 2, 1]),
        node("MatMul", ["q1", "k1"], "s0"),
        node("Mul", ["s0", "after"], "s1"),
        node("Softmax", ["s1"], "p", axis=-1),
        node("MatMul", ["p", "v0"], "a"),
        node("Add", ["x", "a"], "r"),
        node("Flatten", ["r"], "y", axis=1),
    ]
    return model(nodes, ["n", 3, 4], weights | {"before": np.float32(before), "after": np.float32(after)})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("before", "after"), [(1.0, 0.5), (0.5, 1.0), (3.0, 0.1), (1e-3, 300.0), (2e3, 1e-3)])
def test_no_execution_of_attention_leaves_its_bounds(seed: int, before: float, after: float) -> None:
    rng = np.random.default_rng(seed)
    content = attention(rng, before, after)
    network = network_of(content)
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 100), Fraction(1, 4))[seed % 4]
    box = box_around(rng.normal(size=(1, 1, 3, 4)).astype(np.float32), eps, None)
    with np.errstate(all="ignore"):
        ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
        rows = np.concatenate([np.eye(12), -np.eye(12)]).reshape(1, 24, 1, 12)
        linear = crown_bounds(network, box, rows, FLOAT32_ANY_ORDER)
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    for y in executions(content, points):
        values = y.reshape(len(y), 12)
        assert (values >= lower.reshape(12)).all()
        assert (values <= upper.reshape(12)).all()
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


def test_the_search_bounds_products_as_the_checker_does() -> None:
    rng = np.random.default_rng(0)
    network = network_of(attention(rng, 0.5, 1.0))
    box = box_around(rng.normal(size=(3, 1, 3, 4)).astype(np.float32), Fraction(1, 50), None)
    functionals = rng.normal(size=(3, 1, *network.output.shape))
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, REAL)
        expected = lower_bounds(network.output, functionals, intervals, REAL)[:, 0]
    backward = Backward(network.output, torch.device("cpu"))
    lanes = backward.lanes(intervals, functionals[:, 0])
    none = torch.zeros(3, 0)
    found = backward.bounds(lanes, torch.zeros(0, dtype=torch.int64), none, none).bounds
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    over_boxes = BoxBounds(network.output)(*(end.astype(np.float32) for end in box))
    anew = over_boxes(torch.tensor(functionals, dtype=torch.float32)).bounds[:, 0]
    np.testing.assert_allclose(anew.numpy(), expected, rtol=1e-3, atol=1e-3)
