"""Network architectures by name, and their initialisations.

Every architecture is an `nn.Sequential` of `Normalization`, convolutions, linear layers, batch norms, ReLUs and a
flatten, ends in a linear layer, and takes images in [0, 1]; `adcert.folding` relies on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from adcert.data import Benchmark


class Normalization(nn.Module):
    """(x - mean) / std per channel: inside the network, so that eps keeps the units of the image."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def cnn_7(benchmark: Benchmark) -> nn.Sequential:
    """CNN-7 of Shi et al. 2021 (arXiv 2103.17268): five convolutions, 512 hidden units, batch norm before each ReLU."""
    channels, height, width = benchmark.shape
    return nn.Sequential(
        Normalization(benchmark.mean, benchmark.std),
        *_convolution(channels, 64, kernel=3, stride=1, padding=1),
        *_convolution(64, 64, kernel=3, stride=1, padding=1),
        *_convolution(64, 128, kernel=3, stride=2, padding=1),
        *_convolution(128, 128, kernel=3, stride=1, padding=1),
        *_convolution(128, 128, kernel=3, stride=1, padding=1),
        nn.Flatten(),
        *_hidden(128 * math.ceil(height / 2) * math.ceil(width / 2), 512),
        nn.Linear(512, benchmark.classes),
    )


def cnn_small(benchmark: Benchmark) -> nn.Sequential:
    """Two strided convolutions (24 and 48 channels) and 128 hidden units, batch norm before each ReLU.

    Large strides leave few neurons: an epoch takes half a minute on a CPU.
    """
    channels, height, width = benchmark.shape
    rows, columns = ((size - 5) // 3 // 2 + 1 for size in (height, width))
    return nn.Sequential(
        Normalization(benchmark.mean, benchmark.std),
        *_convolution(channels, 24, kernel=5, stride=3, padding=0),
        *_convolution(24, 48, kernel=3, stride=2, padding=1),
        nn.Flatten(),
        *_hidden(48 * rows * columns, 128),
        nn.Linear(128, benchmark.classes),
    )


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    # No bias: the batch norm behind it subtracts it again.
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _hidden(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


MODELS: dict[str, Callable[[Benchmark], nn.Sequential]] = {"cnn-7": cnn_7, "cnn-small": cnn_small}


def initialize_kaiming(model: nn.Sequential, generator: torch.Generator) -> None:
    """Uniform in +-1/sqrt(fan_in) for every weight and bias: torch's own default, drawn from `generator`."""
    for module in weighted_layers(model):
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def initialize_ibp(model: nn.Sequential, generator: torch.Generator) -> None:
    """W ~ N(0, sigma^2), sigma = sqrt(2 pi) / fan_in, for every layer but the last (Shi et al. 2021, section 3.1).

    It keeps the mean radius of interval bounds constant from layer to layer.
    """
    initialize_kaiming(model, generator)
    for module in weighted_layers(model)[:-1]:
        nn.init.normal_(module.weight, 0, math.sqrt(2 * math.pi) / module.weight[0].numel(), generator=generator)


INITIALIZATIONS: dict[str, Callable[[nn.Sequential, torch.Generator], None]] = {
    "ibp": initialize_ibp,
    "kaiming": initialize_kaiming,
}


def weighted_layers(model: nn.Sequential) -> list[nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers in order: what is initialised, and what L1 applies to."""
    return [module for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
