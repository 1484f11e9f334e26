"""Small networks for tests."""

from __future__ import annotations

import torch
from torch import nn

from adcert.folding import fold_running
from adcert.layers import Network
from adcert.models import Normalization
from adcert.tracing import trace


def small_model(seed: int = 0) -> nn.Sequential:
    """Every kind of layer that the models are made of, on 2 x 6 x 6 images, with untidy batch norm parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            Normalization((0.3, 0.5), (0.2, 0.4)),
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 5),
        )
        for module in model:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def small_network(seed: int = 0) -> Network:
    return fold_running(trace(small_model(seed)))


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def labels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(seed))
