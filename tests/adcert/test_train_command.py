"""`train` and `export` as a person uses them: messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import cli
from adcert import session


@dataclass(frozen=True)
class Done:
    exit_code: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def adcert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in an empty folder, in this process: importing torch takes longest."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["adcert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    return run


def test_from_recipe_to_onnx(adcert: Command, tmp_path: Path, recipe_file: Path) -> None:
    short = ("--set", "teacher.epochs=1", "--set", "teacher.ramp_end=1")
    done = adcert("train", recipe_file, "--device", "cpu", "--seed", "4", *short)
    assert done.exit_code == 0, done.stderr
    run = tmp_path / "runs" / "small"  # named after the recipe
    assert "seed = 4" in done.stderr
    assert "seed = 4" in (run / "recipe.toml").read_text()
    assert "teacher 1/1" in done.stderr
    assert "student 3/3" in done.stderr
    assert "held-out: clean" in done.stderr
    assert done.stdout == ""

    assert (run / "curves.svg").read_text().count(">held-out accuracy, %</text>") == 1
    assert (run / "teacher" / "curves.svg").exists()

    again = adcert("train", recipe_file)
    assert again.exit_code == 2
    assert "runs/small exists already; continue it with --resume runs/small" in again.stderr

    resumed = adcert("train", "--resume", run)
    assert resumed.exit_code == 0
    assert "is finished" in resumed.stderr

    for folder in (run, run / "teacher"):
        exported = adcert("export", folder)
        assert exported.exit_code == 0, exported.stderr
        assert "agree on 200 of 200 images" in exported.stderr
        assert (folder / "model.onnx").exists()
    assert adcert("export", run / "teacher" / "model.pt", "--out", "teacher.onnx").exit_code == 0
    assert (tmp_path / "teacher.onnx").read_bytes() == (run / "teacher" / "model.onnx").read_bytes()


def test_ctrl_c_says_how_to_go_on(adcert: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "execute", interrupted)
        stopped = adcert("train", recipe_file)
    assert stopped.exit_code == 130
    assert "Interrupted; continue with: train --resume runs/small" in stopped.stderr
    unfinished = adcert("export", "runs/small")
    assert unfinished.exit_code == 2
    assert "runs/small holds no finished model; finish it with --resume runs/small" in unfinished.stderr
    assert adcert("train", "--resume", "runs/small").exit_code == 0


def test_tensorboard_and_quiet(adcert: Command, recipe_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    done = adcert("train", recipe_file, "--tensorboard", "--quiet", "--set", "epochs=2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "runs" / "small" / "tensorboard").iterdir()) == [
        "student",
        "teacher",
    ]


def test_without_tensorboard_a_sentence_says_what_to_install(
    adcert: Command, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "adcert.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = adcert("train", recipe_file, "--tensorboard")
    assert done.exit_code == 2
    assert "pip install 'adcert[tensorboard]'" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nothing"], "there is no recipe 'nothing'"),
        (["train", "--set", "epochs"], "does not have the form key=value"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["train", "--resume", "runs/x", "--seed", "1"], "--resume takes everything but --device from the run folder"),
        (["train", "mnist-quick", "--resume", "runs/x"], "--resume takes everything but --device from the run folder"),
        (["train", "--teacher", "nowhere"], "nowhere holds no finished model"),
        (["export", "nowhere"], "nowhere holds no finished model"),
    ],
)
def test_mistakes_cost_one_sentence(arguments: list[str], sentence: str, adcert: Command, tmp_path: Path) -> None:
    done = adcert(*arguments)
    assert done.exit_code == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_begin_is_not_in_the_way_of_the_next(
    adcert: Command, recipe_file: Path, tmp_path: Path
) -> None:
    done = adcert("train", recipe_file, "--set", "batch_size=100000")
    assert done.exit_code == 2
    assert "batch_size = 100000 is more than the" in done.stderr
    assert not (tmp_path / "runs" / "small").exists()
    assert adcert("train", recipe_file).exit_code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there(adcert: Command) -> None:
    done = adcert("train", "--device", "cuda")
    assert done.exit_code == 2
    assert "there is no usable CUDA device here" in done.stderr
