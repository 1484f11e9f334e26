"""What changes while training: the radius and the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

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


def learning_rate_at(epoch: int, *, initial: float, milestones: Sequence[int], decay: float) -> float:
    """The learning rate in `epoch` (from 0): multiplied by `decay` at every milestone that was reached."""
    return initial * decay ** sum(epoch >= milestone for milestone in milestones)
