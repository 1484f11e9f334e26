"""Training on one's own images: an .npz file or a folder, named in one line of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adcert import export, session, sources
from adcert import recipe as recipes
from adcert.data import load_training_data
from adcert.problems import RecipeProblem, RunProblem
from adcert.progress import Silent, reporter
from adcert.run import load_trained, open_run
from verify.datasets import DataProblem
from verify.model.network import load

COUNT = 90


def colours(kind: type[np.generic] = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Images of 3 x 12 x 10 in three classes, each bright in another channel, sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNT // 3)
    images = rng.integers(0, 100, (COUNT, 3, 12, 10))
    images[np.arange(COUNT), labels] += 150
    return (images.astype(np.uint8) if kind is np.uint8 else (images / 255).astype(kind)), labels


@pytest.fixture
def file(tmp_path: Path) -> Path:
    images, labels = colours()
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    return tmp_path / "mine.npz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, labels = colours()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "mine" / f"class {label}" / "images" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return tmp_path / "mine"


def same_samples(found: sources.Source) -> bool:
    """Whether the labels still belong to their images, whatever the order."""
    return bool((found.images.mean((2, 3)).argmax(1) == found.labels).all())


def test_a_file_and_a_folder_of_the_same_images_are_the_same(file: Path, folder: Path) -> None:
    first, second = sources.load(str(file)), sources.load(str(folder))
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert first.benchmark == second.benchmark
    assert same_samples(first)
    assert sources.fingerprint(str(file)) != sources.fingerprint(str(folder)) != ""


def test_what_a_network_must_know_of_the_images(file: Path) -> None:
    images, _ = colours()
    benchmark = sources.load(str(file)).benchmark
    assert (benchmark.shape, benchmark.classes) == ((3, 12, 10), 3)
    scaled = images / 255
    assert benchmark.mean == pytest.approx(scaled.mean((0, 2, 3)))
    assert benchmark.std == pytest.approx(scaled.std((0, 2, 3)))


def test_float_images_are_taken_as_they_are(tmp_path: Path) -> None:
    images, labels = colours(np.float32)
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    data = load_training_data(str(tmp_path / "mine.npz"), 9, torch.device("cpu"))
    assert data.fit.images.dtype == torch.float32
    assert (len(data.fit), len(data.held_out)) == (81, 9)
    assert len(data.held_out.labels.unique()) == 3  # although the file is sorted by class


def test_grey_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((5, 4), 7, np.uint8)).save(tmp_path / name / "x.png")
    source = sources.load(f"{tmp_path}/")
    assert source.images.shape == (2, 1, 5, 4)
    assert source.benchmark.std == (1.0,)  # nothing to scale by


def test_grey_images_among_colours(folder: Path) -> None:
    """TinyImageNet has some in most classes."""
    grey = folder / "class 0" / "images" / "000.png"
    Image.fromarray(np.full((12, 10), 7, np.uint8)).save(grey)
    images = sources.load(str(folder)).images
    assert images.shape == (COUNT, 3, 12, 10)
    assert [image.shape for image in images if (image == 7).all()] == [(3, 12, 10)]


def test_hidden_files_and_folders_are_none_of_the_data(folder: Path) -> None:
    before, fingerprint = sources.load(str(folder)), sources.fingerprint(str(folder))
    (folder / ".checkpoints").mkdir()
    Image.new("RGB", (10, 12)).save(folder / ".checkpoints" / "000.png")
    (folder / "class 0" / "._000.png").write_bytes(b"not an image")
    assert np.array_equal(sources.load(str(folder)).labels, before.labels)
    assert sources.fingerprint(str(folder)) == fingerprint


def test_training_and_export_need_no_more_than_the_name(file: Path, tmp_path: Path, recipe_file: Path) -> None:
    settings = [
        f"dataset={file}",
        "held_out=10",
        "batch_size=16",
        "epochs=2",
        "objective=ibp",
        "augmentation=flip-crop",
    ]
    run = session.start(tmp_path / "run", recipes.load(str(recipe_file), settings), None)
    session.execute(run, torch.device("cpu"), reporter())
    file.unlink()
    export.export(load_trained(run.folder), tmp_path / "model.onnx")
    network = load(tmp_path / "model.onnx")
    assert network.input.shape == (1, 3, 12, 10)
    assert "adcert.dataset" not in network.metadata


def test_the_contents_count_where_teachers_are_cached(file: Path, recipe_file: Path) -> None:
    recipe = recipes.load(str(recipe_file), [f"dataset={file}"])
    before = recipes.key(recipe)
    images, labels = colours()
    np.savez(file, x=255 - images, y=labels)
    assert recipes.key(recipe) != before
    file.unlink()
    with pytest.raises(DataProblem, match="No such file"):
        recipes.key(recipe)


def test_a_teacher_of_other_classes_under_the_same_name(file: Path, tmp_path: Path, recipe_file: Path) -> None:
    settings = [f"dataset={file}", "model=mlp-2x256", "held_out=10", "batch_size=16"]
    taught = session.start(tmp_path / "taught", recipes.load(str(recipe_file), [*settings, "objective=pgd"]), None)
    session.execute(taught, torch.device("cpu"), reporter())
    images, labels = colours()
    np.savez(file, x=images, y=labels % 2)
    run = session.start(tmp_path / "run", recipes.load(str(recipe_file), settings), taught.folder)
    with pytest.raises(RunProblem, match=r"knows 3 classes of images of shape \(3, 12, 10\), but the data hold 2"):
        session.execute(run, torch.device("cpu"), reporter())


class Stopped(BaseException):
    pass


class Stopping(Silent):
    def epoch(self, metrics: dict[str, Any]) -> None:
        raise Stopped


def test_a_run_does_not_go_on_with_other_data_under_the_same_name(
    file: Path, tmp_path: Path, recipe_file: Path
) -> None:
    settings = [f"dataset={file}", "model=mlp-2x256", "held_out=10", "batch_size=16", "objective=pgd"]
    run = session.start(tmp_path / "run", recipes.load(str(recipe_file), settings), None)
    with pytest.raises(Stopped):
        session.execute(run, torch.device("cpu"), Stopping())
    before = file.read_bytes()
    images, labels = colours()
    np.savez(file, x=255 - images, y=labels)
    with pytest.raises(RunProblem, match=r"the data .*mine\.npz or the model mlp-2x256 changed after .*checkpoint\.pt"):
        session.execute(open_run(run.folder), torch.device("cpu"), Silent())
    file.write_bytes(before)
    assert session.execute(open_run(run.folder), torch.device("cpu"), Silent()).weights


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda x, y: {"x": x}, "does not hold the arrays x and y"),
        (lambda x, y: {"x": x.astype(np.float64), "y": y}, "x must be float32 or uint8"),
        (lambda x, y: {"x": x, "y": y.astype(np.float32)}, "y integers"),
        (lambda x, y: {"x": x[:, 0], "y": y}, "are not N x C x H x W"),
        (lambda x, y: {"x": x[:, :, :10].transpose(0, 2, 3, 1), "y": y}, "have their channels last"),
        (lambda x, y: {"x": x, "y": y[1:]}, "are not N samples with N labels"),
        (lambda x, y: {"x": x, "y": y - 1}, "labels count from 0, not from -1"),
        (lambda x, y: {"x": x, "y": y + 1}, "from 0 without gaps: there is 1, but no 0"),
        (lambda x, y: {"x": x, "y": y**2}, "from 0 without gaps: there is 4, but no 2"),
        (lambda x, y: {"x": x, "y": 0 * y}, "holds a single class"),
        (lambda x, y: {"x": x.astype(np.float32), "y": y}, r"must lie in \[0, 1\]"),
        (lambda x, y: {"x": x / np.float32(255) * np.float32("nan"), "y": y}, r"must lie in \[0, 1\]"),
    ],
)
def test_files_that_will_not_do(
    damage: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]], sentence: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", **damage(*colours()))  # type: ignore[arg-type]
    with pytest.raises(DataProblem, match=sentence):
        sources.load(str(tmp_path / "mine.npz"))


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with path.open("wb") as file:
        np.save(file, colours()[0])
    for _ in range(2):
        with pytest.raises(DataProblem, match=r"cannot read .*mine\.npz"):
            sources.load(str(path))
        path.write_bytes(b"")


def test_folders_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match="is not a folder with a folder of images"):
        sources.load(f"{tmp_path}/nowhere")
    with pytest.raises(DataProblem, match=r"cannot read .*missing\.npz"):
        sources.load(f"{tmp_path}/missing.npz")
    broken = folder / "class 2" / "images" / "100.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataProblem, match=r"cannot read .*100\.png"):
        sources.load(str(folder))
    Image.new("RGB", (3, 3)).save(broken)
    with pytest.raises(DataProblem, match="differ in size"):
        sources.load(str(folder))
    Image.fromarray(np.full((12, 10), 1000, np.uint16)).save(broken)
    with pytest.raises(DataProblem, match=r"100\.png has more than eight bits per channel"):
        sources.load(str(folder))
    (folder / "class 1 too").mkdir()
    with pytest.raises(DataProblem, match=r"class 1 too holds no images \(\.png"):
        sources.load(str(folder))


def test_a_recipe_that_holds_out_everything(file: Path) -> None:
    with pytest.raises(RecipeProblem, match="leaves nothing of the 90 images"):
        load_training_data(str(file), 90, torch.device("cpu"))
