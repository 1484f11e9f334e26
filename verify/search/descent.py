"""Counterexamples on the way of a search: gradient steps from the inputs at which the bounds of leaves are lowest.

Branch and bound goes where a property is nearly violated, which restarts from anywhere in the box seldom do. So the
corners of the box that the bounds of its worst leaves point to are followed down, and so is the input that came nearest
so far, from places around it at every scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

Values = torch.Tensor

_ROWS, _STEPS = 6, 30
_LARGEST, _AROUND, _SMALLEST = 0.1, 0.03, 0.01
"""The first step from a corner and from around the nearest input, per width of the box; and the last per first one."""

_FIRST_WAIT, _LONGEST_WAIT = 4, 8
"""How often a box is passed by before the first descent, and at most between two that get no nearer."""

_NEARER, _NEAR = 0.99, 0.01
"""What counts as nearer, per value; and as near, whatever it takes, per value at the first corner."""


class Starts(NamedTuple):
    """Where to begin: rows x input shape; functionals of the output (rows x outputs), which with their constants (rows)
    are to become negative; and the ends of the box and the first step, rows x input shape."""

    x: Values
    functional: Values
    constant: Values
    lower: Values
    upper: Values
    step: Values


@dataclass(eq=False)
class Descent:
    """What is known of one box, with ends of the input's shape. nearest: the row that came nearest, and its value."""

    lower: Values
    upper: Values
    nearest: Starts | None = None
    value: float = math.inf
    _first: float = math.inf
    _wait: int = _FIRST_WAIT
    _gap: int = 1
    _random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def due(self) -> bool:
        """Whether this time it is worth it."""
        self._wait -= 1
        return self._wait <= 0

    def starts(self, corners: Values, functional: Values, constant: Values, values: Values) -> Starts:
        """The lowest of these corners, and places around what came nearest."""
        if math.isinf(self._first):
            self._first = float(values.min())
        lowest = values.argsort()[:_ROWS]
        found = self._starts(corners[lowest], functional[lowest], constant[lowest], _LARGEST)
        if self.nearest is None:
            return found
        scales = torch.logspace(-0.5, -2.5, _ROWS).reshape(-1, *[1] * self.lower.ndim)
        aside = torch.rand(_ROWS, *self.lower.shape, generator=self._random) - 0.5
        around = (self.nearest.x + scales * aside * (self.upper - self.lower)).clamp(self.lower, self.upper)
        functional, constant = self.nearest.functional.expand(_ROWS, -1), self.nearest.constant.expand(_ROWS)
        again = self._starts(around, functional, constant, _AROUND)
        return Starts(*map(torch.cat, zip(found, again, strict=True)))

    def _starts(self, x: Values, functional: Values, constant: Values, step: float) -> Starts:
        ends = [end.expand(len(x), *end.shape) for end in (self.lower, self.upper, step * (self.upper - self.lower))]
        return Starts(x, functional, constant, *ends)

    def learn(self, reached: Starts, values: Values) -> None:
        """Where a descent came to, and the values there."""
        before, best = self.value, int(values.argmin())
        if float(values[best]) < before:
            self.nearest, self.value = Starts(*(each[best : best + 1] for each in reached)), float(values[best])
        goes_on = self.value < _NEARER * before or self.value < _NEAR * self._first
        self._wait = self._gap = 1 if goes_on else min(2 * self._gap, _LONGEST_WAIT)


@torch.enable_grad()  # whatever an interrupted computation left behind
def descend(function: Callable[[Values], Values], starts: Sequence[Starts]) -> list[tuple[Starts, Values]]:
    """For each, where its rows had their lowest values, and these. Signed gradient steps, smaller and smaller."""
    if not starts:
        return []
    joined = Starts(*map(torch.cat, zip(*starts, strict=True)))
    x, least, best = joined.x, torch.full((len(joined.x),), torch.inf), joined.x.clone()
    for number in range(_STEPS + 1):
        x = x.detach().requires_grad_()
        value = (function(x).flatten(1) * joined.functional).sum(1) + joined.constant
        better = value.detach() < least
        best[better], least[better] = x.detach()[better], value.detach()[better]
        if number < _STEPS:
            (gradient,) = torch.autograd.grad(value.sum(), x)
            step = _SMALLEST ** (number / _STEPS) * joined.step * gradient.sign()
            x = (x.detach() - step).clamp(joined.lower, joined.upper)
    rows = [len(each.x) for each in starts]
    reached = zip(*(torch.split(each, rows) for each in joined._replace(x=best)), strict=True)
    return list(zip((Starts(*each) for each in reached), torch.split(least, rows), strict=True))
