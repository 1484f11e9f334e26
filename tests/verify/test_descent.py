"""Counterexamples on the way of a search: gradient steps within boxes, from what is nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL
from support.relu_networks import ReluNetwork
from verify.crown import margin_functionals
from verify.intervals import Interval
from verify.rounding import FLOAT32_ANY_ORDER
from verify.search.branch_and_bound import search
from verify.search.descent import Descent, Starts, descend
from verify.search.trees import Ending


def around_origin(count: int, size: float = 1.0) -> Descent:
    return Descent(torch.full((count,), -size), torch.full((count,), size))


def bowl(x: torch.Tensor) -> torch.Tensor:
    """Squared distance from 0.3 in every coordinate, and its negation."""
    value = (x - 0.3).square().sum(1, keepdim=True)
    return torch.cat([value, -value], dim=1)


def corners_of(descent: Descent, functional: list[float], constant: float) -> Starts:
    signs = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]])
    x = signs * descent.upper
    functionals, constants = torch.tensor([functional] * 2), torch.tensor([constant] * 2)
    return descent.starts(x, functionals, constants, (bowl(x) * functionals).sum(1) + constants)


def test_descents_of_several_boxes_stay_in_them() -> None:
    """One box holds the lowest value of the bowl; in the other one it is to be as high as possible."""
    large, small = around_origin(3), around_origin(3, 0.1)
    starts = [corners_of(large, [1.0, 0.0], -0.05), corners_of(small, [0.0, 1.0], 0.0)]
    (first, value), (second, other) = descend(bowl, starts)
    torch.testing.assert_close(first.x, torch.full((2, 3), 0.3), atol=0.1, rtol=0)
    torch.testing.assert_close(value, (first.x - 0.3).square().sum(1) - 0.05)
    assert (value < 0).all()
    assert (second.x.abs() <= 0.1).all()
    assert (other < -bowl(starts[1].x)[:, 0]).all()


def test_what_came_nearest_is_where_the_next_one_begins() -> None:
    descent = around_origin(3)
    (found,) = descend(bowl, [corners_of(descent, [1.0, 0.0], 0.0)])
    descent.learn(*found)
    assert descent.nearest
    again = corners_of(descent, [1.0, 0.0], 0.0)
    assert len(again.x) > 2
    assert (again.x.abs() <= 1).all()
    near = (again.x[2:] - descent.nearest.x).abs().amax(1)
    assert near[-1] < 0.01 < near[0]


def test_descents_that_get_no_nearer_become_rare() -> None:
    descent = around_origin(3)
    turns = [turn for turn in range(60) if descent.due() and _fruitless(descent) is None]
    gaps = np.diff(turns)
    assert turns[0] == 3
    assert gaps[0] < gaps[-1] == gaps.max() < 10
    descent.learn(corners_of(descent, [1.0, 0.0], 0.0), torch.tensor([descent.value / 2] * 2))
    assert descent.due()


def _fruitless(descent: Descent) -> None:
    descent.learn(corners_of(descent, [1.0, 0.0], 0.0), torch.tensor([5.0, 6.0]))


def test_a_counterexample_that_no_corner_shows_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of distances from 0.3 is small in the middle of the box only."""
    count = 6
    weights = np.hstack([np.eye(count), -np.eye(count)]), np.vstack([np.ones(2 * count), np.zeros(2 * count)]).T
    biases = np.repeat([-0.3, 0.3], count), np.array([0.0, 0.2])
    made = ReluNetwork([each.astype(np.float32) for each in weights], [each.astype(np.float32) for each in biases])
    box = Interval(np.zeros((1, 1, count)), np.ones((1, 1, count)))
    functionals, constants = margin_functionals(made.network(), np.array([0]))
    shown: list[NDArray[np.float32]] = []

    def refute(box: int, point: NDArray[np.float32]) -> bool:
        shown.append(point)
        (output,) = made.run(point.reshape(1, count), ALL)[0]
        return bool(output[0] < output[1])

    asked = made.network(), box, functionals, constants, FLOAT32_ANY_ORDER
    (found,) = search(*asked, branch=True, seconds=60, refute=refute)
    assert found.ending is Ending.REFUTED
    assert ((shown[-1] >= 0) & (shown[-1] <= 1)).all()
    monkeypatch.setattr(Descent, "due", lambda self: False)
    (found,) = search(*asked, branch=True, seconds=1, refute=refute)
    assert found.ending is not Ending.REFUTED
