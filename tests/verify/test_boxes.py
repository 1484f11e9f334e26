from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.boxes import box_around, parse_eps
from verify.errors import Problem

radii = st.fractions(0, 1, max_denominator=1000) | st.sampled_from([Fraction(2, 255), Fraction("1e-9")])


@given(st.floats(0, 1, width=32), radii)
def test_the_box_contains_the_real_interval_and_is_as_tight_as_float32_allows(value: float, eps: Fraction) -> None:
    x = np.array([[value]], np.float32)
    lower, upper = (Fraction(float(end[0, 0])) for end in box_around(x, eps, None))
    low, high = Fraction(float(x[0, 0])) - eps, Fraction(float(x[0, 0])) + eps
    assert lower <= low
    assert high <= upper
    radius = Fraction(float(eps)) if Fraction(float(eps)) >= eps else Fraction(float(np.nextafter(float(eps), 1)))
    slack = Fraction(2) ** -50 + (radius - eps)
    assert Fraction(float(np.nextafter(np.float32(float(lower)), np.float32(np.inf)))) > low - slack
    assert Fraction(float(np.nextafter(np.float32(float(upper)), np.float32(-np.inf)))) < high + slack


@given(st.floats(0, 1, width=32), radii)
def test_the_box_stays_in_the_input_range(value: float, eps: Fraction) -> None:
    lower, upper = box_around(np.array([[value]], np.float32), eps, (0.0, 1.0))
    assert 0 <= lower.item() <= value <= upper.item() <= 1


def test_radius_zero_is_the_point() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    lower, upper = box_around(x, Fraction(0), None)
    assert np.array_equal(lower, x)
    assert np.array_equal(upper, x)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.1])
def test_inputs_that_are_no_images_are_refused(value: float) -> None:
    with pytest.raises(Problem):
        box_around(np.array([[value]], np.float32), Fraction(1, 10), (0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "eps"), [("0.1", Fraction(1, 10)), (" 2/255 ", Fraction(2, 255)), ("1e-3", Fraction(1, 1000))]
)
def test_eps_is_read_exactly(text: str, eps: Fraction) -> None:
    assert parse_eps(text) == eps


@pytest.mark.parametrize("text", ["", "a", "1/0", "-0.1", "nan", "2 / x"])
def test_a_malformed_eps_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        parse_eps(text)
