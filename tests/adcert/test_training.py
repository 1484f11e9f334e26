"""Training as a whole: what a run leaves behind, that any interruption changes nothing, and how it fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from adcert import recipe as recipes
from adcert import run as runs
from adcert import session, train
from adcert.benchmark import BENCHMARKS, Benchmark
from adcert.data import load_training_data
from adcert.export import export
from adcert.objectives import OBJECTIVES
from adcert.problems import Diverged, RecipeProblem, RunProblem
from adcert.recipe import Recipe
from adcert.run import Run, Trained
from adcert.statistics import population
from adcert.teachers import from_onnx
from adcert.tracing import trace
from support import user_models
from support.onnx_models import model, node
from verify.errors import FileProblem, ModelProblem

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent.parent


class Killed(BaseException):
    """Stands for the end of the process."""


class Silent:
    """Hears everything, and may end the process at a chosen step or epoch (counted over teacher and student)."""

    def __init__(self, *, after_steps: int = -1, after_epochs: int = -1) -> None:
        self.steps, self.epochs = 0, 0
        self.after_steps, self.after_epochs = after_steps, after_epochs

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        pass

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.after_steps:
            raise Killed

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.epochs += 1
        if self.epochs == self.after_epochs:
            raise Killed

    def end(self) -> None:
        pass


def start(folder: Path, recipe_file: Path, *overrides: str, teacher: Path | None = None) -> Run:
    return session.start(folder, recipes.load(str(recipe_file), overrides), teacher)


def finish(run: Run) -> Trained:
    return session.execute(runs.open_run(run.folder), CPU, Silent())


def metrics(run: Run) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time_s"} for line in lines]


@pytest.fixture(scope="module")
def whole(digits: Path, recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted; its cache is its own."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(recipe_text)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADCERT_DATA", str(digits))
        patch.setenv("ADCERT_CACHE", str(folder / "cache"))
        run = start(folder / "run", folder / "small.toml")
        session.execute(run, CPU, Silent())
    torch.set_num_threads(threads)
    return run


def assert_same(run: Run, other: Run) -> None:
    assert run.model_path.read_bytes() == other.model_path.read_bytes()
    assert metrics(run) == metrics(other)
    assert metrics(runs.open_run(run.teacher_folder)) == metrics(runs.open_run(other.teacher_folder))


def test_what_a_run_leaves_behind(whole: Run) -> None:
    files = {path.name for path in whole.folder.iterdir()}
    assert files == {"recipe.toml", "info.json", "metrics.jsonl", "checkpoint.pt", "model.pt", "curves.svg", "teacher"}
    assert runs.open_run(whole.folder).recipe == whole.recipe
    lines = metrics(whole)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["eps"] for line in lines] == pytest.approx([0.1 * 5 / 13, 0.1, 0.1])
    assert set(lines[0]["losses"]) == {"ibp", "distillation", "clean", "regularizer", "l1"}
    assert "regularizer" not in lines[2]["losses"]
    trained = runs.load_trained(whole.folder)
    teacher = runs.load_trained(whole.teacher_folder)
    assert trained.held_out.ibp == lines[-1]["ibp_accuracy"]
    assert (
        trained.teacher_sha256
        == teacher.sha256
        == json.loads((whole.folder / "info.json").read_text())["teacher_sha256"]
    )
    assert teacher.recipe.objective == "pgd"


def test_a_run_learns(whole: Run) -> None:
    first, last = metrics(runs.open_run(whole.teacher_folder))
    assert last["losses"]["adversarial"] < first["losses"]["adversarial"]


# Ten steps and two epochs of teacher, then fifteen steps and three epochs of student.
@pytest.mark.parametrize(
    "moment", [{"after_steps": s} for s in (1, 7, 11, 18, 25)] + [{"after_epochs": e} for e in (1, 2, 4)]
)
def test_killed_between_steps(moment: dict[str, int], whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "killed", recipe_file)
    with pytest.raises(Killed):
        session.execute(run, CPU, Silent(**moment))
    finish(run)
    assert_same(run, whole)


@pytest.mark.parametrize("epochs", [1, 3])
def test_killed_after_the_metrics_and_before_the_checkpoint(
    epochs: int, whole: Run, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Run.save_checkpoint

    def killed(self: Run, done: int, *state: Any) -> None:
        if done == epochs:
            raise Killed
        save(self, done, *state)

    run = start(tmp_path / "killed", recipe_file)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", killed)
        with pytest.raises(Killed):
            session.execute(run, CPU, Silent())
    finish(run)
    assert_same(run, whole)


@pytest.mark.parametrize("file", ["checkpoint.pt", "model.pt"])
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_killed_while_a_file_is_written(
    phase: str, file: str, whole: Run, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == file and (target.parent.name == "teacher") == (phase == "teacher"):
            raise Killed
        return replace(self, target)

    run = start(tmp_path / "killed", recipe_file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            session.execute(run, CPU, Silent())
    finish(run)
    assert_same(run, whole)


def test_killed_twice(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "killed", recipe_file)
    for _ in range(3):
        with pytest.raises(Killed):
            session.execute(runs.open_run(run.folder), CPU, Silent(after_steps=9))
    finish(run)
    assert_same(run, whole)


def test_killed_for_real(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "cli.py"), "train"]
    process = subprocess.Popen(
        [*command, str(recipe_file), "--out", str(folder), "--device", "cpu"], stderr=subprocess.PIPE, cwd=tmp_path
    )
    with process:
        deadline = time.monotonic() + 60
        while not (folder / "teacher" / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (folder / "model.pt").exists()
    resumed = subprocess.run(
        [*command, "--resume", str(folder), "--device", "cpu"], check=False, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert_same(runs.open_run(folder), whole)


def test_a_torn_metrics_line_is_cut(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "killed", recipe_file)
    with pytest.raises(Killed):
        session.execute(run, CPU, Silent(after_steps=22))
    with run.metrics_path.open("a") as file:
        file.write('{"epoch": 3, "ep')
    finish(run)
    assert_same(run, whole)


def test_a_finished_run_is_only_read(whole: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    reporter = Silent()
    session.execute(whole, CPU, reporter)
    assert reporter.steps == 0
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


def test_an_existing_folder_is_not_started_into(whole: Run, recipe_file: Path) -> None:
    with pytest.raises(RunProblem, match="exists already; continue it with --resume"):
        start(whole.folder, recipe_file)


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"x" * 99]
)
def test_a_damaged_checkpoint(damage: Callable[[bytes], bytes], tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "killed", recipe_file, "objective=ibp")
    with pytest.raises(Killed):
        session.execute(run, CPU, Silent(after_epochs=1))
    run.checkpoint_path.write_bytes(damage(run.checkpoint_path.read_bytes()))
    with pytest.raises(RunProblem, match=r"checkpoint\.pt is damaged: delete it to train this run from its start"):
        finish(run)
    run.checkpoint_path.unlink()
    assert finish(run).recipe == run.recipe


def test_a_checkpoint_of_another_model(tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "killed", recipe_file, "objective=ibp")
    torch.save({"epochs": 1, "weights": {"a": torch.zeros(1)}, "optimizer": {}}, run.checkpoint_path)
    with pytest.raises(RunProblem, match="does not fit the recipe beside it"):
        finish(run)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = train.loss_terms, 0

    def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        terms = original(*arguments)
        return {**terms, "ibp": terms["ibp"] * torch.nan} if calls == 8 else terms

    run = start(tmp_path / "diverged", recipe_file, "objective=ibp")
    with monkeypatch.context() as patch:
        patch.setattr(train, "loss_terms", poisoned)
        with pytest.raises(Diverged) as caught:
            session.execute(run, CPU, Silent())
    assert "the loss is not finite in epoch 2, step 3 (ibp, gradient norm)" in str(caught.value)
    assert not run.finished
    checkpoint = torch.load(run.checkpoint_path, weights_only=True)
    assert checkpoint["epochs"] == 1
    assert all(bool(value.isfinite().all()) for value in checkpoint["weights"].values())
    assert finish(run).weights


def test_a_full_disk(tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = start(tmp_path / "full", recipe_file, "objective=ibp")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileProblem, match=r"cannot write .*: No space left on device"):
            session.execute(run, CPU, Silent())
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]
    assert finish(run).weights


@pytest.mark.parametrize("elements", [2**55, 0])
def test_too_little_memory(elements: int, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*arguments: Any, **options: Any) -> None:
        torch.empty(elements)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(train, "train_epoch", too_large)
    with pytest.raises(RunProblem, match=r"machine has too little memory for .*run: a smaller batch_size takes less"):
        finish(start(tmp_path / "run", recipe_file, "objective=ibp"))


def test_a_second_student_takes_its_teacher_from_the_cache(tmp_path: Path, recipe_file: Path) -> None:
    session.execute(start(tmp_path / "first", recipe_file), CPU, Silent())
    second = start(tmp_path / "second", recipe_file, "alpha=0.1")
    assert runs.open_run(second.teacher_folder).finished
    reporter = Silent()
    trained = session.execute(second, CPU, reporter)
    assert reporter.epochs == 3
    assert trained.teacher_sha256 == runs.load_trained(tmp_path / "first" / "teacher").sha256
    assert not runs.open_run(start(tmp_path / "third", recipe_file, "seed=1").folder).teacher_folder.exists()


def test_a_teacher_that_another_run_has_published_meanwhile_stays(tmp_path: Path, recipe_file: Path) -> None:
    first, second = start(tmp_path / "first", recipe_file), start(tmp_path / "second", recipe_file)
    session.execute(first, CPU, Silent())
    assert first.recipe.teacher is not None
    cached = session.cached_teacher(first.recipe.teacher)
    before = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    session.execute(second, CPU, Silent())
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == before
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path, recipe_file: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert session.execute(start(tmp_path / "run", recipe_file), CPU, Silent()).teacher_sha256


@pytest.mark.parametrize("given", ["teacher", "teacher/model.pt"])
def test_a_given_teacher(given: str, whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "taught", recipe_file, "seed=3", teacher=whole.folder / given)
    assert finish(run).teacher_sha256 == runs.load_trained(whole.teacher_folder).sha256
    assert runs.load_trained(run.teacher_folder).recipe.seed == 0


def test_a_given_teacher_must_fit(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    with pytest.raises(RunProblem, match="was trained on mnist, the recipe is for fashion-mnist"):
        start(tmp_path / "other", recipe_file, "dataset=fashion-mnist", teacher=whole.folder)
    with pytest.raises(RunProblem, match="the objective ibp uses no teacher"):
        start(tmp_path / "other", recipe_file, "objective=ibp", teacher=whole.folder)
    with pytest.raises(RunProblem, match="holds no finished model"):
        start(tmp_path / "other", recipe_file, teacher=tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_teacher_from_an_onnx_file_teaches_as_its_run_does(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    path = tmp_path / "anybodys.onnx"
    export(runs.load_trained(whole.teacher_folder), path)
    content = path.read_bytes()
    for objective in ("ad-cert", "cc-dist"):
        settings = (f"objective={objective}", "epochs=1", "ramp_end=0", "lr_milestones=[]")
        run = start(tmp_path / f"{objective}-onnx", recipe_file, *settings, teacher=path)
        path.unlink()  # the run has its own
        trained = finish(run)
        assert trained.teacher_sha256 == hashlib.sha256(content).hexdigest()
        own = start(tmp_path / objective, recipe_file, *settings, teacher=whole.teacher_folder)
        finish(own)
        losses, expected = (metrics(each)[0]["losses"] for each in (run, own))
        assert losses == pytest.approx(expected, rel=1e-4)
        path.write_bytes(content)


def test_a_teacher_from_an_onnx_file_must_fit(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    path = tmp_path / "teacher.onnx"
    export(runs.load_trained(whole.teacher_folder), path)
    with pytest.raises(RunProblem, match="was trained on mnist, the recipe is for fashion-mnist"):
        start(tmp_path / "run", recipe_file, "dataset=fashion-mnist", teacher=path)
    with pytest.raises(RecipeProblem, match="needs a teacher of the same model"):
        finish(start(tmp_path / "weights", recipe_file, "init=teacher", teacher=path))
    path.write_bytes(b"no model")
    with pytest.raises(ModelProblem):
        start(tmp_path / "run", recipe_file, teacher=path)
    assert not (tmp_path / "run").exists()
    weights = np.eye(12, 3, dtype=np.float32)
    path.write_bytes(model([node("MatMul", ["x", "w"], "y")], ["n", 12], {"w": weights}))
    with pytest.raises(RunProblem, match=r"knows 3 classes of images of shape \(12,\), but the data hold 10 of shape"):
        finish(start(tmp_path / "small", recipe_file, teacher=path))


def test_the_logits_and_features_of_an_onnx_teacher(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=size).astype(np.float32) for size in ((8, 5), (5, 3)))
    nodes = [
        node("MatMul", ["x", "a"], "h"),
        node("Relu", ["h"], "r"),
        node("MatMul", ["r", "b"], "z"),
        node("Softmax", ["z"], "y"),
    ]
    path = tmp_path / "teacher.onnx"
    path.write_bytes(model(nodes, ["n", 8], {"a": first, "b": second}))
    teacher = from_onnx(path, CPU)
    teacher.require(Benchmark((2, 2, 2), 3, (0.0,) * 2, (1.0,) * 2))
    images = rng.random((4, 2, 2, 2)).astype(np.float32)
    features = np.maximum(images.reshape(4, 8) @ first, 0)
    np.testing.assert_allclose(teacher.network.body(torch.tensor(images)).numpy(), features, rtol=1e-5)
    np.testing.assert_allclose(teacher.network(torch.tensor(images)).numpy(), features @ second, rtol=1e-4, atol=1e-5)


SHORT = ("epochs=1", "ramp_end=0", "lr_milestones=[]", "teacher.epochs=1", "held_out=100")


class NoWaiting(TorchDispatchMode):
    """Fails where the program would wait for a GPU to tell it a value or a shape."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        waiting = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select}
        assert function.overloadpacket not in waiting
        if function.overloadpacket is torch.ops.aten.index:
            assert all(each is None or each.dtype != torch.bool for each in arguments[1])
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_trains_without_waiting_and_comes_to_the_same_on_another_device(
    objective: str,
    tmp_path: Path,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    pretended_device: torch.device,
) -> None:
    steps: list[None] = []

    def train_step(*arguments: Any, **options: Any) -> Any:
        steps.append(None)
        with NoWaiting() if len(steps) == 1 else nullcontext():  # it is slow, and the steps are alike
            return original(*arguments, **options)

    original = train.train_step
    monkeypatch.setattr(train, "train_step", train_step)
    settings = (f"objective={objective}", *SHORT, "small_box=0.5", "augmentation=flip-crop")
    run = start(tmp_path / "run", recipe_file, *settings)
    before = train.build_model(run.recipe, BENCHMARKS["mnist"]).state_dict()
    trained = finish(run)
    assert (trained.teacher_sha256 is not None) == OBJECTIVES[objective].needs_teacher == run.teacher_folder.exists()
    assert all(bool(value.isfinite().all()) for value in trained.weights.values())
    assert not torch.equal(trained.weights["1.weight"], before["1.weight"])
    assert steps
    monkeypatch.setenv("ADCERT_CACHE", str(tmp_path / "other cache"))
    other = start(tmp_path / "other", recipe_file, *settings)
    assert_equal(session.execute(other, pretended_device, Silent()), trained)


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name


