"""Branch and bound on the signs of ReLU neurons (beta-CROWN, arXiv 2103.06624), for many boxes and functionals at once.

Each functional that is not proved positive over its box has a tree; its leaves that are not proved yet wait in a queue,
the worst first. A round takes leaves from the trees of all boxes, splits each at the neuron that promises most, and
optimises slopes and multipliers of all halves together. A leaf counts as proved only when `split_trees.leaf_bounds`
says so, in rigorous arithmetic; one that misses by rounding is split further.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from verify.choices import leaves_at_a_time
from verify.cones import Cone, intervals_of
from verify.crown import Choose, Slopes, crown_intervals
from verify.intervals import Interval
from verify.linear_bounds import lower_bounds, relus
from verify.network import Network
from verify.parts import Parts, of_each
from verify.paths import LEAF, splits_of
from verify.planes import fraction_count
from verify.primitives import Tensor
from verify.pruning import pruned
from verify.refinements import Refinement
from verify.rounding import Array, Contract, down
from verify.search import planes
from verify.search.assumptions import Assuming, Region
from verify.search.backward import Backward, Fractions, Lanes, Values
from verify.search.branching import best_splits
from verify.search.descent import ROWS, STEPS, Descent, Starts, descend
from verify.search.optimise import Found, Settings, optimised
from verify.search.partition import Partition
from verify.search.points import differentiable
from verify.search.trees import Box, Ending, Leaves, Node, Task, about_the_whole, by_box, tree_of
from verify.split_trees import SplitProof, leaf_bounds
from verify.time_limit import OutOfTime, time_limit

AT_ROOT = Settings(iterations=60, slope_step=0.25, multiplier_step=0.0, decay=0.97)
AT_PLANES = Settings(iterations=150, slope_step=0.1, multiplier_step=0.0, decay=0.98)
AT_FIRST_PLANES = replace(AT_PLANES, iterations=8)
AT_NEURONS = Settings(iterations=5, slope_step=0.3, multiplier_step=0.0, decay=0.8)
AT_LEAVES = Settings(iterations=4, slope_step=0.1, multiplier_step=0.5, decay=0.8)
AT_ASSUMPTIONS = Settings(iterations=15, slope_step=0.1, multiplier_step=0.5, decay=0.95)
AT_ENDS = Settings(iterations=100, slope_step=0.0, multiplier_step=0.5, decay=0.98)
_MOST_ENDS = 5
"""How often the multipliers of a leaf in which nothing is left to split are optimised before the box is given up."""

_MOST_WEIGHTS, _WEIGHTS_AT_A_TIME, _WEIGHTS_OF_A_PROOF = 2**16, 2**20, 2**28
"""Of planes above the neurons of a box; of all leaves that are bounded together; and of all leaves in a proof, for more
than twice as many are refused by whoever checks."""

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

_SPLITS_PER_NEURON = 0.5
"""How many take the time that it takes to bound what a neuron reads, assuming a counterexample."""

_BYTES_OF_ASSUMPTIONS = 2**28
"""In a proof, for twice as many are refused by whoever checks."""

_WORTH_ASSUMING, _NEARER, _FARTHER, _FAILURES = 0.1, 0.8, 1.25, 2
"""What share of what is missing to a proof such bounds must gain, to go on with them; what a leaf may lack for them to
be tried, of what one lacked that they gained little, or much, for; and how often they may gain little first."""

_NEAR = 1e-4
"""How near to a counterexample, as torch computes, an input must be to be shown to whoever judges it."""

_STEPS_PER_LEAF, _MOST_STEPS = 3, 8 * ROWS * STEPS
"""How many gradient steps of an input each leaf that is split earns, of some twenty that its bounds take; and how many
may be saved up."""

_ROOM = 1.05
"""What an approximate bound must exceed zero by is so many times what rigorous bounds of the leaves that missed last
lost: most of that is the rounding of the deployed network, which varies little from leaf to leaf."""

Refute = Callable[[int, NDArray[np.float32]], bool]
"""Told a box and an input in it at which a bound is lowest: whether that settles the box, and no proof is needed."""


@dataclass(frozen=True)
class Outcome:
    """About one box. proof: when proved. bound: the least lower bound that was found of any functional, approximately.
    spent_s: the box's share of the time."""

    ending: Ending
    proof: SplitProof | None
    bound: float
    spent_s: float

    @property
    def timed_out(self) -> bool:
        """Whether there might have been a proof, given more time."""
        return self.ending is Ending.TIMEOUT

    @property
    def branched(self) -> bool:
        """Whether the proof splits anything."""
        return self.proof is not None and self.proof.branches


