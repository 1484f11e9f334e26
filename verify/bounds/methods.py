"""The ways to prove a classifier's margins and other functionals of an output positive, by name, and the methods that
try them in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from verify.bounds.crown import crown_bounds, crown_margins
from verify.bounds.margins import Labels, functional_bounds, margin_bounds
from verify.core.intervals import Interval
from verify.core.rounding import Array, Contract
from verify.errors import Problem
from verify.model.network import Network

MarginBounds = Callable[[Network, Interval, Labels, Contract], Array]
"""Lower bounds of y[label] - y[j], lanes x classes; infinity for the label, NaN where nothing can be said."""

PROOFS: dict[str, MarginBounds] = {
    "ibp": margin_bounds,
    "crown-ibp": partial(crown_margins, refine=False),
    "crown": crown_margins,
}
"""Each of these proves a margin positive from the model and the box alone."""

FunctionalBounds = Callable[[Network, Interval, Array, Contract], Array]
"""Lower bounds of functionals of the output, lanes x functionals x its shape; NaN where nothing can be said."""

FUNCTIONAL_PROOFS: dict[str, FunctionalBounds] = {
    "ibp": functional_bounds,
    "crown-ibp": partial(crown_bounds, refine=False),
    "crown": crown_bounds,
}
"""The same ways, for functionals of any output."""

ALPHA_CROWN, COMPLETE = "alpha-crown", "complete"
"""These search for a proof (`verify.search`), for a limited time: without splits, and with as many as it takes."""

METHODS: dict[str, tuple[str, ...]] = {
    "ibp": ("ibp",),
    "crown": ("ibp", "crown-ibp", "crown"),
    ALPHA_CROWN: ("ibp", "crown-ibp", "crown", ALPHA_CROWN),
    COMPLETE: ("ibp", "crown-ibp", "crown", COMPLETE),
}
"""What a method tries, the cheapest first; what one way settles the next ones need not look at."""


def ways_of(method: str | None) -> tuple[str, ...]:
    """What the method tries: nothing if it is None, where no proof is asked for. Raises Problem for an unknown name."""
    if method is None:
        return ()
    if method not in METHODS:
        raise Problem(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    return METHODS[method]


def next_method(method: str | None) -> str | None:
    """The one to try where this one leaves something open, if there is any."""
    return {"ibp": "crown", "crown": COMPLETE, ALPHA_CROWN: COMPLETE}.get(method or "")


def searches(method: str | None) -> bool:
    """Whether a method searches, and would do so for as long as it may."""
    return method in (ALPHA_CROWN, COMPLETE)
