"""A Sphinx extension that reads the code, so that what the pages say of it is true.

``.. bzzz-options::``
    a section for each option of the configuration, from its table
``.. bzzz-commands::``
    a section for each command of ``bzzz``, from the command itself
``.. bzzz-fields:: MODULE.CLASS``
    the fields of a msgspec Struct, with their types and caps
``.. bzzz-limits:: MODULE.CLASS``
    the fields of a dataclass of limits, with their defaults
``:value:`MODULE.NAME```
    the value of a constant, with ``[N]`` after it for a part

What a field means is taken from ``:ivar field:`` in the docstring of its class. A field of a
message without one fails the build.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from docutils import nodes  # type: ignore[import-untyped]
from msgspec import inspect as types
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from bzzz import config
from bzzz.cli import reference as commands

KIB = 1024


def find(name: str) -> Any:
    """What a dotted name stands for; ``[N]`` after it is a part of that."""
    found = re.fullmatch(r"([\w.]+)\.(\w+)(?:\[(\d+)\])?", name)
    if found is None:
        raise ValueError(f"{name!r} is not MODULE.NAME")
    value = getattr(importlib.import_module(found[1]), found[2])
    return value if found[3] is None else value[int(found[3])]


def meanings(documented: type) -> dict[str, str]:
    """What ``:ivar name: ...`` of the docstring says, by name."""
    text = inspect.getdoc(documented) or ""
    found = re.findall(r"^:ivar (\w+):\s*(.*?)(?=^:|\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def quantity(value: object) -> str:
    """A number as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 16 * KIB and value % KIB == 0:
        whole = value // KIB
        return f"{whole // KIB} MiB" if whole % KIB == 0 else f"{whole} KiB"
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def type_text(kind: types.Type) -> str:
    """A field's type, with its cap."""
    if isinstance(kind, types.Metadata):
        return type_text(kind.type)
    if isinstance(kind, types.UnionType):
        return " or ".join(type_text(each) for each in kind.types)
    if isinstance(kind, types.LiteralType):
        return ", ".join(f"``{value}``" for value in kind.values)
    if isinstance(kind, types.VarTupleType | types.ListType):
        return f"list{_at_most(kind)} of {type_text(kind.item_type)}"
    if isinstance(kind, types.DictType):
        return f"object{_at_most(kind)} of {type_text(kind.value_type)}"
    if isinstance(kind, types.StrType):
        return f"string{_at_most(kind)}"
    names: dict[type[types.Type], str] = {
        types.IntType: "integer",
        types.FloatType: "number",
        types.BoolType: "boolean",
        types.NoneType: "null",
        types.DateTimeType: "time",
        types.AnyType: "any value",
    }
    if isinstance(kind, types.StructType):
        return f":ref:`{kind.cls.__name__} <fields-{kind.cls.__name__}>`"
    return names[type(kind)]


def _at_most(kind: types.VarTupleType | types.ListType | types.DictType | types.StrType) -> str:
    return f" (≤ {kind.max_length})" if kind.max_length is not None else ""


def table(widths: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a list-table."""
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield f"   :widths: {widths}"
    yield ""
    for row in (head, *rows):
        for number, cell in enumerate(row):
            yield f"   {'*' if number == 0 else ' '} - {cell}"
    yield ""


def field_lines(struct: type[msgspec.Struct]) -> Iterator[str]:
    """A table of the fields of ``struct``."""
    said = meanings(struct)
    info = types.type_info(struct)
    if not isinstance(info, types.StructType):
        raise TypeError(f"{struct} is no Struct")
    yield f".. _fields-{struct.__name__}:"
    yield ""
    rows = [
        (
            f"``{field.encode_name}``",
            type_text(field.type) + (", required" if field.required else ""),
            said[field.name],
        )
        for field in info.fields
    ]
    yield from table("20 35 45", ("field", "type", "meaning"), rows)


def limit_lines(limits: type) -> Iterator[str]:
    """A table of the fields of a dataclass whose defaults are limits."""
    said = meanings(limits)
    rows = [
        (f"``{field.name}``", quantity(field.default), said.get(field.name, ""))
        for field in dataclasses.fields(limits)
        if field.default is not dataclasses.MISSING
    ]
    yield from table("25 15 60", ("limit", "default", "of what"), rows)


class _Generated(SphinxDirective):
    """Parses lines as if they stood in the page."""

    def lines(self) -> Iterator[str]:
        """The lines."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The nodes in place of the directive."""
        self.env.note_dependency(__file__)
        text = "\n".join(self.lines())
        return list(self.parse_text_to_nodes(text, allow_section_headings=True))


class Options(_Generated):
    """``bzzz-options``."""

    def lines(self) -> Iterator[str]:
        """From the table in :mod:`bzzz.config.options`."""
        yield from config.reference().splitlines()


class Commands(_Generated):
    """``bzzz-commands``."""

    def lines(self) -> Iterator[str]:
        """From the group in :mod:`bzzz.cli.main`."""
        yield from commands.reference().splitlines()


class Fields(_Generated):
    """``bzzz-fields``."""

    required_arguments = 1

    def lines(self) -> Iterator[str]:
        """From the class."""
        yield from field_lines(find(self.arguments[0]))


class Limits(_Generated):
    """``bzzz-limits``."""

    required_arguments = 1

    def lines(self) -> Iterator[str]:
        """From the class."""
        yield from limit_lines(find(self.arguments[0]))


class Value(SphinxRole):
    """``:value:``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The value as text."""
        return [nodes.Text(quantity(find(self.text)))], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("bzzz-options", Options)
    app.add_directive("bzzz-commands", Commands)
    app.add_directive("bzzz-fields", Fields)
    app.add_directive("bzzz-limits", Limits)
    app.add_role("value", Value())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
