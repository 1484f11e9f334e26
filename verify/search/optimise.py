"""Slopes and multipliers that raise lower bounds: projected Adam on all lanes at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from verify.search.backward import Backward, Lanes, Values

_FIRST, _SECOND = 0.9, 0.999
"""Adam's averages of the gradient and of its square."""


@dataclass(frozen=True)
class Settings:
    """iterations: at most. slope_step: of the first iteration, for slopes; multiplier_step: for multipliers, in units
    of the coefficient that the neuron's output has. decay: of both, per iteration."""

    iterations: int
    slope_step: float
    multiplier_step: float
    decay: float


@dataclass(frozen=True)
class Found:
    """The best of each lane. slopes: lanes x chosen neurons, in 255ths. multipliers: the same."""

    bounds: Values
    slopes: Values
    multipliers: Values


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
) -> Found:
    """Raise each lane's bound until it exceeds its target, the iterations are used up, or `stop` says so.

    chosen, slopes, multipliers: where to begin, as `Backward.bounds` takes them. Bounds are those of slopes rounded to
    255ths, which the gradient ignores.
    """
    best = Found(
        torch.full((len(lanes),), -torch.inf, device=backward.device, dtype=backward.dtype),
        torch.zeros_like(slopes, dtype=torch.uint8),
        multipliers.clone(),
    )
    at = torch.arange(len(lanes), device=backward.device)  # where the lanes that are still at work stand in `best`
    scale = torch.zeros_like(multipliers)
    moments = [torch.zeros_like(slopes) for _ in range(4)]
    for iteration in range(settings.iterations + 1):
        last = iteration == settings.iterations or not len(chosen) or stop()
        rounded = (slopes * 255.0).round()
        leaf = [(rounded / 255.0).requires_grad_(not last), multipliers.clone().requires_grad_(not last)]
        with torch.set_grad_enabled(not last):
            bounds, coefficients, _ = backward.bounds(lanes, chosen, *leaf)
        with torch.no_grad():
            better = bounds > best.bounds[at]
            index = at[better]
            best.bounds[index] = bounds[better]
            best.slopes[index] = rounded[better].to(torch.uint8)
            best.multipliers[index] = multipliers[better]
            working = best.bounds[at] <= target[at]
        if last or not bounds.requires_grad or not bool(working.any()):
            break
        gradients = torch.autograd.grad(bounds.sum(), leaf)
        with torch.no_grad():
            if iteration == 0:
                size = torch.cat(coefficients, 1)[:, chosen].abs()
                scale = torch.maximum(size, 0.1 * size.amax(1, keepdim=True)) * (lanes.side[:, chosen] != 0)
            debiased = math.sqrt(1 - _SECOND ** (iteration + 1)) / (1 - _FIRST ** (iteration + 1))
            factor = settings.decay**iteration * debiased
            steps = []
            for which, gradient in enumerate(gradients):
                first, second = moments[2 * which], moments[2 * which + 1]
                first.lerp_(gradient, 1 - _FIRST)
                second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
                steps.append(first / second.sqrt().add_(1e-12))
            slopes = slopes.add(steps[0], alpha=factor * settings.slope_step).clamp_(0.0, 1.0)
            steps[1] *= scale
            multipliers = multipliers.add(steps[1], alpha=factor * settings.multiplier_step).clamp_(min=0.0)
            if 2 * int(working.sum()) < len(at):
                at, lanes = at[working], lanes.take(working)
                slopes, multipliers, scale = slopes[working], multipliers[working], scale[working]
                moments = [moment[working] for moment in moments]
    return best
