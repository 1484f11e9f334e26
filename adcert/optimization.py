"""The optimisers, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from adcert.recipe import Recipe

Parameters = Iterable[nn.Parameter]

OPTIMIZERS: dict[str, Callable[[Parameters, Recipe], torch.optim.Optimizer]] = {
    "adam": lambda weights, recipe: torch.optim.Adam(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    ),
    "adamw": lambda weights, recipe: torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    ),
    "radam": lambda weights, recipe: torch.optim.RAdam(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    ),
    "sgd": lambda weights, recipe: torch.optim.SGD(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, momentum=recipe.momentum, fused=True
    ),
}
