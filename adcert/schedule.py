"""What changes while training: the radius and the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adcert.recipe import Recipe

BEND = 0.25  # share of the ramp that is polynomial
POWER = 4


def smoothed_ramp(progress: float) -> float:
    """Share of the final radius at `progress` through the ramp, from 0 to 1: a polynomial that goes over into a line.

    a u^4 for u < 1/4, then the tangent there, with a such that it ends at 1 (the smoothed schedule of auto_LiRPA,
    used by Shi et al. 2021).
    """
    progress = min(max(progress, 0.0), 1.0)
    factor = 1 / (BEND**POWER + POWER * BEND ** (POWER - 1) * (1 - BEND))
    if progress < BEND:
        return factor * progress**POWER
    return factor * (BEND**POWER + POWER * BEND ** (POWER - 1) * (progress - BEND))


def radius_at(epochs: float, *, final: float, start: int, end: int) -> float:
    """The training radius after `epochs` (with fraction): 0 up to epoch `start`, `final` from epoch `end` on."""
    if epochs >= end:
        return final
    if epochs <= start:
        return 0.0
    return final * smoothed_ramp((epochs - start) / (end - start))


def steps(epochs: float, recipe: Recipe) -> float:
    """The learning rate after `epochs` (with fraction): multiplied by `lr_decay` at every milestone reached."""
    return recipe.learning_rate * recipe.lr_decay ** sum(epochs >= milestone for milestone in recipe.lr_milestones)


def cyclic(epochs: float, recipe: Recipe) -> float:
    """Up in a line from `lr_min` to `learning_rate` at half of the run, and down again (Smith, arXiv 1506.01186)."""
    height = 1 - abs(2 * epochs / recipe.epochs - 1)
    return recipe.lr_min + (recipe.learning_rate - recipe.lr_min) * height


LEARNING_RATES: dict[str, Callable[[float, Recipe], float]] = {"steps": steps, "cyclic": cyclic}
