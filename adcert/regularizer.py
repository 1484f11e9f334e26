"""The warm-up regulariser of Shi et al. 2021 (arXiv 2103.17268, section 3.3), for the time while the radius grows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.intervals import Bounds, Interval

TOLERANCE = 0.5  # tau


def warm_up_regularizer(bounds: Bounds) -> Tensor:
    """L_tight + L_relu of the bounds that enter the ReLUs, each a mean over these layers; a scalar.

    L_tight = mean_i relu(tau - D_0 / D_i) / tau, D the mean radius of a layer: keeps bounds from exploding.
    L_relu  = mean_i [relu(tau - balance(r_m)) + relu(tau - balance(r_v))] / tau, balance(r) = min(r, 1/r), with the
    ratios r_m, r_v of means and of variances over the stably active and the stably inactive neurons.
    """
    layers = bounds.pre_activations
    mean_radius = bounds.input.radius.mean()
    tightness = [F.relu(TOLERANCE - mean_radius / layer.radius.mean().clamp(min=1e-12)) for layer in layers]
    balance = [_imbalance(layer) for layer in layers]
    return (torch.stack(tightness).mean() + torch.stack(balance).mean()) / TOLERANCE


def _imbalance(layer: Interval) -> Tensor:
    """How far the stably active and inactive neurons differ in mean and variance; 0 if either kind is missing."""
    active = (layer.centre - layer.radius > 0).to(layer.centre.dtype)
    inactive = (layer.centre + layer.radius < 0).to(layer.centre.dtype)
    deviation = (layer.centre - layer.centre.mean()).square()
    return _lack_of_balance((layer.centre * active).mean(), -(layer.centre * inactive).mean()) + _lack_of_balance(
        (deviation * active).sum(), (deviation * inactive).sum()
    )


def _lack_of_balance(active: Tensor, inactive: Tensor) -> Tensor:
    """relu(tau - min(r, 1/r)) for r = active / inactive, and 0 where r or 1/r does not exist."""
    exists = (active > 0) & (inactive > 0)
    # Replaced before the division: a division by zero would turn the gradient into NaN even where it is not selected.
    ratio = torch.where(exists, active, 1) / torch.where(exists, inactive, 1)
    smaller = torch.minimum(ratio, 1 / ratio.clamp(min=1e-12))
    return torch.where(exists, F.relu(TOLERANCE - smaller), 0)
