"""Training objectives by name: pure functions from the passes through a network to named terms of a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.attack import Pgd, pgd
from adcert.folding import Network
from adcert.intervals import Bounds, box_around, margin_lower_bounds, propagate

# Boxes of width zero say nothing about how bounds grow: the warm-up regulariser needs some width from the first step.
MINIMUM_RADIUS = 1e-6


@dataclass(frozen=True)
class Passes:
    """Everything an objective may look at for one batch, each computed when first asked for and only then.

    Shapes: images N x C x H x W in [0, 1], labels N, logits and margins N x classes. `radius` is the current radius of
    the certified box, `attack_radius` that of the attacked one.
    """

    network: Network
    images: Tensor
    labels: Tensor
    clean_logits: Tensor
    radius: float
    attack_radius: float
    attack: Pgd
    random: torch.Generator
    teacher: Network | None

    @cached_property
    def adversarial_logits(self) -> Tensor:
        """Logits at the result of a cross-entropy attack with the true labels."""
        box = box_around(self.images, self.attack_radius)
        return self.network(pgd(self.network, box, self.labels, self.attack, self.random))

    @cached_property
    def bounds(self) -> Bounds:
        """Interval bounds over the box."""
        return propagate(self.network, box_around(self.images, max(self.radius, MINIMUM_RADIUS)))

    @cached_property
    def margins(self) -> Tensor:
        """Lower bounds of z_y - z_j over the box."""
        return margin_lower_bounds(self.bounds, self.network.last, self.labels)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The frozen teacher's logits at the clean images."""
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher(self.images)


Terms = dict[str, Tensor]


def ibp(passes: Passes, alpha: float) -> Terms:
    """CE over interval bounds of the margins (Gowal et al., arXiv 1810.12715)."""
    return {"ibp": F.cross_entropy(-passes.margins, passes.labels)}


def pgd_training(passes: Passes, alpha: float) -> Terms:
    """CE at the attacked images (Madry et al., arXiv 1706.06083)."""
    return {"adversarial": F.cross_entropy(passes.adversarial_logits, passes.labels)}


def distillation(passes: Passes, alpha: float) -> Terms:
    """KL( softmax t(x) || softmax s(x_adv) ), a sum over classes and a mean over the batch."""
    student = F.log_softmax(passes.adversarial_logits, dim=1)
    teacher = F.log_softmax(passes.teacher_logits, dim=1)
    return {"distillation": F.kl_div(student, teacher, log_target=True, reduction="batchmean")}


def combination(
    over: Callable[[Passes, float], Terms], under: Callable[[Passes, float], Terms]
) -> Callable[[Passes, float], Terms]:
    """alpha * over + (1 - alpha) * under; a side with weight zero is not computed."""

    def objective(passes: Passes, alpha: float) -> Terms:
        weighted = [(weight, side) for weight, side in ((alpha, over), (1 - alpha, under)) if weight > 0]
        return {name: weight * term for weight, side in weighted for name, term in side(passes, alpha).items()}

    return objective


def cc_ibp(passes: Passes, alpha: float) -> Terms:
    """CE( alpha * bound of the margins + (1 - alpha) * margins at x_adv ) (De Palma et al., arXiv 2305.13991)."""
    logits = passes.adversarial_logits
    attacked = logits.gather(1, passes.labels[:, None]) - logits
    return {"cc-ibp": F.cross_entropy(-(alpha * passes.margins + (1 - alpha) * attacked), passes.labels)}


@dataclass(frozen=True)
class Objective:
    """The terms of a loss given passes and alpha (the weight of the upper bound), and whether they need a teacher."""

    terms: Callable[[Passes, float], Terms]
    needs_teacher: bool = False


OBJECTIVES = {
    "ad-cert": Objective(combination(ibp, distillation), needs_teacher=True),  # arXiv 2606.31653
    "mtl-ibp": Objective(combination(ibp, pgd_training)),  # De Palma et al., arXiv 2305.13991
    "cc-ibp": Objective(cc_ibp),
    "ibp": Objective(ibp),
    "pgd": Objective(pgd_training),
}
