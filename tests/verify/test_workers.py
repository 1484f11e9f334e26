"""Samples that several processes look at: the same verdicts, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import verify
from support.command_line import adcert_in_process as adcert
from support.executions import Points
from support.relu_networks import ReluNetwork
from verify.errors import ModelProblem, Problem
from verify.model.network import load
from verify.tasks import workers
from verify.tasks.result import Question
from verify.tasks.robustness import Verdict
from verify.tasks.samples import Samples
from verify.tasks.task import question_on

SAMPLES = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six inputs and three classes."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(ReluNetwork.random(np.random.default_rng(1), [6, 12, 8, 3]).onnx())
    return path


@pytest.fixture(scope="module")
def points() -> Points:
    return np.random.default_rng(2).random((SAMPLES, 1, 6)).astype(np.float32)


def asked(file: Path, points: Points) -> Question:
    network = load(file)
    inputs = points.reshape(-1, *network.input.shape)
    samples = Samples("points", None, 0, "", inputs, np.zeros(len(inputs), np.int64), None)
    return question_on(network, str(file), samples, eps="0.02", method="crown", contract="real")


def by_two(question: Question) -> Iterator[Verdict]:
    return workers.by_processes(question, question.data, None, 2)


def test_verdicts_and_certificates_are_the_same(file: Path, points: Points, tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 3, SAMPLES)

    def found(jobs: int) -> tuple[list[Verdict], list[bytes]]:
        folder = tmp_path / str(jobs)
        result = verify.verify(
            file, points.reshape(SAMPLES, 6), labels, eps=0.05, method="crown", certificates=folder, jobs=jobs
        )
        verdicts = [replace(verdict, time_s=0.0, certificate=None) for verdict in result.verdicts]
        return verdicts, [path.read_bytes() for path in sorted(folder.iterdir())]

    (alone, written), (together, also_written) = found(1), found(2)
    assert [verdict.index for verdict in together] == list(range(SAMPLES))
    assert len({verdict.status for verdict in alone}) == 3
    assert written == also_written
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.margin_lower, other.margin_lower, rtol=1e-12)
        assert replace(one, margin_lower=0.0) == replace(other, margin_lower=0.0)


def test_an_iteration_that_ends_early_leaves_no_process(file: Path, points: Points) -> None:
    verdicts = by_two(asked(file, points))
    next(verdicts)
    assert multiprocessing.active_children()
    verdicts.close()
    assert not multiprocessing.active_children()


def test_what_is_wrong_for_one_process_is_said_by_all(file: Path, points: Points, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(file.read_bytes())
    question = asked(copy, points)
    copy.write_bytes(ReluNetwork.random(np.random.default_rng(4), [6, 12, 8, 3]).onnx())
    with pytest.raises(ModelProblem, match="has changed since it was read"):
        list(by_two(question))
    assert not multiprocessing.active_children()


def ends(samples: Samples) -> list[Verdict]:
    """As a process that the system ends for lack of memory."""
    os._exit(9)


def test_a_process_that_ends_ends_the_run_in_a_sentence(
    file: Path, points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_verdicts", ends)
    with pytest.raises(Problem, match="has ended: perhaps for lack of memory"):
        list(by_two(asked(file, points)))
    assert not multiprocessing.active_children()


def test_the_environment_is_as_before(file: Path, points: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    verdicts = by_two(asked(file, points))
    next(verdicts)
    assert dict(os.environ) == before
    verdicts.close()


def test_the_command_line_takes_jobs(file: Path, points: Points, tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", x=points.reshape(SAMPLES, 6), y=np.zeros(SAMPLES, np.int64))
    arguments = ["verify", str(file), "--data", str(tmp_path / "points.npz"), "--eps", "0.02", "--method", "crown"]
    summaries = []
    for jobs in ("1", "2"):
        done = adcert(*arguments, "--curve", "0.01,0.03", "--json", str(tmp_path / jobs), "--jobs", jobs)
        assert done.returncode == 0
        summaries.append([line for line in done.stderr.splitlines() if "accuracy" in line or "eps" in line])
    assert summaries[0] == summaries[1] != []
    for wrong in (["--jobs", "0"], ["--jobs", "2", "--vnnlib", "property.vnnlib"]):
        assert adcert(*arguments[:2], *wrong).returncode == 2
