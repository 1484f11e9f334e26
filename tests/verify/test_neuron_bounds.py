"""Of a neuron whose sign one end tells, the other end need not be bounded."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support.relu_networks import ReluNetwork
from verify.bounds import crown, neuron_bounds
from verify.bounds.activations import relus
from verify.bounds.linear_bounds import TwoSided
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import REAL

ALWAYS, NEVER = 2**30, 0
"""Values of the number of coefficients below which both ends are bounded at once."""


def second_layer(monkeypatch: pytest.MonkeyPatch, *, cheap: int, every_end: bool = False) -> tuple[Interval, int]:
    """Of 20 networks in two lanes each, the intervals of what the second layer of ReLUs reads, and how many ends were
    bounded."""
    asked = []
    lower = TwoSided.lower

    def counting(self: TwoSided, signs: NDArray[np.float64], *rest: Any) -> NDArray[np.float64]:
        asked.append(signs.size)
        return lower(self, signs, *rest)

    found = []
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(neuron_bounds, "_CHEAP", cheap)
        patch.setattr(TwoSided, "lower", counting)
        patch.setattr(neuron_bounds, "inputs_and_lanes", lambda network, box: (0, len(box.lower)))  # without forms
        for seed in range(20):
            rng = np.random.default_rng(seed)
            network = ReluNetwork.random(rng, [6, 20, 30, 3]).network()
            box = box_around(rng.random((2, *network.input.shape)).astype(np.float32), Fraction(1, 5), None)
            intervals = crown_intervals(network, box, REAL, every_end=every_end)
            found.append(intervals[list(relus(network.output))[1].operands[0]])
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
    assert few < 0.9 * all_ends


def test_bounding_both_ends_at_once_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for one, both in zip(*(second_layer(monkeypatch, cheap=cheap)[0] for cheap in (NEVER, ALWAYS)), strict=True):
        np.testing.assert_allclose(one, both, rtol=1e-12)


def test_only_answers_are_bounded_with_less_than_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Properties may have tolerances as small as what rounds, and searches use planes above neurons."""
    asked = []

    def intervals(*arguments: Any, every_end: bool = True, **options: Any) -> dict[Any, Interval]:
        asked.append(every_end)
        return crown_intervals(*arguments, every_end=every_end, **options)

    monkeypatch.setattr(crown, "crown_intervals", intervals)
    rng = np.random.default_rng(0)
    network = ReluNetwork.random(rng, [6, 20, 30, 3]).network()
    box = box_around(rng.random((2, *network.input.shape)).astype(np.float32), Fraction(1, 5), None)
    crown.crown_margins(network, box, np.array([0, 1]), REAL)
    crown.crown_bounds(network, box, np.eye(3)[np.newaxis].reshape(1, 3, 1, 3).repeat(2, axis=0), REAL)
    assert asked == [False, True]
