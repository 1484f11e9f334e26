"""Constants that a model computes itself, such as weights over their norm: what they nearly are, and how far a runtime
may be off."""

from __future__ import annotations

import math
from typing import NoReturn
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from verify.core.interpreter import evaluate
from verify.core.intervals import interval_rules
from verify.core.primitives import POINT_RULES, Tensor, topological
from verify.core.rounding import FLOAT32_ANY_ORDER, FLOAT64_UNIT, REAL, Array
from verify.model.fusion import with_fusions
from verify.model.operators.node import Node, Operand, is_computed

_MOST_ROUNDINGS, _MOST_OWN_ROUNDINGS = 2**14, 2**24
"""Of a constant that the model computes: deployed, and in float64."""

_LONGEST, _LARGEST_COMPUTED = 256, 2**25
"""Steps to compute one, and numbers in all of these, at most."""

_ESTIMATES: WeakKeyDictionary[Tensor, tuple[NDArray[np.float64], ...]] = WeakKeyDictionary()
"""Of the constants that models compute; several nodes may use one."""


def factor_of(node: Node, operand: Operand | None, what: str) -> tuple[NDArray[np.float64], int, int]:
    """A constant that the node multiplies by, as float64; and how many roundings of the deployed network, and in
    float64, each number may be off by: if they are weights, say, that the model divides by their norm."""
    if operand is None or not is_computed(operand):
        return node.weights(operand, what), 0, 0
    value, *off = _computed(node, operand)
    units = FLOAT32_ANY_ORDER.unit, FLOAT64_UNIT
    deployed, own = (_ratio(each, np.abs(value)) / unit for each, unit in zip(off, units, strict=True))
    if not (deployed < _most_roundings(value) and own < _MOST_OWN_ROUNDINGS):
        _refuse_inaccurate(node, what)
    _require_effect(node, value, 1.0, off[0])
    return value, math.ceil(deployed) + 1, math.ceil(own) + 2


def summand_of(node: Node, operand: Operand | None, what: str) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """A constant that the node adds, as float64; magnitudes of which a single rounding, of the deployed network, is
    as much as it may be off by, besides the rounding of the sum; and how many roundings of these, in float64, are.
    """
    if operand is None or not is_computed(operand):
        value = node.weights(operand, what)
        return value, np.abs(value), 0
    value, deployed, own = _computed(node, operand)
    magnitude = np.abs(value) + 2.0 / FLOAT32_ANY_ORDER.unit * deployed
    scalings = _ratio(own, magnitude) / FLOAT64_UNIT
    if not (scalings < _MOST_OWN_ROUNDINGS and np.isfinite(magnitude).all()):
        _refuse_inaccurate(node, what)
    if value.size == 1 and not _ratio(deployed, np.abs(value)) / FLOAT32_ANY_ORDER.unit < _most_roundings(value):
        _refuse_inaccurate(node, what)
    _require_effect(node, value, 0.0, deployed)
    return value, magnitude, math.ceil(scalings) + 2


def _computed(node: Node, operand: Operand) -> tuple[NDArray[np.float64], ...]:
    """What a constant is that the model computes, nearly; and how far it may be off, deployed and in float64."""
    tensor = node.tensor(operand)
    if tensor not in _ESTIMATES:
        steps = list(topological([tensor]))
        if len(steps) > _LONGEST or sum(math.prod(step.shape) for step in steps) > _LARGEST_COMPUTED:
            node.refuse("a constant that takes so much work to compute is not supported: fold it before export")
        if any(step.grid for step in steps):
            # Runtimes leave DequantizeLinear as it is, and what is computed from it, whatever fuses around it.
            node.refuse("float constants that are computed from quantised ones are not supported: fold them")
        outputs = with_fusions((tensor,))
        with np.errstate(all="ignore"):
            (value,) = evaluate(outputs, POINT_RULES, {})
            found = [value[0]]
            for contract in (FLOAT32_ANY_ORDER, REAL):
                (ends,) = evaluate(outputs, interval_rules(contract), {})
                found.append(np.maximum(*(np.abs(end - value)[0] for end in ends)))
        _ESTIMATES[tensor] = tuple(found)
    return _ESTIMATES[tensor]


def _refuse_inaccurate(node: Node, what: str) -> NoReturn:
    node.refuse(f"{what} is computed inside the network, and not accurate: fold it before export")


def _require_effect(node: Node, value: Array, neutral: float, off: Array) -> None:
    """Refuse what may do nothing in float32, but for rounding: runtimes drop it, and fuse what is around."""
    if (value != neutral).any() and (np.abs(value - neutral) <= 2.0 * off).all():
        node.refuse(f"a computed constant that is {neutral:g} but for rounding is not supported: leave it out")


def _most_roundings(value: Array) -> int:
    """That a constant may be off by, at most: single numbers by less, for runtimes compare these with those of known
    functions (`verify.model.replacements`)."""
    return _MOST_ROUNDINGS if value.size > 1 else _MOST_ROUNDINGS >> 4


def _ratio(x: Array, y: Array) -> float:
    """The largest; NaN if one is."""
    with np.errstate(all="ignore"):
        return float(np.where(x == 0, 0.0, x / y).max(initial=0.0))
