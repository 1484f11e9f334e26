"""Objectives with a frozen teacher: AD-CERT (arXiv 2606.31653), its ablations, and CC-Dist (arXiv 2602.02626)."""

from __future__ import annotations

import torch
from torch import Tensor

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
