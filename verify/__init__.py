"""Proofs about ONNX files: what a network answers for every input in a box, as executed in float32."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from verify.version import __version__ as __version__

if TYPE_CHECKING:
    from verify.library import (
        Answer,
        Certificate,
        Confirmed,
        Effort,
        ModelProblem,
        Problem,
        PropertyResult,
        Rejected,
        Result,
        Status,
        Summary,
        Verdict,
        check_certificate,
        check_result,
        compile_bounds,
        find_counterexamples,
        load_data,
        verify,
        verify_property,
        write_report,
    )

__all__ = [
    "Answer",
    "Certificate",
    "Confirmed",
    "Effort",
    "ModelProblem",
    "Problem",
    "PropertyResult",
    "Rejected",
    "Result",
    "Status",
    "Summary",
    "Verdict",
    "check_certificate",
    "check_result",
    "compile_bounds",
    "find_counterexamples",
    "load_data",
    "verify",
    "verify_property",
    "write_report",
]


def __getattr__(name: str) -> object:
    """The names above, imported when they are first used: the checker and `--help` need none of them (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("verify.library"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
