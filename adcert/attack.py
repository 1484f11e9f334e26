"""Projected gradient descent inside a box, as CTBench (arXiv 2406.04848) and AD-CERT's code run it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.folding import Network
from adcert.intervals import Box


@dataclass(frozen=True)
class Pgd:
    """How long to search: gradient steps per start, and random starts."""

    steps: int
    restarts: int = 1


def step_sizes(steps: int) -> list[float]:
    """Step sizes in half widths of the box.

    They start at max(0.25, 2 / steps) and shrink: by 0.2 every 10 steps if there are fewer than 20 steps, by 0.1
    after 70 % of fewer than 50, else by 0.1 after 50, 80 and 90 %. A single step crosses the whole box.
    """
    first = max(0.25, 2 / steps)
    if steps < 20:
        return [first * 0.2 ** (step // 10) for step in range(steps)]
    drops = [0.7] if steps < 50 else [0.5, 0.8, 0.9]
    return [first * 0.1 ** sum(step >= drop * steps for drop in drops) for step in range(steps)]


def pgd(network: Network, box: Box, labels: Tensor, settings: Pgd, random: torch.Generator) -> Tensor:
    """Images (N x C x H x W) in `box` of high cross-entropy: per sample the worst over all steps and starts.

    Every start is uniform in the box; each step moves by step size * half width * sign(gradient), clipped to the box.
    """
    network = network.detached()
    half_width = (box.upper - box.lower) / 2
    worst, worst_loss = box.lower, labels.new_full(labels.shape, -torch.inf, dtype=box.lower.dtype)
    for _ in range(settings.restarts):
        noise = torch.rand(box.lower.shape, generator=random, device=box.lower.device)
        images = _clip(box.lower + noise * (2 * half_width), box)
        for size in step_sizes(settings.steps):
            images.requires_grad_()
            loss = F.cross_entropy(network(images), labels, reduction="none")
            (gradient,) = torch.autograd.grad(loss.sum(), images)
            images = images.detach()
            worst, worst_loss = _worse(worst, worst_loss, images, loss.detach())
            images = _clip(images + size * half_width * gradient.sign(), box)
        with torch.no_grad():
            loss = F.cross_entropy(network(images), labels, reduction="none")
        worst, worst_loss = _worse(worst, worst_loss, images, loss)
    return worst


def _clip(images: Tensor, box: Box) -> Tensor:
    return torch.minimum(torch.maximum(images, box.lower), box.upper)


def _worse(worst: Tensor, worst_loss: Tensor, images: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    better = loss > worst_loss
    return torch.where(better[:, None, None, None], images, worst), torch.where(better, loss, worst_loss)
