"""Weights that a model computes: no execution leaves the bounds, whoever computes them, and when; tolerance zero."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from support.executions import box_of, executions, sampled_points
from support.onnx_models import ALL, DISABLED, model, network_of, node, run
from verify.bounds.evaluation import bounds, values
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem

F32 = np.float32


class _Constants:
    """Nodes that compute constants, each in a way that somebody's exporter leaves in a file."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.given: dict[str, NDArray[Any]] = {}

    def value(self, *shape: int) -> str:
        name = f"c{len(self.given)}"
        self.given[name] = self.rng.normal(size=shape).astype(F32)
        return name

    def apply(self, operator: str, *operands: str, **attributes: Any) -> str:
        name = f"k{len(self.nodes)}"
        self.nodes.append(node(operator, list(operands), name, **attributes))
        return name

    def normalised(self, *shape: int) -> str:
        """Weights over their norm, times a gain (weight normalisation)."""
        v, gain = self.value(*shape), self.value(shape[0], *[1] * (len(shape) - 1))
        norm = self.apply("ReduceL2", v, axes=list(range(1, len(shape))))
        return self.apply("Mul", v, self.apply("Div", gain, norm))

    def product(self, rows: int, columns: int) -> str:
        """Of low rank; nothing cancels in it."""
        first, second = self.value(rows, 3), self.value(3, columns)
        for name in (first, second):
            self.given[name] = np.abs(self.given[name])
        return self.apply("MatMul", self.apply("Neg", first), second)

    def definite(self, size: int) -> str:
        """A' A + I (a Lyapunov function)."""
        root = self.value(size, size)
        square = self.apply("MatMul", self.apply("Transpose", root, perm=[1, 0]), root)
        self.given["one"] = np.eye(size, dtype=F32) * F32(0.1)
        return self.apply("Add", "one", square)

    def answer(self, size: int) -> str:
        """What a small network answers to a point."""
        shift = self.value(5)
        self.given[shift] += 2
        hidden = self.apply("Relu", self.apply("Gemm", self.value(1, 4), self.value(4, 5), shift))
        return self.apply("MatMul", self.apply("Pow", hidden, self._two()), self.value(5, size))

    def _two(self) -> str:
        self.given["two"] = np.array(2, F32)
        return "two"


