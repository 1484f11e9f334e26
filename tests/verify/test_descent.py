"""Counterexamples on the way of a search: gradient steps within boxes, from what is nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.onnx_models import ALL, model, network_of, node
from support.relu_networks import ReluNetwork
from verify.bounds.crown import margin_functionals
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.search.branch_and_bound import search
from verify.search.descent import ROWS, Descent, Starts, descend
from verify.search.trees import Ending


def bowl(x: torch.Tensor) -> torch.Tensor:
    """Squared distance from 0.3 in every coordinate, and its negation."""
    value = (x - 0.3).square().sum(1, keepdim=True)
    return torch.cat([value, -value], dim=1)


def around_origin(size: float = 1.0, functional: tuple[float, float] = (1.0, 0.0), constant: float = 0.0) -> Descent:
    return Descent(torch.full((3,), -size), torch.full((3,), size), torch.tensor(functional), constant)


def values_at(descent: Descent, x: torch.Tensor) -> torch.Tensor:
    return bowl(x) @ descent.functional + descent.constant


def starts_of(descent: Descent) -> Starts:
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]]) * descent.upper
    return descent.starts(x, values_at(descent, x))


def test_descents_of_several_boxes_stay_in_them() -> None:
    """One box holds the lowest value of the bowl; in the other one it is to be as high as possible."""
    large, small = around_origin(constant=-0.05), around_origin(0.1, (0.0, 1.0))
    starts = [starts_of(large), starts_of(small)]
    (first, value), (second, other) = descend(bowl, starts)
    torch.testing.assert_close(first, torch.full((2, 3), 0.3), atol=0.1, rtol=0)
    torch.testing.assert_close(value, values_at(large, first))
    assert (value < 0).all()
    assert (second.abs() <= 0.1).all()
    torch.testing.assert_close(other, values_at(small, second))
    assert (other < values_at(small, starts[1].x)).all()


def test_the_best_input_on_the_way_counts() -> None:
    """Of a function whose gradients lead nowhere in particular."""
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        values = (x * 50).sin().sum(1, keepdim=True)
        seen.append(float(values.min().detach()))
        return torch.cat([values, values], 1)

    starts = around_origin().starts(torch.full((1, 3), 0.01), torch.ones(1))
    ((x, value),) = descend(function, [starts])
    assert float(value) == min(seen) < seen[-1]
    torch.testing.assert_close(value, (x * 50).sin().sum(1))


def test_the_lowest_corners_are_followed() -> None:
    descent = around_origin()
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    starts = descent.starts(x, values_at(descent, x))
    assert len(starts.x) == ROWS
    assert values_at(descent, starts.x).max() <= values_at(descent, x).sort().values[ROWS - 1]


def test_what_came_nearest_is_where_the_next_one_begins() -> None:
    """At the edge of its box, which places around it do not leave."""
    descent = around_origin(0.2)
    descent.learn(*descend(bowl, [starts_of(descent)])[0])
    assert descent.nearest is not None
    assert (descent.nearest == 0.2).all()
    again = starts_of(descent).x
    assert len(again) == 2 + ROWS
    assert (again.abs() <= 0.2).all()
    near = (again[2:] - descent.nearest).abs().amax(1)
    assert near[-1] < 0.01 < near[0]


def test_descents_that_come_no_nearer_become_rare() -> None:
    descent = around_origin()
    turns = []
    for turn in range(60):
        if descent.turn():
            turns.append(turn)
            descent.learn(starts_of(descent).x[:2], torch.tensor([5.0, 6.0]))
    gaps = np.diff(turns)
    assert turns[0] == 3
    assert gaps[0] < gaps[-1] == gaps.max() == 8
    descent.learn(starts_of(descent).x[:2], torch.tensor([2.0, 6.0]))
    assert descent.turn(), "nearer"


def test_no_turn_is_left_out_while_a_counterexample_is_close() -> None:
    descent = around_origin()
    first = float(values_at(descent, starts_of(descent).x).min())
    for _ in range(10):
        descent.learn(starts_of(descent).x[:1], torch.tensor([first / 1000]))
        assert descent.turn()


def test_what_is_negative_and_no_counterexample_is_left_alone() -> None:
    descent = around_origin()
    used = 0
    for _ in range(60):
        if descent.turn():
            used += 1
            descent.learn(starts_of(descent).x[:1], torch.tensor([-1.0]))
    assert descent.nearest is None
    assert used < 15


COUNT = 6


def distances() -> ReluNetwork:
    """Whether the distances of all coordinates, each from the nearer one of 0.3 and 0.7, add up to more than 0.2."""
    below, above = np.eye(COUNT), -np.eye(COUNT)
    first = np.hstack([above, below, below, below]).astype(np.float32)
    second = np.repeat([1.0, 2.0, -2.0, 2.0], COUNT)
    biases = np.repeat([1.0, -0.3, -0.5, -0.7], COUNT), np.array([-0.7 * COUNT, 0.2])
    weights = [first, np.vstack([second, np.zeros(4 * COUNT)]).T.astype(np.float32)]
    return ReluNetwork(weights, [each.astype(np.float32) for each in biases])


def test_counterexamples_that_no_corner_shows_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two boxes that lie apart, at the same time: both hold one, not in a corner."""
    made = distances()
    box = Interval(np.array([[[0.0] * COUNT], [[0.55] * COUNT]]), np.array([[[0.45] * COUNT], [[1.0] * COUNT]]))
    functionals, constants = margin_functionals(made.network(), np.zeros(2, np.int64))
    shown: list[tuple[int, NDArray[np.float32]]] = []
    learned: list[Descent] = []
    learn = Descent.learn
    monkeypatch.setattr(Descent, "learn", lambda self, *found: (learned.append(self), learn(self, *found)))

    def refute(index: int, point: NDArray[np.float32]) -> bool:
        assert ((box.lower[index] <= point) & (point <= box.upper[index])).all()
        shown.append((index, point))
        (output,) = made.run(point.reshape(1, COUNT), ALL)[0]
        return bool(output[0] < output[1])

    asked = made.network(), box, functionals, constants, FLOAT32_ANY_ORDER
    found = list(search(*asked, branch=True, seconds=60, refute=refute))
    assert [outcome.ending for outcome in found] == [Ending.REFUTED] * 2
    assert {index for index, _ in shown} == {0, 1}
    assert len({*learned}) == 2
    monkeypatch.setattr(Descent, "turn", lambda self: False)
    found = list(search(*asked, branch=True, seconds=1, refute=refute))
    assert Ending.REFUTED not in {outcome.ending for outcome in found}


def test_an_output_without_axes_is_searched() -> None:
    """The sum of x over the box is more than 1 somewhere, and nowhere more than 3."""
    nodes = [node("Relu", ["x"], "h"), node("ReduceSum", ["h"], "y", keepdims=0)]
    network = network_of(model(nodes, [1, 3], {}))
    box = Interval(np.full((1, 1, 3), -1.0), np.ones((1, 1, 3)))
    functional = np.full((1, 1, *network.output.shape), -1.0)
    for constant, ending in ((1.0, Ending.REFUTED), (3.5, Ending.PROVED)):
        (found,) = search(
            network,
            box,
            functional,
            np.array([[constant]]),
            FLOAT32_ANY_ORDER,
            branch=True,
            seconds=60,
            refute=lambda index, point: bool(np.maximum(point, 0).sum() > 1),
        )
        assert found.ending is ending
