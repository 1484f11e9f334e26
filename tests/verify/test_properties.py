"""Boxes of properties: exactly the float32 numbers inside them, for proofs all that surround them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.errors import ModelProblem
from verify.proofs.properties import Case, Constraint, Formula, Junction, cases

F32 = np.float32


def side(index: int, bound: Fraction, *, upper: bool, strict: bool = False) -> Constraint:
    sign = 1 if upper else -1
    return Constraint(((index, Fraction(sign)),), (), sign * bound, strict)


def interval(low: Fraction, high: Fraction, *, strict: bool = False) -> Case | None:
    formula = Junction(True, [side(0, low, upper=False, strict=strict), side(0, high, upper=True, strict=strict)], 1)
    found = cases(formula, 1)
    return found[0] if found else None


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
NUMBERS = st.builds(
    lambda x, share: Fraction(x) + share * Fraction(float(np.spacing(F32(abs(x) / 2)))),
    FLOATS.filter(lambda x: abs(x) < 3e38),
    st.fractions(-1, 1, max_denominator=7),
)


def neighbours(x: np.float32) -> list[np.float32]:
    return [np.nextafter(x, F32(-np.inf)), x, np.nextafter(x, F32(np.inf))]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(NUMBERS, NUMBERS, st.booleans(), st.booleans())
def test_counterexamples_lie_in_the_exact_box_and_proofs_surround_it(
    a: Fraction, b: Fraction, strict: bool, narrow: bool
) -> None:
    low, high = min(a, b), max(a, b)
    if narrow:
        high = low + (high - low) / 2**40
    case = interval(low, high, strict=strict)
    if low == high and strict:
        assert case is None
        return
    assert case is not None
    lower, upper = Fraction(case.lower[0]), Fraction(case.upper[0])
    assert lower <= low
    assert high <= upper
    assert case.lower[0] == F32(case.lower[0])
    assert case.upper[0] == F32(case.upper[0])
    assert Fraction(float(np.nextafter(F32(case.lower[0]), F32(np.inf)))) > low
    assert Fraction(float(np.nextafter(F32(case.upper[0]), F32(-np.inf)))) < high
    assert case.lower[0] <= case.least[0] <= case.largest[0] <= case.upper[0]
    inside = [
        x
        for end in (case.least[0], case.largest[0])
        for x in neighbours(end)
        if (low < Fraction(float(x)) < high) or (not strict and Fraction(float(x)) in (low, high))
    ]
    counted = [x for end in (case.least[0], case.largest[0]) for x in neighbours(end) if case.point(np.array([x]))]
    if inside:
        assert set(counted) == set(inside)
    for x in counted:
        point = case.point(np.array([x]))
        assert point is not None
        assert low <= point[0] <= high
        assert point[0] == Fraction(float(x)) or not inside
        assert F32(float(point[0])) == x or not inside


def test_a_decimal_that_float32_cannot_hold_stands_for_the_nearest_number() -> None:
    third = Fraction(1, 3)
    case = interval(third, third)
    assert case is not None
    assert case.least[0] == case.largest[0] == F32(1 / 3)
    assert case.lower[0] < third < case.upper[0]
    assert case.point(np.array([F32(1 / 3)])) == [third]
    assert case.point(np.array([np.nextafter(F32(1 / 3), F32(0))])) is None


def test_contradictory_sides_leave_no_case() -> None:
    assert interval(Fraction(1), Fraction(0)) is None
    assert interval(Fraction(1), Fraction(1), strict=True) is None
    assert interval(Fraction(1), Fraction(1)) is not None


def test_the_tightest_of_several_sides_counts() -> None:
    half = Fraction(1, 2)
    sides: list[Formula] = [
        side(0, Fraction(1), upper=True),
        side(0, half, upper=True, strict=True),
        side(0, half, upper=True),
        side(0, Fraction(0), upper=False, strict=True),
        side(0, Fraction(0), upper=False),
    ]
    for order in (sides, sides[::-1]):
        (case,) = cases(Junction(True, order, 1), 1)
        assert (case.lower[0], case.upper[0]) == (0.0, 0.5)
        assert case.largest[0] == np.nextafter(F32(0.5), F32(0))
        assert case.least[0] > 0


def test_disjuncts_that_share_a_box_are_one_case() -> None:
    def output(index: int) -> Constraint:
        return Constraint((), ((index, Fraction(1)),), Fraction(0), False)

    box = [side(0, Fraction(0), upper=False), side(0, Fraction(1), upper=True)]
    pairs = Junction(False, [output(0), Junction(True, [output(1), output(2)], 1)], 2)
    other = Junction(False, [side(0, Fraction(1, 4), upper=True), side(0, Fraction(3, 4), upper=False)], 1)
    (case,) = cases(Junction(True, [pairs, *box], 3), 1)
    assert [len(each) for each in case.alternatives] == [1, 2]
    found = cases(Junction(True, [pairs, other, *box], 3), 1)
    assert [len(case.alternatives) for case in found] == [2, 2]
    assert sorted((case.lower[0], case.upper[0]) for case in found) == [(0.0, 0.25), (0.75, 1.0)]


@pytest.mark.parametrize("bound", [Fraction(10) ** 39, -(Fraction(10) ** 39)])
def test_inputs_beyond_float32_are_refused(bound: Fraction) -> None:
    with pytest.raises(ModelProblem, match="beyond float32"):
        interval(min(bound, Fraction(0)), max(bound, Fraction(0)))


def test_inputs_without_bounds_are_refused() -> None:
    with pytest.raises(ModelProblem, match="does not bound the input 0 from above"):
        cases(side(0, Fraction(0), upper=False), 1)
