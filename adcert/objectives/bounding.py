"""Objectives that train a bound of the worst loss, or an estimate of one, alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.attack import pgd
from adcert.intervals import Bounds, Box, Interval, box_around, margin_lower_bounds, margin_rows, propagate
from adcert.layers import Network
from adcert.linear_bounds import lower_bounds
from adcert.objectives.passes import MINIMUM_RADIUS, Passes, Settings, Terms

LINK = 0.5  # c of TAPS: share of a side's length within which an attacked point still moves that side's bound
TINY = 1e-5


def ibp(passes: Passes, settings: Settings) -> Terms:
    """CE over interval bounds of the margins (Gowal et al., arXiv 1810.12715)."""
    return {"ibp": F.cross_entropy(-passes.margins, passes.labels)}


def crown_ibp(passes: Passes, settings: Settings) -> Terms:
    """CE over b CROWN-IBP + (1 - b) IBP bounds of the margins (Zhang et al., arXiv 1906.06316, eq. 12).

    b falls from 1 to `crown_weight` while the radius grows.
    """
    share = 1 - (1 - settings.crown_weight) * passes.ramp
    if share == 0:
        return ibp(passes, settings)
    rows, offsets = margin_rows(passes.network.last, passes.labels)
    margins = lower_bounds(passes.network, passes.bounds, rows, offsets)
    if share < 1:
        margins = share * margins + (1 - share) * passes.margins
    return {"crown-ibp": F.cross_entropy(-margins, passes.labels)}


def crown_ibp_fused(passes: Passes, settings: Settings) -> Terms:
    """log of a linear upper bound of sum_j exp(z_j - z_y): loss fusion (Xu et al., arXiv 2002.12920, section 3.3).

    exp lies below its chord between the IBP bounds [l_j, u_j] of z_j - z_y. The sum of chords is one linear function
    of the features per sample, so that the cost of CROWN's backward pass does not grow with the number of classes.
    """
    last, labels = passes.network.last, passes.labels
    rows, offsets = margin_rows(last, labels)
    lower, upper = _differences(passes.bounds.features, rows, offsets)
    # exp(u) overflows long before its logarithm: everything is relative to the largest upper bound.
    largest = upper.amax(1, keepdim=True).detach()
    low, high = (lower - largest).exp(), (upper - largest).exp()
    width = upper - lower
    slope = torch.where(width > TINY, (high - low) / width.clamp(min=TINY), high)
    constant = (low - slope * lower).sum(1, keepdim=True)
    row = (slope.unsqueeze(2) * rows).sum(1, keepdim=True)  # of - sum_j slope_j (z_j - z_y)
    offset = (slope * offsets).sum(1, keepdim=True)
    bound = constant - lower_bounds(passes.network, passes.bounds, row, offset)
    return {"crown-ibp": (bound.clamp(min=torch.finfo(bound.dtype).tiny).log() + largest).mean()}


def _differences(features: Interval, rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Interval bounds of z_j - z_y (N x classes), given the rows and offsets of z_y - z_j."""
    centre = torch.einsum("njf,nf->nj", rows, features.centre) + offsets
    radius = torch.einsum("njf,nf->nj", rows.abs(), features.radius)
    return -centre - radius, -centre + radius


def sabr(passes: Passes, settings: Settings) -> Terms:
    """CE over interval bounds in a small box around an attacked image (Mueller et al., arXiv 2210.04871)."""
    bounds = propagate(passes.network, _small_box(passes, settings), settings.relu_shrink)
    margins = margin_lower_bounds(bounds.features, passes.network.last, passes.labels)
    return {"sabr": F.cross_entropy(-margins, passes.labels)}


def _small_box(passes: Passes, settings: Settings) -> Box:
    """Radius lambda eps around x' = clip(x_adv, x +- (1 - lambda) eps), so that it stays within the certified box."""
    inside = (1 - settings.small_box) * passes.radius
    box = Box(passes.images - inside, passes.images + inside)
    centre = torch.minimum(torch.maximum(passes.adversarial_images, box.lower), box.upper)
    return box_around(centre, max(settings.small_box * passes.radius, MINIMUM_RADIUS))


def taps(passes: Passes, settings: Settings) -> Terms:
    """IBP up to the last `attacked_layers` layers, an attack in the box before them (Mao et al., arXiv 2305.04574).

    The loss is the product of the IBP loss and of the CE over the margins that the attack found, one attack per class;
    the gradient of the second factor counts `gradient_scale` times. While the radius grows it is IBP.
    """
    return _taps(passes, settings, propagate(passes.network, passes.box, settings.relu_shrink))


def staps(passes: Passes, settings: Settings) -> Terms:
    """TAPS over SABR's small box (same source)."""
    return _taps(passes, settings, propagate(passes.network, _small_box(passes, settings), settings.relu_shrink))


def _taps(passes: Passes, settings: Settings, bounds: Bounds) -> Terms:
    last, labels = passes.network.last, passes.labels
    head, tail = passes.network.split(settings.attacked_layers)  # at once, lest it fail when the ramp is over
    proved = F.cross_entropy(-margin_lower_bounds(bounds.features, last, labels), labels)
    if passes.ramp < 1:
        return {"ibp": proved}
    attacked = _attacked_margins(passes, tail, bounds.values[len(head.steps)])
    estimated = F.cross_entropy(-attacked, labels)
    # The value stays, the gradient is scaled.
    scaled = estimated.detach() + settings.gradient_scale * (estimated - estimated.detach())
    return {"taps": scaled * proved}


def _attacked_margins(passes: Passes, tail: Network, box: Interval) -> Tensor:
    """z_y - z_j (N x classes), each where an attack of its own within the box before the tail made it small."""
    classes = passes.network.last.weight.shape[0]
    others = torch.arange(classes, device=passes.labels.device).repeat(len(passes.labels))
    labels = passes.labels.repeat_interleave(classes)

    def margin(logits: Tensor) -> Tensor:
        return (logits.gather(1, labels[:, None]) - logits.gather(1, others[:, None])).squeeze(1)

    lower, upper = (end.repeat_interleave(classes, 0) for end in (box.lower, box.upper))
    box_of_each = Box(lower.detach(), upper.detach())
    points = pgd(tail, box_of_each, lambda logits: -margin(logits), passes.attack, passes.random)
    linked: Tensor = _Link.apply(lower, upper, points)  # type: ignore[no-untyped-call]
    return margin(tail(linked)).reshape(-1, classes)


class _Link(torch.autograd.Function):
    """Points in a box, through which a gradient reaches the sides of the box (TAPS, section 3.3).

    A coordinate passes its gradient to the upper side fully where it lies on it, not at all from the distance
    c (upper - lower) on, and linearly in between; to the lower side likewise.
    """

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, lower: Tensor, upper: Tensor, points: Tensor) -> Tensor:
        context.save_for_backward(lower, upper, points)
        return points.clone()

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        lower, upper, points = context.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        reach = (LINK * (upper - lower)).clamp(min=TINY)
        to_lower, to_upper = (1 - (points - lower) / reach).clamp(0, 1), (1 - (upper - points) / reach).clamp(0, 1)
        # Where the box has no width both sides would take the whole gradient.
        both = (to_lower + to_upper).clamp(min=1)
        return gradient * to_lower / both, gradient * to_upper / both, None