def search(
    network: Network,
    box: Interval,
    functionals: Array,
    constants: Array,
    contract: Contract,
    *,
    branch: bool,
    seconds: float,
    refute: Refute | None = None,
    intervals: dict[Tensor, Interval] | None = None,
    opening_s: float = 0.0,
    interrupts: bool = False,
    parts: Sequence[Parts] | None = None,
    rows: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> Iterator[Outcome]:
    """For each box in turn, try to prove every functional of the output, plus its constant, positive.

    The work on a box uses what lanes the ones before it leave free. box: lanes x the shape of the network's only input.
    functionals: lanes x functionals x the output's shape, constants: lanes x functionals. branch: split neurons, rather
    than optimise slopes only. seconds: of work for each box. intervals: by CROWN, of the only box, if they are known;
    opening_s: how much of its time they took. interrupts: whether a single step that exceeds the time for a box is cut
    short by a signal. parts: of each box, which remember for whoever looks at the proofs; rows: which of their
    functionals these are, if not all in order.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = parts or of_each(network, box, functionals, constants, contract)
    output, part = network.output, None
    if intervals:
        part = pruned(output, intervals)
        network, intervals = replace(network, outputs=(part.tensor,)), intervals_of(part, intervals)
    search = _Search(
        network,
        box,
        functionals,
        constants,
        contract,
        seconds,
        refute,
        device,
        part=part,
        parts=parts,
        rows=np.arange(functionals.shape[1]) if rows is None else np.array(rows),
        intervals=intervals,
        opening_s=opening_s,
        interrupts=interrupts,
    )
    for outcome in search.run(branch):
        proof = outcome.proof and part and about_the_whole(outcome.proof, part, output)
        yield replace(outcome, proof=proof or outcome.proof)


class _Search:
    def __init__(
        self,
        network: Network,
        box: Interval,
        functionals: Array,
        constants: Array,
        contract: Contract,
        seconds: float,
        refute: Refute | None,
        device: torch.device,
        *,
        part: Cone | None,
        parts: Sequence[Parts],
        rows: NDArray[np.intp],
        intervals: dict[Tensor, Interval] | None,
        opening_s: float,
        interrupts: bool,
    ) -> None:
        """part: of which the network is the output, if it is only a part of the one that the proofs are about."""
        self.network, self.output, self.contract, self.device = network, network.output, contract, device
        self.box, self.functionals, self.constants = box, functionals, constants
        self.seconds, self.refute = seconds, refute
        self.part, self.parts, self.rows = part, parts, rows
        self.intervals, self.opening_s, self.interrupts = intervals, opening_s, interrupts
        self.backward = Backward(network.output, device)
        self.vectors = all(max(relu.shape, default=1) == math.prod(relu.shape) for relu in self.backward.relus)
        self.deep = any(relus(relu.operands[0]) for relu in self.backward.relus)
        self.function = differentiable(network) if refute else None
        self.steps_to_take = 0
        self.order = count()
        self.boxes: list[Box] = []

    def run(self, branch: bool) -> Iterator[Outcome]:
        done = 0
        while done < len(self.box.lower):
            for box in self.boxes[done:]:
                if box.refined and not box.pressed and box.spent_s > _SHARE_BEFORE_PARTS * self.seconds:
                    box.pressed = True
                    if not self._ended(box):
                        self._divide(box, _POSSIBLE)
            for task in (task for box in self.boxes[done:] if box.ending is None for task in box.tasks):
                if math.isinf(task.reach) and self._is_far(task, task.root, (node for _, _, node in task.waiting)):
                    self._assume_at_root(task)
            picked = self._picked()
            if 2 * len(picked) < self._width(task.box for task, _ in picked):
                self._admit(branch)
            far = []
            for task, node in picked:
                most = min(task.reach, _NEARER * node.region.gap)
                near = task.box.gap(node) <= most < math.inf
                if not (near and self._is_far(task, node, [node]) and self._assume(task, node)):
                    far.append((task, node))
            if picked := far:
                halves, whole = self._split(picked)
                before = [node.bound for _, node in halves]
                self._bound(halves, AT_LEAVES)
                for (task, node), bound in zip(halves, before, strict=True):
                    if math.isfinite(bound):
                        task.gains.append(min(node.bound, task.box.slack) - bound)
                self._bound(whole, AT_ENDS)
            while done < len(self.boxes) and self._ended(self.boxes[done]):
                yield self._outcome(self.boxes[done])
                done += 1

    def _admit(self, branch: bool) -> None:
        """Make a further box ready to be split; or open as many as fill the lanes, where all that are open are."""
        waiting = [box for box in self.boxes if not box.refined and not self._ended(box)]
        if waiting:
            (box, *_) = waiting
            self._refine(box)
            if branch and self.vectors and not self._ended(box):
                self._divide(box, _PROMISING)
            if branch and not self._ended(box):
                self._raise_planes(box)
            box.refined = True
            if not branch and not self._ended(box):
                box.ending = Ending.UNDECIDED
            return
        roots: list[tuple[Task, Node]] = []
        while len(roots) < self.backward.width and len(self.boxes) < len(self.box.lower):
            self.boxes.append(self._opened(len(self.boxes)))
            roots += [(task, task.root) for task in self.boxes[-1].tasks]
        self._bound(roots, AT_ROOT)

    def _opened(self, index: int) -> Box:
        """A box with a task for every functional that CROWN does not prove."""
        box = Box(index, spent_s=self.opening_s)
        self._work_on(box, lambda: self._begin(box, self.intervals or self._bounded(box)))
        box.opening_s = box.spent_s
        return box

    def _work_on(self, box: Box, work: Callable[[], None]) -> None:
        """Do work that ends when the time for the box does, and is charged to it; none if its time is over."""
        began = time.perf_counter()
        left = self.seconds - box.spent_s
        try:
            with time_limit(max(left, 0.0) if self.interrupts else None):
                work()
        except OutOfTime:
            box.ending = Ending.TIMEOUT
        finally:
            box.spent_s += time.perf_counter() - began

    def _bounded(self, box: Box, choose: Choose = lambda relu, intervals: None) -> dict[Tensor, Interval]:
        """Rigorous bounds of what the box's neurons read."""
        around = Interval(*(end[box.index : box.index + 1] for end in self.box))
        with np.errstate(all="ignore"):
            return crown_intervals(self.network, around, self.contract, choose=choose)

    def _begin(self, box: Box, intervals: dict[Tensor, Interval], neurons: NDArray[np.bool_] | None = None) -> None:
        """Begin with the box's tasks, over these intervals. neurons: that have slopes, if not all that are open."""
        functionals, constants = self.functionals[box.index], self.constants[box.index]
        with np.errstate(all="ignore"):
            (lower,) = lower_bounds(self.output, functionals[np.newaxis], intervals, self.contract)
        low, high = self._read(intervals)
        box.region = Region(intervals, self.backward.lanes(intervals, functionals[:1]))
        box.neurons = (low < 0) & (high > 0) if neurons is None else neurons
        start = np.where(high > -low, 255, 0).astype(np.uint8)[box.neurons]
        lowest, highest = (torch.tensor(end[box.index]).float() for end in self.box)
        box.tasks = []
        for row in np.flatnonzero(~(down(lower + constants) > 0)):
            functional, constant = functionals[row], float(constants[row])
            root = Node([], box.region, start, np.zeros(0, np.float32))
            descent = Descent(lowest, highest, torch.tensor(functional.reshape(-1)).float(), constant)
            assuming = Assuming(self.backward, functional, constant, self.contract)
            box.tasks.append(Task(box, int(row), functional, constant, root, descent, assuming))

    def _read(self, intervals: Mapping[Tensor, Interval]) -> list[Array]:
        """The ends of what all neurons read, in one lane."""
        before = [intervals[tensor.operands[0]] for tensor in self.backward.relus]
        return [np.concatenate([np.zeros(0), *(each[end].reshape(-1) for each in before)]) for end in (0, 1)]

    def _refined_parts(self, box: Box, neurons: NDArray[np.bool_]) -> Parts:
        """The box's, bounded with the slopes that were found for it; neurons: that have any."""
        parts, begun = self.parts[box.index], self._begun(box, neurons)
        parts.refine(begun.neurons, begun.refinements)
        return parts

    def _begun(self, box: Box, neurons: NDArray[np.bool_]) -> SplitProof:
        """About the whole network, without any tree."""
        proof = SplitProof(neurons, tuple(box.refinements), ())
        return about_the_whole(proof, self.part, self.parts[box.index].network.output) if self.part else proof

    def _divide(self, box: Box, patience: float) -> None:
        """Look for parts of the box over which CROWN proves what is left, where they seem to take at most so many times
        as long as there is time; and where there are neurons behind others, whose bounds parts may tighten."""
        if not self.deep or _PASSES_OF_PARTS * box.opening_s > self.seconds - box.spent_s:
            return
        self._work_on(box, lambda: self._grow(box, patience))

    def _grow(self, box: Box, patience: float) -> None:
        if box.partition is None:
            box.needed = [task for task in box.tasks if task.waiting]
            rows = self.rows[[task.row for task in box.needed]]
            box.partition = Partition(self._refined_parts(box, box.neurons), rows, self.device)

        def show(worst: NDArray[np.intp], direction: Values) -> bool:
            self._attack([box.needed[index] for index in worst], direction)
            return box.ending is not None

        if box.partition.grow(min(self.seconds - box.spent_s, _LONGEST_FOR_PARTS), patience, show):
            box.parts, box.tasks = box.partition.nodes, [task for task in box.tasks if not task.waiting]

    def _refine(self, box: Box) -> None:
        """Tighten the bounds of what the box's neurons read, each with slopes of its own, where time allows."""
        if _PASSES_OF_REFINEMENT * box.spent_s > _SHARE_OF_REFINEMENT * self.seconds:
            return
        numbers = relus(self.output)
        deadline = time.perf_counter() + _SHARE_OF_REFINEMENT * (self.seconds - box.spent_s)

        def choose(relu: Tensor, intervals: Mapping[Tensor, Interval]) -> Slopes | None:
            (operand,) = relu.operands
            low, high = (end.reshape(-1) for end in intervals[operand])
            elements = np.flatnonzero((low < 0) & (high > 0))
            if relu not in numbers or not len(elements) or time.perf_counter() > deadline:
                return None
            inner = self.backward.of(operand)
            slopes = self._slopes_of_elements(inner, elements, intervals, lambda: time.perf_counter() > deadline)
            below = {
                tensor: np.flatnonzero((before.lower < 0) & (before.upper > 0))
                for tensor in inner.relus
                for before in [intervals[tensor.operands[0]]]
            }
            box.refinements.append(Refinement((numbers[relu].start + elements).astype(np.int32), slopes))
            return Slopes(elements, below, slopes)

        def begin() -> None:
            low, high = self._read(self._bounded(box, choose))
            neurons = (low < 0) & (high > 0)
            # The bounds that whoever looks at the proof will compute: others, of which CROWN's rules made something
            # else by a hair, might prove what these do not.
            whole = self._refined_parts(box, neurons).whole
            self._begin(box, intervals_of(self.part, whole) if self.part else dict(whole), neurons)

        self._work_on(box, begin)
        self._bound([(task, task.root) for task in box.tasks], AT_ROOT)

    def _raise_planes(self, box: Box) -> None:
        """Optimise planes above the open neurons that read dense layers, for all leaves to have, where they pay."""
        fractions = planes.of_lines(self.output, box.neurons, *self._read(box.region.intervals))
        if not 0 < len(fractions) <= _MOST_WEIGHTS:
            return
        tasks = [task for task in box.tasks if task.waiting]
        missing = box.slack - min(task.root.bound for task in tasks)
        lines = {task: replace(task.root) for task in tasks}
        for task in tasks:
            task.root.fractions = fractions
        box.weights = len(fractions)
        begun = self._begun(box, box.neurons)
        box.written = fraction_count(self.parts[box.index].network.output, begun.neurons)
        ways = (AT_FIRST_PLANES, _WORTH_TRYING, AT_PLANES.iterations), (AT_PLANES, _WORTH_PLANES, 0)
        for settings, gain, iterations_left in ways:
            for task in tasks:
                task.waiting.clear()
            began = time.perf_counter()
            self._bound([(task, task.root) for task in tasks], settings)
            tasks = [task for task in tasks if task.waiting]
            if self._ended(box):
                return
            each_s = (time.perf_counter() - began) / settings.iterations
            gained = box.slack - min(task.root.bound for task in tasks) <= (1.0 - gain) * missing
            if not gained or each_s * iterations_left > _SHARE_OF_PLANES * self.seconds:
                break
        else:
            return
        box.weights = box.written = 0
        for task in tasks:
            task.waiting.clear()
            task.root = lines[task]
            self._queue(task, task.root)

    def _slopes_of_elements(
        self,
        backward: Backward,
        elements: NDArray[np.intp],
        intervals: Mapping[Tensor, Interval],
        stop: Callable[[], bool],
    ) -> NDArray[np.uint8]:
        """Slopes that make the bounds of elements of a tensor tight: 2 x elements x open neurons."""
        size = math.prod(backward.output.shape)
        around = backward.lanes(intervals, np.zeros((1, *backward.output.shape)))
        chosen = around.chosen
        found = np.zeros((2, len(elements), len(chosen)), np.uint8)
        for end, sign in enumerate((1.0, -1.0)):
            for start in range(0, len(elements), backward.width):
                part = elements[start : start + backward.width]
                functional = torch.zeros(len(part), size, device=self.device)
                functional[torch.arange(len(part)), torch.tensor(part)] = sign
                lanes = replace(around.repeated(len(part)), functional=functional.reshape(-1, *backward.output.shape))
                slopes = lanes.fixed[:, chosen]
                best = optimised(
                    backward,
                    lanes,
                    chosen,
                    slopes,
                    torch.zeros_like(slopes),
                    AT_NEURONS,
                    target=torch.zeros(len(part), device=self.device),
                    stop=stop,
                )
                found[end, start : start + len(part)] = best.slopes.cpu().numpy()
        return found

    def _ended(self, box: Box) -> bool:
        """Whether nothing is left to do about a box, or no time for it."""
        if box.ending is None and not any(task.waiting for task in box.tasks):
            box.ending = Ending.PROVED
        if box.ending is None and box.spent_s >= self.seconds:
            box.ending = Ending.TIMEOUT
        if box.ending is None and box.written * box.leaves > _WEIGHTS_OF_A_PROOF:
            box.ending = Ending.UNDECIDED
        return box.ending is not None

    def _picked(self) -> list[tuple[Task, Node]]:
        """The worst leaves of the first open box, and of later ones as far as there are lanes for both halves."""
        picked: list[tuple[Task, Node]] = []
        for box in self.boxes:
            if self._ended(box) or not box.refined or (picked and bool(box.weights) != bool(picked[0][0].box.weights)):
                continue
            width = self._width([box, *(task.box for task, _ in picked)])
            while 2 * len(picked) < width and any(task.waiting for task in box.tasks):
                task = min((task for task in box.tasks if task.waiting), key=lambda task: task.waiting[0][0])
                picked.append((task, heapq.heappop(task.waiting)[2]))
        return picked

    def _split(self, picked: Leaves) -> tuple[Leaves, Leaves]:
        """Both halves of each leaf, at the neurons that promise most; and the leaves in which nothing is left to split,
        where only better multipliers can help."""
        began = time.perf_counter()
        lanes, chosen, slopes, multipliers, fractions = self._lanes(picked)
        tasks = [task for task, _ in picked]
        neurons, direction = best_splits(
            self.backward, lanes, chosen, slopes, multipliers, self._targets(tasks), fractions
        )
        self._attack(tasks, direction)
        parts: list[tuple[Task, Node]] = []
        whole: list[tuple[Task, Node]] = []
        for (task, node), neuron in zip(picked, neurons, strict=True):
            if neuron == LEAF:
                node.ends += 1
                whole.append((task, node))
                if node.ends > _MOST_ENDS:
                    task.box.ending = task.box.ending or Ending.UNDECIDED
                continue
            node.neuron = neuron
            task.splits += 1
            multiplier = np.append(node.multipliers, np.float32(0))
            node.parts = tuple(
                Node([*node.path, (neuron, side)], node.region, node.slopes, multiplier, node.fractions, node.bound)
                for side in (1, -1)
            )
            node.fractions = None  # which only leaves need
            parts += [(task, part) for part in node.parts]
        self._charge(tasks, time.perf_counter() - began)
        return parts, whole

    def _is_far(self, task: Task, node: Node, leaves: Iterable[Node]) -> bool:
        """Whether the leaves below a node will take more splits than bounds of it that assume a counterexample do."""
        box, splits = task.box, task.leaves_below(leaves)
        if not splits or not math.isfinite(box.gap(node)):
            return False
        if box.assumed > _BYTES_OF_ASSUMPTIONS or box.spent_s >= self.seconds:
            return False
        last = task.assuming.last(node.region, node.path)
        return last is not None and splits > _SPLITS_PER_NEURON * len(last[1])

    def _assume_at_root(self, task: Task) -> None:
        """Try that with the whole tree, before any leaf of it."""
        if task.box.weights:  # whose root has no planes any more
            task.reach = task.box.gap(task.waiting[0][2])
        else:
            self._assume(task, task.root)

    def _assume(self, task: Task, node: Node) -> bool:
        """Bound a node anew, as long as bounds of its neurons that assume a counterexample gain much. Whether they did:
        then it is a leaf again, and waits if it is not proved."""
        box, others = task.box, task.waiting
        trial = replace(node, parts=(), neuron=LEAF, assumptions=[*node.assumptions])
        proved = False
        while box.ending is None and box.spent_s < self.seconds and not proved:
            before, region = trial.bound, trial.region
            self._work_on(box, partial(self._tighten, task, trial))
            if box.ending is None and trial.region is not region:
                task.waiting = []
                self._bound([(task, trial)], AT_ASSUMPTIONS)
                proved = box.ending is None and not task.waiting
            else:
                proved = trial.bound == math.inf
            if not trial.bound - before > _WORTH_ASSUMING * (box.slack - before):
                break
        task.waiting = others
        gap, left = box.gap(node), max(box.gap(trial), 0.0)
        task.failed = 0 if left < _NEARER * gap else task.failed + 1
        if not task.failed:
            task.reach = max(_FARTHER * gap, task.reach if math.isfinite(task.reach) else 0.0)
        elif task.failed > _FAILURES or math.isinf(task.reach):
            task.reach = _NEARER * gap
        if not proved and left >= (1.0 - _WORTH_ASSUMING) * gap:
            return False
        if node is task.root:
            task.waiting, task.splits = [], 0
        trial.region = replace(trial.region, gap=left)
        vars(node).update(vars(trial))
        if not proved:
            self._queue(task, node)
        return True

    def _tighten(self, task: Task, node: Node) -> None:
        """Let a node have bounds of its neurons that assume a counterexample, where they gain anything."""
        box, assuming = task.box, task.assuming
        deadline = time.perf_counter() + self.seconds - box.spent_s
        assumption = assuming.found(
            node.region, node.path, box.neurons, node.slopes, node.multipliers, lambda: time.perf_counter() > deadline
        )
        if not assumption:
            return
        node.assumptions.append(assumption)
        box.assumed += sum(array.nbytes for array in assumption.arrays.values())
        region = assuming.region(node.region, node.path, box.neurons, assumption)
        if region:
            node.region = region
        else:
            node.bound = math.inf

    def _attack(self, tasks: Sequence[Task], direction: Values) -> None:
        """Show the inputs at which bounds are lowest to whoever may find them to be counterexamples, where torch finds
        nearly one; and now and then, those that gradients lead to from there."""
        if not (self.refute and self.function):
            return
        lower, upper = (torch.tensor(end[[task.box.index for task in tasks]]).float() for end in self.box)
        corners = torch.where(direction.cpu() > 0, lower, upper)
        functional = torch.stack([task.descent.functional for task in tasks])
        constant = torch.tensor([task.constant for task in tasks])
        with torch.no_grad():
            values = (self.function(corners).reshape(len(tasks), -1) * functional).sum(1) + constant
        self.steps_to_take = min(self.steps_to_take + _STEPS_PER_LEAF * len(tasks), _MOST_STEPS)
        rows_of: dict[Task, list[int]] = {}
        for row, task in enumerate(tasks):
            rows_of.setdefault(task, []).append(row)
        starts: dict[Task, Starts] = {}
        for task, rows in rows_of.items():
            self._show(task, corners[rows], values[rows])
            if task.box.ending is None and task.descent.turn() and self.steps_to_take > 0:
                starts[task] = task.descent.starts(corners[rows], values[rows])
                self.steps_to_take -= STEPS * len(starts[task].x)
        for task, (reached, least) in zip(starts, descend(self.function, list(starts.values())), strict=True):
            task.descent.learn(reached, least)
            self._show(task, reached, least)

    def _show(self, task: Task, points: Values, values: Values) -> None:
        """Those at which the functional plus the constant has values that are negative, or nearly."""
        assert self.refute
        for point in points[values <= _NEAR * (1.0 + abs(task.constant))].numpy():
            if task.box.ending is None and self.refute(task.box.index, point):
                task.box.ending = Ending.REFUTED

    def _width(self, boxes: Iterable[Box]) -> int:
        """How many of their leaves to bound at a time, an even number: both halves of each."""
        weights = max((box.weights for box in boxes), default=0)
        return max(2, min(self.backward.width, _WEIGHTS_AT_A_TIME // max(1, weights)) // 2 * 2)

    def _bound(self, leaves: Leaves, settings: Settings) -> None:
        """Bound leaves, and queue those that are not proved."""
        width = self._width({task.box for task, _ in leaves})
        for start in range(0, len(leaves), width):
            part = [leaf for leaf in leaves[start : start + width] if leaf[0].box.ending is None]
            if not part:
                continue
            began = time.perf_counter()
            lanes, chosen, slopes, multipliers, fractions = self._lanes(part)
            tasks = [task for task, _ in part]
            shares = {box: lanes / len(part) for box, lanes in Counter(task.box for task in tasks).items()}
            found = optimised(
                self.backward,
                lanes,
                chosen,
                slopes,
                multipliers,
                settings,
                target=self._targets(tasks),
                stop=partial(self._late, shares, began),
                fractions=fractions,
            )
            self._charge(tasks, time.perf_counter() - began)
            self._keep(part, chosen, [each.rows for each in fractions], found)

    def _keep(self, leaves: Leaves, chosen: Values, faced: Sequence[Values], found: Found) -> None:
        """Write what was found into the leaves; queue those that rigorous bounds do not prove. chosen, faced: which
        neurons it has slopes and planes of."""
        fractions = [each.cpu().numpy() for each in found.fractions]
        bounds, slopes, multipliers, neurons = (
            values.cpu().numpy() for values in (found.bounds.double(), found.slopes, found.multipliers, chosen)
        )
        place = np.zeros(self.backward.neurons, np.intp)
        place[neurons] = np.arange(len(neurons))
        lane, neuron, _ = splits_of([node.path for _, node in leaves])
        of_splits = multipliers[lane, place[neuron]].astype(np.float32)
        ends = np.cumsum([len(node.path) for _, node in leaves])
        likely: dict[tuple[Task, Region], list[Node]] = {}
        for box, rows in by_box(leaves):
            own = slopes[rows][:, place[box.neurons]]
            if box.weights:
                of_box = planes.of_box(box, self.output, faced, [each[rows] for each in fractions])
                for (_, node), of_node in zip(leaves[rows], of_box, strict=True):
                    node.fractions = of_node.copy()
            parts = zip(leaves[rows], bounds[rows].tolist(), own, np.split(of_splits, ends)[rows], strict=True)
            for (task, node), bound, of_neurons, of_path in parts:
                node.bound, node.slopes, node.multipliers = bound + task.constant, of_neurons.copy(), of_path.copy()
                if node.bound > box.slack:
                    likely.setdefault((task, node.region), []).append(node)
                else:
                    self._queue(task, node)
        for (task, _), nodes in likely.items():
            step = leaves_at_a_time(self.output, task.box.weights)
            for start in range(0, len(nodes), step):
                self._work_on(task.box, partial(self._settle, task, nodes[start : start + step]))

    def _settle(self, task: Task, nodes: Sequence[Node]) -> None:
        """Queue those of the leaves, of which the same is known, that rigorous bounds do not prove."""
        box = task.box
        with np.errstate(all="ignore"):
            found = leaf_bounds(
                self.output,
                task.functional,
                nodes[0].region.intervals,
                self.contract,
                neurons=box.neurons,
                paths=[node.path for node in nodes],
                slopes=np.stack([node.slopes for node in nodes]),
                multipliers=np.concatenate([node.multipliers for node in nodes]),
                fractions=np.stack([node.fractions for node in nodes if node.fractions is not None])
                if box.weights
                else None,
            )
        rigorous = down(found + task.constant)
        missed = [pair for pair in zip(nodes, rigorous.tolist(), strict=True) if not pair[1] > 0]
        losses = [node.bound - bound for node, bound in missed if math.isfinite(bound)]
        if losses:
            box.slack = _ROOM * max(losses)
        for node, bound in missed:
            node.bound = bound if math.isfinite(bound) else -math.inf
            self._queue(task, node)

    def _queue(self, task: Task, node: Node) -> None:
        heapq.heappush(task.waiting, (node.bound, next(self.order), node))

    def _lanes(self, leaves: Leaves) -> tuple[Lanes, Values, Values, Values, list[Fractions]]:
        """The leaves as lanes, with their chosen neurons, slopes, multipliers, and fractions if they have planes."""
        shape = (len(leaves), self.backward.neurons)
        slopes, sides, multipliers = (np.zeros(shape, kind) for kind in (np.uint8, np.int8, np.float32))
        for box, rows in by_box(leaves):
            slopes[rows, box.neurons] = np.stack([node.slopes for _, node in leaves[rows]])
        lane, neuron, side = splits_of([node.path for _, node in leaves])
        sides[lane, neuron] = side
        multipliers[lane, neuron] = np.concatenate([node.multipliers for _, node in leaves])
        functional = self.backward.values(np.stack([task.functional for task, _ in leaves]))
        regions = {region: number for number, region in enumerate({node.region: None for _, node in leaves})}
        if len(regions) == 1:
            lanes = leaves[0][1].region.lanes.repeated(len(leaves))
        else:
            which = torch.tensor([regions[node.region] for _, node in leaves], device=self.device)
            lanes = Lanes.joined([region.lanes for region in regions]).take(which)
        lanes = replace(lanes, functional=functional)
        lanes = lanes.split(self.backward.values(sides), self.backward.slope)
        chosen = lanes.chosen
        if 2 * len(chosen) > self.backward.neurons:
            chosen = torch.arange(self.backward.neurons, device=self.device)
        start, multiplier = (self.backward.values(values)[:, chosen] for values in (slopes, multipliers))
        return lanes, chosen, start / 255.0, multiplier, planes.of_leaves(leaves, self.backward)

    def _targets(self, tasks: Sequence[Task]) -> Values:
        """What approximate bounds of functionals, without their constants, must exceed."""
        target = [task.box.slack - task.constant for task in tasks]
        return torch.tensor(target, device=self.device, dtype=self.backward.dtype)

    def _late(self, shares: Mapping[Box, float], began: float) -> bool:
        """Whether some box has no time left, given their shares of the work that began then."""
        elapsed = time.perf_counter() - began
        return any(box.spent_s + elapsed * share > self.seconds for box, share in shares.items())

    def _charge(self, tasks: Sequence[Task], elapsed: float) -> None:
        for task in tasks:
            task.box.spent_s += elapsed / len(tasks)

    def _outcome(self, box: Box) -> Outcome:
        bounds = [task.waiting[0][0] for task in box.tasks if task.waiting]
        assert box.ending
        proof = (
            SplitProof(box.neurons, tuple(box.refinements), tuple(map(tree_of, box.tasks)), box.parts)
            if box.ending is Ending.PROVED
            else None
        )
        box.tasks, box.partition = [], None  # which hold all leaves, and bounds of many parts
        return Outcome(box.ending, proof, min(bounds, default=math.nan), box.spent_s)
