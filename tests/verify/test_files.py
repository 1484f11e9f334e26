"""Files are written whole or not at all, and what is no file stays what it is."""

from __future__ import annotations

import gzip
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from support.command_line import adcert_in_process as adcert
from verify.errors import FileProblem
from verify.files import read_unpacked, require_writable, write_atomically


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileProblem, match="cannot write"):
        write_atomically(folder, b"new")
    with pytest.raises(FileProblem, match="cannot write"):
        write_atomically(tmp_path / "nowhere" / "file", b"new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_link_to_nowhere_is_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/file")
    for name in ("loop", "lost"):
        for write in (require_writable, lambda path: write_atomically(path, b"new")):
            with pytest.raises(FileProblem, match="cannot write"):
                write(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/stdout").is_symlink(), reason="there are no such links here")
def test_what_stands_for_an_open_file_is_not_replaced() -> None:
    for write in (require_writable, lambda path: write_atomically(path, b"new")):
        with pytest.raises(FileProblem, match="say -"):
            write(Path("/dev/stdout"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join()
    assert read == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_gets_one_result(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    done = adcert("verify", "exported/mnist-0.1-small.onnx", "--count", "3", "--curve", "0.05", "--json", pipe)
    reader.join()
    assert done.returncode == 0, done.stderr
    assert len(json.loads(read[0])["samples"]) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("content", [b"", b"c", b"content", gzip.compress(b"content")])
def test_a_pipe_is_read_once(content: bytes, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content])
    writer.start()
    found = read_unpacked(pipe, "model", FileProblem)
    writer.join()
    assert found == (b"content" if len(content) > 1 else content)
