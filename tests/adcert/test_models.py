"""The architectures are the published ones, and their initial weights have the published statistics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adcert.benchmark import BENCHMARKS
from adcert.folding import fold_running
from adcert.initialization import INITIALIZATIONS
from adcert.intervals import box_around, propagate
from adcert.models import MODELS
from adcert.tracing import trace


def weighted_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return trace(model).weighted_layers


cnn_7, cnn_small = MODELS["cnn-7"], MODELS["cnn-small"]
RANDOM_STARTS = sorted({*INITIALIZATIONS} - {"teacher"})


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_every_shape(name: str, dataset: str) -> None:
    benchmark = BENCHMARKS[dataset]
    with torch.device("meta"):  # shapes alone
        model = MODELS[name](benchmark).eval()
        assert model(torch.zeros(2, *benchmark.shape)).shape == (2, benchmark.classes)
        assert fold_running(trace(model))(torch.zeros(2, *benchmark.shape)).shape == (2, benchmark.classes)


def test_cnn_7_is_the_published_one() -> None:
    model = cnn_7(BENCHMARKS["cifar10"])
    layers = weighted_layers(model)
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (64, 3, 3, 3),
        (64, 64, 3, 3),
        (128, 64, 3, 3),
        (128, 128, 3, 3),
        (128, 128, 3, 3),
        (512, 32768),
        (10, 512),
    ]
    strides = [layer.stride for layer in layers if isinstance(layer, nn.Conv2d)]
    assert strides == [(1, 1), (1, 1), (2, 2), (1, 1), (1, 1)]
    assert sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()) == 6
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(17.2e6, rel=0.01)
    assert weighted_layers(cnn_7(BENCHMARKS["mnist"]))[5].weight.shape == (512, 25088)


def test_ibp_weights_are_normal_with_the_published_deviation_and_the_last_layer_is_not() -> None:
    model = cnn_7(BENCHMARKS["mnist"])
    INITIALIZATIONS["ibp"](model, torch.Generator().manual_seed(0), None)
    *hidden, last = weighted_layers(model)
    for layer in hidden:
        sigma = math.sqrt(2 * math.pi) / layer.weight[0].numel()
        count = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(sigma, rel=4 / math.sqrt(2 * count))
        assert abs(layer.weight.mean().item()) < 4 * sigma / math.sqrt(count)
    bound = 1 / math.sqrt(512)
    assert bound * 0.99 < last.weight.abs().max().item() <= bound


def test_ibp_weights_keep_the_radius_of_bounds_from_layer_to_layer() -> None:
    radii = {}
    for name in RANDOM_STARTS:
        model = cnn_small(BENCHMARKS["mnist"])
        INITIALIZATIONS[name](model, torch.Generator().manual_seed(0), None)
        network = fold_running(trace(model))
        bounds = propagate(network, box_around(torch.full((2, 1, 28, 28), 0.5), 0.1))
        first, *_, last = (layer.radius.mean().item() for layer in bounds.pre_activations)
        radii[name] = last / first
    assert radii["ibp"] < 3
    assert radii["kaiming"] > 5 * radii["ibp"]


def test_kaiming_weights_are_uniform_within_the_fan_in() -> None:
    model = cnn_small(BENCHMARKS["mnist"])
    INITIALIZATIONS["kaiming"](model, torch.Generator().manual_seed(0), None)
    for layer in weighted_layers(model):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("name", RANDOM_STARTS)
def test_weights_depend_on_the_generator_alone(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        model = cnn_small(BENCHMARKS["mnist"])
        INITIALIZATIONS[name](model, torch.Generator().manual_seed(seed), None)
        states.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
