"""Normalisation of layers and groups: no execution leaves its bounds, however a runtime computes the variance."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from support.executions import executions, sampled_points
from support.onnx_models import ALL, DISABLED, model, network_of, node, session
from support.parity import require_parity
from verify.bounds.crown import crown_bounds
from verify.bounds.evaluation import bounds
from verify.boxes import box_around
from verify.compiled import compile_bounds
from verify.core.intervals import Interval
from verify.core.primitives import Variance, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL
from verify.errors import ModelProblem
from verify.model.network import Network

Floats = NDArray[np.float32]

F32 = np.float32
WIDTH, EPSILON = 12, 1e-5


def operator() -> list[onnx.NodeProto]:
    return [node("LayerNormalization", ["x", "scale", "shift"], "z", axis=-1)]


def written_out(square: onnx.NodeProto, keep: int = 1) -> list[onnx.NodeProto]:
    """As exporters write it; keep: whether means keep their axis."""
    means = [node("ReduceMean", ["x"], "m0", axes=[-1], keepdims=keep)]
    means.append(node("Unsqueeze", ["m0", "last"], "m") if not keep else node("Identity", ["m0"], "m"))
    return [
        *(*means, node("Sub", ["x", "m"], "d"), square),
        *(node("ReduceMean", ["q"], "v", axes=[-1]), node("Add", ["v", "epsilon"], "w")),
        *(node("Sqrt", ["w"], "r"), node("Div", ["d", "r"], "e")),
        *(node("Mul", ["e", "scale"], "f"), node("Add", ["f", "shift"], "z")),
    ]


WAYS: dict[str, Callable[[], list[onnx.NodeProto]]] = {
    "operator": operator,
    "power": lambda: written_out(node("Pow", ["d", "two"], "q")),
    "product": lambda: written_out(node("Mul", ["d", "d"], "q")),
    "other axes": lambda: written_out(node("Mul", ["d", "d"], "q"), keep=0),
}


def normalisation(way: str, rng: np.random.Generator) -> tuple[bytes, Floats, Floats]:
    """The network, its scale and its shift."""
    scale, shift = (rng.normal(size=WIDTH).astype(F32) for _ in range(2))
    constants = {"scale": scale, "shift": shift, "two": F32(2), "epsilon": F32(EPSILON), "last": np.array([-1])}
    nodes = [*WAYS[way](), node("Flatten", ["z"], "y", axis=1)]
    used = {name for each in nodes for name in each.input}
    known = {name: value for name, value in constants.items() if name in used}
    return model(nodes, ["n", 2, WIDTH], known, opset=17), scale, shift


def in_one_pass(x: Floats, scale: Floats, shift: Floats, rng: np.random.Generator) -> Floats:
    """mean(x^2) - mean(x)^2, as onnxruntime 1.20 has it, in an order of summation of its own; x: points x rows x n."""
    x = x[..., (order := rng.permutation(WIDTH))]
    total, squares = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for column in range(WIDTH):
        total += x[..., column : column + 1]
        squares += x[..., column : column + 1] * x[..., column : column + 1]
    mean = total / F32(WIDTH)
    root = np.sqrt(squares / F32(WIDTH) - mean * mean + F32(EPSILON))
    y = (x - mean) / root * scale[order] + shift[order]
    return np.asarray(y[..., np.argsort(order)])


def require_bounded(network: Network, box: Interval, found: list[Floats], rng: np.random.Generator) -> None:
    """None of the outputs that executions found (points x the output's shape) leaves intervals or linear bounds."""
    outputs = int(np.prod(network.output.shape))
    rows = np.concatenate([np.eye(outputs), -np.eye(outputs), rng.normal(size=(8, outputs))])
    with np.errstate(all="ignore"):
        ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
        linear = crown_bounds(network, box, rows.reshape(1, -1, *network.output.shape), FLOAT32_ANY_ORDER)[0]
    for y in found:
        values = y.reshape(len(y), outputs)
        assert not (values < lower.reshape(outputs)).any()
        assert not (values > upper.reshape(outputs)).any()
        assert not (values @ rows.T < linear).any()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("way", WAYS)
def test_no_execution_leaves_its_bounds(way: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content, scale, shift = normalisation(way, rng)
    network = network_of(content)
    assert any(isinstance(tensor.primitive, Variance) for tensor in topological(network.outputs))
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 100), Fraction(1, 2))[seed % 4]
    offset, spread = ((0.0, 1.0), (30.0, 1.0), (1.0, 0.05))[seed % 3]
    box = box_around((offset + spread * rng.normal(size=(1, 1, 2, WIDTH))).astype(F32), eps, None)
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    found = executions(content, points)
    found += [in_one_pass(points, scale, shift, rng) for _ in range(5)]
    require_bounded(network, box, found, rng)


