"""The doctor without a node: its checks of the machine, one after the other, without a reactor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from bzzz.discovery.doctor import Doctor, Finding, NodeHealth
from bzzz.discovery.firewall import examine_firewall
from bzzz.discovery.network_interfaces import Verdicts, judge, system_interfaces
from bzzz.errors import BzzzError

__all__ = ["examine", "examine_firewall_here"]

# Checks of what only a running node has.
OF_A_NODE = {"mdns", "listening"}


def _run(argv: Sequence[str], timeout: float) -> Deferred[bytes]:
    return maybeDeferred(_output, argv, timeout)


def _output(argv: Sequence[str], timeout: float) -> bytes:
    try:
        ran = subprocess.run(  # nosec B603  # noqa: S603 - the doctor names the programs
            list(argv),
            capture_output=True,
            timeout=timeout,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BzzzError(f"{argv[0]}: {error}") from None
    return ran.stdout


def _at_once(work: Callable[[], Any]) -> Deferred[Any]:
    return maybeDeferred(work)


def examine(wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    """The findings, with the fields of :class:`bzzz.web.schema.Finding`.

    :param wanted: the ``interface`` option.
    """
    try:
        verdicts = judge(system_interfaces(), wanted)
    except OSError:
        verdicts = Verdicts(())  # which is a finding
    health = NodeHealth(verdicts=verdicts, listening=(), mdns=None)
    return [
        found
        for found in _fired(Doctor(_at_once, _run).examine(health))
        if found["check"] not in OF_A_NODE
    ]


def examine_firewall_here(port: int | None) -> list[Mapping[str, Any]]:
    """What this process can tell of the firewall; as root more than the node, which is not."""
    return _fired(Deferred.fromCoroutine(examine_firewall(port, _run)))


def _fired(examined: Deferred[list[Finding]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    # Every Deferred fired before it was waited for, so that this one has too.
    examined.addCallback(
        lambda findings: found.extend(
            {
                "check": finding.check,
                "level": "info" if finding.status == "unknown" else finding.status,
                "message": finding.what,
                "mend": finding.mend,
            }
            for finding in findings
        )
    )
    return found
