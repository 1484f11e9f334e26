"""What objectives are made of: the passes through student and teacher, and the settings that weigh them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.attack import Loss, Pgd, cross_entropy_with, pgd
from adcert.intervals import Bounds, Box, box_around, margin_lower_bounds, propagate
from adcert.layers import Network
from adcert.teachers import Frozen

# Boxes of width zero say nothing about how bounds grow: the warm-up regulariser needs some width from the first step.
MINIMUM_RADIUS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an objective may be told beside the radius and the attack; each reads only what concerns it."""

    alpha: float = 0.0  # weight of the upper bound: 1 is pure IBP
    small_box: float = 1.0  # lambda of SABR and STAPS: radius of the propagated box as a share of the trained one
    relu_shrink: float = 1.0  # what SABR leaves of the upper bounds behind ReLUs of unknown sign
    attacked_layers: int = 2  # convolutions and linear layers at the end that TAPS attacks instead of bounding
    gradient_scale: float = 1.0  # weight of TAPS's estimate beside its IBP loss, in the gradient
    crown_weight: float = 1.0  # share of CROWN in CROWN-IBP's bounds once the radius is the full one
    feature_weight: float = 5.0  # of CC-Dist's mean squared deviation from the teacher's features
    trades_weight: float = 6.0  # 1 / lambda of TRADES


@dataclass(frozen=True)
class Passes:
    """Everything an objective may look at for one batch, each computed when first asked for and only then.

    Shapes: images N x C x H x W in [0, 1], labels N, logits and margins N x classes, features N x F. `radius` is the
    current radius of the certified box, `final_radius` what it grows to, `attack_radius` that of the attacked box.
    """

    network: Network
    images: Tensor
    labels: Tensor
    clean_logits: Tensor
    radius: float
    final_radius: float
    attack_radius: float
    attack: Pgd
    random: torch.Generator
    teacher: Frozen | None

    @property
    def ramp(self) -> float:
        """How much of the final radius is reached, from 0 to 1."""
        return self.radius / self.final_radius if self.final_radius > 0 else 1.0

    def attacked(self, loss: Loss) -> Tensor:
        """Images in the attacked box of high loss."""
        return pgd(self.network, box_around(self.images, self.attack_radius), loss, self.attack, self.random)

    @cached_property
    def adversarial_images(self) -> Tensor:
        """The result of a cross-entropy attack with the true labels."""
        return self.attacked(cross_entropy_with(self.labels))

    @cached_property
    def adversarial_features(self) -> Tensor:
        """What enters the last layer there."""
        return self.network.body(self.adversarial_images)

    @cached_property
    def adversarial_logits(self) -> Tensor:
        last = self.network.last
        return F.linear(self.adversarial_features, last.weight, last.bias)

    @cached_property
    def soft_adversarial_logits(self) -> Tensor:
        """Logits where an attack drives the student away from the teacher's answer at the clean image (in KL)."""
        return self.network(self.attacked(divergence_from(self.teacher_logits)))

    @cached_property
    def box(self) -> Box:
        """The certified box, never without any width."""
        return box_around(self.images, max(self.radius, MINIMUM_RADIUS))

    @cached_property
    def bounds(self) -> Bounds:
        """Interval bounds over the certified box."""
        return propagate(self.network, self.box)

    @cached_property
    def margins(self) -> Tensor:
        """Lower bounds of z_y - z_j over the certified box."""
        return margin_lower_bounds(self.bounds.features, self.network.last, self.labels)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The frozen teacher's logits at the clean images."""
        return self.teach(self.images)

    @cached_property
    def teacher_features(self) -> Tensor:
        """What enters the teacher's last layer at the clean images."""
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher.body(self.images)

    def teach(self, images: Tensor) -> Tensor:
        """The frozen teacher's logits."""
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher(images)


Terms = dict[str, Tensor]
"""The parts of a loss by name, each a scalar with its weight."""

ObjectiveTerms = Callable[[Passes, Settings], Terms]


def divergence_from(target: Tensor) -> Loss:
    """KL( softmax target || softmax logits ) per sample (N), target and logits N x classes."""
    expected = F.log_softmax(target.detach(), dim=1)
    return lambda logits: F.kl_div(F.log_softmax(logits, dim=1), expected, log_target=True, reduction="none").sum(1)