@pytest.mark.parametrize("seed", range(4))
def test_no_execution_leaves_the_bounds_of_what_is_joined_and_normalised(seed: int) -> None:
    """The values of two products side by side, whose mean a runtime may add up inside of them."""
    rng = np.random.default_rng(seed)
    nodes = [
        *(node("MatMul", ["x", "v"], "a"), node("MatMul", ["x", "w"], "b"), node("Concat", ["a", "b"], "j", axis=1)),
        node("LayerNormalization", ["j", "scale", "shift"], "y", axis=-1),
    ]
    scale, shift = (rng.normal(size=WIDTH).astype(F32) for _ in range(2))
    constants = {name: rng.normal(size=(40, WIDTH // 2)).astype(F32) for name in ("v", "w")}
    content = model(nodes, ["n", 40], constants | {"scale": scale, "shift": shift}, opset=17)
    x = rng.normal(size=(1, 1, 40)).astype(F32)
    with np.errstate(all="ignore"):
        ((lower, upper),) = bounds(network_of(content), box_around(x, Fraction(0), None), FLOAT32_ANY_ORDER)
    assert (upper - lower).max() < 1e-2
    for y in executions(content, x[:, 0]):
        assert not ((y < lower[0]) | (y > upper[0])).any()


GROUPS, PIXELS = 2, (2, 3)


def of_groups(kind: str, rng: np.random.Generator) -> tuple[bytes, int, Floats, Floats]:
    """A network of six channels that normalises groups of pixels; how many groups, the scales and the shifts."""
    scale, shift = (rng.normal(size=6).astype(F32) for _ in range(2))
    groups = {"num_groups": GROUPS} if kind == "GroupNormalization" else {}
    nodes = [node(kind, ["x", "scale", "shift"], "y", epsilon=EPSILON, **groups)]
    content = model(nodes, ["n", 6, *PIXELS], {"scale": scale, "shift": shift}, opset=21)
    return content, GROUPS if groups else 6, scale, shift


def as_factor_and_summand(x: Floats, groups: int, scale: Floats, shift: Floats, rng: np.random.Generator) -> Floats:
    """s x + (beta - s mean), as onnxruntime has it, with sums in an order of their own; x: points x 6 x pixels."""
    rows = x.reshape(len(x), groups, -1)
    count = F32(rows.shape[2])
    shuffled = rows[..., rng.permutation(rows.shape[2])]
    mean = np.add.accumulate(shuffled, axis=2)[..., -1:] / count
    variance = np.add.accumulate((shuffled - mean) ** 2, axis=2)[..., -1:] / count
    inverse = F32(1.0) / np.sqrt(variance + F32(EPSILON))
    each = 6 // groups
    factor = np.repeat(inverse[..., 0], each, axis=1) * scale
    summand = shift - np.repeat(mean[..., 0], each, axis=1) * factor
    return np.asarray(x * factor[..., np.newaxis, np.newaxis] + summand[..., np.newaxis, np.newaxis])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["GroupNormalization", "InstanceNormalization"])
def test_no_execution_leaves_the_bounds_of_normalised_groups(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content, groups, scale, shift = of_groups(kind, rng)
    network = network_of(content)
    eps = (Fraction(0), Fraction(1, 10**5), Fraction(1, 100), Fraction(1, 2))[seed % 4]
    offset, spread = ((0.0, 1.0), (30.0, 1.0), (1.0, 0.05))[seed % 3]
    shape = 6, *PIXELS
    box = box_around((offset + spread * rng.normal(size=(1, 1, *shape))).astype(F32), eps, None)
    points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
    found = executions(content, points)
    found += [as_factor_and_summand(points, groups, scale, shift, rng) for _ in range(5)]
    require_bounded(network, box, found, rng)


@pytest.mark.parametrize(("epsilon", "scale"), [(0.0, 1.0), (1e-30, 1.0), (1e-5, 1e7)])
def test_a_factor_that_may_overflow_is_refused(epsilon: float, scale: float) -> None:
    constants = {"scale": np.full(2, scale, F32), "shift": np.zeros(2, F32)}
    nodes = [node("InstanceNormalization", ["x", "scale", "shift"], "y", epsilon=epsilon)]
    with pytest.raises(ModelProblem, match="so small an epsilon, or so large a scale"):
        network_of(model(nodes, ["n", 2, 3], constants, opset=17))


def quotient(of: list[str], root: list[str], exponent: float, mean: bool) -> list[onnx.NodeProto]:
    """Layer normalisation with other operands of its quotient and of the sum under its root; mean: less the mean."""
    return [
        *(node("ReduceMean", ["x"], "m", axes=[-1]), node("Sub", ["x", "m"] if mean else ["x", "zero"], "d")),
        *(node("Sub", ["m", "x"], "negated"), node("Mul", ["m", "m"], "other")),
        *(node("Constant", [], "k", value_float=float(exponent)), node("Pow", ["d", "k"], "q")),
        *(node("ReduceMean", ["q"], "v", axes=[-1]), node("Add", root, "w"), node("Sqrt", ["w"], "r")),
        *(node("Div", of, "e"), node("Flatten", ["e"], "y", axis=1)),
    ]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("of", "root", "exponent"),
    [
        (["d", "r"], ["epsilon", "v"], 2),
        (["d", "r"], ["v", "several"], 2),
        (["d", "r"], ["v", "other"], 2),
        (["d", "r"], ["other", "v"], 2),
        (["d", "r"], ["v", "epsilon"], 4),
        (["r", "d"], ["v", "epsilon"], 2),
        (["negated", "r"], ["v", "epsilon"], 2),
    ],
)
def test_what_runtimes_take_for_layer_normalisation_is_refused(
    of: list[str], root: list[str], exponent: float, mean: bool
) -> None:
    """onnxruntime 1.31.1 does so with 1e-5 for these constants, a square for the power, and the usual order."""
    constants = {"epsilon": F32(1e-3), "several": F32([[1e-3], [1.0]]), "zero": F32(0)}
    known = {name: value for name, value in constants.items() if name in (*root, "zero")}
    with pytest.raises(ModelProblem, match="may take"):
        network_of(model(quotient(of, root, exponent, mean), ["n", 2, WIDTH], known))
    usual = quotient(["d", "r"], ["v", "epsilon"], 2, mean)
    network_of(model(usual, ["n", 2, WIDTH], {"epsilon": F32(1e-3), "zero": F32(0)}))


@pytest.mark.parametrize("nothing", [node("Mul", ["d0", "one"], "d"), node("Div", ["d0", "one"], "d")])
@pytest.mark.parametrize("computed", [False, True])
def test_a_variance_behind_a_factor_of_one_is_refused(nothing: onnx.NodeProto, computed: bool) -> None:
    """Which runtimes drop before they look for layer normalisation."""
    nodes = [
        *((node("Sqrt", ["c"], "one"),) if computed else ()),
        *(node("ReduceMean", ["x"], "m", axes=[-1]), node("Sub", ["x", "m"], "d0"), nothing),
        *(node("Mul", ["d", "d"], "q"), node("ReduceMean", ["q"], "v", axes=[-1])),
        *(node("Add", ["v", "epsilon"], "w"), node("Sqrt", ["w"], "r"), node("Div", ["d", "r"], "y")),
    ]
    constants = {"epsilon": F32(1e-5), "c" if computed else "one": F32(1)}
    with pytest.raises(ModelProblem, match="a variance that is not"):
        network_of(model(nodes, ["n", WIDTH], constants))


@pytest.mark.parametrize("scale", [1e35, 1.0, 1e-38])
def test_the_scale_may_be_divided_first(scale: float) -> None:
    nodes = [node("LayerNormalization", ["x", "scale"], "z"), node("Flatten", ["z"], "y", axis=1)]
    network = network_of(model(nodes, ["n", 2, WIDTH], {"scale": np.full(WIDTH, scale, F32)}, opset=17))
    rng = np.random.default_rng(0)
    for size in (1e-8, 1.0, 1e10):
        x = (size * rng.normal(size=(1, 1, 2, WIDTH))).astype(F32)
        ((lower, upper),) = bounds(network, box_around(x, Fraction(0), None), FLOAT32_ANY_ORDER)
        deviation = x - x.mean(axis=-1, keepdims=True)
        root = np.sqrt((deviation * deviation).mean(axis=-1, keepdims=True) + F32(EPSILON))
        with np.errstate(all="ignore"):
            y = (deviation * (F32(scale) / root)).reshape(lower.shape)
        assert not ((y < lower) | (y > upper)).any()


def test_cancellation_shows() -> None:
    """Where the variance is small beside the mean, one pass loses it; two do not, and bounds know of both."""
    rng = np.random.default_rng(0)
    content, scale, shift = normalisation("operator", rng)
    x = (30.0 + 0.01 * rng.normal(size=(1, 1, 2, WIDTH))).astype(F32)
    ((lower, upper),) = bounds(network_of(content), box_around(x, Fraction(0), None), FLOAT32_ANY_ORDER)
    two, one = executions(content, x[:, 0])[0], in_one_pass(x[:, 0], scale, shift, rng).reshape(1, -1)
    assert np.nanmax(np.abs(one - two)) > 0.1 or np.isnan(one).any()
    assert not ((one < lower[:, 0]) | (one > upper[:, 0])).any()
    assert not (np.abs(upper - lower) < 0.1).all()


@pytest.mark.parametrize("way", ["operator", "power"])
def test_linear_bounds_are_off_by_second_order(way: str) -> None:
    rng = np.random.default_rng(0)
    content, scale, shift = normalisation(way, rng)
    network = network_of(content)
    x = rng.normal(size=(1, 1, 2, WIDTH)).astype(F32)
    rows = np.eye(2 * WIDTH).reshape(1, -1, *network.output.shape)

    def exact(values: torch.Tensor) -> torch.Tensor:
        known = (torch.tensor(each, dtype=torch.float64) for each in (scale, shift))
        return torch.nn.functional.layer_norm(values.reshape(2, WIDTH), (WIDTH,), *known, EPSILON).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(exact, torch.tensor(x.reshape(-1), dtype=torch.float64))
    box = box_around(x, eps := Fraction(1, 2000), None)
    lower, negated = (crown_bounds(network, box, sign * rows, REAL)[0] for sign in (1, -1))
    widths = 2 * float(eps) * np.abs(np.asarray(jacobian)).sum(axis=1)
    assert (-negated - lower >= 0.99 * widths).all()
    assert (-negated - lower <= 1.05 * widths).all()


@pytest.mark.parametrize("way", WAYS)
def test_no_execution_leaves_its_compiled_bounds(way: str) -> None:
    rng = np.random.default_rng(0)
    content, scale, shift = normalisation(way, rng)
    graph = compile_bounds(network_of(content), (-40.0, 40.0)).SerializeToString()
    finite = 0
    for eps in (0.0, 1e-4, 0.01, 0.3):
        offset, spread = rng.choice([0.0, 20.0], (16, 1, 1)), rng.choice([0.05, 1.0], (16, 1, 1))
        x = (offset + spread * rng.normal(size=(16, 2, WIDTH))).astype(F32)
        lowest, highest = (
            end[:, 0].astype(F32) for end in box_around(x[:, np.newaxis], Fraction(float(F32(eps))), (-40.0, 40.0))
        )
        points = [x, *(np.where(rng.random(x.shape) < 0.5, lowest, highest).astype(F32) for _ in range(30))]
        for level in (DISABLED, ALL):
            oracle = session(graph, level=level)
            names = [output.name for output in oracle.get_outputs()]
            found = dict(zip(names, oracle.run(None, {"x": x, "eps": np.array(eps, F32)}), strict=True))
            finite += int(np.isfinite(found["lower"]).sum())
            for point in points:
                ways = [*executions(content, point), in_one_pass(point, scale, shift, rng)]
                for y in (each.reshape(16, -1) for each in ways):
                    assert not ((y < found["lower"]) | (y > found["upper"])).any()
    assert finite > 2000


@pytest.mark.parametrize("way", ["operator", "power"])
def test_the_search_bounds_it_as_the_checker_does(way: str) -> None:
    rng = np.random.default_rng(0)
    network = network_of(normalisation(way, rng)[0])
    box = box_around(rng.normal(size=(3, 1, 2, WIDTH)).astype(F32), Fraction(1, 50), None)
    require_parity(network, box, tolerance=1e-3)
