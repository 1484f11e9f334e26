"""Objectives between an attacked loss and an interval bound: alpha = 0 is the attack alone, alpha = 1 the bound."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from adcert.objectives.bounding import ibp
from adcert.objectives.empirical import pgd_training
from adcert.objectives.passes import ObjectiveTerms, Passes, Settings, Terms


def combination(over: ObjectiveTerms, under: ObjectiveTerms) -> ObjectiveTerms:
    """alpha * over + (1 - alpha) * under; a side with weight zero is not computed."""

    def objective(passes: Passes, settings: Settings) -> Terms:
        weighted = [(weight, side) for weight, side in ((settings.alpha, over), (1 - settings.alpha, under)) if weight]
        return {name: weight * term for weight, side in weighted for name, term in side(passes, settings).items()}

    return objective


mtl_ibp = combination(ibp, pgd_training)
"""MTL-IBP (De Palma et al., arXiv 2305.13991, eq. 8)."""


def cc_ibp(passes: Passes, settings: Settings) -> Terms:
    """CE( alpha * bound of the margins + (1 - alpha) * margins at x_adv ) (De Palma et al., arXiv 2305.13991)."""
    return {"cc-ibp": F.cross_entropy(-combined_margins(passes, settings.alpha), passes.labels)}


def combined_margins(passes: Passes, alpha: float) -> Tensor:
    """alpha * bounds of the margins + (1 - alpha) * margins at x_adv (N x classes)."""
    logits = passes.adversarial_logits
    attacked = logits.gather(1, passes.labels[:, None]) - logits
    return alpha * passes.margins + (1 - alpha) * attacked if alpha else attacked


def exp_ibp(passes: Passes, settings: Settings) -> Terms:
    """CE over bounds ^ alpha * CE at x_adv ^ (1 - alpha), of the batch's means (same source)."""
    (proved,), (attacked,) = ibp(passes, settings).values(), pgd_training(passes, settings).values()
    return {"exp-ibp": proved**settings.alpha * attacked ** (1 - settings.alpha)}
