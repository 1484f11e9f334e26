"""The warm-up regulariser against a slow implementation in plain Python."""

from __future__ import annotations

import pytest
import torch

from adcert.folding import fold_batch
from adcert.intervals import Bounds, Interval, box_around, propagate
from adcert.regularizer import warm_up_regularizer
from adcert.tracing import trace
from support.small_networks import images, small_model

TAU = 0.5


def slow_regularizer(bounds: Bounds) -> float:
    input_width = mean(bounds.input.radius.flatten().tolist())
    tight = balance = 0.0
    for layer in bounds.pre_activations:
        centres, radii = layer.centre.flatten().tolist(), layer.radius.flatten().tolist()
        tight += max(0.0, TAU - input_width / mean(radii)) / TAU
        active = [c if c - r > 0 else 0.0 for c, r in zip(centres, radii, strict=True)]
        inactive = [c if c + r < 0 else 0.0 for c, r in zip(centres, radii, strict=True)]
        middle = mean(centres)
        spread_active = sum((c - middle) ** 2 for c, r in zip(centres, radii, strict=True) if c - r > 0)
        spread_inactive = sum((c - middle) ** 2 for c, r in zip(centres, radii, strict=True) if c + r < 0)
        for above, below in ((mean(active), -mean(inactive)), (spread_active, spread_inactive)):
            if above > 0 and below > 0:
                ratio = above / below
                balance += max(0.0, TAU - min(ratio, 1 / ratio)) / TAU
    return (tight + balance) / len(bounds.pre_activations)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("radius", [1e-6, 0.01, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_slow_implementation(seed: int, radius: float) -> None:
    network, _ = fold_batch(trace(small_model(seed)), images(9, seed))
    bounds = propagate(network, box_around(images(9, seed), radius))
    assert warm_up_regularizer(bounds).item() == pytest.approx(slow_regularizer(bounds), rel=1e-4, abs=1e-6)


def test_bounds_that_explode_and_one_sided_neurons_cost() -> None:
    centre = torch.tensor([[3.0, 2.0, -0.5, 0.1]])
    radius = torch.tensor([[1.0, 1.0, 0.1, 0.7]])
    bounds = Bounds((Interval(centre, torch.full_like(centre, 0.07)), Interval(centre, radius)), relu_operands=(1,))
    # Tightness: 0.07 / 0.7 = 0.1. Means: 5/4 against 0.5/4. Deviations from 1.15: 1.85^2 + 0.85^2 against 1.65^2.
    spread = (1.85**2 + 0.85**2) / 1.65**2
    expected = (0.5 - 0.1) / 0.5 + (0.5 - 0.1) / 0.5 + max(0.0, 0.5 - 1 / spread) / 0.5
    assert warm_up_regularizer(bounds).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_layers_with_one_kind_of_neurons_only_are_left_out(sign: float) -> None:
    centre = (sign * torch.tensor([[3.0, 2.0]])).requires_grad_()
    radius = torch.tensor([[0.1, 0.1]])
    bounds = Bounds((Interval(centre, radius), Interval(centre, radius)), relu_operands=(1,))
    value = warm_up_regularizer(bounds)
    value.backward()
    assert value.item() == 0
    assert centre.grad is not None
    assert bool(centre.grad.isfinite().all())


def test_it_is_differentiated_through_the_bounds() -> None:
    model = small_model()
    network, _ = fold_batch(trace(model), images(9))
    warm_up_regularizer(propagate(network, box_around(images(9), 0.1))).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)
