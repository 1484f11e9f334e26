"""Names on the pages are those of the program: settings, recipes, objectives, networks, methods, keys of files."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from adcert import models, results, study
from adcert import recipe as recipes
from adcert.objectives import OBJECTIVES
from adcert.recipe import CHOICES, Recipe
from adcert.results import Outcome
from support.command_line import adcert_in_process
from support.pages import DOCS, PAGES, ROOT, blocks, section_text
from verify.bounds.methods import METHODS
from verify.core.rounding import CONTRACTS
from verify.model.network import load
from verify.tasks.robustness import Status

CHOOSING, FILES = DOCS / "choosing.md", DOCS / "files.md"
MODEL = ROOT / "exported" / "mnist-0.1-small.onnx"


def first_cells(page: Path, heading: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", section_text(page, heading), re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        (CHOOSING, "Recipe", recipes.names()),
        (CHOOSING, "Objective", OBJECTIVES),
        (CHOOSING, "Network", models.MODELS),
        (CHOOSING, "Method", set(METHODS)),
        (FILES, "Recipes", {entry.name for entry in fields(Recipe)} - {"teacher"}),
        (FILES, "Result file", set(Status)),
    ],
)
def test_a_table_names_what_there_is(page: Path, heading: str, names: Any) -> None:
    assert sorted(first_cells(page, heading)) == sorted(names)


def test_extras_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"adcert\[([a-z]+)\]", page.read_text())}
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert named <= extras
    assert set(first_cells(DOCS / "commands.md", "Optional parts")) == extras


def test_contracts_and_studies_are_described() -> None:
    text = CHOOSING.read_text()
    assert all(f"`{name}`" in text for name in [*CONTRACTS, *study.names()])


def test_settings_have_the_defaults_and_choices_that_the_table_says() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section_text(FILES, "Recipes"), re.MULTILINE))
    for entry in fields(Recipe):
        if entry.name == "teacher":
            continue
        default, meaning = rows[entry.name].split("|", 1)
        value = json.dumps([] if entry.default == () else entry.default).strip('"') if _has_default(entry) else ""
        assert default.strip().strip("`") == value, entry.name
        if entry.name in CHOICES and entry.name != "objective":
            assert all(f"`{choice}`" in meaning for choice in CHOICES[entry.name]), entry.name


def _has_default(entry: Any) -> bool:
    return entry.default is not MISSING


def keys(value: Any) -> Any:
    """The names in a JSON value, however deep, without what they stand for."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_result_and_certificate_have_the_keys_of_the_examples(tmp_path: Path) -> None:
    result, proofs = tmp_path / "result.json", tmp_path / "proofs"
    options = ["--count", "1", "--method", "complete", "--json", result, "--certificates", proofs]
    assert adcert_in_process("verify", MODEL, *options).returncode == 0
    written = [result, *proofs.iterdir()]
    examples = [json.loads(block.text) for block in blocks(FILES) if block.language == "json"]
    assert [keys(example) for example in examples] == [keys(json.loads(path.read_text())) for path in written]


def test_metadata_of_shipped_files_are_described() -> None:
    shipped = [load(path).metadata for path in MODEL.parent.glob("*.onnx")]
    assert set(first_cells(FILES, "ONNX file")) == {key for metadata in shipped for key in metadata}


def test_columns_of_a_study_are_described() -> None:
    outcome = Outcome("mnist-quick", "ibp", "ibp", "mnist", "0.1", {}, 0, "model.onnx")
    header = results.as_csv([outcome]).decode().splitlines()[0]
    assert first_cells(FILES, "Study") == header.split(",")
