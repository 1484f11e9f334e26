"""Attacks: projected gradient descent (Madry et al., arXiv 1706.06083) on whatever must not be reached, with restarts.

Every other restart follows whichever alternative is nearest and its most violated constraint; the others aim at one
alternative each (MultiTargeted, Gowal et al., arXiv 1910.09338) and at all constraints of it that are violated. The
search is deterministic for a seed. It only proposes inputs: whether one is a counterexample is for onnxruntime to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.evaluation import lanes_at_a_time
from verify.core.intervals import Interval
from verify.model.network import Network
from verify.proofs.properties import Case
from verify.search.points import differentiable
from verify.tasks.effort import Effort
from verify.tasks.vnnlib import Property
from verify.tasks.witnesses import Attack, Runs, Stage, Witness, confirmed

Floats = NDArray[np.float32]
_LARGEST_BATCH = 256
_FAR = 1e30
_ENOUGH = 1e-4
"""How far beyond what counts the search goes before it stops: torch rounds otherwise than the deployed network."""

_QUICK_STEPS = 10
"""Of a quick attack, which has a single restart."""

_EFFORTS = {
    Stage.FIRST: (Effort(steps=40, restarts=8),),
    Stage.BEFORE_SEARCH: (Effort(steps=50, restarts=16, seed=9),),
    Stage.LAST: tuple(Effort(steps=100, restarts=32, seed=seed) for seed in range(1, 9)),
}

Excess = Callable[[Values, Values, Values], Values]
"""(lanes, x, y) -> rows x alternatives x constraints: by how much each constraint is violated; an alternative is
reached where all of its constraints are at 0 or below. Infinity stands for alternatives that a row does not have, its
negative for such constraints.

lanes: which box each row of x (rows x input shape) and y belongs to.
"""


def candidates(
    network: Network, lower: Floats, upper: Floats, starts: Floats, excess: Excess, effort: Effort
) -> Iterator[tuple[int, Floats]]:
    """Inputs that seem to reach an alternative, with the lane of their box; the most promising of each lane first.

    lower, upper, starts: lanes x input shape; the first restart begins at the start, the others anywhere in the box.
    Raises ModelProblem when torch cannot follow the network.
    """
    function = differentiable(network)
    generator = torch.Generator().manual_seed(effort.seed)
    batch = max(1, min(4 * lanes_at_a_time(network), _LARGEST_BATCH) // effort.restarts)
    for first in range(0, len(lower), batch):
        ends = [torch.tensor(each[first : first + batch]) for each in (lower, upper, starts)]
        low, high, start = (end.repeat_interleave(effort.restarts, 0) for end in ends)
        lanes = torch.arange(len(low)) // effort.restarts
        restart = torch.arange(len(low)) % effort.restarts
        random = low + (high - low) * torch.rand(low.shape, generator=generator)
        shape = (-1, *[1] * (low.ndim - 1))
        x = torch.where((restart == 0).reshape(shape), start, random).clamp(low, high)
        reached, value = _descended(function, excess, lanes + first, x, low, high, restart, effort, generator)
        for lane in range(len(ends[0])):
            rows = np.flatnonzero(lanes.numpy() == lane)
            for row in rows[np.argsort(value[rows].numpy(), kind="stable")]:
                if value[row] <= 0:
                    yield first + lane, reached[row].numpy()


@torch.enable_grad()  # whatever an interrupted computation left behind
def _descended(
    function: Callable[[Values], Values],
    excess: Excess,
    lanes: Values,
    x: Values,
    low: Values,
    high: Values,
    restart: Values,
    effort: Effort,
    generator: torch.Generator,
) -> tuple[Values, Values]:
    """The best point that each row came by, and its least excess. Signed gradient steps that shrink from a quarter of
    the box to a five-hundredth."""
    best, least = x.clone(), torch.full((len(x),), torch.inf)
    at = torch.arange(len(x))  # where the rows that are still at work stand in `best`
    for step in range(effort.steps + 1):
        x = x.detach().requires_grad_()
        every = excess(lanes, x, function(x))
        most_violated = every.amax(dim=2)
        nearest = most_violated.amin(dim=1)
        if step == 0:  # every other restart aims at an alternative of its own, the nearest ones first
            ranked = most_violated.detach().argsort(dim=1)
            aim = ranked[torch.arange(len(x)), (restart // 2) % ranked.shape[1]]
        better = nearest.detach() < least[at]
        index = at[better]
        best[index], least[index] = x.detach()[better], nearest.detach()[better]
        reached = least.reshape(-1, effort.restarts).amin(dim=1) < -_ENOUGH
        working = ~reached.repeat_interleave(effort.restarts)[at]
        if step == effort.steps or not bool(working.any()):
            break
        targeted = every[torch.arange(len(x)), aim].clamp(0.0, _FAR).sum(dim=1)
        objective = torch.where(restart % 2 == 1, targeted, nearest)
        (gradient,) = torch.autograd.grad(objective.sum(), x)
        size = 0.25 * (0.002 / 0.25) ** (step / effort.steps)
        x = (x.detach() - size * (high - low) * gradient.sign()).clamp(low, high)
        flat = (gradient == 0).flatten(1).all(dim=1)  # no way down from here: try a corner of the box instead
        corner = torch.where(torch.rand(x.shape, generator=generator) < 0.5, low, high)
        x[flat] = corner[flat]
        if 2 * int(working.sum()) < len(at):
            at, lanes, x, low, high, restart, aim = (each[working] for each in (at, lanes, x, low, high, restart, aim))
    return best, least


def witness_search(network: Network, property: Property, runtime: Runs) -> Attack:
    """A search for a confirmed counterexample of the property in any of its cases, harder from stage to stage.

    Raises ModelProblem when torch cannot follow the network.
    """
    differentiable(network)  # raises before anything is searched

    def search(cases: Sequence[Case], stage: Stage) -> Witness | None:
        for effort in _EFFORTS[stage]:
            for first in range(0, len(cases), _LARGEST_BATCH):
                witness = _found(network, property, cases[first : first + _LARGEST_BATCH], runtime, effort)
                if witness:
                    return witness
        return None

    return search


def _found(
    network: Network, property: Property, cases: Sequence[Case], runtime: Runs, effort: Effort
) -> Witness | None:
    lower, upper = (
        np.stack([getattr(case, end) for case in cases]).reshape(-1, *network.input.shape)
        for end in ("least", "largest")
    )
    middle = np.clip(lower / 2 + upper / 2, lower, upper).astype(np.float32)
    for lane, x in candidates(network, lower, upper, middle, _of_cases(network, cases), effort):
        witness = confirmed(property, cases[lane], x.reshape(-1), runtime)
        if witness:
            return witness
    return None


def _of_cases(network: Network, cases: Sequence[Case]) -> Excess:
    """The violations of the cases' constraints, each scaled by its coefficients."""
    rows = [list(dict.fromkeys(c for each in case.alternatives for c in each)) for case in cases]
    most = max(1, *map(len, rows))
    inputs, outputs = (
        torch.zeros(len(cases), most, int(np.prod(tensor.shape))) for tensor in (network.input, network.output)
    )
    bound = torch.zeros(len(cases), most)
    member = torch.zeros(len(cases), max(len(case.alternatives) for case in cases), most, dtype=torch.bool)
    absent = torch.ones(member.shape[:2], dtype=torch.bool)
    for lane, (case, constraints) in enumerate(zip(cases, rows, strict=True)):
        number = {constraint: row for row, constraint in enumerate(constraints)}
        for row, constraint in enumerate(constraints):
            scale = sum(abs(c) for _, c in (*constraint.inputs, *constraint.outputs)) or 1
            for into, terms in ((inputs, constraint.inputs), (outputs, constraint.outputs)):
                for index, coefficient in terms:
                    into[lane, row, index] = float(coefficient / scale)
            bound[lane, row] = float(max(-Fraction(_FAR), min(constraint.bound / scale, Fraction(_FAR))))
        for alternative, conjunction in enumerate(case.alternatives):
            absent[lane, alternative] = False
            member[lane, alternative, [number[constraint] for constraint in conjunction]] = True

    def excess(lanes: Values, x: Values, y: Values) -> Values:
        value = torch.einsum("lro,lo->lr", outputs[lanes], y.reshape(len(y), -1)) - bound[lanes]
        if inputs.any():
            value = value + torch.einsum("lri,li->lr", inputs[lanes], x.flatten(1))
        violations = torch.where(member[lanes], value[:, None], -torch.inf)
        return torch.where(absent[lanes][..., None], torch.inf, violations)

    return excess


