"""The ONNX operators that adcert understands; importing this package fills the registry's table."""

from verify.operators import (
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
from verify.operators.registry import LARGEST, Operand, express, require_supported, supported

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
