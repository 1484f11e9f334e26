from __future__ import annotations

from pathlib import Path

import pytest

from support.page_runner import few_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of MNIST in place of all, and under the name of the data set that contributors add."""
    folder = tmp_path_factory.mktemp("data")
    few_images(folder, "mnist", "kmnist")
    return folder


@pytest.fixture
def little_data(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs find as standard data sets and as a cache; and a terminal of fixed width."""
    monkeypatch.setenv("ADCERT_DATA", str(images))
    monkeypatch.setenv("ADCERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
