"""Reports: one self-contained HTML file about result files, to read, print, send and keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from verify.datasets import Dataset
from verify.errors import ModelProblem
from verify.files import read_bytes, write_atomically
from verify.model import onnx_file
from verify.model.onnx_file import OnnxFile
from verify.report.page import page
from verify.report.pictures import Library, pictures_of
from verify.report.results import ReportProblem, Result, read_result

__all__ = ["ReportProblem", "read_file", "read_result", "write_report"]

_MOST_PICTURES = 36
"""Of each outcome of a result, where it is the only one; several share them."""


def read_file(path: Path) -> Result:
    """Read a result file; raises FileProblem when it cannot be read, and as `read_result` does."""
    return read_result(path.name, read_bytes(path))


def write_report(
    path: Path,
    results: Sequence[Result],
    *,
    data: str | None = None,
    folders: Sequence[Path] = (),
    given: Sequence[Dataset] = (),
) -> None:
    """Write the report on results, in one step; raises FileProblem when that fails.

    data: a data set or .npz file that pictures are taken from, if it is what a result is about. folders: where .npz
    files and models are looked for, besides the current one. given: data that results are about and that no file holds.
    """
    folders = list(dict.fromkeys([Path(), *folders]))
    library = Library(data, folders, given)
    most = max(6, _MOST_PICTURES // max(1, len(results)))
    pictures = [pictures_of(result, library, most=most) for result in results]
    models = [_model_of(result, folders) for result in results]
    write_atomically(path, page(results, models, pictures).encode())


def _model_of(result: Result, folders: Sequence[Path]) -> OnnxFile | None:
    """The very model that a result is about, by its hash, if it is where it was or in one of the folders."""
    for place in [Path(result.model_path), *(folder / result.model_name for folder in folders)]:
        try:
            if place.is_file() and (model := onnx_file.read(place)).sha256 == result.model_sha256:
                return model
        except (ModelProblem, OSError, ValueError):
            continue
    return None