def test_an_interruption_changes_nothing_on_another_device(
    tmp_path: Path, recipe_file: Path, pretended_device: torch.device
) -> None:
    whole, part = (start(tmp_path / name, recipe_file, "swa_start=1", "swa_every=2") for name in ("whole", "part"))
    with pytest.raises(Killed):
        session.execute(part, pretended_device, Silent(after_epochs=4))
    assert part.checkpoint_path.exists()
    ends = (session.execute(runs.open_run(run.folder), pretended_device, Silent()) for run in (part, whole))
    assert_equal(*ends)


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=sgd", "lr_schedule=cyclic", "weight_decay=5e-4"),
        ("optimizer=adamw", "swa_start=1", "swa_every=2"),
        ("optimizer=radam", "swa_start=2", "swa_every=1", "statistics=running"),
    ],
)
def test_an_interruption_changes_nothing_for_any_optimizer(
    settings: tuple[str, ...], tmp_path: Path, recipe_file: Path
) -> None:
    whole = start(tmp_path / "whole", recipe_file, "objective=ibp", *settings)
    finish(whole)
    killed = start(tmp_path / "killed", recipe_file, "objective=ibp", *settings)
    for _ in range(2):
        with pytest.raises(Killed):
            session.execute(runs.open_run(killed.folder), CPU, Silent(after_steps=8))
    finish(killed)
    assert killed.model_path.read_bytes() == whole.model_path.read_bytes()
    assert metrics(killed) == metrics(whole)


