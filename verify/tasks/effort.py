"""How hard an attack tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """steps: of gradient descent, per restart. seed: of where the restarts begin."""

    steps: int = 40
    restarts: int = 8
    seed: int = 0
