"""At which neuron to split: a score for all of them, then trial bounds for the best few (filtered smart branching,
De Palma et al., arXiv 2104.06718)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verify.paths import LEAF
from verify.search.backward import Above, Backward, Fractions, Lanes, Values

_TRIALS = 12
"""Neurons that are tried out, per lane."""


def best_splits(
    backward: Backward,
    lanes: Lanes,
    chosen: Values,
    slopes: Values,
    multipliers: Values,
    fractions: Sequence[Fractions] = (),
) -> list[int]:
    """For each lane the neuron whose split promises the highest bounds; LEAF where no neuron is open.

    A neuron scores what the offset of the line above it takes from the bound: a split saves that. Of the best, the one
    wins whose worse half has the higher bound, as the given slopes and multipliers have it. chosen, slopes,
    multipliers: as `Backward.bounds` takes them; fractions: as `Backward.above` does.
    """
    with torch.no_grad():
        trials = min(_TRIALS, backward.neurons)
        if not trials:
            return [LEAF] * len(lanes)
        planes = backward.above(lanes, fractions)
        coefficients = torch.cat(backward.bounds(lanes, chosen, slopes, multipliers, planes).coefficients, 1)
        scores = torch.where(lanes.open, -coefficients.clamp(max=0.0) * lanes.offset, -1.0)
        value, neuron = scores.topk(trials, dim=1)
        count = len(lanes)
        lane = torch.arange(count, device=backward.device).repeat_interleave(2 * trials)
        tried = neuron.repeat_interleave(2, dim=1).reshape(-1, 1)
        side = torch.tensor([1.0, -1.0], device=backward.device, dtype=backward.dtype).repeat(count * trials)[:, None]
        found = []
        step = max(1, backward.width // (2 * trials))
        for start in range(0, count, step):
            some, part = slice(start, start + step), slice(2 * trials * start, 2 * trials * (start + step))
            trial = lanes.take(lane[part])
            trial = trial.split(trial.side.scatter(1, tried[part], side[part]), backward.slope)
            above = [Above(rows, slope[some], offset[some]) for rows, slope, offset in planes]
            found.append(backward.bounds(trial, chosen, slopes[lane[part]], multipliers[lane[part]], above).bounds)
        halves = torch.cat(found).reshape(count, trials, 2)
        # A half that is proved already counts as zero; the other one decides.
        promise = halves.clamp(max=0.0).sum(2) + halves.amin(2)
        promise = torch.where(value >= 0, promise, -torch.inf)
        best = promise.argmax(1, keepdim=True)
        winner = torch.where(value.gather(1, best) >= 0, neuron.gather(1, best), LEAF)
    return [int(each) for each in winner[:, 0].tolist()]
