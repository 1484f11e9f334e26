"""Projected gradient descent inside a box, as CTBench (arXiv 2406.04848) and AD-CERT's code run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.intervals import Box
from adcert.layers import Network

Loss = Callable[[Tensor], Tensor]
"""From the network's results (N x classes) to what the attack maximises, one number per sample (N)."""


TOGETHER = 4  # starts that run as one batch: more would take more memory and little less time


@dataclass(frozen=True)
class Pgd:
    """How long to search: gradient steps per start, and random starts; and in which precision of the network."""

    steps: int
    restarts: int = 1
    precision: torch.dtype = torch.float32


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


def cross_entropy_with(labels: Tensor) -> Loss:
    """The loss of an attack on the true labels (N)."""
    return lambda logits: F.cross_entropy(logits, labels, reduction="none")


def pgd(network: Network, box: Box, loss: Loss, settings: Pgd, random: torch.Generator) -> Tensor:
    """Points in `box` where `network` has a high loss: per sample the worst over all steps and starts.

    Every start is uniform in the box; each step moves by step size * half width * sign(gradient), clipped to the box.
    """
    network = network.detached()
    worst, worst_loss = box.lower, box.lower.new_full(box.lower.shape[:1], -torch.inf)
    for done in range(0, settings.restarts, TOGETHER):
        starts = min(TOGETHER, settings.restarts - done)
        around = Box(torch.cat([box.lower] * starts), torch.cat([box.upper] * starts))
        width = around.upper - around.lower

        def losses_at(points: Tensor, starts: int = starts) -> Tensor:
            with torch.autocast(points.device.type, settings.precision, enabled=settings.precision != torch.float32):
                results = network(points)
            return torch.cat([loss(part) for part in results.to(points.dtype).chunk(starts)])

        noise = torch.rand(around.lower.shape, generator=random, device=around.lower.device)
        points = _clip(around.lower + noise * width, around)
        for size in step_sizes(settings.steps):
            points.requires_grad_()
            losses = losses_at(points)
            (gradient,) = torch.autograd.grad(losses.sum(), points)
            points = points.detach()
            worst, worst_loss = _worse(worst, worst_loss, points, losses.detach(), starts)
            points = _clip(points + (size / 2) * width * gradient.sign(), around)
        with torch.no_grad():
            losses = losses_at(points)
        worst, worst_loss = _worse(worst, worst_loss, points, losses, starts)
    return worst


def _clip(points: Tensor, box: Box) -> Tensor:
    return torch.minimum(torch.maximum(points, box.lower), box.upper)


def _worse(worst: Tensor, worst_loss: Tensor, points: Tensor, losses: Tensor, starts: int) -> tuple[Tensor, Tensor]:
    """The worst point of each sample so far, now that those of `starts` batches are known too."""
    for point, value in zip(points.chunk(starts), losses.chunk(starts), strict=True):
        better = value > worst_loss
        chosen = better.reshape(-1, *[1] * (point.dim() - 1))
        worst, worst_loss = torch.where(chosen, point, worst), torch.where(better, value, worst_loss)
    return worst, worst_loss
