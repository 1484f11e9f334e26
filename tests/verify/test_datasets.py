from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from verify import datasets
from verify.datasets import DataProblem

FILES = Path(datasets.__file__).parent / "mnist"
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADCERT_DATA", raising=False)
    monkeypatch.setenv("ADCERT_CACHE", str(tmp_path / "cache"))


def test_mnist_ships_with_the_package() -> None:
    test = datasets.load("mnist", "test")
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.images.dtype == np.uint8
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert datasets.load("mnist", "train").images.shape == (60_000, 1, 28, 28)


@pytest.fixture
def own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file in (IMAGES, LABELS):
        (folder / file).write_bytes((FILES / file).read_bytes())
    monkeypatch.setenv("ADCERT_DATA", str(tmp_path / "data"))
    return folder


def test_the_named_folder_comes_first(own_copy: Path) -> None:
    labels = bytearray(gzip.decompress((own_copy / LABELS).read_bytes()))
    labels[8] = 3
    (own_copy / LABELS).write_bytes(gzip.compress(bytes(labels)))
    assert datasets.load("mnist", "test").labels[0] == 3


@pytest.mark.parametrize("file", [IMAGES, LABELS])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no gzip", "wrong header"])
def test_a_damaged_file_is_named_in_one_sentence(own_copy: Path, file: str, damage: str) -> None:
    content = (own_copy / file).read_bytes()
    raw = gzip.decompress(content)
    (own_copy / file).write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "flipped": content[:3000] + bytes([content[3000] ^ 255]) + content[3001:],
            "empty": b"",
            "no gzip": b"<html>not here</html>",
            "wrong header": gzip.compress(raw[:-1], 1),
        }[damage]
    )
    with pytest.raises(DataProblem) as caught:
        datasets.load("mnist", "test")
    assert str(own_copy / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_and_labels_must_be_as_many(own_copy: Path) -> None:
    raw = gzip.decompress((own_copy / LABELS).read_bytes())
    (own_copy / LABELS).write_bytes(gzip.compress(raw[:4] + (9_999).to_bytes(4, "big") + raw[8:-1]))
    with pytest.raises(DataProblem, match="10000 images but"):
        datasets.load("mnist", "test")


@pytest.mark.parametrize(("name", "split"), [("imagenet", "test"), ("mnist", "validation")])
def test_unknown_names_are_answered_with_the_known_ones(name: str, split: str) -> None:
    with pytest.raises(DataProblem, match="choose one of"):
        datasets.load(name, split)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which it is served on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


def small_cifar(folder: Path) -> dict[str, str]:
    """An archive in the layout of the official one, of two images per file; returns the files' MD5."""
    rng = np.random.default_rng(0)
    hashes = {}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for file in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            content = b"".join(bytes([i]) + rng.bytes(3072) for i in range(2))
            hashes[file] = hashlib.md5(content, usedforsecurity=False).hexdigest()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashes


def test_what_is_nowhere_is_downloaded_once_and_its_hash_checked(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    hashes = small_cifar(folder)
    archive = folder / "cifar-10-binary.tar.gz"
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    source = replace(datasets._SOURCES["cifar10"], url=address, md5=hashes, archive=(archive.name, digest))
    monkeypatch.setitem(datasets._SOURCES, "cifar10", source)
    train = datasets.load("cifar10", "train")
    assert train.images.shape == (10, 3, 32, 32)
    assert train.labels.tolist() == [0, 1] * 5
    archive.unlink()
    assert datasets.load("cifar10", "test").labels.tolist() == [0, 1]


def test_a_download_with_another_hash_is_refused(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = server
    small_cifar(folder)
    monkeypatch.setitem(datasets._SOURCES, "cifar10", replace(datasets._SOURCES["cifar10"], url=address))
    with pytest.raises(DataProblem, match="ADCERT_DATA"):
        datasets.load("cifar10", "test")


def test_an_address_that_does_not_answer_is_reported(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._SOURCES, "cifar10", replace(datasets._SOURCES["cifar10"], url=server[1] + "no/"))
    with pytest.raises(DataProblem, match="downloading it from"):
        datasets.load("cifar10", "test")


def test_a_damaged_cifar_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "test_batch.bin").write_bytes(bytes(3073 * 10_000))
    monkeypatch.setenv("ADCERT_DATA", str(tmp_path / "data"))
    with pytest.raises(DataProblem, match=r"test_batch\.bin is corrupt or truncated"):
        datasets.load("cifar10", "test")
