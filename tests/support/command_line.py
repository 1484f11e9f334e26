"""Run the command line as a script does."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent.parent


def adcert(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def adcert_in_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same without a process of its own, so that torch is imported once for many tests."""
    import cli

    command = ["adcert", *map(str, arguments)]
    streams = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with mock.patch.object(sys, "argv", command), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = 0
        try:
            cli.main()
        except SystemExit as done:
            code = int(done.code or 0)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(command, code, out, err)
