"""The audit log, what a check of it found.

Enters and leaves: what :mod:`bzzz.trust.audit_verify` puts in. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Problem", "Report", "Vouched"]


@dataclass(frozen=True)
class Problem:
    """Something that the node did not leave so.

    :ivar file: where.
    :ivar line: the line in the file, from 1; 0 for a file without any.
    :ivar kind: a short, stable, snake_case name.
    :ivar message: for people.
    """

    file: str
    line: int
    kind: str
    message: str


@dataclass(frozen=True)
class Vouched:
    """The last line that others vouch for.

    :ivar seq: its number.
    :ivar file: where it is.
    :ivar line: the line in the file.
    :ivar time: when the node gave the checkpoint away, by the node's clock.
    :ivar by: who keeps it.
    """

    seq: int
    file: str
    line: int
    time: str
    by: tuple[str, ...]


@dataclass
class Report:
    """What a log is worth.

    :ivar problems: in the order of the files; those that checkpoints show come last.
    :ivar more_problems: how many more there are than are listed.
    :ivar notes: what is worth a word and is no problem.
    :ivar unknown: what cannot be known.
    :ivar lines: how many lines are those of the node.
    :ivar first_seq: the number of the first of them; 0 for none.
    :ivar last_seq: the number of the last.
    :ivar last_time: what the last says of when it was written.
    :ivar keys: peer IDs whose keys signed, in order.
    :ivar vouched: the last line that others vouch for.
    """

    problems: list[Problem] = field(default_factory=list)
    more_problems: int = 0
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    lines: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_time: str = ""
    keys: list[str] = field(default_factory=list)
    vouched: Vouched | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
