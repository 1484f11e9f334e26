"""Rounding errors: of the deployed float32 network, which a contract describes, and the verifier's own in float64.

Nothing here relies on a rounding mode: every error is bounded and the bound is added outward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.errors import ModelProblem, Problem

Array = NDArray[np.float64]

FLOAT64_UNIT = 2.0**-53
OWN_UNDERFLOW = 2.0**-900
"""More than all operations behind one number together can lose to underflow in float64, 2^-1075 each; no subnormal
number even times a small one, for these are slow."""


def kappa(roundings: int, unit: float) -> float:
    """An upper bound of (1 + unit)**roundings - 1: `k u (1 + k u)`, for `k u <= 1` (from e^t - 1 <= t + t^2).

    The factor 1 + 2^-40 covers the float64 rounding of this very expression.
    """
    return float(kappas(np.array(roundings), unit))


def kappas(roundings: NDArray[np.int_], unit: float) -> Array:
    """`kappa` of each."""
    t = roundings * unit
    if (t > 1).any():
        longest = roundings.max()
        raise ModelProblem(f"a sum of about {longest} terms is too long for its float32 rounding error to be bounded")
    return np.asarray(t * (1 + t) * (1 + 2.0**-40))


@dataclass(frozen=True)
class Contract:
    """What is assumed of the arithmetic that executes the model.

    unit: largest relative error of one operation; underflow: absolute error of one operation whose result is
    subnormal; limit: magnitude that no intermediate result may reach, in any order of summation. scope: in words, what
    a proof is about.
    """

    name: str
    unit: float
    underflow: float
    limit: float
    scope: str


FLOAT32_ANY_ORDER = Contract(
    "float32-any-order",
    unit=2.0**-24,
    underflow=2.0**-149,
    limit=2.0**125,
    scope="as executed in float32 by a runtime that keeps the contract float32-any-order",
)
"""IEEE binary32, round to nearest, gradual underflow; each value computed once, for all its uses; sums in any order,
split anywhere, with or without fused multiply-add; direct convolution; batch norm folded or not; residual additions
fused or not; variances of layer normalisation in one pass or two; elementwise functions with the accuracy that
`functions` states, and softmax by subtracting the maximum. Products of quantised values in float32 or, exactly, in
int32; grids as the model has them (a runtime's option to drop pairs of QuantizeLinear and DequantizeLinear is off, as
it is by default). The overflow threshold is eight times `limit`: two for a residual that is added inside a dot product,
three for `1 + kappa` at its largest."""

REAL = Contract(
    "real",
    unit=0.0,
    underflow=0.0,
    limit=2.0**1000,
    scope="over the real numbers only: says nothing about execution in float32",
)
"""Exact arithmetic: for comparison with verifiers that reason about real numbers. Says nothing about execution."""

CONTRACTS = {contract.name: contract for contract in (FLOAT32_ANY_ORDER, REAL)}


def contract_named(name: str) -> Contract:
    """The contract of that name; raises Problem for an unknown one."""
    if name not in CONTRACTS:
        raise Problem(f"unknown contract {name!r}: choose one of {', '.join(CONTRACTS)}")
    return CONTRACTS[name]


def down(x: Array) -> Array:
    """The next float64 below: a lower bound of any real number that was rounded to nearest to `x`."""
    return np.nextafter(x, -np.inf)
