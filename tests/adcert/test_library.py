"""`import adcert` as a program uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import adcert
import adcert.library
import verify


def test_the_names_are_these() -> None:
    assert adcert.__all__ == [
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
    assert adcert.library.__all__ == adcert.__all__
    assert all(getattr(adcert, name).__doc__ for name in adcert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = adcert.fit


def test_a_name_of_the_library_is_no_module() -> None:
    """Importing a module would take the name's place."""
    modules = {path.stem for path in Path(adcert.__file__).parent.iterdir()}
    assert not modules & set(adcert.__all__)


def test_from_recipe_to_verified_file(tmp_path: Path, recipe_file: Path) -> None:
    recipe = adcert.load_recipe(recipe_file, {"epochs": 1, "ramp_end": 1, "teacher": {"epochs": 1}})
    assert recipe.epochs == 1
    trained = adcert.train_classifier(recipe, tmp_path / "run", device="cpu")
    assert 0 <= trained.held_out.clean <= 100
    with pytest.raises(adcert.Problem, match="exists already"):
        adcert.train_classifier(recipe, tmp_path / "run", device="cpu")
    assert adcert.resume_training(tmp_path / "run", device="cpu").sha256 == trained.sha256
    assert adcert.load_trained(tmp_path / "run").sha256 == trained.sha256
    assert not adcert.trained_model(trained).training
    comparison = adcert.export_onnx(trained, tmp_path / "model.onnx")
    assert comparison.equal_argmax == comparison.images
    images, labels = verify.load_data("mnist")
    result = verify.verify(tmp_path / "model.onnx", images[:5], labels[:5])
    assert len(result.verdicts) == 5
    with pytest.raises(adcert.Problem, match="unknown form 'int4'"):
        adcert.quantise_onnx(tmp_path / "model.onnx", tmp_path / "int4.onnx", form="int4")
    with pytest.raises(adcert.Problem, match=r"cannot read .*nothing\.onnx"):
        adcert.quantise_onnx(tmp_path / "nothing.onnx", tmp_path / "int8.onnx")


def test_mistakes_in_settings_are_problems(recipe_file: Path) -> None:
    with pytest.raises(adcert.Problem, match="epochs"):
        adcert.load_recipe(recipe_file, {"epochs": "many"})
    with pytest.raises(adcert.Problem, match="no-such"):
        adcert.load_recipe("no-such")
    assert np.isclose(float(adcert.load_recipe("mnist-quick").eps.value), 0.1)
