"""Clean, PGD and IBP-certified accuracy of a network: estimates in float32, for watching a run.

The certified accuracy that counts is the one `verify` proves for the exported file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adcert.attack import Pgd, cross_entropy_with, pgd
from adcert.data import Labelled, unit_range
from adcert.intervals import box_around, feature_interval, margin_lower_bounds
from adcert.layers import Network

BATCH = 500


@dataclass(frozen=True)
class Accuracies:
    """In percent: right on the image; right there and where PGD ended; proved right in the whole box by float32 IBP."""

    clean: float
    pgd: float
    ibp: float


def accuracies(network: Network, data: Labelled, eps: float, attack: Pgd, random: torch.Generator) -> Accuracies:
    """The accuracies of `network` on `data` for l_inf radius `eps`."""
    counts = torch.zeros(3, dtype=torch.int64, device=data.labels.device)
    for start in range(0, len(data), BATCH):
        images, labels = unit_range(data.images[start : start + BATCH]), data.labels[start : start + BATCH]
        box = box_around(images, eps)
        attacked = pgd(network, box, cross_entropy_with(labels), attack, random)
        with torch.no_grad():
            right = network(images).argmax(1) == labels
            withstood = right & (network(attacked).argmax(1) == labels)
            margins = margin_lower_bounds(feature_interval(network, box), network.last, labels)
            # All but the margin of the label against itself, which is 0.
            proved = (margins > 0).sum(1) == margins.shape[1] - 1
        counts += torch.stack([right.sum(), withstood.sum(), proved.sum()])
    clean, attacked_share, certified = (100 * count / len(data) for count in counts.tolist())
    return Accuracies(clean, attacked_share, certified)
