"""Vision transformers as PyTorch exports them: no execution leaves their bounds, which are finite."""

from __future__ import annotations

import io
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from support.executions import executions, sampled_points
from support.onnx_models import network_of
from verify.bounds.crown import crown_bounds
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels and a token for the class, two heads, two layers of attention."""

    def __init__(self, activation: str, *, first: bool) -> None:
        """first: whether normalisation comes before attention."""
        super().__init__()
        width = 8
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        layer = nn.TransformerEncoderLayer(width, 2, 12, 0.0, activation, batch_first=True, norm_first=first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


def exported(network: nn.Module, opset: int) -> bytes:
    buffer = io.BytesIO()
    axes = {name: {0: "n"} for name in ("x", "y")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 1, 8, 8),),
            buffer,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            dynamo=False,
        )
    return buffer.getvalue()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("opset", "activation"), [(14, "relu"), (17, "gelu")])
def test_no_execution_leaves_the_bounds_of_a_transformer(opset: int, activation: str, first: bool) -> None:
    """Layer normalisation is written out in version 14, and an operator in version 17."""
    torch.manual_seed(0)
    content = exported(Transformer(activation, first=first), opset)
    network = network_of(content)
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.eye(3), -np.eye(3), rng.normal(size=(4, 3))])
    for eps in (Fraction(0), Fraction(1, 10**4), Fraction(1, 200)):
        box = box_around(rng.normal(size=(1, 1, 1, 8, 8)).astype(np.float32), eps, None)
        with np.errstate(all="ignore"):
            lower = crown_bounds(network, box, rows.reshape(1, -1, *network.output.shape), FLOAT32_ANY_ORDER)[0]
        assert np.isfinite(lower).all()
        points = sampled_points(Interval(box.lower[:, 0], box.upper[:, 0]), rng, 60)
        for y in executions(content, points):
            values = y.astype(np.float64)
            assert (values @ rows.T >= lower).all()
