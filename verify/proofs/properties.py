"""Properties of a network as VNN-LIB states them: boxes of inputs, and sets of outputs that must not be reached.

A property is a formula over exact linear constraints on inputs x and outputs y. It describes *counterexamples*: it is
`unsat`, and the network safe, if no input has outputs that fulfil it. For proofs the formula is split into cases, each
a box of inputs and a disjunction of conjunctions of further constraints. All numbers are exact rationals.

The network takes float32 numbers, whereas the ends of a box are decimals, which float32 may not hold:

- proofs are about the smallest float32 box that contains the exact one: nothing that a reader of the decimals may take
  for an input, in whatever rounding, is left out;
- counterexamples lie in the exact box. Only where one of its sides contains no float32 number at all (a decimal that
  was printed from a float32 number, say) they take the float32 numbers nearest to its ends, as a runtime that is given
  the decimals does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.core.intervals import Interval
from verify.core.rounding import Array
from verify.errors import ModelProblem

Terms = tuple[tuple[int, Fraction], ...]
"""(flat index, coefficient), sorted by the index; no coefficient is zero."""

_MOST_DISJUNCTS = 2**18
"""Conjunctions that a property may consist of."""
_LARGEST_FLOAT32 = Fraction(float(np.finfo(np.float32).max))


class Constraint(NamedTuple):
    """inputs x + outputs y <= bound, or < bound where it is strict; its coefficients are coprime integers."""

    inputs: Terms
    outputs: Terms
    bound: Fraction
    strict: bool

    @classmethod
    def of(cls, inputs: Terms, outputs: Terms, bound: Fraction, strict: bool) -> Constraint:
        """The constraint with those rational coefficients."""
        coefficients = [c for _, c in (*inputs, *outputs)]
        if not coefficients or (len(coefficients) == 1 and abs(coefficients[0]) == 1):
            return cls(inputs, outputs, bound, strict)
        multiple = math.lcm(*(c.denominator for c in coefficients))
        scale = Fraction(multiple, math.gcd(*(int(c * multiple) for c in coefficients)))
        first, second = (tuple((i, c * scale) for i, c in terms) for terms in (inputs, outputs))
        return cls(first, second, bound * scale, strict)

    def holds(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        """Whether the constraint is fulfilled, exactly."""
        value = sum((c * x[i] for i, c in self.inputs), Fraction(0)) + sum((c * y[i] for i, c in self.outputs), 0)
        return value < self.bound if self.strict else value <= self.bound

    def excluded_by(self, least: Fraction | float) -> bool:
        """Whether no point fulfils the constraint, given a lower bound of its left side; never for NaN."""
        return least >= self.bound if self.strict else least > self.bound


@dataclass(frozen=True)
class Junction:
    """The conjunction, or else the disjunction, of formulas. depth: of the tree."""

    conjunctive: bool
    parts: list[Formula]
    depth: int


Formula = Constraint | Junction
Conjunction = tuple[Constraint, ...]


def holds(formula: Formula, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether inputs x and outputs y, both flat, fulfil the formula, exactly."""
    if isinstance(formula, Constraint):
        return formula.holds(x, y)
    quantifier = all if formula.conjunctive else any
    return quantifier(holds(part, x, y) for part in formula.parts)


def largest_indices(formula: Formula) -> tuple[int, int]:
    """The largest indices of inputs and of outputs that the formula mentions; -1 for none."""
    highest, pending = [-1, -1], [formula]
    while pending:
        part = pending.pop()
        if isinstance(part, Junction):
            pending.extend(part.parts)
            continue
        for which, terms in enumerate((part.inputs, part.outputs)):
            highest[which] = max(highest[which], terms[-1][0] if terms else -1)
    return highest[0], highest[1]


@dataclass(frozen=True)
class Case:
    """A box of inputs, and what must not be reached from it: any one of several conjunctions of constraints.

    exact: the ends of the box, flat. lower, upper: the smallest float32 box around it, flat, as float64. least,
    largest: the float32 inputs that count as counterexamples, flat.
    """

    exact: tuple[tuple[Fraction, ...], tuple[Fraction, ...]]
    lower: Array
    upper: Array
    least: NDArray[np.float32]
    largest: NDArray[np.float32]
    alternatives: list[Conjunction]

    def point(self, x: NDArray[np.float32]) -> list[Fraction] | None:
        """The point of the exact box that the float32 input x (flat) stands for: x itself wherever the box holds it.

        None if x does not count as inside.
        """
        if not ((x >= self.least) & (x <= self.largest)).all():
            return None
        return [min(max(Fraction(float(v)), low), high) for v, low, high in zip(x, *self.exact, strict=True)]


def cases(formula: Formula, inputs: int) -> list[Case]:
    """The formula in disjunctive normal form, with disjuncts that share a box in one case, and without empty boxes.

    inputs: how many the network has. Raises ModelProblem when an input has no bound, or there are too many disjuncts.
    """
    if _count_disjuncts(formula) > _MOST_DISJUNCTS:
        raise ModelProblem(f"the property falls into more than {_MOST_DISJUNCTS} cases")
    boxes: dict[int, tuple[_Chain | None, list[Conjunction]]] = {}
    for sides, others in _disjuncts(formula):
        boxes.setdefault(id(sides), (sides, []))[1].append(tuple(_links(others)))
    found = (_case(_links(sides), alternatives, inputs) for sides, alternatives in boxes.values())
    return [case for case in found if case is not None]


