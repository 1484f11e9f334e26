"""Write docs/api.md from the docstrings of what `verify` and `adcert` offer: `python docs/make_api.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import adcert
import verify

PAGE = Path(__file__).with_name("api.md")
_INTRODUCTION = """# Python API

`verify` proves what ONNX files answer; `adcert` trains and exports them. The names on this page are stable, what else
the packages hold may change. A mistake of the caller raises `Problem`, whose text is one sentence. Both packages are
typed (`py.typed`), and importing them is cheap: numpy, onnx and torch are loaded by what needs them. In the signatures
`File` is a path (`str` or `os.PathLike`), and `Eps` a radius in the units of the model's input: a string such as
"8/255", a `Fraction`, or a float, which stands for the decimal that Python prints (0.1 is 1/10).
"""
_SECTIONS = "Args:", "Raises:", "Attributes:"
_WIDTH = 100


def page() -> str:
    """The whole page, in Markdown: functions before types, each group by name."""
    parts = [_INTRODUCTION]
    for module in (verify, adcert):
        names = sorted(module.__all__, key=lambda name: (inspect.isclass(getattr(module, name)), name))
        parts.append(f"## import {module.__name__}\n")
        parts.append(" · ".join(f"[`{name}`](#{module.__name__}{name.lower()})" for name in names) + "\n")
        parts += [part for name in names for part in _entry(module, name)]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> Iterator[str]:
    thing: Any = getattr(module, name)
    yield f"### {module.__name__}.{name}\n"
    if not inspect.isclass(thing) or is_dataclass(thing):
        yield f"```python\n{_signature(name, thing)}\n```\n"
    elif issubclass(thing, Enum):
        yield f"One of {', '.join(f'`{member.name}`' for member in thing)}.\n"
    elif issubclass(thing, Exception):
        yield f"A kind of `{thing.__mro__[1].__name__}`.\n"
    yield _text(thing)
    if is_dataclass(thing) and (members := list(_members(thing))):
        yield "\n".join([*members, ""])


def _members(thing: Any) -> Iterator[str]:
    for name, member in vars(thing).items():
        if isinstance(member, property) and member.__doc__ and not name.startswith("_"):
            yield f"- `.{name}`: {_inline(member)}"
        elif inspect.isfunction(member) and member.__doc__ and not name.startswith("_"):
            yield f"- `.{_signature(name, member)}`: {_inline(member)}"


def _signature(name: str, thing: Any) -> str:
    """As one writes it, with an argument on each line where one line would be too long."""
    signature = inspect.signature(thing)
    parts = []
    for own in signature.parameters.values():
        if own.name == "self":
            continue
        if own.kind is own.KEYWORD_ONLY and "*" not in parts and not inspect.isclass(thing):
            parts.append("*")
        default = "" if own.default is own.empty else f" = {_default(own.default)}"
        parts.append(f"{own.name}: {own.annotation}{default}")
    answer = "" if inspect.isclass(thing) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(parts)}){answer}"
    return line if len(line) <= _WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){answer}"])


def _default(value: object) -> str:
    return str(value) if isinstance(value, int | float | bool | None) else re.sub(r"<(.*?):.*>", r"\1", repr(value))


def _inline(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _text(thing: object) -> str:
    """The docstring, its lists of arguments and errors as lists."""
    lines: list[str] = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line in _SECTIONS:
            lines += [f"**{line.rstrip(':')}**", ""]
        elif item := re.fullmatch(r" {4}(\w[\w, ]*): (.*)", line):
            names = ", ".join(f"`{name}`" for name in item[1].split(", "))
            lines.append(f"- {names}: {item[2]}")
        else:
            lines.append(re.sub(r"^ {8}", "  ", line))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
