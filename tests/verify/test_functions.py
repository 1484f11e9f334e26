"""The table of elementwise functions, against arithmetic of many digits, and against what onnxruntime computes."""

from __future__ import annotations

from itertools import pairwise

import mpmath
import numpy as np
import pytest

from support.scan_functions import WAYS, Way, measure
from verify.core.functions import OWN_ERROR, SAFETY, Function

BY_NAME = {
    **{way.name: way for way in WAYS if len(way.nodes) == 1},
    **{way.name: way for way in WAYS if way.name.startswith("x sigmoid")},
}
MAGNITUDES = (1e-30, 1e-9, 0.003, 0.3, 0.7, 0.9, 1.6, 2.9, 3.2, 8.0, 17.3, 31.0, 88.0)


def exactly(name: str, x: mpmath.mpf) -> mpmath.mpf:
    """The function of a way to write it, by its definition in the ONNX standard."""
    number = name.rpartition(" ")[2]
    if name.startswith("x sigmoid"):
        alpha = mpmath.mpf(float(np.float32(float(name.split("(")[1].split(" ")[0]))))
        return x / (1 + mpmath.exp(-alpha * x))
    if name.startswith("Pow"):
        return mpmath.power(x, mpmath.mpf(float(np.float32(float(number)))))
    if name.startswith("Elu"):
        return x if x > 0 else mpmath.mpf(float(np.float32(float(number)))) * mpmath.expm1(x)
    if name.startswith("Celu"):
        alpha = mpmath.mpf(float(number))
        return max(mpmath.mpf(0), x) + min(mpmath.mpf(0), alpha * mpmath.expm1(x / alpha))
    if name == "Selu":
        alpha, gamma = (
            mpmath.mpf(float(np.float32(v))) for v in (1.67326319217681884765625, 1.05070102214813232421875)
        )
        return gamma * (x if x > 0 else alpha * mpmath.expm1(x))
    tanh_argument = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)
    return {
        "Sigmoid": lambda: 1 / (1 + mpmath.exp(-x)),
        "Tanh": lambda: mpmath.tanh(x),
        "Erf": lambda: mpmath.erf(x),
        "Softplus": lambda: mpmath.log1p(mpmath.exp(x)),
        "Softsign": lambda: x / (1 + abs(x)),
        "Gelu": lambda: x / 2 * mpmath.erfc(-x / mpmath.sqrt(2)),
        "Gelu tanh": lambda: x / 2 * (1 + mpmath.tanh(tanh_argument)),
        "Mish": lambda: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
        "HardSwish": lambda: x * max(mpmath.mpf(0), min(mpmath.mpf(1), x / 6 + mpmath.mpf(0.5))),
        "Exp": lambda: mpmath.exp(x),
        "Sin": lambda: mpmath.sin(x),
        "Cos": lambda: mpmath.cos(x),
        "Log": lambda: mpmath.log(x),
        "Sqrt": lambda: mpmath.sqrt(x),
        "Reciprocal": lambda: 1 / x,
    }[name]()


def in_domain(function: Function) -> list[float]:
    return [x for m in MAGNITUDES for x in (m, -m) if any(first <= x <= last for first, last in function.domain)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # powers overflow
@pytest.mark.parametrize("name", BY_NAME)
def test_own_values_are_more_accurate_than_assumed(name: str) -> None:
    function = BY_NAME[name].function
    with mpmath.workdps(400):
        for x in in_domain(function):
            exact = exactly(name, mpmath.mpf(x))
            if abs(exact) > 1e300:
                continue
            error = abs(mpmath.mpf(float(function.apply(np.array(x)))) - exact)
            assert error <= OWN_ERROR / 2 * abs(exact) + mpmath.mpf(2) ** -1001


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # powers overflow
@pytest.mark.parametrize("name", BY_NAME)
def test_functions_turn_where_the_table_says_and_nowhere_else(name: str) -> None:
    function = BY_NAME[name].function
    periods = range(-10, 11) if function.period else [0]
    turns = [turn + count * function.period for count in periods for turn in function.turns]
    for first, last in function.domain:
        ends = [max(first, -60.0), *(turn for turn in turns if abs(turn) < 60), min(last, 60.0)]
        for low, high in pairwise(ends):
            values = function.apply(np.linspace(low, high, 20_001))
            values = values[np.isfinite(values)]
            steps = np.diff(values)
            noise = OWN_ERROR * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
            assert (steps >= -noise).all() or (steps <= noise).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # powers overflow
@pytest.mark.parametrize("name", BY_NAME)
def test_curvature_bounds_the_second_derivative(name: str) -> None:
    function = BY_NAME[name].function
    with mpmath.workdps(40):
        for x in in_domain(function):
            bound = float(function.curvature(np.array(x), np.array(x)))
            if abs(x) > 1e-3 and bound < np.inf:
                assert abs(mpmath.diff(lambda t: exactly(name, t), mpmath.mpf(x), 2)) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_runtime_stays_within_a_quarter_of_what_is_allowed(way: Way) -> None:
    found, where = measure(way, stride=2**17 + 1, start=77)
    assert found <= SAFETY / 4 * way.function.accuracy.measured, where
