"""Of a neuron whose sign one end tells, the other end is not bounded where there is much to bound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support.relu_networks import ReluNetwork
from verify.bounds import neuron_bounds
from verify.bounds.activations import relus
from verify.bounds.linear_bounds import TwoSided
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import REAL

ALWAYS, NEVER = 2**30, 0
"""Values of the number of coefficients below which both ends are bounded at once."""


def second_layer(
    monkeypatch: pytest.MonkeyPatch, *, cheap: int, little: int = 0, every_end: bool = False
) -> tuple[Interval, int]:
    """Of 20 networks in two lanes each, the intervals of what the second layer of ReLUs reads, and how many ends were
    bounded. little: work below which both ends are. every_end: as if none could settle anything."""
    asked = []
    lower = TwoSided.lower

    def counting(self: TwoSided, signs: NDArray[np.float64], *rest: Any) -> NDArray[np.float64]:
        asked.append(signs.size)
        return lower(self, signs, *rest)

    found = []
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(neuron_bounds, "_CHEAP", cheap)
        patch.setattr(neuron_bounds, "_LITTLE_WORK", little)
        patch.setattr(TwoSided, "lower", counting)
        patch.setattr(neuron_bounds, "inputs_and_lanes", lambda network, box: (0, len(box.lower)))  # without forms
        if every_end:
            patch.setattr(neuron_bounds, "_corners", lambda primitive: ())
        for seed in range(20):
            rng = np.random.default_rng(seed)
            network = ReluNetwork.random(rng, [6, 20, 30, 3]).network()
            box = box_around(rng.random((2, *network.input.shape)).astype(np.float32), Fraction(1, 5), None)
            found.append(crown_intervals(network, box, REAL)[list(relus(network.output))[1].operands[0]])
    return Interval(*map(np.stack, zip(*found, strict=True))), sum(asked)


def test_open_neurons_have_both_ends_and_settled_ones_the_one_that_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    every, all_ends = second_layer(monkeypatch, cheap=ALWAYS, every_end=True)
    ends, few = second_layer(monkeypatch, cheap=NEVER)
    is_open = (ends.lower < 0) & (ends.upper > 0)
    np.testing.assert_array_equal(is_open, (every.lower < 0) & (every.upper > 0))
    assert 100 < is_open.sum() < is_open.size - 100
    for mine, other in zip(ends, every, strict=True):
        np.testing.assert_allclose(mine[is_open], other[is_open], rtol=1e-12)
        np.testing.assert_array_equal(np.sign(mine)[~is_open], np.sign(other)[~is_open])
    assert ((ends.upper - ends.lower) > 1.01 * (every.upper - every.lower)).sum() > 100
    assert few < 0.8 * all_ends


def test_bounding_both_ends_at_once_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for one, both in zip(*(second_layer(monkeypatch, cheap=cheap)[0] for cheap in (NEVER, ALWAYS)), strict=True):
        np.testing.assert_allclose(one, both, rtol=1e-12)


def test_both_ends_are_bounded_where_that_is_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    every, _ = second_layer(monkeypatch, cheap=ALWAYS, every_end=True)
    one_sided, _ = second_layer(monkeypatch, cheap=ALWAYS)
    for cheap in (ALWAYS, NEVER):
        ends, _ = second_layer(monkeypatch, cheap=cheap, little=neuron_bounds._LITTLE_WORK)
        for mine, other, narrowest in zip(ends, one_sided, every, strict=True):
            narrower = np.abs(mine - other) > 1e-3
            assert narrower.sum() > 100
            np.testing.assert_allclose(mine[narrower], narrowest[narrower], rtol=1e-12, atol=1e-12)


def test_how_much_work_a_lane_is_does_not_depend_on_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    network = ReluNetwork.random(rng, [6, 20, 30, 3]).network()
    x = rng.random((2, *network.input.shape)).astype(np.float32)
    boxes = [box_around(x[lane : lane + 1], Fraction(1, radius), None) for lane, radius in enumerate((20, 3))]
    together = Interval(*map(np.concatenate, zip(*boxes, strict=True)))
    monkeypatch.setattr(neuron_bounds, "inputs_and_lanes", lambda network, box: (0, len(box.lower)))

    def ends(box: Interval, little: int) -> NDArray[np.float64]:
        monkeypatch.setattr(neuron_bounds, "_LITTLE_WORK", little)
        with np.errstate(all="ignore"):
            return np.stack(crown_intervals(network, box, REAL)[list(relus(network.output))[1].operands[0]], axis=1)

    def same(some: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
        return np.allclose(some, other, rtol=1e-12, atol=1e-12)

    narrow, wide = (ends(together, little) for little in (ALWAYS, NEVER))
    assert not same(narrow[0], wide[0])
    assert not same(narrow[1], wide[1])
    between = 0
    for little in range(200, 3000, 200):
        found = ends(together, little)
        for lane, box in enumerate(boxes):
            assert same(found[lane], ends(box, little)[0])
            assert same(found[lane], narrow[lane]) != same(found[lane], wide[lane])
        between += same(found[0], narrow[0]) and same(found[1], wide[1])
    assert between
