"""What the owner of a machine lets tasks do there.

Enters: the rules, from the configuration or a member's capability document, and what a task is.
Leaves: each rule that forbids it, in a line for people. A member tells its rules so that others do
not offer in vain; it goes by them itself whatever was offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bzzz.mesh.capability import EVERYTHING, OwnerRules, Resources, printable
from bzzz.tasks.slots import Room, usable_gpus

__all__ = ["EVERYTHING", "offered", "refusals"]

# Characters of a command that patterns are held against: no path of Linux is longer.
MAX_PATH: Final = 4096

# Characters of a command that is shown.
SHOWN: Final = 80


def offered(resources: Resources, rules: OwnerRules, max_tasks: int) -> Room:
    """What a machine offers to tasks: what it has, and what its owner lets them have of it."""
    cpus, memory, gpus = resources.cpu_cores, resources.memory_bytes, usable_gpus(resources.gpus)
    return Room(
        float(cpus) if rules.cpus is None else min(float(cpus), rules.cpus),
        memory if rules.memory is None else min(memory, rules.memory),
        len(gpus) if rules.gpus is None else min(len(gpus), rules.gpus),
        max_tasks,
    )


def refusals(
    rules: OwnerRules, command: str, submitters: Iterable[str], profile: str
) -> tuple[tuple[str, str], ...]:
    """The rules by which a task is not run, as pairs of a code and a text for people.

    :param command: the first word.
    :param submitters: all names of whose task it is: the user's, the origin's, its peer ID.
    """
    found = []
    if rules.forbidden_commands and len(command) > MAX_PATH:
        text = "its owner forbids some commands, and this one is longer than a path can be"
        return (("owner_command", text),)
    pattern = _matching(rules.forbidden_commands, command)
    if pattern is not None:
        found.append(
            (
                "owner_command",
                f'its owner forbids the command "{printable(command, SHOWN)}", by "{pattern}"',
            )
        )
    for name in dict.fromkeys(submitters):
        if name and name in rules.forbidden_submitters:
            found.append(("owner_submitter", f'its owner runs nothing of "{name}"'))
            break
    if rules.profiles and profile not in rules.profiles:
        allowed = ", ".join(f'"{name}"' for name in rules.profiles)
        found.append(
            (
                "owner_profile",
                f'its owner does not allow the profile "{profile}", but {allowed}',
            )
        )
    return tuple(found)


def _matching(patterns: tuple[str, ...], command: str) -> str | None:
    last = command.rpartition("/")[2]
    for pattern in patterns:
        if _matches(pattern, command) or _matches(pattern, last):
            return pattern
    return None


def _matches(pattern: str, text: str) -> bool:
    # By hand, because the patterns are a peer's: fnmatch would compile and keep each of them.
    first, *between = pattern.split("*")
    if not between:
        return text == pattern
    *between, last = between
    end = len(text) - len(last)
    if not text.startswith(first) or end < len(first) or not text.endswith(last):
        return False
    at = len(first)
    for part in between:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
