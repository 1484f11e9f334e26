"""Run folders: what a training run leaves on disk, and how it is found again after an interruption.

recipe.toml     the resolved recipe
info.json       versions, device, SHA-256 of the teacher's weights
metrics.jsonl   one line per finished epoch
curves.svg      these metrics as a picture, once the run is finished, where matplotlib is installed
checkpoint.pt   weights, optimiser and weight average after the last finished epoch
model.pt        the finished weights with their recipe and held-out accuracies; its presence means "finished"
teacher/        the run folder of the teacher, if adcert trained one; else
teacher.onnx    the teacher, if it was given as an ONNX file
"""

from __future__ import annotations

import io
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor, nn

from adcert import processes
from adcert import recipe as recipes
from adcert.benchmark import Benchmark
from adcert.evaluate import Accuracies
from adcert.files import sha256, staged_folder
from adcert.problems import RunProblem
from adcert.recipe import Recipe
from verify.errors import FileProblem
from verify.files import write_atomically
from verify.version import __version__

FORMAT = 2


class Stateful(Protocol):
    """What a checkpoint can hold: a model, an optimiser, an average of weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


State = Mapping[str, Stateful]
"""Everything that training changes, by name."""


@dataclass(frozen=True)
class Trained:
    """Finished weights (on the CPU), and everything that has to be known of them."""

    recipe: Recipe
    benchmark: Benchmark
    weights: dict[str, Tensor]
    held_out: Accuracies
    teacher_sha256: str | None
    sha256: str


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    recipe: Recipe

    @property
    def model_path(self) -> Path:
        return self.folder / "model.pt"

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def curves_path(self) -> Path:
        return self.folder / "curves.svg"

    @property
    def teacher_folder(self) -> Path:
        return self.folder / "teacher"

    @property
    def onnx_teacher(self) -> Path:
        """The teacher, if it comes as an ONNX file."""
        return self.folder / "teacher.onnx"

    @property
    def finished(self) -> bool:
        return self.model_path.exists()

    @cached_property
    def _contents(self) -> str:
        """Of the data and the model's file, as they were when this was first asked."""
        return recipes.contents(self.recipe)

    def restore(self, state: State) -> int:
        """Load the checkpoint if there is one and cut the metrics to it; returns the number of finished epochs.

        Raises RunProblem if it is damaged, or if the user's own data or model are no longer those it was made with.
        """
        done, present = 0, self._contents
        if self.checkpoint_path.exists():
            checkpoint = _load(self.checkpoint_path, "delete it to train this run from its start")
            try:
                for name, part in state.items():
                    part.load_state_dict(checkpoint[name])
                done = int(checkpoint["epochs"])
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
                raise RunProblem(f"{self.checkpoint_path} does not fit the recipe beside it") from None
            if checkpoint.get("contents", present) != present:
                names = f"the data {self.recipe.dataset} or the model {self.recipe.model}"
                raise RunProblem(f"{names} changed after {self.checkpoint_path} was written: begin a new run")
        self._cut_metrics(done)
        return done

    @processes.by_first
    def _cut_metrics(self, epochs: int) -> None:
        lines = self.metrics_path.read_bytes().splitlines(keepends=True) if self.metrics_path.exists() else []
        write_atomically(self.metrics_path, b"".join(lines[:epochs]))

    @processes.by_first
    def record(self, metrics: dict[str, Any]) -> None:
        """Append one epoch's metrics; they count once the checkpoint of that epoch is saved."""
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise FileProblem(f"cannot write {self.metrics_path}: {error.strerror or error}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """What was recorded, epoch by epoch."""
        return [json.loads(line) for line in self.metrics_path.read_text(encoding="utf-8").splitlines()]

    @processes.by_first
    def save_checkpoint(self, epochs: int, state: State) -> None:
        """Keep the state after `epochs` finished epochs."""
        parts = {name: part.state_dict() for name, part in state.items()}
        content = {"epochs": epochs, "contents": self._contents, **parts}
        write_atomically(self.checkpoint_path, _serialized(content))

    @processes.by_first
    def finish(self, model: nn.Module, benchmark: Benchmark, held_out: Accuracies, teacher_sha256: str | None) -> None:
        """Save the finished weights."""
        content = {
            "format": FORMAT,
            "version": __version__,
            "recipe": recipes.to_toml(self.recipe),
            "benchmark": asdict(benchmark),
            "weights": {name: value.cpu() for name, value in model.state_dict().items()},
            "held_out": asdict(held_out),
            "teacher_sha256": teacher_sha256,
        }
        write_atomically(self.model_path, _serialized(content))

    def discard_unless_begun(self) -> None:
        """Remove the folder if no epoch was finished in it, so that it is not in the way of another try."""
        # No process waits for the others: what failed in one of them may not have failed in all.
        if processes.rank() == 0 and not any(self.folder.rglob(self.checkpoint_path.name)):
            shutil.rmtree(self.folder, ignore_errors=True)

    @processes.by_first
    def describe(self, device: torch.device, teacher_sha256: str | None) -> None:
        """Write what a reader of the folder wants to know beside the recipe."""
        write_info(self.folder, device=device, teacher_sha256=teacher_sha256)


def create(folder: Path, recipe: Recipe, teacher: Path | None = None) -> Run:
    """A new run folder, with the finished teacher in `teacher` (a run folder, a model.pt or an ONNX file) copied
    into it.

    The folder appears complete, so that a run that was killed at any moment either exists or does not.
    """
    _write_new(folder, recipe, teacher)
    return Run(folder, recipe)


@processes.by_first
def _write_new(folder: Path, recipe: Recipe, teacher: Path | None) -> None:
    if folder.exists():
        raise RunProblem(f"{folder} exists already; continue it with --resume {folder} or choose another --out")
    with staged_folder(folder) as staging:
        (staging / "recipe.toml").write_text(recipes.to_toml(recipe), encoding="utf-8")
        if teacher is not None and teacher.suffix == ".onnx":
            shutil.copyfile(teacher, Run(staging, recipe).onnx_teacher)
        elif teacher is not None:
            copy_finished(teacher, staging / "teacher")


def open_run(folder: Path) -> Run:
    """The run in an existing folder."""
    path = folder / "recipe.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RunProblem(f"{folder} is not a run folder: it holds no readable recipe.toml") from None
    return Run(folder, recipes.parse(text, str(path)))


def load_trained(path: Path) -> Trained:
    """The finished weights in a run folder or a model.pt."""
    file = path / "model.pt" if path.is_dir() else path
    if not file.exists():
        hint = f"; finish it with --resume {path}" if (path / "recipe.toml").exists() else ""
        raise RunProblem(f"{path} holds no finished model{hint}")
    content = _load(file, "train it again")
    try:
        if content["format"] != FORMAT:
            raise RunProblem(f"{file} has format {content['format']}, this version reads format {FORMAT}")
        return Trained(
            recipe=recipes.parse(content["recipe"], str(file)),
            benchmark=Benchmark(**content["benchmark"]),
            weights=content["weights"],
            held_out=Accuracies(**content["held_out"]),
            teacher_sha256=content["teacher_sha256"],
            sha256=sha256(file.read_bytes()),
        )
    except (KeyError, TypeError):
        raise RunProblem(f"{file} is not a model that adcert trained") from None


def copy_finished(source: Path, target: Path) -> None:
    """Copy a finished run (folder or model.pt) to the folder `target`, without its checkpoint and its own teacher."""
    recipe = load_trained(source).recipe
    target.mkdir(exist_ok=True)
    (target / "recipe.toml").write_text(recipes.to_toml(recipe), encoding="utf-8")
    shutil.copyfile(source / "model.pt" if source.is_dir() else source, target / "model.pt")
    for name in ("info.json", "metrics.jsonl"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def write_info(folder: Path, *, device: torch.device, teacher_sha256: str | None) -> None:
    """info.json: where and with what the run was computed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    info = {
        "schema_version": 1,
        "teacher_sha256": teacher_sha256,
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "versions": {
            "adcert": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }
    write_atomically(folder / "info.json", (json.dumps(info, indent=2) + "\n").encode())


def _serialized(content: dict[str, Any]) -> bytes:
    # Through memory, so that a full disk is an OSError of the one place that writes files.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _load(path: Path, advice: str) -> dict[str, Any]:
    """What `_serialized` wrote, tensors on the CPU; no code in the file is ever run."""
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunProblem(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # a torn file can fail in the archive, the unpickler or the tensors
        raise RunProblem(f"{path} is damaged: {advice}") from None
    if not isinstance(content, dict):
        raise RunProblem(f"{path} is damaged: {advice}")
    return content
