"""What `import adcert` offers: training, export and quantisation as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adcert import recipe as recipes
from adcert import run as runs
from adcert import session
from adcert.evaluate import Accuracies
from adcert.export import Comparison, export
from adcert.progress import Silent
from adcert.quantise import Agreement, export_int8
from adcert.recipe import Recipe
from adcert.results import Outcome
from adcert.run import Trained
from adcert.session import trained_model
from adcert.train import Reporter
from verify.errors import Problem
from verify.files import read_bytes

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

File = str | os.PathLike[str]
"""The path of a file or folder."""


def load_recipe(name: File, settings: Mapping[str, Any] | None = None) -> Recipe:
    """The resolved recipe of that name (one that ships with adcert) or TOML file, with some settings changed.

    settings: as in the file, such as `{"epochs": 3, "teacher": {"epochs": 3}}`. Raises Problem for what does not exist
    or has the wrong type.
    """
    return recipes.load_changed(os.fspath(name), dict(settings or {}))


def train_classifier(
    recipe: Recipe,
    run: File,
    *,
    teacher: File | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Trained:
    """Train a classifier by a recipe, its teacher first if the objective needs one, and return its finished weights.

    Args:
        recipe: what `load_recipe` returns.
        run: the new run folder, which is kept up to date epoch by epoch, so that `resume_training` can go on with it.
        teacher: the finished run, its model.pt, or a classifier as ONNX, that teaches. Default: one from the cache,
            else it is trained.
        device: "cpu", "cuda", or "auto": the GPU if there is one.
        reporter: hears of every step and epoch. Default: nobody does.

    Raises:
        Problem: the folder exists, the recipe, the teacher and the data do not fit, or the loss diverges.
    """
    begun = session.start(Path(run), recipe, None if teacher is None else Path(teacher))
    return session.execute(begun, session.select_device(device), reporter or Silent())


def resume_training(run: File, *, device: str = "auto", reporter: Reporter | None = None) -> Trained:
    """Go on with an interrupted run from its last finished epoch; a finished run is only read.

    Arguments are as for `train_classifier`. Raises Problem if the folder is no run or is damaged.
    """
    return session.execute(runs.open_run(Path(run)), session.select_device(device), reporter or Silent())


def load_trained(run: File) -> Trained:
    """The finished weights in a run folder or a model.pt; raises Problem if there are none. No code in it is run."""
    return runs.load_trained(Path(run))


def export_onnx(trained: Trained, path: File) -> Comparison:
    """Write finished weights as ONNX, once onnxruntime agrees with torch on them; batch norm is folded in.

    The file's input is "image", float32, batch x channels x height x width, in [0, 1]; its output "logits", batch x
    classes. Its metadata say what it was trained for and how. Raises Problem if the two differ by more than rounding
    explains, and writes nothing then.
    """
    return export(trained, Path(path))


def quantise_onnx(model: File, path: File, *, data: File | None = None, form: str = "qdq") -> Agreement:
    """Quantise an ONNX file to eight bits, uint8 activations and weights, by onnxruntime's tool.

    data: what to calibrate it with and compare it on, a data set's name or an .npz file with arrays x and y. Default:
    the data set that the file names. form: "qdq" (float operators between DequantizeLinear and QuantizeLinear) or
    "qoperator" (operators on integers).
    Raises Problem, and writes nothing, if the result disagrees with the float model too often or cannot be verified.
    """
    if form not in ("qdq", "qoperator"):
        raise Problem(f"unknown form {form!r}: choose qdq or qoperator")
    return export_int8(read_bytes(Path(model)), form, Path(path), None if data is None else str(data))


def run_study(
    study: File, folder: File, *, device: str = "auto", reporter: Reporter | None = None, jobs: int = 1
) -> tuple[Outcome, ...]:
    """Train, export and verify every student of a study (one that ships with adcert, or a TOML file) in a folder.

    What is done already is kept. results.csv, results.json, results.md and one picture per recipe are up to date
    after each student. jobs: processes that verify samples, as for `verify.verify`. Raises Problem if the study is
    malformed, or the folder holds another one.
    """
    from adcert import study as studies

    chosen = studies.load(os.fspath(study))
    outcomes: list[Outcome] = []
    for outcomes in studies.execute(
        chosen, Path(folder), session.select_device(device), reporter or Silent(), lambda line: None, jobs=jobs
    ):
        studies.write(chosen, Path(folder), outcomes)
    return tuple(outcomes)