_Chain = tuple[Constraint, "_Chain | None"]
"""A linked list: disjuncts share what they have in common."""


def _links(chain: _Chain | None) -> Iterator[Constraint]:
    while chain:
        constraint, chain = chain
        yield constraint


def _count_disjuncts(formula: Formula) -> int:
    if isinstance(formula, Constraint):
        return 1
    counts = map(_count_disjuncts, formula.parts)
    return math.prod(counts) if formula.conjunctive else sum(counts)


def _disjuncts(formula: Formula) -> Iterator[tuple[_Chain | None, _Chain | None]]:
    """Of each disjunct, the sides of its box and its other constraints.

    What is common comes first, then choices between boxes, so that disjuncts with the same box share one chain.
    """
    Pending = list[Formula]
    stack: list[tuple[_Chain | None, _Chain | None, Pending, Pending]] = [(None, None, [formula], [])]
    while stack:
        sides, others, pending, choices = stack.pop()
        while pending:
            part = pending.pop()
            if isinstance(part, Junction):
                if part.conjunctive:
                    pending.extend(part.parts)
                else:
                    choices.insert(len(choices) if _chooses_box(part) else 0, part)
            elif _is_side(part):
                sides = (part, sides)
            else:
                others = (part, others)
        if choices:
            chosen = choices.pop()
            assert isinstance(chosen, Junction)
            stack.extend((sides, others, [part], list(choices)) for part in reversed(chosen.parts))
        else:
            yield sides, others


def _is_side(constraint: Constraint) -> bool:
    return len(constraint.inputs) == 1 and not constraint.outputs


def _chooses_box(formula: Formula) -> bool:
    return _is_side(formula) if isinstance(formula, Constraint) else any(map(_chooses_box, formula.parts))


def _case(sides: Iterator[Constraint], alternatives: list[Conjunction], inputs: int) -> Case | None:
    """None if the box is empty."""
    lows: list[tuple[Fraction, bool] | None] = [None] * inputs  # the end, and whether the box excludes it
    highs: list[tuple[Fraction, bool] | None] = [None] * inputs
    for side in sides:
        ((index, coefficient),) = side.inputs
        end = side.bound * coefficient, side.strict  # a single coprime coefficient is 1 or -1
        if coefficient > 0:
            high = highs[index]
            highs[index] = end if high is None or (end[0], not end[1]) < (high[0], not high[1]) else high
        else:
            low = lows[index]
            lows[index] = end if low is None or end > low else low
    rounded = []
    for index, (low, high) in enumerate(zip(lows, highs, strict=True)):
        if low is None or high is None:
            raise ModelProblem(f"the property does not bound the input {index} from {'above' if low else 'below'}")
        if low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1])):
            return None
        rounded.append(_float32_side(*low, *high))
    lower, upper, least, largest = (np.array(ends) for ends in zip(*rounded, strict=True))
    return Case(
        exact=(tuple(low[0] for low in lows if low), tuple(high[0] for high in highs if high)),
        lower=lower.astype(np.float64),
        upper=upper.astype(np.float64),
        least=least,
        largest=largest,
        alternatives=alternatives,
    )


Float32s = tuple[np.float32, np.float32, np.float32, np.float32]


@lru_cache(maxsize=2**16)
def _float32_side(low: Fraction, low_open: bool, high: Fraction, high_open: bool) -> Float32s:
    """The float32 numbers just outside both ends, or equal to them, and those just inside; see the module."""
    if max(abs(low), abs(high)) > _LARGEST_FLOAT32:
        raise ModelProblem("the property bounds an input by a number beyond float32")
    infinity = np.float32(np.inf)
    lower, upper = _float32_below(low), -_float32_below(-high)
    least = lower if Fraction(float(lower)) == low and not low_open else np.nextafter(lower, infinity)
    largest = upper if Fraction(float(upper)) == high and not high_open else np.nextafter(upper, -infinity)
    if least > largest:
        least, largest = _nearest_float32(low), _nearest_float32(high)
    return lower, upper, least, largest


def _float32_below(value: Fraction) -> np.float32:
    """The largest float32 number not above the value."""
    nearest = np.float32(float(value))
    return nearest if Fraction(float(nearest)) <= value else np.nextafter(nearest, np.float32(-np.inf))


def _nearest_float32(value: Fraction) -> np.float32:
    below = _float32_below(value)
    above = np.nextafter(below, np.float32(np.inf))
    return below if value - Fraction(float(below)) <= Fraction(float(above)) - value else above


def excluded(alternatives: list[Conjunction], box: Interval, least: list[list[float]]) -> list[bool]:
    """For each alternative, whether a constraint of it is violated everywhere.

    box: the inputs', flat. least: for each alternative and constraint, a lower bound of its *outputs*' part over the
    box, or NaN.
    """
    return [
        any(
            constraint.excluded_by(_sum(value, _least_of_inputs(constraint, box)))
            for constraint, value in zip(conjunction, values, strict=True)
        )
        for conjunction, values in zip(alternatives, least, strict=True)
    ]


def _sum(outputs: float, inputs: Fraction) -> Fraction | float:
    return Fraction(outputs) + inputs if math.isfinite(outputs) else math.nan


def _least_of_inputs(constraint: Constraint, box: Interval) -> Fraction:
    ends = (box.lower, box.upper)
    return sum((c * Fraction(float(ends[c < 0][i])) for i, c in constraint.inputs), Fraction(0))
