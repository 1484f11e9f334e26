"""Counterexamples on the way of a search: gradient steps from the inputs at which the bounds of leaves are lowest.

Branch and bound goes where a property is nearly violated, which restarts from anywhere in the box seldom do. So the
corners of the box that the bounds of the worst leaves of a tree point to are followed down, and so is the input that
came nearest so far, from places around it at every scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

Values = torch.Tensor

ROWS, STEPS = 6, 30
"""Inputs of each kind, and steps of each."""

_LARGEST, _AROUND, _SMALLEST = 0.1, 0.03, 0.01
"""The first step from a corner and from around the nearest input, per width of the box; and the last per first one."""

_BEFORE, _BETWEEN = 4, 8
"""In which turn the first descent takes place, and how many turns at most lie between two that come no nearer."""

_PROGRESS, _CLOSE = 0.99, 0.01
"""Of the value so far, what counts as nearer; and of that at the first corner, what is so near that no turn is left
out."""


class Starts(NamedTuple):
    """Where to begin, rows in front: inputs, a functional of the output, which with its constant is to become negative,
    the ends of the box, and the first step."""

    x: Values
    functional: Values
    constant: Values
    lower: Values
    upper: Values
    step: Values


@dataclass(eq=False)
class Descent:
    """Of one functional (flat) plus a constant over one box (ends of the input's shape). nearest: the input that came
    nearest to making it negative; value: there."""

    lower: Values
    upper: Values
    functional: Values
    constant: float
    nearest: Values | None = None
    value: float = math.inf
    _first: float = math.inf
    _wait: int = _BEFORE
    _gap: int = 1
    _random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def turn(self) -> bool:
        """Takes note of one more turn, and says whether to use it."""
        self._wait -= 1
        return self._wait <= 0

    def starts(self, corners: Values, values: Values) -> Starts:
        """The lowest of these corners, and places around what came nearest."""
        if math.isinf(self._first):
            self._first = float(values.min())
        x = corners[values.argsort()[:ROWS]]
        step = torch.full((len(x),), _LARGEST)
        if self.nearest is not None:
            scales = torch.logspace(-0.5, -2.5, ROWS).reshape(-1, *[1] * self.lower.ndim)
            aside = torch.rand(ROWS, *self.lower.shape, generator=self._random) - 0.5
            around = (self.nearest + scales * aside * (self.upper - self.lower)).clamp(self.lower, self.upper)
            x, step = torch.cat([x, around]), torch.cat([step, torch.full((ROWS,), _AROUND)])
        rows = len(x)
        return Starts(
            x,
            self.functional.expand(rows, -1),
            torch.full((rows,), self.constant),
            self.lower.expand_as(x),
            self.upper.expand_as(x),
            step.reshape(-1, *[1] * self.lower.ndim) * (self.upper - self.lower),
        )

    def learn(self, x: Values, values: Values) -> None:
        """Where a descent came to, and the values there. One that is negative, and yet no counterexample, is no place
        to go on from."""
        before, best = self.value, int(values.argmin())
        if 0 < float(values[best]) < before:
            self.nearest, self.value = x[best : best + 1], float(values[best])
        goes_on = self.value < _PROGRESS * before or self.value < _CLOSE * self._first
        self._wait = self._gap = 1 if goes_on else min(2 * self._gap, _BETWEEN)


@torch.enable_grad()  # whatever an interrupted computation left behind
def descend(function: Callable[[Values], Values], starts: Sequence[Starts]) -> list[tuple[Values, Values]]:
    """For each, where its rows had their lowest values, and these. Signed gradient steps, smaller and smaller."""
    if not starts:
        return []
    joined = Starts(*map(torch.cat, zip(*starts, strict=True)))
    x, best, least = joined.x, joined.x.clone(), torch.full((len(joined.x),), torch.inf)
    for number in range(STEPS + 1):
        x = x.detach().requires_grad_()
        value = (function(x).reshape(len(x), -1) * joined.functional).sum(1) + joined.constant
        better = value.detach() < least
        best[better], least[better] = x.detach()[better], value.detach()[better]
        if number < STEPS:
            (gradient,) = torch.autograd.grad(value.sum(), x)
            step = _SMALLEST ** (number / STEPS) * joined.step * gradient.sign()
            x = (x.detach() - step).clamp(joined.lower, joined.upper)
    rows = [len(each.x) for each in starts]
    return list(zip(torch.split(best, rows), torch.split(least, rows), strict=True))
