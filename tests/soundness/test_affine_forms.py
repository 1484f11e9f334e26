"""No execution leaves its affine form: the remainder covers what the inputs do not explain, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support.attention import attention, heads
from support.executions import executions, sampled_points
from support.onnx_models import ALL, DISABLED, model, network_of, newest_opset_of_onnxruntime, node, run
from support.operator_cases import CASES, cases_of
from support.random_networks import random_network
from verify.bounds import affine_forms, neuron_bounds
from verify.bounds.affine_forms import Form, Forms, inputs_and_lanes
from verify.bounds.crown import crown_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.relaxations import relaxation
from verify.core.intervals import Interval, interval_rules, midpoint
from verify.core.primitives import Tensor, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Contract
from verify.model.network import Network
from verify.model.operators import supported

F32 = np.float32


def box_of_few(rng: np.random.Generator, shape: tuple[int, ...], most: int) -> Interval:
    """Around a random input; so many of its elements vary at most, by a lot or hardly at all."""
    x = rng.normal(size=(1, *shape)).astype(F32)
    width = np.zeros(x.size, F32)
    count = int(rng.integers(1, most + 1))
    width[rng.permutation(x.size)[:count]] = rng.choice([1e-6, 1e-2, 0.3, 1.0]) * rng.random(min(count, x.size))
    ends = (np.asarray(x + sign * width.reshape(x.shape), F32).astype(np.float64) for sign in (-1, 1))
    return Interval(*ends)


def output_form(network: Network, box: Interval, contract: Contract) -> Form:
    """Of the (first) output, over intervals alone."""
    intervals, rules, forms = (
        {network.input: box},
        interval_rules(contract),
        Forms(network, box, inputs_and_lanes(network, box)[0]),
    )
    assert forms
    with np.errstate(all="ignore"):
        for tensor in topological(network.outputs):
            if tensor is not network.input:
                rule = rules[type(tensor.primitive)]
                intervals[tensor] = rule(tensor.primitive, *(intervals[each] for each in tensor.operands))
                forms.follow(tensor, intervals, relaxation(tensor, intervals, contract))
    return forms[network.outputs[0]]


def exact(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([Fraction(value) for value in values.reshape(-1).tolist()]).reshape(values.shape)


def require_inside(form: Form, box: Interval, points: NDArray[np.float32], answers: NDArray[np.float32]) -> None:
    """Of each point, where the form says anything."""
    varies = np.flatnonzero(box.lower < box.upper)
    centre, radius = (exact(each.reshape(-1)[varies]) for each in midpoint(box)[:2])
    known = np.flatnonzero(np.isfinite(form.radius).reshape(-1))
    middle, remainder = (exact(each.reshape(-1)[known]) for each in (form.centre, form.radius))
    generators = exact(form.generators.reshape(len(varies), -1)[:, known])
    for x, y in zip(points, answers, strict=True):
        z = (exact(x.reshape(-1)[varies]) - centre) / radius
        assert (abs(exact(y.reshape(-1)[known]) - middle - z @ generators) <= remainder).all()


@pytest.mark.parametrize("seed", range(80))
def test_no_execution_of_a_random_network_leaves_its_form(seed: int) -> None:
    content, shape = random_network(seed)
    network, rng = network_of(content), np.random.default_rng(seed)
    box = box_of_few(rng, network.input.shape, 6)
    form = output_form(network, box, FLOAT32_ANY_ORDER)
    points = sampled_points(box, rng, 6).reshape(-1, *shape[1:])
    for answers in executions(content, points):
        require_inside(form, box, points[: len(answers)], answers)


@pytest.mark.parametrize("operator", sorted(CASES))
def test_no_execution_of_an_operator_leaves_its_form(operator: str) -> None:
    version = max(version for version in supported()[operator] if version <= newest_opset_of_onnxruntime())
    for seed, case in enumerate(cases_of(operator, version)):
        opset = 17 if "." in operator else max(version, 9)
        content = model(case.nodes, case.shape, case.constants, opset=opset, outputs=case.outputs)
        network, rng = network_of(content), np.random.default_rng(seed)
        box = box_of_few(rng, network.input.shape, 6)
        form = output_form(network, box, FLOAT32_ANY_ORDER)
        points = sampled_points(box, rng, 6)
        for level in (DISABLED, ALL):
            require_inside(form, box, points, np.stack([run(content, point, level=level)[0] for point in points]))


@pytest.mark.parametrize("content", [attention(np.random.default_rng(0), 0.5, 2.0), heads(np.random.default_rng(1))])
def test_no_execution_of_products_leaves_its_form(content: bytes) -> None:
    network, rng = network_of(content), np.random.default_rng(2)
    for _ in range(10):
        box = box_of_few(rng, network.input.shape, 12)
        points = sampled_points(box, rng, 6).reshape(-1, *network.input.shape[1:])
        (answers,) = run(content, points)
        require_inside(output_form(network, box, FLOAT32_ANY_ORDER), box, points, answers)


def test_what_does_not_bend_has_no_remainder() -> None:
    """However deep the network: what inputs do along one way may undo what they do along another."""
    rng = np.random.default_rng(0)
    weights = {f"w{layer}": rng.normal(size=(8, 8)).astype(F32) for layer in range(6)}
    names = ["x", *(f"h{layer}" for layer in range(5)), "y"]
    nodes = [node("MatMul", [names[layer], f"w{layer}"], names[layer + 1]) for layer in range(6)]
    network = network_of(model(nodes, ["n", 8], weights))
    box = box_of_few(rng, network.input.shape, 8)
    product = np.linalg.multi_dot([each.astype(np.float64) for each in weights.values()])
    reach = (box.upper - box.lower) / 2 @ np.abs(product)
    form = output_form(network, box, REAL)
    np.testing.assert_allclose(form.reach, reach, atol=1e-8)
    assert (form.radius < 1e-8).all()


def test_crown_needs_fewer_backward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons whose sign the forms tell are not bounded again."""
    rng = np.random.default_rng(1)
    weights = {f"w{layer}": (rng.normal(size=(16, 16)) / 4).astype(F32) for layer in range(5)}
    names = ["x", *(name for layer in range(4) for name in (f"h{layer}", f"r{layer}")), "y"]
    nodes = [
        node(
            "MatMul" if place % 2 == 0 else "Relu",
            [names[place], *([f"w{place // 2}"] if place % 2 == 0 else [])],
            name,
        )
        for place, name in enumerate(names[1:])
    ]
    network = network_of(model(nodes, ["n", 16], weights))
    x = rng.normal(size=(1, 1, 16)).astype(F32).astype(np.float64)
    box = Interval(x - 2.0**-6, x + 2.0**-6)
    refine = neuron_bounds._refine
    asked: list[int] = []

    def counting(tensor: Tensor, ends: neuron_bounds._Ends, *rest: Any) -> None:
        asked.append(int(ends.wanted.sum()))
        refine(tensor, ends, *rest)

    monkeypatch.setattr(neuron_bounds, "_refine", counting)
    with np.errstate(all="ignore"):
        tight = crown_intervals(network, box, FLOAT32_ANY_ORDER)[network.output]
        few, asked[:] = sum(asked), []
        monkeypatch.setattr(affine_forms, "_FEW_INPUTS", 0)
        before = crown_intervals(network, box, FLOAT32_ANY_ORDER)[network.output]
    assert few < sum(asked) / 3
    np.testing.assert_array_less(tight.upper - tight.lower, 1.001 * (before.upper - before.lower))


