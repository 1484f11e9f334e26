"""When to bound neurons anew assuming a counterexample, at which nodes of trees (`verify.search.assumptions`): where
that takes less time than the splits to come."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from verify.proofs.paths import LEAF
from verify.search.bounding import Bounding
from verify.search.optimise import Settings
from verify.search.trees import Node, Task

AT_ASSUMPTIONS = Settings(iterations=15, slope_step=0.1, multiplier_step=0.5, decay=0.95)

_SPLITS_PER_NEURON = 0.5
"""How many take the time that it takes to bound what a neuron reads, assuming a counterexample."""

_BYTES_OF_ASSUMPTIONS = 2**28
"""In a proof, for twice as many are refused by whoever checks."""

_WORTH_ASSUMING, _NEARER, _FARTHER, _FAILURES = 0.1, 0.8, 1.25, 2
"""What share of what is missing to a proof such bounds must gain, to go on with them; what a leaf may lack for them to
be tried, of what one lacked that they gained little, or much, for; and how often they may gain little first."""


class Tightening:
    """Of nodes of trees."""

    def __init__(self, bounding: Bounding) -> None:
        self._bounding = bounding

    def at_root(self, task: Task) -> None:
        """Try it with the whole tree, before any leaf of it, if all that waits will take long."""
        if not (math.isinf(task.reach) and _is_far(task, task.root, (node for _, _, node in task.waiting))):
            return
        if task.box.weights:  # whose root has no planes any more
            task.reach = task.box.gap(task.worst)
        else:
            self._assume(task, task.root)

    def at_leaf(self, task: Task, node: Node) -> bool:
        """Try it with a leaf that does not wait, if it will take long. Whether that gained much: then it waits again,
        unless it is proved."""
        near = task.box.gap(node) <= min(task.reach, _NEARER * (task.box.slack - node.region.bound)) < math.inf
        return near and _is_far(task, node, [node]) and self._assume(task, node)

    def _assume(self, task: Task, node: Node) -> bool:
        """Bound a node anew, as long as bounds of its neurons that assume a counterexample gain much. Whether they did:
        then it is a leaf again, and waits if it is not proved."""
        box, others = task.box, task.waiting
        trial = replace(node, parts=(), neuron=LEAF, assumptions=[*node.assumptions])
        proved = False
        while box.ending is None and box.left_s > 0 and not proved:
            before, region = trial.bound, trial.region
            box.charge(partial(_tighten, task, trial))
            if box.ending is None and trial.region is not region:
                task.waiting = []
                self._bounding.bound([(task, trial)], AT_ASSUMPTIONS)
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
        trial.region = replace(trial.region, bound=trial.bound)
        vars(node).update(vars(trial))
        if not proved:
            task.queue(node)
        return True


def _is_far(task: Task, node: Node, leaves: Iterable[Node]) -> bool:
    """Whether the leaves below a node will take more splits than bounds of it that assume a counterexample do."""
    box, splits = task.box, task.leaves_below(leaves)
    if not splits or not math.isfinite(box.gap(node)) or box.assumed > _BYTES_OF_ASSUMPTIONS or box.left_s <= 0:
        return False
    last = task.assuming.last(node.region, node.path)
    return last is not None and splits > _SPLITS_PER_NEURON * len(last[1])


def _tighten(task: Task, node: Node) -> None:
    """Let a node have bounds of its neurons that assume a counterexample, where they gain anything."""
    box, assuming = task.box, task.assuming
    deadline = time.perf_counter() + box.left_s
    assumption = assuming.found(
        node.region, node.path, box.neurons, node.slopes, node.multipliers, lambda: time.perf_counter() > deadline
    )
    if not assumption:
        return
    node.assumptions.append(assumption)
    box.assumed += assumption.nbytes
    region = assuming.region(node.region, node.path, box.neurons, assumption)
    if region:
        node.region = region
    else:
        node.bound = math.inf