def test_the_average_of_weights_is_their_mean_with_statistics_of_its_own(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "run", recipe_file, "objective=ibp", "swa_start=1", "swa_every=2")
    seen: list[torch.Tensor] = []
    update = AveragedModel.update_parameters

    def watched(self: AveragedModel, model: torch.nn.Module) -> None:
        seen.append(model.get_parameter("1.weight").detach().clone())
        update(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", watched)
    trained = finish(run)
    assert len(seen) == 2 * 3  # steps 0, 2 and 4 of 5 in the epochs 1 and 2
    torch.testing.assert_close(trained.weights["1.weight"], torch.stack(seen).mean(0))
    data = load_training_data("mnist", 40, CPU)
    model = session.trained_model(trained)
    population(trace(model), data.fit, 32)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.weights[name], value)
    expected = train.held_out_accuracies(trace(model), data, run.recipe, 2)
    assert trained.held_out == expected


def test_a_student_that_starts_from_its_teacher(whole: Run, tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "run", recipe_file, "init=teacher", "learning_rate=0", teacher=whole.teacher_folder)
    trained, teacher = finish(run), runs.load_trained(whole.teacher_folder)
    assert torch.equal(trained.weights["1.weight"], teacher.weights["1.weight"])
    other = start(tmp_path / "other", recipe_file, "init=teacher", "model=cnn-3", teacher=whole.teacher_folder)
    with pytest.raises(RecipeProblem, match="needs a teacher of the same model"):
        finish(other)


