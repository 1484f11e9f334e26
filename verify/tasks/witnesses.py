"""Counterexamples to properties, and what confirms them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verify.proofs.properties import Case, holds
from verify.tasks.vnnlib import Property


@dataclass(frozen=True)
class Witness:
    """A counterexample. x: the float32 input; y: what onnxruntime answers to it; point: the exact input that x stands
    for, inside the property's box and equal to x wherever that holds a float32 number. All flat."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    point: list[Fraction]


class Runs(Protocol):
    """What executes the deployed network."""

    def output(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...


class Stage(Enum):
    """When a counterexample is looked for: before anything else, before a search for a proof, which takes long, or when
    no proof was found."""

    FIRST = 0
    BEFORE_SEARCH = 1
    LAST = 2


Attack = Callable[[Sequence[Case], Stage], Witness | None]
"""A confirmed counterexample, if one is found."""


def confirmed(property: Property, case: Case, x: NDArray[np.float32], runtime: Runs) -> Witness | None:
    """The witness that the float32 input x is, if the deployed network's answer to it fulfils the property's formula.

    The formula is evaluated as a whole, over exact rationals.
    """
    point = case.point(x)
    if point is None:
        return None
    y = runtime.output(x)
    if not np.isfinite(y).all() or not holds(property.formula, point, [Fraction(float(value)) for value in y]):
        return None
    return Witness(x, y, point)
