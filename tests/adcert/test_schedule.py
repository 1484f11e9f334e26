"""The radius ramp and the learning rate, against values computed by hand."""

from __future__ import annotations

import pytest

from adcert import recipe as recipes
from adcert.recipe import Recipe
from adcert.schedule import LEARNING_RATES, radius_at, smoothed_ramp

# a = 1 / (1/4^4 + 4 * 1/4^3 * 3/4) = 256/13
FACTOR = 256 / 13


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (-1.0, 0.0),
        (0.0, 0.0),
        (0.125, FACTOR / 4096),  # a (1/8)^4
        (0.25, 1 / 13),
        (0.5, 5 / 13),  # 1/13 + 4 a (1/4)^3 / 4
        (0.75, 9 / 13),
        (1.0, 1.0),
        (2.0, 1.0),
    ],
)
def test_ramp_values(progress: float, expected: float) -> None:
    assert smoothed_ramp(progress) == pytest.approx(expected, abs=1e-15)


def test_value_and_slope_match_at_the_joint() -> None:
    step = 1e-6
    before = (smoothed_ramp(0.25) - smoothed_ramp(0.25 - step)) / step
    after = (smoothed_ramp(0.25 + step) - smoothed_ramp(0.25)) / step
    assert smoothed_ramp(0.25 + 1e-12) == pytest.approx(smoothed_ramp(0.25 - 1e-12))
    assert before == pytest.approx(after, rel=1e-4)
    assert after == pytest.approx(16 / 13, rel=1e-4)


def test_the_radius_is_zero_before_and_final_after_the_ramp() -> None:
    radii = [radius_at(epochs, final=0.3, start=2, end=6) for epochs in (0, 2, 3, 4, 6, 9)]
    assert radii == pytest.approx([0, 0, 0.3 / 13, 0.3 * 5 / 13, 0.3, 0.3])


def test_a_ramp_without_length_starts_at_the_final_radius() -> None:
    assert radius_at(0, final=0.3, start=0, end=0) == 0.3


def recipe(*settings: str) -> Recipe:
    return recipes.load("mnist-quick", [*settings, "learning_rate=1"])


def test_the_learning_rate_falls_at_milestones() -> None:
    falling = recipe("lr_milestones=[2, 4]", "lr_decay=0.2")
    rates = [LEARNING_RATES["steps"](epochs, falling) for epochs in (0, 1.9, 2, 3.5, 4, 5)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_the_cyclic_learning_rate_is_a_triangle() -> None:
    triangle = recipe("epochs=8", "lr_min=0.2")
    rates = [LEARNING_RATES["cyclic"](epochs, triangle) for epochs in (0, 1, 4, 6, 8)]
    assert rates == pytest.approx([0.2, 0.4, 1, 0.6, 0.2])
