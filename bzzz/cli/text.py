"""How things are written for people: times, tables, and what strangers put into names."""

from __future__ import annotations

import datetime
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "ago",
    "as_json",
    "console",
    "duration",
    "milliseconds",
    "place",
    "plain",
    "safe",
    "show",
    "table",
]

# C0 and C1 controls, which terminals obey, and the characters that turn the order of a line.
_OBEYED = (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {code: f"\\u{code:04x}" for code in _OBEYED}
_IN_JSON = {code: shown for code, shown in _SHOWN.items() if code != 10}

STYLES = {
    "connected": "green",
    "dialling": "yellow",
    "discovered": "cyan",
    "lost": "red",
    "claimed": "magenta",
    "ok": "green",
    "info": "cyan",
    "warning": "yellow",
    "error": "red",
    "alone": "yellow",
}

# Wide enough that nothing is cut where a program reads the output.
UNLIMITED = 4000


def safe(value: object) -> str:
    """A text in which nothing drives the terminal; a peer chooses its own name."""
    return "" if value is None else str(value).translate(_SHOWN)


def as_json(answer: object, *, line: bool = False) -> str:
    """An answer as JSON, indented, or in one line."""
    separators = (",", ":") if line else None
    text = json.dumps(answer, ensure_ascii=False, indent=None if line else 2, separators=separators)
    return text.translate(_IN_JSON)


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``5 h``, ``2 days``: a length of time in its largest unit."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return f"{max(0, int(seconds))} s"


def ago(moment: str | None, now: datetime.datetime | None = None) -> str:
    """``3 min ago``, from an RFC 3339 time."""
    if not moment:
        return ""
    now = now or datetime.datetime.now(datetime.UTC)
    try:
        passed = (now - datetime.datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return safe(moment)
    return "just now" if passed < 1 else f"{duration(passed)} ago"


def place(address: str | None) -> str:
    """``192.0.2.1:4001`` or ``[fe80::1]:4001`` for a multiaddr over TCP, anything else as it is."""
    found = re.fullmatch(r"/(ip4|ip6|dns[46]?)/([^/]+)/tcp/(\d+)", address or "")
    if found is None:
        return address or ""
    return f"[{found[2]}]:{found[3]}" if found[1] == "ip6" else f"{found[2]}:{found[3]}"


def milliseconds(seconds: float | None) -> str:
    """``0.23 ms``."""
    return "" if seconds is None else f"{seconds * 1000:.2f} ms"


def console() -> Console:
    """Standard output as it is at this moment: a terminal, or a pipe that gets no colours."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def _cell(value: object) -> Text:
    text = safe(value)
    return Text(text, style=STYLES.get(text, ""))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, head: bool = True) -> Table:
    """Columns with headings in capitals."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=head)
    for heading in headings:
        last = heading is headings[-1]
        # What does not fit goes on below in the last column, which has the sentences.
        made.add_column(heading.upper(), overflow="fold", no_wrap=not last)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def show(made: Table) -> None:
    """Print a table: fitted to a terminal, and for a program with whole cells, however wide."""
    out = console()
    if out.is_terminal:
        out.print(made, soft_wrap=False)
        return
    print("\n".join(plain(made)))


def plain(made: Table) -> list[str]:
    """A table's lines, uncut and without colours."""
    buffer = io.StringIO()
    wide = Console(file=buffer, width=UNLIMITED, highlight=False, markup=False, emoji=False)
    wide.print(made)
    return [line.rstrip() for line in buffer.getvalue().splitlines()]
