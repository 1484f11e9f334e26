"""The page of commands names every command, option, choice, default and exit code, and none besides."""

from __future__ import annotations

import re

import click
import pytest

import cli
from support.command_line import adcert_in_process
from support.page_runner import adcert_arguments, commands_of
from support.pages import DOCS, PAGES, blocks, headings, section_text
from verify.errors import Problem

PAGE = DOCS / "commands.md"
COMMANDS = cli.commands.commands


def rows(text: str) -> dict[str, str]:
    """Tables' rows by the code in their first cell."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"\| `([^`]+)`", line):
            found[match[1]] = line
    return found


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_every_command_has_a_section_and_every_section_is_a_command() -> None:
    described = {heading.strip("`") for heading in headings(PAGE) if heading.startswith("`")}
    assert described == set(COMMANDS)


def test_the_page_says_of_each_command_what_the_program_says() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {name: command.short_help for name, command in COMMANDS.items()}


def test_options_of_the_program_are_described() -> None:
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for option in options(cli.commands) for name in option.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    described = rows(section_text(PAGE, f"`{name}`"))
    named = {tuple(key.split()) for key in described if key.startswith("-")}
    assert named == {(option.opts[0], *_value(option)) for option in options(COMMANDS[name])}
    assert all(option.help for option in options(COMMANDS[name]))


def _value(option: click.Option) -> list[str]:
    """What stands for the value of an option, on the page and in its help."""
    if isinstance(option.type, click.Choice):
        return ["NAME"]
    return [] if option.is_flag else [option.metavar or "none"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_choice_and_default_is_described(name: str) -> None:
    text = section_text(PAGE, f"`{name}`")
    described = {key.split()[0]: row for key, row in rows(text).items()}
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            assert parameter.make_metavar(click.Context(COMMANDS[name])).strip("[].") in text
            continue
        row = described[parameter.opts[0]]
        if isinstance(parameter.type, click.Choice):
            assert all(f"`{choice}`" in row for choice in parameter.type.choices), row
        if isinstance(parameter, click.Option) and parameter.show_default:
            assert f"`{parameter.default}`" in row, row


def exit_codes_of_the_program() -> set[int]:
    def kinds(problem: type[Problem]) -> set[type[Problem]]:
        return {problem}.union(*map(kinds, problem.__subclasses__()))

    for module in ("adcert.problems", "verify.datasets", "verify.core.environment", "verify.tasks.vnnlib"):
        __import__(module)
    source = (DOCS.parent / "cli.py").read_text()
    written = {int(code) for code in re.findall(r"fail\([^\n]*, (\d+)\)", source)}
    return {0, 1, 3, cli.INTERRUPTED} | written | {kind.exit_code for kind in kinds(Problem)}


def test_every_exit_code_is_described() -> None:
    described = {int(code) for code in rows(section_text(PAGE, "Exit codes"))}
    assert described == exit_codes_of_the_program()


def test_what_can_be_caused_on_purpose_has_an_example() -> None:
    shown = {code for block in blocks(PAGE) if block.language == "sh" for _, code in commands_of(block.text)}
    assert shown >= {0, 1, 2, 3, 4}


def test_a_defect_and_an_interruption_have_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for fault, code in ((broken, 70), (interrupted, 130)):
        monkeypatch.setattr("verify.model.network.load", fault)
        assert adcert_in_process("inspect", "model.onnx").returncode == code


def test_every_command_is_used_on_some_page() -> None:
    shown = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    found = [adcert_arguments(words) for block in shown for words, _ in commands_of(block.text)]
    assert {arguments[0] for arguments in found if arguments} >= set(COMMANDS)
