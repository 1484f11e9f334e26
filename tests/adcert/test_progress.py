"""What is shown while training: lines anywhere, a bar on a terminal, and a terminal left in order."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from adcert import recipe as recipes
from adcert.plots import training_curves
from adcert.progress import Bar, Lines, Several, Silent, reporter
from adcert.train import Reporter

METRICS = {
    "epoch": 2,
    "eps": 0.05,
    "losses": {"ibp": 0.25, "distillation": 0.125},
    "clean_accuracy": 98.4,
    "pgd_accuracy": 97.0,
    "ibp_accuracy": 93.94,
    "time_s": 12.34,
}
LINE = "student 2/4  eps 0.05  loss 0.375  clean 98.4 %  PGD 97.0 %  IBP 93.9 %  12 s"
SHOW_CURSOR = "\x1b[?25h"


def show(reporter: Reporter) -> None:
    recipe = recipes.load("mnist-quick", ["epochs=4", "lr_milestones=[]"])
    reporter.begin("student", recipe, epochs_done=1, steps_per_epoch=10)
    for _ in range(10):
        reporter.step()
    reporter.epoch(METRICS)
    reporter.end()


def test_plain_lines() -> None:
    stream = StringIO()
    show(Lines(Console(file=stream, width=40)))
    assert stream.getvalue().splitlines() == ["student: continuing after epoch 1 of 4", LINE]


def test_a_bar_with_the_same_lines_above_it() -> None:
    stream = StringIO()
    show(Bar(Console(file=stream, width=100, force_terminal=True, color_system=None)))
    assert LINE in stream.getvalue()
    assert "student 3/4" in stream.getvalue()
    assert " 50%" in stream.getvalue()
    assert SHOW_CURSOR in stream.getvalue()


@pytest.mark.parametrize("kind", [Lines, Bar])
def test_two_phases_in_a_row(kind: type[Lines]) -> None:
    stream = StringIO()
    reporter = kind(Console(file=stream, width=100, force_terminal=True, color_system=None))
    show(reporter)
    show(reporter)
    assert stream.getvalue().count(LINE) == 2


def test_quiet_is_quiet_and_several_hear_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    stream = StringIO()
    lines = Lines(Console(file=stream, width=40))
    show(Several(Silent(), lines, lines))
    assert stream.getvalue().count(LINE) == 2
    show(reporter(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_tensorboard_holds_every_epoch_of_each_phase(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from adcert.tensorboard import TensorBoard

    show(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path / "student")).Reload()
    assert {"loss/ibp", "loss/distillation", "held-out/clean_accuracy", "eps", "time_s"} <= set(
        events.Tags()["scalars"]
    )
    (event,) = events.Scalars("held-out/ibp_accuracy")
    assert (event.step, round(event.value, 2)) == (2, 93.94)


def test_the_curves_of_a_run_are_a_picture() -> None:
    epochs = [{**METRICS, "epoch": 1, "losses": {"ibp": 2.0}}, METRICS]
    picture = training_curves("ad-cert on mnist", epochs)
    assert picture == training_curves("ad-cert on mnist", epochs)
    text = picture.decode()
    assert text.startswith("<?xml")
    for words in ("ad-cert on mnist", "distillation", "certified by IBP", "epoch", "eps trained at"):
        assert f">{words}</text>" in text
