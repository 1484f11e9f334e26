"""Certified training and export to ONNX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from verify.version import __version__ as __version__

if TYPE_CHECKING:
    from adcert.library import (
        Accuracies,
        Agreement,
        Comparison,
        Outcome,
        Problem,
        Recipe,
        Reporter,
        Trained,
        export_onnx,
        load_recipe,
        load_trained,
        quantise_onnx,
        resume_training,
        run_study,
        train_classifier,
        trained_model,
    )

__all__ = [
    "Accuracies",
    "Agreement",
    "Comparison",
    "Outcome",
    "Problem",
    "Recipe",
    "Reporter",
    "Trained",
    "export_onnx",
    "load_recipe",
    "load_trained",
    "quantise_onnx",
    "resume_training",
    "run_study",
    "train_classifier",
    "trained_model",
]


def __getattr__(name: str) -> object:
    """The names above, imported when they are first used: they load torch (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("adcert.library"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
