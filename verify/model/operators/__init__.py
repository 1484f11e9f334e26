"""The ONNX operators that adcert understands; importing this package fills the registry's table."""

from verify.model.operators import (
    activations,
    arithmetic,
    constants,
    einsum,
    extremes,
    indexing,
    integer,
    movement,
    normalisation,
    pooling,
    quantised,
    reductions,
    resizing,
)
from verify.model.operators.node import LARGEST, Operand
from verify.model.operators.registry import express, require_supported, supported

__all__ = [
    "LARGEST",
    "Operand",
    "activations",
    "arithmetic",
    "constants",
    "einsum",
    "express",
    "extremes",
    "indexing",
    "integer",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "reductions",
    "require_supported",
    "resizing",
    "supported",
]
