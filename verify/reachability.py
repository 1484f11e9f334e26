"""Is what a property forbids out of the network's reach? Proved case by case; or a counterexample that onnxruntime
reproduces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verify.bounds import lanes_at_a_time
from verify.environment import require_ieee_arithmetic
from verify.errors import ModelProblem
from verify.intervals import Interval
from verify.methods import FUNCTIONAL_PROOFS, METHODS
from verify.network import Network
from verify.properties import Case, Conjunction, Terms, cases, excluded, holds
from verify.rounding import Array, Contract
from verify.vnnlib import Property

_LARGEST_BATCH = 64
"""Boxes that are bounded together."""
_LARGEST_INTEGER = 2**53
"""Integers up to here are exact in float64."""


class Answer(StrEnum):
    """VNN-COMP's words. unsat: no input has outputs that fulfil the property, so the network is safe."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Witness:
    """A counterexample. x: the float32 input; y: what onnxruntime answers to it; point: the exact input that x stands
    for, inside the property's box and equal to x wherever that holds a float32 number. All flat."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    point: list[Fraction]


@dataclass(frozen=True)
class Decision:
    """decided_by: the last way that was needed, or "attack". proofs: for each case, the way that proves it."""

    answer: Answer
    decided_by: str | None = None
    witness: Witness | None = None
    proofs: tuple[str, ...] = ()


class Runs(Protocol):
    """What executes the deployed network."""

    def output(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...


Attack = Callable[[Sequence[Case], bool], Witness | None]
"""(cases, thorough) -> a confirmed counterexample, if one is found."""


def cases_for(network: Network, property: Property) -> list[Case]:
    """The property's cases; raises ModelProblem when it does not fit the network."""
    for what, stated, tensor in (
        ("inputs", property.inputs, network.input),
        ("outputs", property.outputs, network.output),
    ):
        size = int(np.prod(tensor.shape))
        if stated not in (None, size):
            raise ModelProblem(f"the property is about {stated} {what}, but the model has {size}")
    found = cases(property.formula, int(np.prod(network.input.shape)))
    count = int(np.prod(network.output.shape))
    highest = max((c.outputs[-1][0] for k in found for a in k.alternatives for c in a if c.outputs), default=0)
    if highest >= count:
        raise ModelProblem(f"the property is about an output {highest}, but the model has {count}")
    return found


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


def decide(
    network: Network,
    property: Property,
    *,
    contract: Contract,
    method: str,
    attack: Attack | None = None,
) -> Decision:
    """Search for a counterexample, then for a proof, then thoroughly for a counterexample.

    Raises ModelProblem when the property does not fit the network, and BrokenArithmetic where this process cannot
    compute soundly.
    """
    require_ieee_arithmetic()
    found = cases_for(network, property)
    if attack and (witness := attack(found, False)):
        return Decision(Answer.SAT, "attack", witness)
    proofs: list[str] = []
    for way in proofs_of(network, found, contract, METHODS[method]):
        if way is None:
            witness = attack(found, True) if attack else None
            return Decision(Answer.SAT, "attack", witness) if witness else Decision(Answer.UNKNOWN)
        proofs.append(way)
    return Decision(Answer.UNSAT, max(proofs, key=METHODS[method].index, default=None), None, tuple(proofs))


def proofs_of(network: Network, cases: Sequence[Case], contract: Contract, ways: Sequence[str]) -> Iterator[str | None]:
    """For each case, the first of the ways that proves it, or None."""
    batch = min(lanes_at_a_time(network), _LARGEST_BATCH)
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        decided: list[str | None] = [None] * len(part)
        for way in ways:
            waiting = [lane for lane, known in enumerate(decided) if known is None]
            if waiting:
                lower, upper = (np.stack([getattr(part[i], end) for i in waiting]) for end in ("lower", "upper"))
                alternatives = [part[i].alternatives for i in waiting]
                for i, done in zip(
                    waiting, unreachable(network, Interval(lower, upper), alternatives, contract, way), strict=True
                ):
                    decided[i] = way if done else None
        yield from decided


def unreachable(
    network: Network, boxes: Interval, alternatives: Sequence[Sequence[Conjunction]], contract: Contract, way: str
) -> list[bool]:
    """For each box (lanes x inputs, flat) whether this way of bounding proves each of its alternatives impossible: one
    constraint violated by every input and every execution that the contract allows."""
    outputs = int(np.prod(network.output.shape))
    rows = [_rows(each) for each in alternatives]
    functionals = np.zeros((len(rows), max(map(len, rows), default=0), outputs))
    for lane, known in enumerate(rows):
        for terms, row in known.items():
            for index, coefficient in terms:
                functionals[lane, row, index] = int(coefficient)
    lower = np.full(functionals.shape[:2], np.nan)
    if functionals.size:
        box = Interval(*(end.reshape(-1, *network.input.shape) for end in boxes))
        shaped = functionals.reshape(*lower.shape, *network.output.shape)
        lower = FUNCTIONAL_PROOFS[way](network, box, shaped, contract)
    return [
        all(excluded(list(each), Interval(*(end[lane] for end in boxes)), _least(each, rows[lane], lower[lane])))
        for lane, each in enumerate(alternatives)
    ]


def _rows(alternatives: Sequence[Conjunction]) -> dict[Terms, int]:
    """The distinct functionals of the outputs that float64 can hold, numbered."""
    terms = dict.fromkeys(
        constraint.outputs
        for conjunction in alternatives
        for constraint in conjunction
        if constraint.outputs and all(c.denominator == 1 and abs(c) <= _LARGEST_INTEGER for _, c in constraint.outputs)
    )
    return {each: row for row, each in enumerate(terms)}


def _least(alternatives: Sequence[Conjunction], rows: dict[Terms, int], lower: Array) -> list[list[float]]:
    """The bound of each constraint's functional; nothing is known of those that float64 cannot hold."""

    def of(terms: Terms) -> float:
        return (float(lower[rows[terms]]) if terms in rows else np.nan) if terms else 0.0

    return [[of(constraint.outputs) for constraint in conjunction] for conjunction in alternatives]
