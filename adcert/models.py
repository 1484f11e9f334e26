"""Network architectures: those with names, and any `nn.Module` in a Python file.

Every architecture takes images in [0, 1], ends in a linear layer and consists of what `adcert.tracing` knows.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from adcert.benchmark import Benchmark
from adcert.problems import RecipeProblem


class Normalization(nn.Module):
    """(x - mean) / std per channel: inside the network, so that eps keeps the units of the image."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def cnn(benchmark: Benchmark, convolutions: Sequence[tuple[int, int]], hidden: int | None) -> nn.Sequential:
    """3x3 convolutions (channels, stride) with padding 1, `hidden` units if any, batch norm before each ReLU."""
    channels, height, width = benchmark.shape
    layers: list[nn.Module] = [Normalization(benchmark.mean, benchmark.std)]
    for outputs, stride in convolutions:
        layers += _convolution(channels, outputs, kernel=3, stride=stride, padding=1)
        channels, height, width = outputs, math.ceil(height / stride), math.ceil(width / stride)
    features = channels * height * width
    layers.append(nn.Flatten())
    if hidden is not None:
        layers += _hidden(features, hidden)
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, benchmark.classes))


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


def mlp(benchmark: Benchmark, hidden: Sequence[int]) -> nn.Sequential:
    """Hidden layers of the given widths, batch norm before each ReLU."""
    widths = [math.prod(benchmark.shape), *hidden]
    layers = [layer for pair in itertools.pairwise(widths) for layer in _hidden(*pair)]
    return nn.Sequential(
        Normalization(benchmark.mean, benchmark.std),
        nn.Flatten(),
        *layers,
        nn.Linear(widths[-1], benchmark.classes),
    )


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change (arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


def resnet(benchmark: Benchmark, widths: Sequence[int], blocks: int) -> nn.Sequential:
    """Residual network of He et al. (arXiv 1512.03385) for small images: per width `blocks` blocks, the first strided.

    A mean over all pixels leads to the last layer.
    """
    layers: list[nn.Module] = [
        Normalization(benchmark.mean, benchmark.std),
        *_convolution(benchmark.shape[0], widths[0], kernel=3, stride=1, padding=1),
    ]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(channels, width, 2 if stage and not block else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, benchmark.classes))


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    # No bias: the batch norm behind it subtracts it again.
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _hidden(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


def _cnn(convolutions: Sequence[tuple[int, int]], hidden: int | None) -> Callable[[Benchmark], nn.Sequential]:
    return partial(cnn, convolutions=convolutions, hidden=hidden)


CNN_7 = ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1))

MODELS: dict[str, Callable[[Benchmark], nn.Module]] = {
    "cnn-small": cnn_small,
    "cnn-3": _cnn(((64, 2), (64, 2)), None),
    "cnn-5": _cnn(((64, 1), (64, 2), (128, 2)), 512),
    # Shi et al. 2021 (arXiv 2103.17268); narrow as in SABR (arXiv 2210.04871).
    "cnn-7": _cnn(CNN_7, 512),
    "cnn-7-narrow": _cnn(((32, 1), (32, 1), (64, 2), (64, 1), (64, 1)), 216),
    "cnn-7-wide": _cnn(tuple((2 * channels, stride) for channels, stride in CNN_7), 512),
    "cnn-7-tinyimagenet": _cnn((*CNN_7[:-1], (128, 2)), 512),
    "mlp-2x256": partial(mlp, hidden=(256, 256)),
    "mlp-5x100": partial(mlp, hidden=(100,) * 5),
    "resnet-8": partial(resnet, widths=(16, 32, 64), blocks=1),
    "resnet-14": partial(resnet, widths=(16, 32, 64), blocks=2),
    "resnet-18": partial(resnet, widths=(64, 128, 256, 512), blocks=2),
}


def is_model(name: str) -> bool:
    """Whether `name` is one of MODELS, or has the form FILE.py:FUNCTION."""
    return name in MODELS or _reference(name) is not None


def build(name: str, benchmark: Benchmark) -> nn.Module:
    """The named architecture, or what FUNCTION in FILE.py makes of a `Benchmark`; its code is executed.

    Raises RecipeProblem if there is no such file or function, or if it does not give an `nn.Module`.
    """
    reference = _reference(name)
    if name in MODELS or reference is None:
        return MODELS[name](benchmark)
    file, function = reference
    specification = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        model = getattr(module, function)(benchmark)
    except Exception as error:  # whatever the user's own code raises
        raise RecipeProblem(f"cannot make the model {name}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise RecipeProblem(f"the model {name} is a {type(model).__name__}, not an nn.Module")
    return model


def fingerprint(name: str) -> str:
    """What tells versions of a model of the same name apart: the SHA-256 of its file, if it has one."""
    reference = _reference(name)
    try:
        return "" if reference is None else hashlib.sha256(Path(reference[0]).read_bytes()).hexdigest()
    except OSError as error:
        raise RecipeProblem(f"cannot read the model {name}: {error.strerror or error}") from None


def _reference(name: str) -> tuple[str, str] | None:
    file, colon, function = name.rpartition(":")
    return (file, function) if colon and file.endswith(".py") and function.isidentifier() else None
