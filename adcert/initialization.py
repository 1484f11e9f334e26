"""How the weights of a network start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from adcert.problems import RecipeProblem
from adcert.tracing import trace

Weights = Mapping[str, Tensor]


def kaiming(model: nn.Module, random: torch.Generator, teacher: Weights | None) -> None:
    """Uniform in +-1/sqrt(fan_in) for every weight and bias: torch's own default, drawn from `random`."""
    for module in trace(model).weighted_layers:
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.weight, -bound, bound, generator=random)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound, generator=random)


def ibp(model: nn.Module, random: torch.Generator, teacher: Weights | None) -> None:
    """W ~ N(0, sigma^2), sigma = sqrt(2 pi) / fan_in, for every layer but the last (Shi et al. 2021, section 3.1).

    It keeps the mean radius of interval bounds constant from layer to layer.
    """
    kaiming(model, random, teacher)
    for module in trace(model).weighted_layers[:-1]:
        nn.init.normal_(module.weight, 0, math.sqrt(2 * math.pi) / module.weight[0].numel(), generator=random)


def from_teacher(model: nn.Module, random: torch.Generator, teacher: Weights | None) -> None:
    """The weights of the teacher, which must have the same architecture."""
    try:
        model.load_state_dict(teacher or {})
    except RuntimeError:
        raise RecipeProblem('init = "teacher" needs a teacher of the same model as the student') from None


INITIALIZATIONS: dict[str, Callable[[nn.Module, torch.Generator, Weights | None], None]] = {
    "ibp": ibp,
    "kaiming": kaiming,
    "teacher": from_teacher,
}
