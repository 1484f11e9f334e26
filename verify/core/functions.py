"""Elementwise functions that float32 cannot compute exactly, as data: each abstract domain has one rule for all.

What runtimes make of them is neither monotone nor inside the mathematical range: MLAS, for one, evaluates rational and
polynomial approximations. For the deployed value y of f(x), at every float32 x with a magnitude below the contract's
limit,

    |y - f(x)| <= SAFETY measured unit (relative |f(x)| + absolute + proportional |x|) + 2^24 underflow

where `measured` is the largest ratio that `tests/support/scan_functions.py` has found, rounded up, and the other
factors say which kind of error the usual formulas make. The figures are of x86-64 with AVX-512: onnxruntime 1.31.1 on
every 127th float32 number, and 1.20.1 on every 1021st (sine and cosine: 17th and 127th). The last term is for results
that are subnormal, which some kernels clamp. A subnormal argument counts as anything from zero to the smallest normal
number, as which older kernels for Sqrt and Log take it. A result at the contract's limit or beyond it is not bounded.

The verifier's own values come from numpy and Python's math, which promise no accuracy; theirs is below 2^-50 in
practice. Assumed is OWN_ERROR, a thousand times that, relative to |f(x)| plus the same sum of factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from verify.core.rounding import OWN_UNDERFLOW, Array, Contract

SAFETY = 8.0
"""How much larger the assumed error is than the largest one that was measured: other processors, other versions."""

OWN_ERROR = 2.0**-40

_Intervals = tuple[tuple[float, float], ...]
_TINY = float(np.nextafter(0.0, 1.0))
_EVERYWHERE: _Intervals = ((-np.inf, np.inf),)
_WITHOUT_ZERO: _Intervals = ((-np.inf, -_TINY), (_TINY, np.inf))


class Accuracy(NamedTuple):
    """What runtimes achieve; `measured` in units of 2^-24, see the head of the file."""

    measured: float
    relative: float = 0.0
    absolute: float = 0.0
    proportional: float = 0.0

    def scale(self, magnitude: Array, argument: Array) -> Array:
        """What `measured` refers to, for magnitudes of f(x) and of x."""
        return self.relative * magnitude + self.absolute + self.proportional * argument


def _constant(bound: float) -> Callable[[Array, Array], Array]:
    return lambda lower, upper: np.full_like(lower, bound)


@dataclass(frozen=True, eq=False)
class Function:
    """y = f(x), elementwise.

    parameters: what tells f from others of its name. real: f in float64. turns: where f changes from falling to rising
    or back, near enough that f is the same up to OWN_ERROR. period: after which all of f repeats, 0 if it does not;
    turns are those of one period. domain: the closed intervals that f is defined on, or that it was measured on.
    curvature: for ends of intervals of the domain, a bound of |f''| between them, or infinity; but for `kinks`, where
    f' jumps.
    """

    name: str
    real: Callable[[Array], Array]
    accuracy: Accuracy
    curvature: Callable[[Array, Array], Array]
    turns: tuple[float, ...] = ()
    period: float = 0.0
    kinks: tuple[float, ...] = ()
    domain: _Intervals = _EVERYWHERE
    parameters: tuple[float, ...] = ()

    def apply(self, x: Array) -> Array:
        return self.real(x)

    def error(self, value: Array, argument: Array, contract: Contract) -> Array:
        """What lies between computed values of f in float64 and deployed ones, for arguments up to that magnitude."""
        magnitude = np.abs(value)
        scale = self.accuracy.scale(magnitude, argument)
        underflow = max(contract.underflow * 2.0**24, OWN_UNDERFLOW)
        error = contract.unit * SAFETY * self.accuracy.measured * scale + OWN_ERROR * (magnitude + scale) + underflow
        return np.asarray(error * (1.0 + 2.0**-40))

    def enclosure(self, lower: Array, upper: Array, contract: Contract) -> tuple[Array, Array]:
        """Bounds of the deployed value for arguments from `lower` to `upper`; NaN where they leave the domain or may
        overflow."""
        lower, upper = normal_arguments(lower, upper, contract)
        defined = np.zeros(lower.shape, bool)
        for first, last in self.domain:
            defined |= (first <= lower) & (upper <= last)
        argument = np.maximum(np.abs(lower), np.abs(upper))
        at_lower, at_upper = self.real(lower), self.real(upper)
        least, greatest = np.minimum(at_lower, at_upper), np.maximum(at_lower, at_upper)
        for turn in self.turns:
            value = self.real(np.asarray(turn))
            place = np.asarray(turn)
            if self.period:
                # The first one from `lower` on. Where rounding takes it for the one before or after, it is so near to
                # `lower` that f is the same there, up to OWN_ERROR.
                place = turn + self.period * np.ceil((lower - turn) / self.period)
            inside = (lower < place) & (place < upper)
            least = np.where(inside, np.minimum(least, value), least)
            greatest = np.where(inside, np.maximum(greatest, value), greatest)
        least = least - self.error(least, argument, contract)
        greatest = greatest + self.error(greatest, argument, contract)
        reach = np.maximum(argument, np.maximum(np.abs(least), np.abs(greatest)))
        defined &= reach < contract.limit
        return np.where(defined, least, np.nan), np.where(defined, greatest, np.nan)


def normal_arguments(lower: Array, upper: Array, contract: Contract) -> tuple[Array, Array]:
    """The ends of intervals of arguments, moved outward to 0 or to the normal numbers next to it if they lie between
    these; at most by `contract.underflow * 2**23`."""
    normal = contract.underflow * 2.0**23
    lower = np.where(np.abs(lower) < normal, np.where(lower < 0, -normal, 0.0), lower)
    return lower, np.where(np.abs(upper) < normal, np.where(upper > 0, normal, 0.0), upper)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1.0 + e))


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


_ERF, _ERFC = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_ERF(x), dtype=np.float64)


SIGMOID = Function("Sigmoid", _sigmoid, Accuracy(3.0, absolute=1), curvature=_constant(0.0963))
TANH = Function("Tanh", lambda x: np.tanh(x), Accuracy(5.5, absolute=1), curvature=_constant(0.77))
ERF = Function("Erf", _erf, Accuracy(1.0, absolute=1), curvature=_constant(0.968))
SOFTPLUS = Function("Softplus", _softplus, Accuracy(1.4, relative=1, absolute=1), curvature=_constant(0.25))
SOFTSIGN = Function("Softsign", lambda x: x / (1.0 + np.abs(x)), Accuracy(2.5, relative=1), curvature=_constant(2.0))
MISH = Function(
    "Mish",
    lambda x: x * np.tanh(_softplus(x)),
    Accuracy(4.9, proportional=1),
    turns=(-1.1924312514444905,),
    curvature=_constant(0.65),
)
EXP = Function("Exp", lambda x: np.exp(x), Accuracy(1.3, relative=1), curvature=lambda lower, upper: np.exp(upper))
_FARTHEST = 2.0**15
"""Up to which sine and cosine were measured: runtimes reduce large arguments in other ways than small ones. In units
of the period, float64 rounds these by less than 2^-38."""


def _trigonometric(name: str, real: Callable[[Array], Array], turn: float) -> Function:
    return Function(
        name,
        real,
        Accuracy(1.8, absolute=1),
        turns=(turn, turn + math.pi),
        period=2.0 * math.pi,
        domain=((-_FARTHEST, _FARTHEST),),
        curvature=_constant(1.0),
    )


SIN = _trigonometric("Sin", lambda x: np.sin(x), -0.5 * math.pi)
COS = _trigonometric("Cos", lambda x: np.cos(x), 0.0)
LOG = Function(
    "Log",
    lambda x: np.log(x),
    Accuracy(1.9, relative=1, absolute=1),
    domain=((_TINY, np.inf),),
    curvature=lambda lower, upper: 1.0 / lower**2,
)


def gelu(scale: float = math.sqrt(0.5)) -> Function:
    """0.5 x (1 + erf(scale x)), for a scale as near to the square root of 1/2 as a float32 number."""
    wider = scale * math.sqrt(2.0)
    return Function(
        "Gelu",
        lambda x: 0.5 * x * np.asarray(_ERFC(-scale * x), dtype=np.float64),
        Accuracy(1.9, proportional=1),
        turns=(-0.7517915246935645 / wider,),
        curvature=_constant(0.798 * wider),
        parameters=(scale,),
    )


def gelu_tanh(scale: float = math.sqrt(2.0 / math.pi), cubic: float = 0.044715) -> Function:
    """0.5 x (1 + tanh w) = x sigmoid(2 w), which does not cancel, with w = scale (x + cubic x^3); for constants as near
    to the defaults as float32 numbers."""
    return Function(
        "Gelu (tanh)",
        lambda x: x * _sigmoid(2.0 * scale * (x + cubic * x * x * x)),
        Accuracy(3.4, proportional=1),
        turns=(-0.7524614220710163,),
        curvature=_constant(0.81),
        parameters=(scale, cubic),
    )


def hard_swish(alpha: float = 1.0 / 6.0) -> Function:
    """x min(max(alpha x + 0.5, 0), 1), for alpha as near to 1/6 as a float32 number."""
    return Function(
        "HardSwish",
        lambda x: x * np.clip(alpha * (x + 0.5 / alpha), 0.0, 1.0),
        Accuracy(1.6, proportional=1),
        turns=(-0.25 / alpha,),
        kinks=(-0.5 / alpha, 0.5 / alpha),
        curvature=_constant(2.001 * alpha),
        parameters=(alpha,),
    )


def swish(alpha: float) -> Function:
    """x sigmoid(alpha x), for alpha other than 0."""
    return Function(
        "Swish",
        lambda x: x * _sigmoid(alpha * x),
        Accuracy(3.3, proportional=1),
        turns=(-1.2784645427610738 / alpha,),
        curvature=_constant(0.5 * abs(alpha)),
        parameters=(alpha,),
    )


def exponential_linear(alpha: float, scale: float = 1.0, width: float = 1.0) -> Function:
    """scale x for x > 0, and scale alpha (exp(x / width) - 1) otherwise: Elu, Selu and Celu; width is positive."""
    return Function(
        "Elu",
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / width)),
        Accuracy(1.1, relative=1, absolute=abs(scale * alpha)),
        turns=(0.0,) if alpha < 0 else (),
        kinks=(0.0,),
        curvature=_constant(1.001 * abs(scale * alpha) / width**2),
        parameters=(alpha, scale, width),
    )


@cache
def power(exponent: float) -> Function:
    """x**exponent, for an exponent other than 0; repeated multiplication rounds once per factor."""
    whole = exponent.is_integer()
    even = whole and exponent % 2 == 0
    if exponent > 0:
        domain = _EVERYWHERE if whole else ((0.0, np.inf),)
    else:
        domain = _WITHOUT_ZERO if whole else _WITHOUT_ZERO[1:]

    def curvature(lower: Array, upper: Array) -> Array:
        ends = (np.abs(end) ** (exponent - 2.0) for end in (lower, upper))
        return np.asarray(abs(exponent * (exponent - 1.0)) * np.maximum(*ends))

    return Function(
        "Pow",
        lambda x: np.power(x, exponent),
        Accuracy(5.2 if abs(exponent) == 0.5 else 1.0, relative=max(1.0, abs(exponent))),  # 5.2: Sqrt in version 1.20
        turns=(0.0,) if even and exponent > 0 else (),
        domain=domain,
        curvature=curvature,
        parameters=(exponent,),
    )


SQRT = power(0.5)
RECIPROCAL = power(-1.0)
SQUARE = power(2.0)
CUBE = power(3.0)
