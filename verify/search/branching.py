"""At which neuron to split: an estimate for all of them, then trial bounds for the best few (filtered smart branching,
De Palma et al., arXiv 2104.06718)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor as Values

from verify.proofs.paths import LEAF
from verify.search.backward import Above, Backward, Fractions
from verify.search.lanes import Lanes

_TRIALS = 3
"""Neurons that are tried out, per lane."""


class BestSplits(NamedTuple):
    """neurons: for each lane the one to split; LEAF where none is open. points: where. direction: the coefficients that
    the input has in the bounds of the lanes as they are."""

    neurons: list[int]
    points: list[float]
    direction: Values


def best_splits(
    backward: Backward,
    lanes: Lanes,
    chosen: Values,
    slopes: Values,
    multipliers: Values,
    target: Values,
    fractions: Sequence[Fractions] = (),
) -> BestSplits:
    """The splits that promise the highest bounds.

    A half counts as what its bound lacks to the target, nothing if it is proved; a split as both of its halves, and
    once more the worse one. chosen, slopes, multipliers: as `Backward.bounds` takes them; fractions: as
    `Backward.above` does; target: of each lane.
    """
    with torch.no_grad():
        planes = backward.above(lanes, fractions)
    halves, direction = _estimated_halves(backward, lanes, chosen, slopes, multipliers, planes)
    trials, count = min(_TRIALS, backward.neurons), len(lanes)
    if not trials:
        return BestSplits([LEAF] * count, [0.0] * count, direction)
    with torch.no_grad():
        estimate = torch.where(lanes.open, _promise(halves, target), -torch.inf)
        value, neuron = estimate.topk(trials, dim=1)
        lane = torch.arange(count, device=backward.device).repeat_interleave(2 * trials)
        tried = neuron.repeat_interleave(2, dim=1).reshape(-1, 1)
        side = torch.tensor([1.0, -1.0], device=backward.device, dtype=backward.dtype).repeat(count * trials)[:, None]
        found = []
        points, bends = backward.points(lanes), bool(backward.smooth.any())
        step = max(1, backward.width // (2 * trials))
        for start in range(0, count, step):
            some, part = slice(start, start + step), slice(2 * trials * start, 2 * trials * (start + step))
            trial = lanes.take(lane[part])
            lower, upper = trial.lower, trial.upper
            if bends:
                point = points[lane[part]].gather(1, tried[part])
                lower, upper = (
                    end.scatter(1, tried[part], torch.where(way * side[part] > 0, point, end.gather(1, tried[part])))
                    for way, end in ((1, lower), (-1, upper))
                )
            trial = backward.split(trial, trial.side.scatter(1, tried[part], side[part]), lower, upper)
            above = [Above(rows, slope[some], offset[some]) for rows, slope, offset in planes]
            found.append(backward.bounds(trial, chosen, slopes[lane[part]], multipliers[lane[part]], above).bounds)
        promise = _promise(torch.cat(found).reshape(count, trials, 2), target)
        promise = torch.where(value > -torch.inf, promise, -torch.inf)
        best = promise.argmax(1, keepdim=True)
        winner = neuron.gather(1, best)
        where = points.gather(1, winner)[:, 0].tolist()
        winner = torch.where(value.gather(1, best) > -torch.inf, winner, LEAF)
    return BestSplits([int(each) for each in winner[:, 0].tolist()], where, direction)


def _promise(halves: Values, target: Values) -> Values:
    """How good it is to have halves with these bounds: lanes x splits x 2."""
    short = halves - target[:, None, None]
    promise = short.clamp(max=0.0).sum(2) + short.amin(2)
    lowest = torch.finfo(promise.dtype).min
    return promise.nan_to_num(nan=lowest, neginf=lowest)  # nothing is promised, but the neuron is open


@torch.enable_grad()
def _estimated_halves(
    backward: Backward, lanes: Lanes, chosen: Values, slopes: Values, multipliers: Values, planes: Sequence[Above]
) -> tuple[Values, Values]:
    """For each open neuron, to first order, the bounds of its halves, which reads at least the point or at most (lanes
    x neurons x 2); and the coefficients of the input.

    A split replaces the line through which the neuron's coefficient passes by the ReLU's own there. What a unit of that
    coefficient is worth is the derivative of the bound: what the neuron reads where the bound is lowest.
    """
    probe = torch.zeros_like(lanes.fixed).requires_grad_()
    found = backward.bounds(lanes, chosen, slopes, multipliers, planes, probe)
    with torch.no_grad():
        read = torch.zeros_like(lanes.fixed)
        if found.bounds.requires_grad:  # some activation stands between input and output
            (read,) = torch.autograd.grad(found.bounds, probe, torch.ones_like(found.bounds))
        coefficient = torch.cat([read[:, :0], *found.coefficients], 1)
        below = backward.below(lanes, chosen, slopes)
        passed = torch.where(coefficient > 0, below * read, lanes.above * read + lanes.offset)
        gains = [(coefficient * (own * read - passed)).clamp(min=0.0) for own in (1.0, backward.slope)]
        if backward.smooth.any():  # either half loses less than the whole
            losses = backward.losses(lanes, found.coefficients, below, read)
            gains = [torch.where(backward.smooth, losses, gain) for gain in gains]
        return found.bounds.detach()[:, None, None] + torch.stack(gains, 2), found.direction.detach()