@dataclass(frozen=True)
class Misclassification:
    """A search for inputs in boxes around samples to which onnxruntime answers another class than the label."""

    network: Network
    runtime: Runs
    effort: Effort

    def __call__(
        self, x: Floats, labels: NDArray[np.int64], box: Interval, *, quickly: bool = False
    ) -> Iterator[tuple[int, Floats]]:
        """Lanes, each at most once, with such an input. quickly: by a few steps from the samples themselves."""
        classes = torch.tensor(labels)

        def excess(lanes: Values, x: Values, y: Values) -> Values:
            label = classes[lanes][:, None]
            logits = y.reshape(len(y), -1)
            return (logits.gather(1, label) - logits).scatter(1, label, torch.inf)[..., None]

        lower, upper = (end.astype(np.float32) for end in box)
        effort = self._quick if quickly else self.effort
        found: set[int] = set()
        for lane, candidate in candidates(self.network, lower, upper, x, excess, effort):
            if lane in found:
                continue
            counterexample = self.confirmed(candidate, int(labels[lane]))
            if counterexample is not None:
                found.add(lane)
                yield lane, counterexample

    @property
    def _quick(self) -> Effort:
        return replace(self.effort, steps=min(_QUICK_STEPS, self.effort.steps), restarts=1)

    @property
    def quick_share(self) -> float:
        """Of the steps of all restarts."""
        return max(1, self._quick.steps) / max(1, self.effort.steps * self.effort.restarts)

    def confirmed(self, x: Floats, label: int) -> Floats | None:
        """The input next to x that the network takes, if onnxruntime answers another class to that."""
        taken = np.rint(x) if self.network.takes_bytes else x
        return taken if self.runtime.output(taken).argmax() != label else None


def misclassification_search(network: Network, runtime: Runs, effort: Effort) -> Misclassification:
    """Raises ModelProblem when torch cannot follow the network."""
    differentiable(network)
    return Misclassification(network, runtime, effort)