def dense(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    made = _Constants(rng)
    nodes = [
        node("Gemm", ["x", made.normalised(6, 4), made.value(6)], "a", transB=1),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", made.product(6, 5)], "c"),
        node("Add" if seed % 2 else "Sub", ["c", made.answer(5)], "d"),
        node("Sub", [made.answer(5), "d"], "e"),
        node("MatMul", ["e", made.definite(5)], "f"),
        node("Gemm", ["f", made.product(5, 3), made.answer(3)], "y", alpha=[1.0, 0.3][seed % 2]),
    ]
    return model([*made.nodes, *nodes], ["n", 4], made.given)


def convolutional(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    made = _Constants(rng)
    nodes = [
        node("Conv", ["x", made.normalised(3, 2, 2, 2), made.value(3)], "a", kernel_shape=[2, 2]),
        node("Relu", ["a"], "b"),
        node("Flatten", ["b"], "c"),
        node("MatMul", ["c", made.product(12, 3)], "y"),
    ]
    return model([*made.nodes, *nodes], ["n", 2, 3, 3], made.given)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("build", [dense, convolutional])
def test_no_execution_leaves_the_bounds(build: Any, seed: int) -> None:
    content = build(seed)
    network = network_of(content)
    box = box_of(seed, network.input.shape[1:])
    box = Interval(*(end[:, np.newaxis] for end in box))
    points = sampled_points(box, np.random.default_rng(seed), 30).reshape(-1, *network.input.shape[1:])
    with np.errstate(all="ignore"):
        linear = crown_intervals(network, box, FLOAT32_ANY_ORDER)[network.output]
    around = [*bounds(network, box, FLOAT32_ANY_ORDER), linear]
    for answers in executions(content, points):
        for lower, upper in around:
            assert np.isfinite(lower).all()
            assert (lower[0] <= answers).all()
            assert (answers <= upper[0]).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("build", "share"), [(dense, 0.5), (convolutional, 1e-4)])  # weights of the first cancel
def test_at_a_point_only_rounding_is_left(build: Any, share: float, seed: int) -> None:
    content = build(100 + seed)
    network = network_of(content)
    x = np.random.default_rng(seed).normal(size=(1, *network.input.shape)).astype(F32)
    point = x.astype(np.float64)
    (ours,) = values(network, point)
    for contract in (FLOAT32_ANY_ORDER, REAL):
        ((lower, upper),) = bounds(network, Interval(point, point), contract)
        assert (lower <= ours).all()
        assert (ours <= upper).all()
        assert (upper - lower < (share if contract is FLOAT32_ANY_ORDER else 1e-6) * (1 + np.abs(ours).max())).all()
    ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for level in (DISABLED, ALL):
        (actual,) = run(content, x[0], level=level)
        assert ((lower[0] <= actual) & (actual <= upper[0])).all()


def test_a_network_with_weight_normalisation_is_read() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(weight_norm(nn.Conv2d(1, 3, 3)), nn.ReLU(), nn.Flatten(), weight_norm(nn.Linear(27, 4)))
    file = io.BytesIO()
    x = torch.rand(1, 1, 5, 5)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters to come
        torch.onnx.export(layers.eval(), (x,), file, dynamo=False, input_names=["x"], output_names=["y"])
        expected = layers(x).numpy()
    content = file.getvalue()
    assert "ReduceL2" in {each.op_type for each in onnx.load_from_string(content).graph.node}
    (found,) = values(network_of(content), x.double().numpy()[np.newaxis])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


def test_zeros_among_the_weights_stay_zero() -> None:
    """Whatever they are divided by: a runtime multiplies by zero exactly."""
    made = _Constants(np.random.default_rng(0))
    weight = made.normalised(3, 4)
    made.given["c0"][:, 0] = 0
    network = network_of(model([*made.nodes, node("Gemm", ["x", weight], "y", transB=1)], ["n", 4], made.given))
    ((lower, upper),) = bounds(network, Interval(np.zeros((1, 1, 4)), np.eye(4)[:1, np.newaxis]), REAL)
    assert np.abs([lower, upper]).max() < 1e-250


def test_constants_that_cancel_are_refused() -> None:
    """What is left of them may be all rounding."""
    made = _Constants(np.random.default_rng(0))
    product = made.product(4, 3)
    made.given["same"] = made.given["c0"] @ made.given["c1"]
    nodes = [*made.nodes, node("Add", [product, "same"], "w"), node("MatMul", ["x", "w"], "y")]
    with pytest.raises(ModelProblem, match="not accurate: fold it before export"):
        network_of(model(nodes, ["n", 4], made.given))


def test_long_ways_to_a_constant_are_refused() -> None:
    """Which every use of it would go again."""
    steps = [node("Mul", [f"k{step}" if step else "one", "root"], f"k{step + 1}") for step in range(400)]
    nodes = [node("Sqrt", ["one"], "root"), *steps, node("Mul", ["x", "k400"], "y")]
    with pytest.raises(ModelProblem, match="fold it before export"):
        network_of(model(nodes, ["n", 4], {"one": np.ones(1, F32)}))


def test_a_product_with_zero_that_overflows_before_is_not_zero() -> None:
    nodes = [node("Mul", ["x", "huge"], "a"), node("Mul", ["a", "nothing"], "y")]
    constants = {"huge": np.full(2, 3e38, F32), "nothing": np.array([0, 1], F32)}
    network = network_of(model(nodes, ["n", 2], constants))
    ((lower, upper),) = bounds(network, Interval(np.full((1, 1, 2), -4.0), np.full((1, 1, 2), 4.0)), FLOAT32_ANY_ORDER)
    assert np.isnan([lower, upper]).all()


ROOT = {"two": F32(2), "root": np.sqrt(F32(2))}
"""Sqrt(two) is the root in float32, and not quite over the real numbers."""
LOST = {"terms": np.array([2**24, 1, -(2**24)], F32), "ones": np.ones(3, F32)}
"""Whose sum of products is 1, and 0 in float32 from left to right."""
QUANTISED = {"q": np.array([100], np.int8), "s": F32(0.01), "z": np.int8(0)}
GELU = {"root": np.sqrt(F32(2)), "half": F32(0.5)}
REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "a summand of Gelu": (
        [
            *(node("MatMul", ["terms", "ones"], "k"), node("Div", ["x", "root"], "a"), node("Erf", ["a"], "b")),
            *(node("Add", ["b", "k"], "c"), node("Mul", ["x", "c"], "d"), node("Mul", ["d", "half"], "y")),
        ],
        LOST | GELU,
        "not accurate",
    ),
    "a factor that is one": (
        [node("Sqrt", ["two"], "a"), node("Div", ["a", "root"], "k"), node("Mul", ["x", "k"], "y")],
        ROOT,
        "1 but for rounding",
    ),
    "summands that are zero": (
        [
            *(node("Sqrt", ["twos"], "a"), node("Sub", ["a", "roots"], "k"), node("Add", ["x", "k"], "y")),
        ],
        {"twos": np.full(4, 2, F32), "roots": np.full(4, np.sqrt(F32(2)))},
        "0 but for rounding",
    ),
    "an epsilon from a quantised number": (
        [
            *(node("DequantizeLinear", ["q", "s", "z"], "d"), node("Mul", ["d", "half"], "k")),
            node("Add", ["x", "k"], "y"),
        ],
        QUANTISED | GELU,
        "computed from quantised ones",
    ),
    "a divisor with a zero": (
        [node("Relu", ["terms"], "k"), node("Div", ["x", "k"], "y")],
        {"terms": np.array([-1, 1, 2, 3], F32)},
        "holds a zero",
    ),
    "large products": (
        [node("MatMul", ["a", "a"], "b"), node("MatMul", ["b", "b"], "c"), node("MatMul", ["x", "c"], "y")],
        {"a": np.ones((400, 400), F32)},
        "so much work",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_well_is_refused(name: str) -> None:
    nodes, constants, reason = REFUSED[name]
    width = 400 if "a" in constants else 4
    with pytest.raises(ModelProblem, match=reason):
        network_of(model(nodes, ["n", width], constants))


def test_factors_that_underflow_in_float64_leave_something() -> None:
    """Over the real numbers 1e-342 1e296 x is not zero."""
    factors = [1e-38] * 9 + [1e37] * 8
    names = ["x", *(f"h{index}" for index in range(len(factors) - 1)), "y"]
    nodes = [node("Mul", [names[i], f"f{i}"], names[i + 1]) for i in range(len(factors))]
    network = network_of(model(nodes, ["n", 1], {f"f{i}": F32(value) for i, value in enumerate(factors)}))
    ((_, upper),) = bounds(network, Interval(np.ones((1, 1, 1)), np.ones((1, 1, 1))), REAL)
    assert (upper > 0).all() or np.isnan(upper).all()


@pytest.mark.parametrize("between", ["Mul", "Transpose"])
@pytest.mark.parametrize("pooling", ["MaxPool", "AveragePool"])
def test_a_pad_is_seen_through_what_does_nothing(between: str, pooling: str) -> None:
    """Runtimes drop that, and merge the two."""
    middle = {
        "Mul": [node("Mul", ["p", "one"], "m")],
        "Transpose": [
            node("Transpose", ["p"], "t", perm=[0, 1, 3, 2]),
            node("Transpose", ["t"], "m", perm=[0, 1, 3, 2]),
        ],
    }[between]
    nodes = [node("Pad", ["x", "ends"], "p"), *middle, node(pooling, ["m"], "y", kernel_shape=[2, 2])]
    constants = {"ends": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "one": F32(1)}
    with pytest.raises(ModelProblem, match="merge"):
        network_of(model(nodes, ["n", 2, 3, 3], constants))
