"""Who may import whom: the verifier stands alone, and the command line starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERIFY = sorted((ROOT / "verify").rglob("*.py"))
TRUSTED_CORE = {
    "numpy",
    "onnx",
    "verify",
    "google",  # google.protobuf is what onnx reads files with
    *sys.stdlib_module_names,
}
AROUND_THE_CORE = {
    "compiled/engine.py": {"onnxruntime"},
    "conformance.py": {"onnxruntime"},
    "datasets/__init__.py": {"pooch", "requests"},
    "tasks/attack.py": {"torch"},
    "tasks/runtime.py": {"onnxruntime"},
    "terminal.py": {"rich"},
}
SEARCH = {"torch"}

LAYERS = {
    "core": {"errors"},
    "datasets": {"errors"},
    "model": {"core", "errors", "files"},
    "bounds": {"core", "model", "errors"},
    "proofs": {"core", "model", "bounds", "errors", "files", "version"},
    "check": {"core", "model", "bounds", "proofs", "errors"},
    "search": {"core", "model", "bounds", "proofs", "errors", "time_limit"},
    "compiled": {"core", "model", "bounds", "boxes", "errors", "version"},
}
"""What parts of the verifier import, besides themselves; the others may import everything."""


def imported(file: Path) -> set[str]:
    found = set()
    for part in ast.walk(ast.parse(file.read_text())):
        if isinstance(part, ast.Import):
            found |= {alias.name.split(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            found.add(part.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", VERIFY, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_verifier_imports_numpy_and_onnx_only(file: Path) -> None:
    place = file.relative_to(ROOT / "verify")
    allowed = TRUSTED_CORE | AROUND_THE_CORE.get(str(place), set()) | (SEARCH if place.parts[0] == "search" else set())
    assert imported(file) <= allowed


def parts_imported(file: Path) -> set[str]:
    """Of the verifier: folders and modules in it, by their names."""
    found = set()
    for part in ast.walk(ast.parse(file.read_text())):
        if isinstance(part, ast.ImportFrom) and part.module == "verify":
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module and part.module.startswith("verify."):
            found.add(part.module.split(".")[1])
        elif isinstance(part, ast.Import):
            found |= {alias.name.split(".")[1] for alias in part.names if alias.name.startswith("verify.")}
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_what_proofs_rest_on_is_layered(layer: str) -> None:
    files = [file for file in VERIFY if file.relative_to(ROOT / "verify").parts[0] in (layer, f"{layer}.py")]
    assert files
    for file in files:
        assert parts_imported(file) <= LAYERS[layer] | {layer}, file


def modules_after(*arguments: str) -> set[str]:
    """The top-level modules that a run of the command line leaves loaded."""
    program = (
        "import sys, cli\n"
        f"sys.argv = ['adcert', *{list(arguments)!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["verify", "--help"], ["train", "--help"], ["study", "--help"], ["export", "--help"]]
)
def test_help_loads_no_numerical_library(arguments: list[str]) -> None:
    assert not {"torch", "numpy", "onnx", "onnxruntime"} & modules_after(*arguments)


def test_verification_by_intervals_loads_neither_torch_nor_onnxruntime_nor_training() -> None:
    model = ROOT / "exported" / "mnist-0.1-small.onnx"
    loaded = modules_after("verify", str(model), "--count", "5")
    assert not {"torch", "onnxruntime", "adcert"} & loaded
    assert {"numpy", "onnx", "verify"} <= loaded


def test_the_checker_needs_numpy_and_onnx_only(tmp_path: Path) -> None:
    model = ROOT / "exported" / "mnist-0.1-small.onnx"
    result, proofs = tmp_path / "result.json", tmp_path / "proofs"
    modules_after("verify", str(model), "--count", "5", "--json", str(result), "--certificates", str(proofs))
    for checked in (proofs.iterdir(), [result]):
        loaded = modules_after("check", *map(str, checked), "--model", str(model))
        assert not {"torch", "onnxruntime", "adcert", "rich", "pooch"} & loaded
