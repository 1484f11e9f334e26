"""Two processes train what one process trains, take runs over from each other, and fail in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from adcert import recipe as recipes
from adcert import run as runs
from adcert import session
from adcert.progress import Lines
from adcert.run import Run

ROOT = Path(__file__).parent.parent.parent

# Without attacks nothing random differs; SGD does not magnify rounding as Adam does.
SETTINGS = (
    "objective=ad-cert-natural",
    "teacher.objective=standard",
    "regularizer=0",
    "optimizer=sgd",
    "learning_rate=0.01",
    "swa_start=1",
    "swa_every=2",
)
CPU = torch.device("cpu")


class Stopped(BaseException):
    pass


class Stopping(Lines):
    def epoch(self, metrics: dict[str, Any]) -> None:
        raise Stopped


def torchrun(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(
        [*launcher, *command], check=False, capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )


def start(folder: Path, recipe_file: Path) -> Run:
    return session.start(folder, recipes.load(str(recipe_file), SETTINGS), None)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return runs.load_trained(run.folder).weights


def test_the_number_of_processes_changes_nothing(tmp_path: Path, recipe_file: Path) -> None:
    """Two processes train the teacher and one epoch, one process the next epoch, two processes the last one."""
    shared = start(tmp_path / "shared", recipe_file)
    script = str(ROOT / "tests" / "support" / "train_in_processes.py")
    begun = torchrun(tmp_path, script, str(shared.folder), "3")
    assert begun.returncode == 0, begun.stderr
    assert len(shared.metrics_path.read_text().splitlines()) == 1
    with pytest.raises(Stopped):
        session.execute(shared, CPU, Stopping(Console(quiet=True)))
    ended = torchrun(tmp_path, str(ROOT / "cli.py"), "train", "--resume", "shared", "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("student 3/3") == ended.stderr.count("model.pt: held-out") == 1

    shutil.rmtree(tmp_path / "cache")
    whole = start(tmp_path / "whole", recipe_file)
    session.execute(whole, CPU, Lines(Console(quiet=True)))
    for run, other in ((shared, whole), (runs.open_run(shared.teacher_folder), runs.open_run(whole.teacher_folder))):
        for name, expected in weights(other).items():
            # Not each weight alone: where rounding takes one across zero, the interval bounds' slope |w| turns around.
            difference, size = (torch.linalg.vector_norm(x.double()) for x in (weights(run)[name] - expected, expected))
            assert difference <= 1e-3 * size
        lines, others = (each.metrics_path.read_text().splitlines() for each in (run, other))
        for line, other_line in zip(lines, others, strict=True):
            assert json.loads(line)["losses"] == pytest.approx(json.loads(other_line)["losses"], rel=1e-3)


def test_a_failure_of_all_is_one_sentence(tmp_path: Path, recipe_file: Path) -> None:
    command = [str(ROOT / "cli.py"), "train", str(recipe_file), "--device", "cpu", "--set", "batch_size=33"]
    ended = torchrun(tmp_path, *command, "--set", "objective=ibp")
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert said == ["Error: batches of 33 images cannot be shared evenly by 2 processes"]
