"""Networks that repeat elements and take signs, sines and cosines: no execution leaves their bounds.

Signs turn the least rounding error into a step; where that can happen both values must lie in the bounds.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from support.executions import assert_no_execution_leaves_the_bounds, sampled_points
from support.onnx_models import ALL, BASIC, DISABLED, EXTENDED, model, network_of, node, session
from verify.bounds.evaluation import bounds
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.compiled import compile_bounds
from verify.core.intervals import Interval
from verify.core.primitives import Sign
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Contract

F32 = np.float32
LEVELS = (DISABLED, BASIC, EXTENDED, ALL)


def mixed_network(seed: int) -> bytes:
    """Convolutions around each of the operators, as exporters write them; 2 x 4 x 5 images, four outputs."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        scale = float(np.prod(shape[1:])) ** -0.5
        return (scale * rng.normal(size=shape)).astype(F32)

    bend = ("Sign", "Sin", "Cos")
    first, second = (bend[i] for i in rng.integers(3, size=2))
    nodes = [
        *(node("Conv", ["x", "w1"], "c1", pads=[1] * 4), node(first, ["c1"], "b1")),
        node("Resize", ["b1", "", "scales"], "r", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        *(node("Conv", ["r", "w2", "bias"], "c2", strides=[2, 2]), node("BatchNormalization", ["c2", *"sbmv"], "n")),
        *(node(second, ["n"], "b2"), node("GlobalAveragePool", ["b2"], "g"), node("Flatten", ["g"], "f")),
        node("Gemm", ["f", "w3"], "y", transB=1),
    ]
    constants = {
        **{"w1": weights(3, 2, 3, 3), "w2": weights(6, 3, 2, 2), "w3": weights(4, 6), "bias": weights(6)},
        **{name: weights(6) for name in "sbm"},
        **{"v": F32(0.1) + weights(6) ** 2, "scales": F32([1, 1, rng.integers(1, 4), 2])},
    }
    return model(nodes, ["n", 2, 4, 5], constants)


@pytest.mark.parametrize("seed", range(30))
def test_no_execution_leaves_the_bounds(seed: int) -> None:
    assert_no_execution_leaves_the_bounds(mixed_network(seed), (1, 2, 4, 5), seed)


@pytest.mark.parametrize("seed", range(10))
def test_no_execution_leaves_the_compiled_bounds(seed: int) -> None:
    content = mixed_network(seed)
    compiled = session(compile_bounds(network_of(content), (0.0, 1.0)).SerializeToString())
    rng = np.random.default_rng(seed)
    x = rng.random((1, 2, 4, 5)).astype(F32)
    for eps in (0.0, 1e-6, 0.01, 0.3):
        lower, upper = compiled.run(["lower", "upper"], {"x": x, "eps": np.array(eps, F32)})
        assert np.isfinite(lower).all()
        box = box_around(x, Fraction(float(F32(eps))), (0.0, 1.0))
        points = sampled_points(Interval(*(end for end in box)), rng, 40)
        for level in LEVELS:
            y = session(content, level=level).run(None, {"x": points})[0]
            assert ((lower <= y) & (y <= upper)).all()


SIGNED = np.concatenate(
    [sign * F32([0.0, 2.0**-149, 2.0**-127, 2.0**-126, 1e-30, 0.3, 1.0, 7.0, 3e37]) for sign in (F32(-1), F32(1))]
)


@pytest.mark.parametrize("contract", [FLOAT32_ANY_ORDER, REAL], ids=lambda contract: contract.name)
def test_signs_lie_in_their_bounds_and_between_their_lines(contract: Contract) -> None:
    """Over intervals between any two of those numbers, subnormal ones and both zeros included."""
    ends = np.array([(a, b) for a in SIGNED for b in SIGNED if a <= b], F32)
    size = len(ends)
    content = model([node("Sign", ["x"], "y")], [size], {})
    network = network_of(content)
    box = Interval(*ends.T.astype(np.float64)[:, np.newaxis])
    ((low, high),) = bounds(network, box, contract)
    functionals = np.concatenate([np.eye(size), -np.eye(size)])[np.newaxis]
    found = lower_bounds(
        network.output, functionals, {network.input: box, network.output: Interval(low, high)}, contract
    )
    below, above = found[0, :size], -found[0, size:]
    for level in LEVELS:
        oracle = session(content, level=level)
        for number in SIGNED:
            x = np.clip(number, *ends.T)
            y = oracle.run(None, {"x": x})[0]
            assert ((low[0] <= y) & (y <= high[0])).all()
            assert ((below <= y) & (y <= above)).all()
    assert (np.isfinite(below) & np.isfinite(above)).all()


def test_lines_around_a_sign_know_more_than_its_interval() -> None:
    """sign x - x / 2 over [-0.1, 1] is at least -1: by intervals it is no more than -1.5."""
    nodes = [node("Sign", ["x"], "s"), node("Mul", ["x", "half"], "h"), node("Sub", ["s", "h"], "y")]
    network = network_of(model(nodes, [1], {"half": F32(0.5)}))
    box = Interval(np.array([[-0.1]]), np.array([[1.0]]))
    known = crown_intervals(network, box, REAL)
    assert any(isinstance(tensor.primitive, Sign) for tensor in known)
    (found,) = lower_bounds(network.output, np.ones((1, 1, 1)), known, REAL)[0]
    assert -1.2 < found <= -1.0 + 1e-9