@pytest.mark.parametrize("numbers", [2**22, 16 * 5, 1])
def test_forms_do_not_depend_on_the_lanes_beside(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on how many are bounded at a time: a search and a check see different ones. A lane may have none, because too
    many of its inputs vary."""
    monkeypatch.setattr(affine_forms, "_MOST_NUMBERS", numbers)
    monkeypatch.setattr(affine_forms, "_FEW_INPUTS", 5)
    rng = np.random.default_rng(2)
    weights = {f"w{layer}": (rng.normal(size=(16, 16)) / 3).astype(F32) for layer in range(3)}
    nodes = [node("MatMul", ["x", "w0"], "a"), node("Relu", ["a"], "b"), node("MatMul", ["b", "w1"], "c")]
    nodes += [node("Relu", ["c"], "d"), node("MatMul", ["d", "w2"], "y")]
    network = network_of(model(nodes, ["n", 16], weights))
    boxes = [box_of_few(rng, network.input.shape, most) for most in (3, 5, 16, 1, 4)]
    beside = Interval(*(np.concatenate(ends) for ends in zip(*boxes, strict=True)))
    with np.errstate(all="ignore"):
        together = crown_intervals(network, beside, FLOAT32_ANY_ORDER)
        for lane, box in enumerate(boxes):
            for tensor, alone in crown_intervals(network, box, FLOAT32_ANY_ORDER).items():
                for mine, other in zip(alone, together[tensor], strict=True):
                    np.testing.assert_allclose(mine[0], other[lane], rtol=1e-12, atol=1e-12)


def test_constants_beside_lanes_with_forms_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lanes at a time, of which the second has no forms."""
    monkeypatch.setattr(affine_forms, "_MOST_NUMBERS", 4 * 8 * 2)
    nodes = [node("Relu", ["x"], "a"), node("Concat", ["a", "k"], "b", axis=1), node("Relu", ["b"], "y")]
    network = network_of(model(nodes, [1, 4], {"k": np.arange(-2, 2, dtype=F32).reshape(1, 4)}))
    upper = np.ones((4, 1, 4))
    upper[1] = 0.0
    functionals = np.broadcast_to(np.eye(8).reshape(1, 8, 1, 8), (4, 8, 1, 8))
    found = crown_bounds(network, Interval(0.0 * upper, upper), functionals, REAL)
    least = np.tile([0, 0, 0, 0, 0, 0, 0, 1.0], (4, 1))
    assert (found <= least).all()
    np.testing.assert_allclose(found, least, atol=1e-9)  # and no looser than its own rounding


def test_inputs_between_two_neighbours_do_not_count() -> None:
    """Decimals that a file fixes inputs to: they are part of the remainder."""
    weights = {"w": np.random.default_rng(0).normal(size=(40, 3)).astype(F32)}
    network = network_of(model([node("MatMul", ["x", "w"], "y")], ["n", 40], weights))
    lower = np.full((1, 1, 40), 0.1, F32)
    upper = np.nextafter(lower, F32(1))
    upper[..., :2] = 0.2
    form = output_form(network, Interval(lower.astype(np.float64), upper.astype(np.float64)), REAL)
    assert form.generators.shape[1] == 2
    assert 1e-9 < form.radius.max() < 1e-6
