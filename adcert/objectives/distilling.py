"""Objectives with a frozen teacher: AD-CERT (arXiv 2606.31653), its ablations, CC-Dist (arXiv 2602.02626), CC-AD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.intervals import Interval
from adcert.layers import Linear
from adcert.objectives.bounding import ibp
from adcert.objectives.combining import cc_ibp, combination
from adcert.objectives.passes import Passes, Settings, Terms, divergence_from
from adcert.problems import NetworkProblem


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL( softmax teacher || softmax student ), a sum over classes and a mean over the batch."""
    return divergence_from(teacher)(student).mean()


def distillation(passes: Passes, settings: Settings) -> Terms:
    """KL( t(x) || s(x_adv) )"""
    return {"distillation": _divergence(passes.teacher_logits, passes.adversarial_logits)}


def from_attacked_teacher(passes: Passes, settings: Settings) -> Terms:
    """KL( t(x_adv) || s(x_adv) )"""
    return {"distillation": _divergence(passes.teach(passes.adversarial_images), passes.adversarial_logits)}


def under_soft_attack(passes: Passes, settings: Settings) -> Terms:
    """KL( t(x) || s(x') ), x' maximising it"""
    return {"distillation": _divergence(passes.teacher_logits, passes.soft_adversarial_logits)}


def rslad(passes: Passes, settings: Settings) -> Terms:
    """1/6 KL( t(x) || s(x) ) + 5/6 KL( t(x) || s(x') ), x' maximising the latter (RSLAD, arXiv 2108.07969)"""
    clean = _divergence(passes.teacher_logits, passes.clean_logits)
    return {"distillation": clean / 6 + 5 / 6 * _divergence(passes.teacher_logits, passes.soft_adversarial_logits)}


def natural(passes: Passes, settings: Settings) -> Terms:
    """KL( t(x) || s(x) ): nothing adversarial"""
    return {"distillation": _divergence(passes.teacher_logits, passes.clean_logits)}


ad_cert = combination(ibp, distillation)
"""alpha * IBP + (1 - alpha) * KL( t(x) || s(x_adv) )."""


def cc_dist(passes: Passes, settings: Settings) -> Terms:
    """CC-IBP + weight * mean_j max over both ends b of (b_j - t_h,j(x))^2, for the features h of student and teacher.

    The ends are alpha * interval bounds of h + (1 - alpha) * h(x_adv), as in AD-CERT's implementation of CC-Dist.
    """
    target = passes.teacher_features
    attacked = passes.adversarial_features
    if target.shape != attacked.shape:
        raise NetworkProblem(
            f"cc-dist compares features: the teacher has {target.shape[1]}, the student {attacked.shape[1]}"
        )
    deviation = (attacked - target).square()
    if settings.alpha:
        features = passes.bounds.features
        ends = [settings.alpha * end + (1 - settings.alpha) * attacked for end in (features.lower, features.upper)]
        deviation = torch.maximum(*((end - target).square() for end in ends))
    return {**cc_ibp(passes, settings), "features": settings.feature_weight * deviation.mean()}


def cc_ad(passes: Passes, settings: Settings) -> Terms:
    """log sum_j exp v_j - H(p), p = softmax t(x): CC-IBP with the teacher's probabilities in the label's place.

    v_j = alpha * upper bound of e_j + (1 - alpha) * e_j(x_adv) for the excess e_j = z_j - sum_k p_k z_k of a student's
    logit over their mean under p. As log sum_j exp e_j - H(p) = KL( p || softmax z ), alpha = 0 is the distillation of
    AD-CERT; alpha = 1 bounds KL( t(x) || s(x') ) from above for every x' in the box, as every v_j does e_j. In between
    the loss grows continuously with alpha wherever x_adv is in the box: an expressive loss (arXiv 2305.13991) of the
    distillation, which AD-CERT's is not. Its own source is here.
    """
    target = F.log_softmax(passes.teacher_logits, dim=1)
    probabilities = target.exp()
    logits = passes.adversarial_logits
    excess = logits - (probabilities * logits).sum(1, keepdim=True)
    if settings.alpha:
        bounds = excess_upper_bounds(passes.bounds.features, passes.network.last, probabilities)
        excess = settings.alpha * bounds + (1 - settings.alpha) * excess
    entropy = -(probabilities * target).sum(1)
    return {"cc-ad": (excess.logsumexp(1) - entropy).mean()}


def excess_upper_bounds(features: Interval, last: Linear, probabilities: Tensor) -> Tensor:
    """Upper bounds (N x classes) of z_j - sum_k p_k z_k, the last layer folded in; probabilities: N x classes."""
    rows = last.weight - (probabilities @ last.weight).unsqueeze(1)
    offsets = last.bias - (probabilities @ last.bias).unsqueeze(1)
    centre = torch.einsum("njf,nf->nj", rows, features.centre)
    return centre + offsets + torch.einsum("njf,nf->nj", rows.abs(), features.radius)
