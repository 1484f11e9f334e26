"""What is done with a whole box before it is split: bounds of its neurons, better ones with slopes of their own, parts
over which CROWN proves everything, planes above neurons."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.activations import relus
from verify.bounds.cones import intervals_of
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.refinements import Choose, Refinement, Slopes
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, down
from verify.proofs.parts import Parts
from verify.proofs.planes import fraction_count
from verify.proofs.split_trees import SplitProof
from verify.search import planes
from verify.search.assumptions import Assuming, Region
from verify.search.bounding import Bounding
from verify.search.descent import Descent
from verify.search.optimise import Settings
from verify.search.partition import Partition
from verify.search.query import Query
from verify.search.refining import slopes_of_elements
from verify.search.refuting import Refuting
from verify.search.trees import Box, Node, Task, about_the_whole

AT_ROOT = Settings(iterations=60, slope_step=0.25, multiplier_step=0.0, decay=0.97)
AT_PLANES = Settings(iterations=150, slope_step=0.1, multiplier_step=0.0, decay=0.98)
AT_FIRST_PLANES = replace(AT_PLANES, iterations=8)

_MOST_WEIGHTS = 2**16
"""Of planes above the neurons of a box."""

_WORTH_TRYING, _WORTH_PLANES, _SHARE_OF_PLANES = 0.05, 0.2, 0.1
"""What share of what is missing to a proof planes must gain, with a few iterations, to be optimised; and then, for all
leaves to have them, which makes these several times as expensive; and what share of the time their optimisation may
take."""

_SHARE_OF_REFINEMENT, _PASSES_OF_REFINEMENT = 0.3, 3
"""Of the time for a box, how much goes into the bounds of its neurons at most; and how much longer than the first
bounds better ones are expected to take."""

_PASSES_OF_PARTS, _LONGEST_FOR_PARTS = 60, 600.0
"""How many times as long as the first bounds there must be, for a search over parts to be worth a try; and how many
seconds it takes at most."""

_PROMISING, _SHARE_BEFORE_PARTS, _POSSIBLE = 0.5, 0.2, 8.0
"""Parts are looked for at once where ReLUs read vectors and that seems to take so much of the time; and when splits
behind fixed intervals took such a share of it in vain, even where it seems to take so many times what is left, for
estimates err."""


class Opening:
    """Of the boxes of a query."""

    def __init__(self, query: Query, bounding: Bounding, refuting: Refuting) -> None:
        self._query, self._bounding, self._refuting = query, bounding, refuting
        signed = relus(query.output)
        self._vectors = all(max(relu.shape, default=1) == math.prod(relu.shape) for relu in signed)
        self._deep = any(relus(relu.operands[0]) for relu in signed)

    def opened(self, index: int, intervals: dict[Tensor, Interval] | None, opening_s: float) -> Box:
        """A box with a task for every functional that CROWN does not prove, not bounded yet. intervals: if they are
        known; opening_s: how much of its time they took."""
        box = Box(index, self._query.seconds, self._query.interrupts, opening_s, opening_s)
        box.charge(lambda: self._begin(box, intervals or self._query.parts[index].intervals))
        box.opening_s = box.spent_s
        return box

    def bound(self, boxes: Sequence[Box]) -> None:
        """The roots of their trees, which wait if they are not proved."""
        self._bounding.bound([(task, task.root) for box in boxes for task in box.tasks], AT_ROOT)

    def prepare(self, box: Box, branch: bool) -> None:
        """Make a box ready to be split, if it is to be."""
        self._refine(box)
        if branch and self._vectors and not box.ended():
            self._divide(box, _PROMISING)
        if branch and not box.ended():
            self._raise_planes(box)
        box.refined = True

    def reconsider(self, box: Box) -> None:
        """Look for parts after all, once splits take long."""
        if box.refined and not box.pressed and box.spent_s > _SHARE_BEFORE_PARTS * box.seconds:
            box.pressed = True
            if not box.ended():
                self._divide(box, _POSSIBLE)

    def _intervals(self, box: Box, choose: Choose) -> dict[Tensor, Interval]:
        """Rigorous bounds of what the box's neurons read, with these slopes."""
        around = Interval(*(end[box.index : box.index + 1] for end in self._query.box))
        with np.errstate(all="ignore"):
            return crown_intervals(self._query.network, around, self._query.contract, choose=choose)

    def _begin(self, box: Box, intervals: dict[Tensor, Interval], neurons: NDArray[np.bool_] | None = None) -> None:
        """Begin with the box's tasks, over these intervals. neurons: that have slopes, if not all that are open."""
        query = self._query
        functionals, constants = query.functionals[box.index], query.constants[box.index]
        with np.errstate(all="ignore"):
            (lower,) = lower_bounds(query.output, functionals[np.newaxis], intervals, query.contract)
        box.region = Region(intervals, query.backward.lanes(intervals, functionals[:1]))
        box.neurons = self._open(intervals) if neurons is None else neurons
        start = np.rint(255.0 * box.region.lanes.fixed[0].cpu().numpy()).astype(np.uint8)[box.neurons]
        lowest, highest = (torch.tensor(end[box.index]).float() for end in query.box)
        box.tasks = []
        for row in np.flatnonzero(~(down(lower + constants) > 0)):
            functional, constant = functionals[row], float(constants[row])
            root = Node([], box.region, start, np.zeros(0, np.float32))
            descent = Descent(lowest, highest, torch.tensor(functional.reshape(-1)).float(), constant)
            assuming = Assuming(query.backward, functional, constant, query.contract)
            box.tasks.append(Task(box, int(row), functional, constant, root, descent, assuming))

    def _open(self, intervals: Mapping[Tensor, Interval]) -> NDArray[np.bool_]:
        """Which neurons leave a choice."""
        backward = self._query.backward
        lanes = backward.lanes(intervals, np.zeros((1, *self._query.output.shape)))
        return np.asarray(lanes.open[0].cpu().numpy())

    def _read(self, intervals: Mapping[Tensor, Interval]) -> list[Array]:
        """The ends of what all neurons read, in one lane."""
        before = [intervals[tensor.operands[0]] for tensor in self._query.backward.activations]
        return [np.concatenate([np.zeros(0), *(each[end].reshape(-1) for each in before)]) for end in (0, 1)]

    def _refine(self, box: Box) -> None:
        """Tighten the bounds of what the box's neurons read, each with slopes of its own, where time allows."""
        query = self._query
        numbers = relus(query.output)
        if not numbers or _PASSES_OF_REFINEMENT * box.spent_s > _SHARE_OF_REFINEMENT * box.seconds:
            return
        deadline = time.perf_counter() + _SHARE_OF_REFINEMENT * box.left_s

        def is_late() -> bool:
            return time.perf_counter() > deadline

        def choose(activation: Tensor, intervals: Mapping[Tensor, Interval]) -> Slopes | None:
            (operand,) = activation.operands
            low, high = (end.reshape(-1) for end in intervals[operand])
            elements = np.flatnonzero((low < 0) & (high > 0))
            # Around smooth functions there are no better lines for many functionals than CROWN's, which touch them
            # where most of these are lowest: in the middle.
            if activation not in numbers or not len(elements) or is_late():
                return None
            found = slopes_of_elements(query.backward.of(operand), elements, intervals, is_late)
            first = numbers[activation].start
            box.refinements.append(Refinement((first + elements).astype(np.int32), found.slopes))
            return found

        def begin() -> None:
            neurons = self._open(self._intervals(box, choose))
            # The bounds that whoever looks at the proof will compute: others, of which CROWN's rules made something
            # else by a hair, might prove what these do not.
            whole = self._refined_parts(box, neurons).whole
            self._begin(box, intervals_of(query.part, whole) if query.part else dict(whole), neurons)

        box.charge(begin)
        self.bound([box])

    def _begun(self, box: Box, neurons: NDArray[np.bool_]) -> SplitProof:
        """About the whole network, without any tree. neurons: that have slopes."""
        query, proof = self._query, SplitProof(neurons, tuple(box.refinements), ())
        return about_the_whole(proof, query.part, query.parts[box.index].network.output) if query.part else proof

    def _refined_parts(self, box: Box, neurons: NDArray[np.bool_]) -> Parts:
        """The box's, bounded with the slopes that were found for it."""
        parts, begun = self._query.parts[box.index], self._begun(box, neurons)
        parts.refine(begun.neurons, begun.refinements)
        return parts

    def _divide(self, box: Box, patience: float) -> None:
        """Look for parts of the box over which CROWN proves what is left, where they seem to take at most so many times
        as long as there is time; and where there are neurons behind others, whose bounds parts may tighten."""
        if self._deep and _PASSES_OF_PARTS * box.opening_s <= box.left_s:
            box.charge(lambda: self._grow(box, patience))

    def _grow(self, box: Box, patience: float) -> None:
        if box.partition is None:
            box.needed = [task for task in box.tasks if task.waiting]
            rows = self._query.rows[[task.row for task in box.needed]]
            parts = self._refined_parts(box, box.neurons)
            box.partition = Partition(parts, rows, self._query.backward.device)

        def show(worst: NDArray[np.intp], direction: Values) -> bool:
            self._refuting.attack([box.needed[index] for index in worst], direction)
            return box.ending is not None

        if box.partition.grow(min(box.left_s, _LONGEST_FOR_PARTS), patience, show):
            box.parts, box.part_slopes = box.partition.nodes, box.partition.slopes
            box.tasks = [task for task in box.tasks if not task.waiting]

    def _raise_planes(self, box: Box) -> None:
        """Optimise planes above the open neurons that read dense layers, for all leaves to have, where they pay."""
        query = self._query
        fractions = planes.of_lines(query.output, box.neurons, *self._read(box.region.intervals))
        if not 0 < len(fractions) <= _MOST_WEIGHTS:
            return
        tasks = [task for task in box.tasks if task.waiting]
        missing = box.slack - min(task.root.bound for task in tasks)
        lines = {task: replace(task.root) for task in tasks}
        for task in tasks:
            task.root.fractions = fractions
        box.weights = len(fractions)
        begun = self._begun(box, box.neurons)
        box.written = fraction_count(query.parts[box.index].network.output, begun.neurons)
        ways = (AT_FIRST_PLANES, _WORTH_TRYING, AT_PLANES.iterations), (AT_PLANES, _WORTH_PLANES, 0)
        for settings, gain, iterations_left in ways:
            for task in tasks:
                task.waiting.clear()
            began = time.perf_counter()
            self._bounding.bound([(task, task.root) for task in tasks], settings)
            tasks = [task for task in tasks if task.waiting]
            if box.ended():
                return
            each_s = (time.perf_counter() - began) / settings.iterations
            gained = box.slack - min(task.root.bound for task in tasks) <= (1.0 - gain) * missing
            if not gained or each_s * iterations_left > _SHARE_OF_PLANES * box.seconds:
                break
        else:
            return
        box.weights = box.written = 0
        for task in tasks:
            task.waiting.clear()
            task.root = lines[task]
            task.queue(task.root)
