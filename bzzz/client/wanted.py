"""What is wanted of a task, as ``POST /v1/tasks`` takes it.

Enters: a command and options, which are those of ``bzzz run``. Leaves: an object of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from bzzz.client.amounts import seconds, size

__all__ = ["Options", "wanted"]


class Options(TypedDict, total=False):
    """What a task needs; each is as the option of ``bzzz run`` with that name.

    ``where`` is a CEL expression over a node's capabilities, ``on`` a member by its name, its short
    ID or its peer ID, ``cpus`` a number of cores (1 if nobody says), ``memory`` bytes or a text
    such as ``"4GiB"``, ``gpus`` a number, ``timeout`` seconds or a text such as ``"10m"`` for each
    attempt, ``retries`` how often it may fail, ``restart`` (True) whether it is run again when its
    machine was lost, ``priority`` a number of which the greater is first, ``env`` variables,
    ``profile`` the sandbox, ``name`` what to call it, ``wait`` whether it waits for a machine where
    none that is linked could run it.
    """

    where: str
    on: str
    cpus: float
    memory: int | str
    gpus: int
    timeout: float | str
    retries: int
    restart: bool
    priority: int
    env: Mapping[str, str]
    profile: str
    name: str
    wait: bool


def wanted(command: Sequence[str], options: Options) -> dict[str, Any]:
    """The body that asks for it.

    :raises TypeError: the command is no list of words, or there is no such option.
    :raises ValueError: a size or a time is none, or the command is empty.
    """
    if isinstance(command, str | bytes):
        raise TypeError(
            f"a command is a list of words, such as ['make', '-j8'], and not {command!r};"
            f" for a shell: ['sh', '-c', {command!r}]"
        )
    if not command:
        raise ValueError("the command is empty")
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise TypeError(
            f"there is no option {unknown[0]!r} (there are {', '.join(Options.__annotations__)})"
        )
    body: dict[str, Any] = {"command": list(command), **options}
    if "memory" in options:
        body["memory"] = size(options["memory"], "memory")
    if "timeout" in options:
        body["timeout"] = seconds(options["timeout"], "timeout")
    if "env" in options:
        body["env"] = dict(options["env"])
    return body
