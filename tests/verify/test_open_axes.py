"""Models that leave the shape of their input open: the samples tell it, and a certificate is about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import verify
from support.command_line import adcert_in_process as adcert
from support.onnx_models import ALL, model, node, run
from verify.errors import ModelProblem
from verify.model.network import Model, load

F32 = np.float32


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of any size: a convolution, the mean of each channel, and a reshape whose sizes the graph computes."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "kernel"], "c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "mean"),
        node("Shape", ["mean"], "shape"),
        node("Gather", ["shape", "first"], "batch"),
        node("Concat", ["batch", "rest"], "sizes", axis=0),
        node("Reshape", ["mean", "sizes"], "flat"),
        node("MatMul", ["flat", "w"], "y"),
    ]
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)).astype(F32),
        "first": np.array([0]),
        "rest": np.array([4]),
        "w": 3 * rng.normal(size=(4, 3)).astype(F32),
    }
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    path.write_bytes(model(nodes, ["n", 3, "height", "width"], weights))
    return path


def samples(file: Path, shape: tuple[int, ...], count: int = 20) -> tuple[verify.library.ArrayLike, list[int]]:
    """As the model answers them."""
    x = np.random.default_rng(1).random((count, *shape)).astype(F32)
    return x, [int(run(file.read_bytes(), each[np.newaxis], level=ALL)[0].argmax()) for each in x]


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 8, 4)])
def test_samples_tell_the_shape(classifier: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    x, y = samples(classifier, shape)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    about = classifier, "--data", tmp_path / "data.npz", "--eps", "0.001"
    done = adcert(
        "verify", *about, "--method", "crown", "--certificates", tmp_path / "proofs", "--json", tmp_path / "result.json"
    )
    assert done.returncode == 0, done.stderr
    proofs = sorted((tmp_path / "proofs").iterdir())
    assert len(proofs) > 10
    assert verify.check_certificate(proofs[0], classifier).lower.shape == (1, *shape)
    done = adcert("check", tmp_path / "result.json", *proofs, "--model", classifier)
    assert done.returncode == 0, done.stderr
    assert adcert("attack", *about, "--count", "2").returncode == 0
    together = verify.verify(classifier, x, y, eps=0.001, method="crown", jobs=2)
    assert together.certified.sum() == len(proofs)


def test_a_proof_for_one_shape_is_none_for_another(classifier: Path, tmp_path: Path) -> None:
    for name, shape in (("large", (3, 6, 6)), ("small", (3, 3, 3))):
        x, y = samples(classifier, shape, 1)
        result = verify.verify(classifier, x, y, eps="1e-5", certificates=tmp_path / name)
        assert result.certified.all()
    (large,), (small,) = ((tmp_path / name).iterdir() for name in ("large", "small"))
    shapes = {verify.check_certificate(file, classifier).lower.shape for file in (large, small)}
    assert shapes == {(1, 3, 6, 6), (1, 3, 3, 3)}


def test_each_shape_is_read_once_and_one_that_is_stated_counts(classifier: Path, tmp_path: Path) -> None:
    any_size = Model(classifier)
    assert any_size.network((3, 5, 7)) is any_size.network((3, 5, 7))
    assert any_size.network((3, 5, 7)).input.shape == (1, 3, 5, 7)
    assert any_size.network((3, 8, 4)).input.shape == (1, 3, 8, 4)
    assert any_size.network((1, 8, 4)).input.shape == (1, 3, 8, 4)
    (tmp_path / "model.onnx").write_bytes(model([node("Relu", ["x"], "y")], ["n", 4], {}))
    one_size = Model(tmp_path / "model.onnx")
    assert one_size.network((2, 2)) is one_size.network()


def test_the_shape_may_be_given(classifier: Path, tmp_path: Path) -> None:
    shown = adcert("inspect", classifier, "--shape", "3,5,7")
    assert shown.returncode == 0
    assert "1 x 4 x 5 x 7" in shown.stderr
    done = adcert("bounds", classifier, "--shape", "3, 5, 7", "--out", tmp_path / "bounds.onnx")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bounds.onnx").read_bytes() == verify.compile_bounds(
        classifier, shape=[3, 5, 7]
    ).SerializeToString(deterministic=True)


def test_what_is_quantised_takes_the_shape_of_what_calibrates(classifier: Path, tmp_path: Path) -> None:
    x, y = samples(classifier, (3, 5, 7), 40)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    quantised = tmp_path / "int8.onnx"
    done = adcert("export", classifier, "--int8", "--data", tmp_path / "data.npz", "--out", quantised)
    assert done.returncode == 0, done.stderr
    done = adcert("verify", quantised, "--data", tmp_path / "data.npz", "--eps", "1e-6")
    assert done.returncode == 0, done.stderr


def test_what_tells_no_shape_is_refused(classifier: Path, tmp_path: Path) -> None:
    for sample in (None, (5, 7), (1, 3, 5, 7)):
        with pytest.raises(ModelProblem, match="has to tell the lengths of 3 axes"):
            load(classifier, sample)
    assert adcert("inspect", classifier).returncode == 4
    for shape in ("3,x,7", "", "3,,7", "3,0,7", "-3,5,7", "3;5;7", "3,5," + 5000 * "7"):
        assert adcert("inspect", classifier, "--shape", shape).returncode == 2
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 2, 5, 7), F32), y=[0])
    done = adcert("verify", classifier, "--data", tmp_path / "data.npz", "--eps", "0.1")
    assert done.returncode == 2
    assert "the model takes inputs of shape (1, 3, 5, 7)" in done.stderr
