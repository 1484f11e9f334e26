"""What is built and published: all that is needed, and nothing undeclared."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from verify.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = [
    path.relative_to(ROOT)
    for package in ("adcert", "verify")
    for path in sorted((ROOT / package).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
]
DISTRIBUTIONS = {"PIL": "pillow", "onnxruntime": "onnxruntime-gpu", "google": "onnx"}
"""Where a module's name is not that of the distribution, or comes with another one (protobuf with onnx)."""


def name(requirement: str) -> str:
    match = re.match(r"[\w-]+", requirement)
    assert match
    return match[0]


def requirements(*extras: str) -> set[str]:
    """Names of distributions, without our own extras."""
    project = PROJECT["project"]
    found = {name(each) for each in project["dependencies"]}
    for extra in extras:
        found |= {name(each) for each in project["optional-dependencies"][extra]}
    return found - {"adcert"}


def test_every_package_and_every_file_in_one_is_in_the_wheel() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    packages = {".".join(path.parent.parts) for path in FILES if path.suffix == ".py"}
    assert sorted(packages) == setuptools["packages"]
    assert setuptools["py-modules"] == ["cli"]
    data = setuptools["package-data"]
    for path in FILES:
        if path.suffix != ".py":
            own = max((each for each in packages if path.is_relative_to(each.replace(".", "/"))), key=len)
            inside = str(path.relative_to(own.replace(".", "/")))
            assert any(fnmatch(inside, pattern) for pattern in data.get(own, [])), path


def test_every_import_is_declared() -> None:
    declared = requirements("images", "plots", "tensorboard")
    own = {"adcert", "verify", "cli"}
    for path in [*(file for file in FILES if file.suffix == ".py"), Path("cli.py")]:
        for part in ast.walk(ast.parse((ROOT / path).read_text())):
            modules = [alias.name for alias in part.names] if isinstance(part, ast.Import) else []
            if isinstance(part, ast.ImportFrom) and part.module and not part.level:
                modules = [part.module]
            for module in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - own:
                assert DISTRIBUTIONS.get(module, module) in declared, f"{path} imports {module}"


def test_what_make_installs_is_pinned() -> None:
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]}
    assert {each.lower() for each in requirements(*PROJECT["project"]["optional-dependencies"])} - {
        "onnxruntime"  # the other of the two that share a name; which one is chosen depends on the machine
    } <= pinned


def test_exactly_one_onnxruntime_is_chosen_for_each_machine() -> None:
    markers = pytest.importorskip("packaging.markers")
    chosen = [each.split(";") for each in PROJECT["project"]["dependencies"] if each.startswith("onnxruntime")]
    for system in ("linux", "win32", "darwin"):
        for machine in ("x86_64", "AMD64", "aarch64", "arm64"):
            where = {"sys_platform": system, "platform_machine": machine}
            found = [name(each) for each, marker in chosen if markers.Marker(marker.strip()).evaluate(where)]
            gpu = (system, machine) in {("linux", "x86_64"), ("win32", "AMD64")}
            assert found == ["onnxruntime-gpu" if gpu else "onnxruntime"]


def test_licences_citation_and_changelog_are_of_this_version() -> None:
    for path in PROJECT["project"]["license-files"]:
        assert (ROOT / path).is_file()
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    latest = re.search(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert latest
    assert latest[1] == __version__


def test_the_command_is_an_entry_point_that_answers() -> None:
    module, function = PROJECT["project"]["scripts"]["adcert"].split(":")
    program = f"import sys, {module}; sys.argv = ['adcert', '--version']; {module}.{function}()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"adcert {__version__}\n"
