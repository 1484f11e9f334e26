"""Bounds of leaves, of several boxes and trees at once: first approximate ones, with slopes, multipliers and planes
optimised for each leaf; then rigorous ones of the leaves that seem to be proved. The others wait in their trees."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor as Values

from verify.core.rounding import Contract, down
from verify.proofs.choices import leaves_at_a_time
from verify.proofs.paths import splits_of
from verify.proofs.split_trees import leaf_bounds
from verify.search import planes
from verify.search.assumptions import Region
from verify.search.backward import Backward, Fractions
from verify.search.lanes import Lanes
from verify.search.optimise import Found, Settings, optimised
from verify.search.trees import Box, Leaves, Node, Task, by_box

_WEIGHTS_AT_A_TIME = 2**20
"""Of planes above neurons, of all leaves that are bounded together."""

_ROOM = 1.05
"""What an approximate bound must exceed zero by is so many times what rigorous bounds of the leaves that missed last
lost: most of that is the rounding of the deployed network, which varies little from leaf to leaf."""


class Stack(NamedTuple):
    """Leaves side by side, as `Backward.bounds` takes them. target: what approximate bounds of their functionals,
    without constants, must exceed. fractions: if they have planes."""

    lanes: Lanes
    chosen: Values
    slopes: Values
    multipliers: Values
    target: Values
    fractions: list[Fractions]


class Bounding:
    """Of leaves of functionals of what `backward` bounds."""

    def __init__(self, backward: Backward, contract: Contract) -> None:
        self._backward, self._contract = backward, contract

    def width(self, boxes: Iterable[Box]) -> int:
        """How many of their leaves to bound at a time, an even number: both halves of each."""
        weights = max((box.weights for box in boxes), default=0)
        return max(2, min(self._backward.width, _WEIGHTS_AT_A_TIME // max(1, weights)) // 2 * 2)

    def bound(self, leaves: Leaves, settings: Settings) -> None:
        """Bound leaves, and queue those that are not proved."""
        width = self.width({task.box for task, _ in leaves})
        for start in range(0, len(leaves), width):
            part = [leaf for leaf in leaves[start : start + width] if leaf[0].box.ending is None]
            if not part:
                continue
            began = time.perf_counter()
            stack = self.stacked(part)
            shares = {box: count / len(part) for box, count in Counter(task.box for task, _ in part).items()}
            found = optimised(
                self._backward,
                stack.lanes,
                stack.chosen,
                stack.slopes,
                stack.multipliers,
                settings,
                target=stack.target,
                stop=partial(_is_late, shares, began),
                fractions=stack.fractions,
            )
            share(part, time.perf_counter() - began)
            self._keep(part, stack, found)

    def stacked(self, leaves: Leaves) -> Stack:
        """Those of a box must stand side by side, and either all of the boxes have planes, or none."""
        backward = self._backward
        shape = (len(leaves), backward.neurons)
        slopes, multipliers = (np.zeros(shape, kind) for kind in (np.uint8, np.float32))
        for box, rows in by_box(leaves):
            slopes[rows, box.neurons] = np.stack([node.slopes for _, node in leaves[rows]])
        splits = splits_of([node.path for _, node in leaves])
        multipliers[splits.path, splits.neuron] = np.concatenate([node.multipliers for _, node in leaves])
        functional = backward.values(np.stack([task.functional for task, _ in leaves]))
        regions = {region: number for number, region in enumerate({node.region: None for _, node in leaves})}
        if len(regions) == 1:
            lanes = leaves[0][1].region.lanes.repeated(len(leaves))
        else:
            which = torch.tensor([regions[node.region] for _, node in leaves], device=backward.device)
            lanes = Lanes.joined([region.lanes for region in regions]).take(which)
        lanes = backward.along(replace(lanes, functional=functional), splits)
        chosen = lanes.chosen
        if 2 * len(chosen) > backward.neurons:
            chosen = torch.arange(backward.neurons, device=backward.device)
        start, multiplier = (backward.values(values)[:, chosen] for values in (slopes, multipliers))
        target = torch.tensor(
            [task.box.slack - task.constant for task, _ in leaves], device=backward.device, dtype=backward.dtype
        )
        return Stack(lanes, chosen, start / 255.0, multiplier, target, planes.of_leaves(leaves, backward))

    def _keep(self, leaves: Leaves, stack: Stack, found: Found) -> None:
        """Write what was found into the leaves; queue those that rigorous bounds do not prove."""
        output = self._backward.output
        faced = [each.rows for each in stack.fractions]
        fractions = [each.cpu().numpy() for each in found.fractions]
        bounds, slopes, multipliers, neurons = (
            values.cpu().numpy() for values in (found.bounds.double(), found.slopes, found.multipliers, stack.chosen)
        )
        place = np.zeros(self._backward.neurons, np.intp)
        place[neurons] = np.arange(len(neurons))
        lane, neuron, *_ = splits_of([node.path for _, node in leaves])
        of_splits = multipliers[lane, place[neuron]].astype(np.float32)
        ends = np.cumsum([len(node.path) for _, node in leaves])
        likely: dict[tuple[Task, Region], list[Node]] = {}
        for box, rows in by_box(leaves):
            own = slopes[rows][:, place[box.neurons]]
            if box.weights:
                of_box = planes.of_box(box, output, faced, [each[rows] for each in fractions])
                for (_, node), of_node in zip(leaves[rows], of_box, strict=True):
                    node.fractions = of_node.copy()
            parts = zip(leaves[rows], bounds[rows].tolist(), own, np.split(of_splits, ends)[rows], strict=True)
            for (task, node), bound, of_neurons, of_path in parts:
                node.bound, node.slopes, node.multipliers = bound + task.constant, of_neurons.copy(), of_path.copy()
                if node.bound > box.slack:
                    likely.setdefault((task, node.region), []).append(node)
                else:
                    task.queue(node)
        for (task, _), nodes in likely.items():
            step = leaves_at_a_time(output, task.box.weights)
            for start in range(0, len(nodes), step):
                task.box.charge(partial(self._settle, task, nodes[start : start + step]))

    def _settle(self, task: Task, nodes: Sequence[Node]) -> None:
        """Queue those of the leaves, of which the same is known, that rigorous bounds do not prove."""
        box = task.box
        with np.errstate(all="ignore"):
            found = leaf_bounds(
                self._backward.output,
                task.functional,
                nodes[0].region.intervals,
                self._contract,
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
            task.queue(node)


def share(leaves: Leaves, elapsed: float) -> None:
    """Charge the boxes of some leaves for so many seconds of work on all of them."""
    for task, _ in leaves:
        task.box.spent_s += elapsed / len(leaves)


def _is_late(shares: Mapping[Box, float], began: float) -> bool:
    """Whether some box has no time left, given their shares of the work that began then."""
    elapsed = time.perf_counter() - began
    return any(box.spent_s + elapsed * share > box.seconds for box, share in shares.items())
