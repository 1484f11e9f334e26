"""HTML and SVG that cannot be injected into: whatever is not markup already is escaped where it is put in."""

from __future__ import annotations

import html

_VOID = {"img", "meta"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(element: str, /, *children: str | None, **attributes: object) -> Html:
    """An element. Children that are not Html are escaped, None is left out; so are attributes that are None or False.

    In the names of attributes a trailing underscore is dropped and the others become hyphens: class_, aria_label.
    """
    given = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    opening = f"<{element}{given}>"
    return Html(opening if element in _VOID else f"{opening}{join(*children)}</{element}>")


def join(*parts: str | None) -> Html:
    """Parts side by side; those that are not Html are escaped."""
    return Html("".join(part if isinstance(part, Html) else escaped(part) for part in parts if part is not None))


def escaped(text: str) -> str:
    """Text for an element or an attribute. Control characters, lone surrogates and those that turn the direction of
    writing would let a text look like another one: they become U+FFFD."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t\N{NO-BREAK SPACE}" else "�" for c in text))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
