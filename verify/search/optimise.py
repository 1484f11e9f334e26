"""Slopes, multipliers and planes that raise lower bounds: projected Adam on all lanes at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor as Values

from verify.search.backward import Backward, Fractions
from verify.search.lanes import Lanes

_FIRST, _SECOND = 0.9, 0.999
"""Adam's averages of the gradient and of its square."""


@dataclass(frozen=True)
class Settings:
    """iterations: at most. slope_step: of the first iteration, for slopes and fractions. multiplier_step: for
    multipliers, in units of the coefficient that the neuron's output has. decay: of both, per iteration."""

    iterations: int
    slope_step: float
    multiplier_step: float
    decay: float


@dataclass(frozen=True)
class Found:
    """The best of each lane. slopes: lanes x chosen neurons, in 255ths. multipliers: the same. fractions: in 255ths."""

    bounds: Values
    slopes: Values
    multipliers: Values
    fractions: list[Values]


@torch.enable_grad()  # whatever an interrupted computation left behind
def optimised(
    backward: Backward,
    lanes: Lanes,
    chosen: Values,
    slopes: Values,
    multipliers: Values,
    settings: Settings,
    *,
    target: Values,
    stop: Callable[[], bool],
    fractions: Sequence[Fractions] = (),
    units: Values | None = None,
) -> Found:
    """Raise each lane's bound until it exceeds its target, the iterations are used up, or `stop` says so.

    chosen, slopes, multipliers: where to begin, as `Backward.bounds` takes them; fractions: as `Backward.above` does,
    none for lines above all neurons. units: of steps of multipliers, lanes x chosen neurons, where they are positive.
    Bounds are those of slopes and fractions rounded to 255ths, which the gradient ignores.
    """
    best = Found(
        torch.full((len(lanes),), -torch.inf, device=backward.device, dtype=backward.dtype),
        torch.zeros_like(slopes, dtype=torch.uint8),
        multipliers.clone(),
        [torch.zeros_like(each.values, dtype=torch.uint8) for each in fractions],
    )
    at = torch.arange(len(lanes), device=backward.device)  # where the lanes that are still at work stand in `best`
    scale = torch.zeros_like(multipliers)
    floor = torch.where(backward.smooth[chosen], -torch.inf, 0.0)
    shares = [slopes, *(each.values for each in fractions)]  # of one, what is rounded
    moments = [torch.zeros_like(each) for each in (multipliers, *shares) for _ in range(2)]
    for iteration in range(settings.iterations + 1):
        last = iteration == settings.iterations or not len(chosen) or stop()
        rounded = [(share * 255.0).round_() for share in shares]
        leaves = [multipliers.clone(), *(each / 255.0 for each in rounded)]
        for leaf in leaves:
            leaf.requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            of_rows = [Fractions(each.rows, leaf) for each, leaf in zip(fractions, leaves[2:], strict=True)]
            above = backward.above(lanes, of_rows)
            bounds, coefficients, _ = backward.bounds(lanes, chosen, leaves[1], leaves[0], above)
        with torch.no_grad():
            better = bounds > best.bounds[at]
            index = at[better]
            best.bounds[index] = bounds[better]
            best.multipliers[index] = multipliers[better]
            for found, each in zip((best.slopes, *best.fractions), rounded, strict=True):
                found[index] = each[better].to(torch.uint8)
            working = best.bounds[at] <= target[at]
        if last or not bounds.requires_grad or not bool(working.any()):
            break
        gradients = torch.autograd.grad(bounds.sum(), leaves, materialize_grads=True)
        with torch.no_grad():
            if iteration == 0:
                size = torch.cat(coefficients, 1)[:, chosen].abs()
                scale = torch.maximum(size, 0.1 * size.amax(1, keepdim=True)) * (lanes.side[:, chosen] != 0)
                if units is not None:
                    scale = torch.where(units > 0, units, scale)
            debiased = math.sqrt(1 - _SECOND ** (iteration + 1)) / (1 - _FIRST ** (iteration + 1))
            factor = settings.decay**iteration * debiased
            steps = []
            for which, gradient in enumerate(gradients):
                first, second = moments[2 * which], moments[2 * which + 1]
                first.lerp_(gradient, 1 - _FIRST)
                second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
                steps.append(first / second.sqrt().add_(1e-12))
            steps[0] *= scale
            multipliers = multipliers.add(steps[0], alpha=factor * settings.multiplier_step).clamp_(min=floor)
            shares = [
                share.add(step, alpha=factor * settings.slope_step).clamp_(0.0, 1.0)
                for share, step in zip(shares, steps[1:], strict=True)
            ]
            if 2 * int(working.sum()) < len(at):
                at, lanes, multipliers, scale = at[working], lanes.take(working), multipliers[working], scale[working]
                shares, moments = ([each[working] for each in values] for values in (shares, moments))
    return best
