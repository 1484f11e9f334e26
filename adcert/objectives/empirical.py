"""Objectives without bounds: what teachers are trained with."""

from __future__ import annotations

import torch.nn.functional as F

from adcert.objectives.passes import Passes, Settings, Terms, divergence_from


def standard(passes: Passes, settings: Settings) -> Terms:
    """CE at the clean images."""
    return {"standard": F.cross_entropy(passes.clean_logits, passes.labels)}


def pgd_training(passes: Passes, settings: Settings) -> Terms:
    """CE at the attacked images (Madry et al., arXiv 1706.06083)."""
    return {"adversarial": F.cross_entropy(passes.adversarial_logits, passes.labels)}


def trades(passes: Passes, settings: Settings) -> Terms:
    """CE(s(x), y) + weight * KL( s(x) || s(x') ), x' maximising that KL (Zhang et al., arXiv 1901.08573, eq. 5).

    Gradients flow through both sides of the divergence.
    """
    clean = F.log_softmax(passes.clean_logits, dim=1)
    attacked = passes.network(passes.attacked(divergence_from(passes.clean_logits)))
    divergence = F.kl_div(F.log_softmax(attacked, dim=1), clean, log_target=True, reduction="batchmean")
    natural = F.cross_entropy(passes.clean_logits, passes.labels)
    return {"natural": natural, "trades": settings.trades_weight * divergence}
