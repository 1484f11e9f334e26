"""Training objectives by name: pure functions from the passes through a network to named terms of a loss.

The training loop asks for no more than what `OBJECTIVES` says of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from adcert.objectives import bounding, combining, distilling, empirical
from adcert.objectives.combining import combination
from adcert.objectives.passes import ObjectiveTerms, Passes, Settings, Terms

__all__ = ["OBJECTIVES", "Objective", "Passes", "Settings", "Terms"]


@dataclass(frozen=True)
class Objective:
    """The terms of a loss given passes and settings, and what has to be known beside.

    needs_teacher: whether it needs one. variant_of: the objective whose published settings it takes, if not its own.
    """

    terms: ObjectiveTerms
    needs_teacher: bool = False
    variant_of: str | None = None


def _ablation(under: ObjectiveTerms) -> Objective:
    """AD-CERT with something else in place of its distillation."""
    return Objective(combination(bounding.ibp, under), needs_teacher=True, variant_of="ad-cert")


OBJECTIVES = {
    "ad-cert": Objective(distilling.ad_cert, needs_teacher=True),
    "ad-cert-attacked-teacher": _ablation(distilling.from_attacked_teacher),
    "ad-cert-soft-attack": _ablation(distilling.under_soft_attack),
    "ad-cert-rslad": _ablation(distilling.rslad),
    "ad-cert-natural": _ablation(distilling.natural),
    "cc-dist": Objective(distilling.cc_dist, needs_teacher=True, variant_of="cc-ibp"),
    "cc-ad": Objective(distilling.cc_ad, needs_teacher=True, variant_of="cc-ibp"),
    "mtl-ibp": Objective(combining.mtl_ibp),
    "cc-ibp": Objective(combining.cc_ibp),
    "exp-ibp": Objective(combining.exp_ibp),
    "sabr": Objective(bounding.sabr),
    "taps": Objective(bounding.taps),
    "staps": Objective(bounding.staps, variant_of="taps"),
    "crown-ibp": Objective(bounding.crown_ibp),
    "crown-ibp-fused": Objective(bounding.crown_ibp_fused, variant_of="crown-ibp"),
    "ibp": Objective(bounding.ibp),
    "trades": Objective(empirical.trades, variant_of="pgd"),
    "pgd": Objective(empirical.pgd_training),
    "standard": Objective(empirical.standard, variant_of="pgd"),
}
