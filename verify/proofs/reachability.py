"""Is what a property forbids out of the network's reach? Proofs by bounds of functionals of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from verify.bounds.methods import FUNCTIONAL_PROOFS
from verify.core.intervals import Interval
from verify.core.rounding import Array, Contract, down
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.parts import Parts
from verify.proofs.properties import Conjunction, Constraint, Terms, excluded
from verify.proofs.split_trees import SplitProof, split_bounds

LARGEST_INTEGER, _LARGEST_BOUND = 2**53, 2**1000
"""Integers up to the first are exact in float64; numbers up to the second do not overflow."""


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
        if constraint.outputs and _is_exact(constraint)
    )
    return {each: row for row, each in enumerate(terms)}


def _is_exact(constraint: Constraint) -> bool:
    """Whether float64 holds the coefficients of the outputs."""
    return all(c.denominator == 1 and abs(c) <= LARGEST_INTEGER for _, c in constraint.outputs)


def _least(alternatives: Sequence[Conjunction], rows: dict[Terms, int], lower: Array) -> list[list[float]]:
    """The bound of each constraint's functional; nothing is known of those that float64 cannot hold."""

    def of(terms: Terms) -> float:
        return (float(lower[rows[terms]]) if terms in rows else np.nan) if terms else 0.0

    return [[of(constraint.outputs) for constraint in conjunction] for conjunction in alternatives]


class Row(NamedTuple):
    """A constraint of a property whose left side is a functional of the outputs that float64 can hold."""

    alternative: int
    constraint: Constraint


def bounded_constraints(alternatives: Sequence[Conjunction]) -> list[Row]:
    """In order; a tree of a `SplitProof` about a property names its functional by the place in this list."""
    return [
        Row(index, constraint)
        for index, conjunction in enumerate(alternatives)
        for constraint in conjunction
        if constraint.outputs
        and not constraint.inputs
        and _is_exact(constraint)
        and abs(constraint.bound) < _LARGEST_BOUND
    ]


def constraint_functionals(network: Network, rows: Sequence[Row]) -> tuple[Array, Array]:
    """The left sides, rows x the output's shape, and constants: a constraint is violated where the sum is positive."""
    functionals = np.zeros((len(rows), int(np.prod(network.output.shape))))
    for row, (_, constraint) in enumerate(rows):
        for index, coefficient in constraint.outputs:
            functionals[row, index] = int(coefficient)
    constants = down(-np.array([float(constraint.bound) for _, constraint in rows]))
    return functionals.reshape(len(rows), *network.output.shape), constants


def unreachable_over_trees(
    network: Network,
    box: Interval,
    alternatives: Sequence[Conjunction],
    contract: Contract,
    proof: SplitProof,
    parts: Parts | None = None,
) -> bool:
    """Whether the proof shows that each alternative has a constraint that every input in the box (in one lane) and
    every execution violates; raises Rejected for a proof that does not fit. parts: of all bounded constraints in order,
    which may remember some that the proof needs."""
    rows = bounded_constraints(alternatives)
    if not rows:
        raise Rejected("no constraint of its property says anything about bounded outputs")
    functionals, constants = constraint_functionals(network, rows)
    lower = split_bounds(network, box, functionals, constants, contract, proof, parts)
    return {row.alternative for row, least in zip(rows, lower, strict=True) if least > 0} == set(
        range(len(alternatives))
    )
