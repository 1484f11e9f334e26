"""Counterexamples on the way of a search for proofs: inputs at which bounds are lowest, and where gradients lead from
there (`verify.search.descent`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.core.intervals import Interval
from verify.model.network import Network
from verify.search.descent import ROWS, STEPS, Starts, descend
from verify.search.points import differentiable
from verify.search.trees import Ending, Task

_NEAR = 1e-4
"""How near to a counterexample, as torch computes, an input must be to be shown to whoever judges it."""

_STEPS_PER_LEAF, _MOST_STEPS = 3, 8 * ROWS * STEPS
"""How many gradient steps of an input each leaf that is split earns, of some twenty that its bounds take; and how many
may be saved up."""

Refute = Callable[[int, NDArray[np.float32]], bool]
"""Told a box and an input in it at which a bound is lowest: whether that settles the box, and no proof is needed."""


class Refuting:
    """Over the lanes of a box, by a network's only output; nothing where nobody judges."""

    def __init__(self, network: Network, box: Interval, refute: Refute | None) -> None:
        self._function, self._refute = differentiable(network) if refute else None, refute
        self._lower, self._upper = (torch.tensor(end).float() for end in box)
        self._steps_to_take = 0

    def attack(self, tasks: Sequence[Task], direction: Values) -> None:
        """Show the inputs at which bounds of the tasks are lowest, where torch finds nearly a counterexample; and now
        and then, those that gradients lead to from there. direction: the coefficients of the input in these bounds."""
        if not self._function:
            return
        boxes = [task.box.index for task in tasks]
        corners = torch.where(direction.cpu() > 0, self._lower[boxes], self._upper[boxes])
        functional = torch.stack([task.descent.functional for task in tasks])
        constant = torch.tensor([task.constant for task in tasks])
        with torch.no_grad():
            values = (self._function(corners).reshape(len(tasks), -1) * functional).sum(1) + constant
        self._steps_to_take = min(self._steps_to_take + _STEPS_PER_LEAF * len(tasks), _MOST_STEPS)
        rows_of: dict[Task, list[int]] = {}
        for row, task in enumerate(tasks):
            rows_of.setdefault(task, []).append(row)
        starts: dict[Task, Starts] = {}
        for task, rows in rows_of.items():
            self._show(task, corners[rows], values[rows])
            if task.box.ending is None and task.descent.turn() and self._steps_to_take > 0:
                starts[task] = task.descent.starts(corners[rows], values[rows])
                self._steps_to_take -= STEPS * len(starts[task].x)
        for task, (reached, least) in zip(starts, descend(self._function, list(starts.values())), strict=True):
            task.descent.learn(reached, least)
            self._show(task, reached, least)

    def _show(self, task: Task, points: Values, values: Values) -> None:
        """Those at which the functional plus the constant has values that are negative, or nearly."""
        for point in points[values <= _NEAR * (1.0 + abs(task.constant))].numpy():
            if task.box.ending is None and self._refute and self._refute(task.box.index, point):
                task.box.ending = Ending.REFUTED
