"""The ONNX operators that adcert understands; importing this package fills the registry's table."""

from verify.model.operators import (
    activations,
    arithmetic,
    constants,
    extremes,
    integer,
    movement,
    normalisation,
    pooling,
    quantised,
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
    "express",
    "extremes",
    "integer",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "require_supported",
    "resizing",
    "supported",
]