def test_a_clean_teacher(tmp_path: Path, recipe_file: Path) -> None:
    run = start(tmp_path / "run", recipe_file, *SHORT, "teacher.objective=standard")
    finish(run)
    assert set(metrics(runs.open_run(run.teacher_folder))[0]["losses"]) == {"standard", "l1"}


def test_a_student_of_another_architecture_than_its_teacher(tmp_path: Path, recipe_file: Path) -> None:
    model = f"{user_models.__file__}:preactivated"
    trained = finish(start(tmp_path / "run", recipe_file, *SHORT, f"model={model}", "teacher.model=cnn-small"))
    assert trained.recipe.model == model


def test_batches_larger_than_the_data(tmp_path: Path, recipe_file: Path) -> None:
    with pytest.raises(RecipeProblem, match="batch_size = 500 is more than the 160 images to train on"):
        finish(start(tmp_path / "run", recipe_file, "objective=ibp", "batch_size=500"))


def test_augmentation_and_population_statistics_change_the_weights(tmp_path: Path, recipe_file: Path) -> None:
    shared = ("objective=ibp", "epochs=1", "ramp_end=1")
    variants = [(), ("augmentation=flip-crop",), ("statistics=running",), ("seed=1",)]
    states = []
    for index, variant in enumerate(variants):
        weights = finish(start(tmp_path / str(index), recipe_file, *shared, *variant)).weights
        states.append(torch.cat([value.flatten().float() for value in weights.values()]))
    assert all(not torch.equal(states[0], state) for state in states[1:])
