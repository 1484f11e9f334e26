"""Networks as somebody outside of the project may write them; recipes refer to them as FILE.py:FUNCTION."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adcert.benchmark import Benchmark
from adcert.models import Normalization


class Everything(nn.Module):
    """A residual sum, a concatenation, every pooling, groups, dilation, and batch norms with and without a layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.normalize = Normalization((0.3,) * channels, (0.4,) * channels)
        self.entry = nn.Conv2d(channels, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False)
        self.grouped_norm = nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(8)
        self.strided = nn.Conv2d(8, 6, 2, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d(2, padding=1, count_include_pad=False)
        self.hidden_norm = nn.BatchNorm1d(12)
        self.hidden = nn.Linear(12, 7)
        self.head = nn.Linear(7, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.entry(self.normalize(images))
        x = x + F.relu(self.grouped_norm(self.grouped(x)))
        x = torch.relu(self.alone(torch.cat([x, x.relu()], dim=1)))
        x = self.strided(x)
        x = torch.cat((self.pool(x), F.avg_pool2d(x, 3, stride=2, padding=1)), 1)
        x = F.max_pool2d(self.average(x), 2)
        x = F.adaptive_avg_pool2d(x, 1)
        x = self.hidden_norm(x.view(x.size(0), -1))
        return self.head(F.relu(self.hidden(x)))


class Branched(nn.Module):
    """A batch norm behind an identity, whose convolution something else reads too."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, 4, 4, stride=4)
        self.same = nn.Identity()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.entry(images)
        x = torch.relu(self.norm(self.same(x))) + x
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Preactivated(nn.Module):
    """Batch norm and ReLU before each convolution, one module used twice, and a shortcut around both."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.entry(images)
        inner = self.shared(F.relu(self.norm(x)))
        x = torch.add(x, self.shared(torch.relu(inner)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1))


def _untidy(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def everything(benchmark: Benchmark) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _untidy(Everything(benchmark.shape[0], benchmark.classes))


def preactivated(benchmark: Benchmark) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _untidy(Preactivated(benchmark.shape[0], benchmark.classes))


def branched(benchmark: Benchmark) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _untidy(Branched(benchmark.shape[0], benchmark.classes))


def no_module(benchmark: Benchmark) -> str:
    return "a text"


def too_few_logits(benchmark: Benchmark) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))


class Viewed(nn.Module):
    """Flattens as most people do, which does not work for every order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(1, 4, 3, stride=2)
        self.head = nn.Linear(4 * 13 * 13, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.entry(images))
        return self.head(x.view(x.size(0), -1))


def viewed(benchmark: Benchmark) -> nn.Module:
    return Viewed()


class InPlace(nn.Module):
    """What the shortcut adds has been changed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 26 * 26, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.entry(images)
        return self.head((x + F.relu(x, inplace=True)).flatten(1))


class Broadcast(nn.Module):
    """Adds a mean over pixels to every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.flatten(images + F.adaptive_avg_pool2d(images, 1), 1))


def broadcast(benchmark: Benchmark) -> nn.Module:
    return Broadcast()


def along_rows(benchmark: Benchmark) -> nn.Module:
    return nn.Sequential(nn.Linear(28, 2), nn.Flatten(), nn.Linear(56, 10))


def in_place(benchmark: Benchmark) -> nn.Module:
    return InPlace()


def two_results(benchmark: Benchmark) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(2, return_indices=True), nn.Flatten(), nn.Linear(196, 10))
