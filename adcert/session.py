"""A whole training session: the run folder, the teacher if the objective needs one, then the student."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import nn

from adcert import processes
from adcert import recipe as recipes
from adcert import run as runs
from adcert.files import staged_folder
from adcert.folding import fold_running
from adcert.models import build
from adcert.objectives import OBJECTIVES
from adcert.problems import RunProblem
from adcert.recipe import Recipe
from adcert.run import Run, Trained
from adcert.teachers import Teacher, from_onnx
from adcert.tracing import trace
from adcert.train import Reporter, placed, train
from verify.errors import Problem
from verify.files import write_atomically
from verify.model import onnx_file


def select_device(name: str) -> torch.device:
    """ "cpu", "cuda", or "auto": the GPU if there is one; each of several processes has its own."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunProblem("there is no usable CUDA device here; use --device cpu")
    if not available or name == "cpu":
        return torch.device("cpu")
    if processes.local_rank() >= torch.cuda.device_count():
        raise RunProblem(f"there are more processes than the {torch.cuda.device_count()} GPUs of this machine")
    torch.cuda.set_device(processes.local_rank())
    return torch.device("cuda", processes.local_rank())


def start(folder: Path, recipe: Recipe, teacher: Path | None) -> Run:
    """A new run folder. Its teacher is `teacher` (a finished run, its model.pt, or an ONNX file), else one from the
    cache, else it will be trained in the folder."""
    if not OBJECTIVES[recipe.objective].needs_teacher:
        if teacher is not None:
            raise RunProblem(f"the objective {recipe.objective} uses no teacher")
        return runs.create(folder, recipe)
    if teacher is not None:
        taught = _dataset_of(teacher)
        if taught not in (None, recipe.dataset):
            raise RunProblem(f"the teacher {teacher} was trained on {taught}, the recipe is for {recipe.dataset}")
        return runs.create(folder, recipe, teacher)
    assert recipe.teacher is not None
    cached = cached_teacher(recipe.teacher)
    return runs.create(folder, recipe, cached if (cached / "model.pt").exists() else None)


def _dataset_of(teacher: Path) -> str | None:
    """What a teacher was trained on, as far as it says."""
    if teacher.suffix == ".onnx":
        return onnx_file.read(teacher).metadata.get("adcert.dataset")
    return runs.load_trained(teacher).recipe.dataset


def execute(run: Run, device: torch.device, reporter: Reporter) -> Trained:
    """Bring `run` to its end, teacher first, and return its finished weights; a finished run is only read."""
    if not run.finished:
        _set_precision(run.recipe)
        try:
            teacher = _teach(run, device, reporter)
            train(run, teacher, device, reporter, phase="student")
        except (RuntimeError, MemoryError) as error:
            if not _lacks_memory(error):
                raise
            where = "this machine" if device.type == "cpu" else "the GPU"
            raise RunProblem(
                f"{where} has too little memory for {run.folder}: a smaller batch_size takes less"
            ) from None
        _draw(run)
    return runs.load_trained(run.folder)


def _lacks_memory(error: Exception) -> bool:
    """Torch has an exception of its own for GPUs only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def trained_model(trained: Trained) -> nn.Module:
    """The network of finished weights, in eval mode, on the CPU."""
    model = build(trained.recipe.model, trained.benchmark)
    try:
        model.load_state_dict(trained.weights)
    except (RuntimeError, AttributeError, TypeError):
        raise RunProblem(f"the weights do not fit the model {trained.recipe.model} of their recipe") from None
    return model.eval()


def cached_teacher(recipe: Recipe) -> Path:
    """Where the teacher of this recipe is kept between runs: in $ADCERT_CACHE, by default ~/.cache/adcert."""
    root = os.environ.get("ADCERT_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "adcert") / "teachers" / recipes.key(recipe)


def _teach(run: Run, device: torch.device, reporter: Reporter) -> Teacher | None:
    """The frozen teacher on `device`, trained in the run's own folder if it is not there yet."""
    if not OBJECTIVES[run.recipe.objective].needs_teacher:
        return None
    if run.onnx_teacher.exists():
        return from_onnx(run.onnx_teacher, device)
    if not processes.agreed(run.teacher_folder.exists()):
        assert run.recipe.teacher is not None
        runs.create(run.teacher_folder, run.recipe.teacher)
    teacher = runs.open_run(run.teacher_folder)
    if not teacher.finished:
        train(teacher, None, device, reporter, phase="teacher")
        _draw(teacher)
        _publish(teacher)
    trained = runs.load_trained(teacher.folder)
    network = fold_running(trace(placed(trained_model(trained), device)))
    return Teacher(network, trained.benchmark.shape, trained.benchmark.classes, trained.sha256, trained.weights)


@processes.by_first
def _publish(teacher: Run) -> None:
    """Keep a finished teacher for later runs. Only whole folders appear; the teacher of a faster run stays."""
    target = cached_teacher(teacher.recipe)
    with contextlib.suppress(Problem, OSError):  # without a cache the next run trains its own teacher, no more
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(target) as staging:
            runs.copy_finished(teacher.folder, staging)


@processes.by_first
def _draw(run: Run) -> None:
    """The curves of a finished run as a picture, where matplotlib, an optional extra, is installed."""
    with contextlib.suppress(ModuleNotFoundError):
        from adcert.plots import training_curves

        title = f"{run.recipe.objective} on {run.recipe.dataset}, l_inf {run.recipe.eps.text}"
        write_atomically(run.curves_path, training_curves(title, run.metrics()))


def _set_precision(recipe: Recipe) -> None:
    """TF32 off unless the recipe asks for it: it changes bounds silently."""
    torch.set_float32_matmul_precision("high" if recipe.tf32 else "highest")
    torch.backends.cudnn.conv.fp32_precision = "tf32" if recipe.tf32 else "ieee"  # type: ignore[attr-defined]
