"""What can be told of this machine's firewall without being root, and what to ask root to do.

Enters: files, and the output of ``nft``, ``iptables`` and ``firewall-cmd`` where they may be run.
Leaves: findings. A rule set is a program; this only recognises the common ones, and says
``unknown`` for the rest together with the command that shows it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred

from bzzz.discovery.finding import Finding
from bzzz.errors import BzzzError
from bzzz.net.ports import PORTS

__all__ = ["Runner", "examine_firewall"]

CHECK = "firewall"

# Seconds for one command.
TIMEOUT = 5.0

Runner = Callable[[Sequence[str], float], Deferred[bytes]]
"""Runs a command for at most so many seconds; fails with :class:`BzzzError`."""

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

# A chain of nftables that sees what comes in, with what it does with what no rule matches.
_INPUT_CHAIN = re.compile(r"type filter hook input priority [^;]*;\s*(?:policy (\w+);)?")


def find_command(name: str) -> str | None:
    """The path of a command, also where only root has it on the path."""
    return shutil.which(name, path=_SBIN)


async def examine_firewall(
    port: int | None,
    run: Runner,
    *,
    find: Callable[[str], str | None] = find_command,
    etc: Path = Path("/etc"),
) -> list[Finding]:
    """Look for something that keeps others from ``port`` over TCP and from UDP port 5353."""
    findings = []
    for look in (_firewalld, _ufw, _nftables, _iptables):
        findings += await look(port, run, find, etc)
        if any(finding.status in {"warning", "error"} for finding in findings):
            # ufw and firewalld write the rules that the others would show.
            return findings
    if not findings:
        findings.append(Finding(CHECK, "ok", "no firewall software is installed"))
    return findings


def _opening(tool: str, port: int | None, etc: Path) -> str:
    number = str(port) if port is not None else "PORT"
    # What the installer puts there, if the firewall's software is there before it.
    opened = port is None or port in PORTS
    # Not Path.exists(), which raises where a directory is closed to others.
    profile = opened and os.path.exists(etc / "ufw" / "applications.d" / "bzzz")
    ufw = "Bzzz" if profile else f"{number}/tcp"
    service = opened and os.path.exists(etc / "firewalld" / "services" / "bzzz.xml")
    firewalld = "--add-service=bzzz" if service else f"--add-port={number}/tcp --add-service=mdns"
    return {
        "ufw": f"sudo ufw allow {ufw}",
        "firewalld": (f"sudo firewall-cmd --permanent {firewalld} && sudo firewall-cmd --reload"),
        "nft": (
            f"accept them where your rules are kept: tcp dport {number} accept;"
            " udp dport 5353 accept"
        ),
        "iptables": (
            f"sudo iptables -I INPUT -p tcp --dport {number} -j ACCEPT"
            " && sudo iptables -I INPUT -p udp --dport 5353 -j ACCEPT (and ip6tables)"
        ),
    }[tool]


async def _output(run: Runner, argv: Sequence[str]) -> str | None:
    try:
        return (await run(argv, TIMEOUT)).decode(errors="replace")
    except BzzzError:
        # Mostly that it is root's to ask.
        return None


async def _firewalld(
    port: int | None, run: Runner, find: Callable[[str], str | None], etc: Path
) -> list[Finding]:
    command = find("firewall-cmd")
    if command is None or (await _output(run, [command, "--state"]) or "").strip() != "running":
        return []
    opened = await _output(run, [command, "--list-all"])
    if opened is None:
        what = "firewalld runs; what it lets in may not be seen from here"
        return [Finding(CHECK, "unknown", what, "sudo firewall-cmd --list-all")]
    words = opened.replace(",", " ").split()
    services = re.search(r"(?m)^\s*services:(.*)$", opened)
    ours = services is not None and "bzzz" in services[1].split()
    if "ACCEPT" in words:
        return [Finding(CHECK, "ok", "firewalld lets mDNS and this node's port in")]
    lacking = [
        what
        for what, there in (
            ("UDP port 5353", ours or "mdns" in words or "5353/udp" in words),
            (
                f"TCP port {port}",
                port is None or f"{port}/tcp" in words or (ours and port in PORTS),
            ),
        )
        if not there
    ]
    if not lacking:
        return [Finding(CHECK, "ok", "firewalld lets mDNS and this node's port in")]
    what = f"firewalld does not let in {' and '.join(lacking)}"
    return [Finding(CHECK, "warning", what, _opening("firewalld", port, etc))]


async def _ufw(
    port: int | None, run: Runner, find: Callable[[str], str | None], etc: Path
) -> list[Finding]:
    try:
        settings = (etc / "ufw" / "ufw.conf").read_text("utf-8", "replace")
        enabled = re.search(r"(?m)^ENABLED=yes", settings)
    except OSError:
        return []
    if not enabled:
        return []
    command = find("ufw")
    status = await _output(run, [command, "status"]) if command is not None else None
    if status is None:
        what = f"ufw is on; whether it lets in TCP port {port} is only told to root"
        return [Finding(CHECK, "unknown", what, f"sudo ufw status; {_opening('ufw', port, etc)}")]
    # ufw lets mDNS in by its default rules.
    profile = "Bzzz|" if port in PORTS else ""
    if port is None or re.search(rf"(?m)^({profile}{port}(/tcp)?)\s+ALLOW", status):
        return [Finding(CHECK, "ok", "ufw lets this node's port in")]
    what = f"ufw is on and does not let in TCP port {port}"
    return [Finding(CHECK, "warning", what, _opening("ufw", port, etc))]


async def _nftables(
    port: int | None, run: Runner, find: Callable[[str], str | None], etc: Path
) -> list[Finding]:
    command = find("nft")
    if command is None:
        return []
    rules = await _output(run, [command, "list", "ruleset"])
    if rules is None:
        what = "nftables is installed; its rules are only told to root"
        return [Finding(CHECK, "unknown", what, "sudo nft list ruleset")]
    return [_of_nftables(rules, port, etc)]


def _of_nftables(rules: str, port: int | None, etc: Path) -> Finding:
    chains = _INPUT_CHAIN.findall(rules)
    if not chains:
        return Finding(CHECK, "ok", "no rule of nftables filters what comes in")
    refusing = any(policy == "drop" for policy in chains) or re.search(
        r"(?m)^\s*(counter [^\n]*)?(drop|reject)\b", rules
    )
    if not refusing:
        return Finding(CHECK, "ok", "nftables lets in what no rule refuses")
    lacking = [
        name
        for number, name in ((5353, "UDP port 5353"), (port, f"TCP port {port}"))
        if number is not None and not re.search(rf"\b{number}\b", rules)
    ]
    if not lacking:
        return Finding(CHECK, "ok", "nftables has rules for UDP port 5353 and this node's port")
    what = f"nftables refuses what no rule lets in, and none names {' or '.join(lacking)}"
    return Finding(CHECK, "warning", what, _opening("nft", port, etc))


async def _iptables(
    port: int | None, run: Runner, find: Callable[[str], str | None], etc: Path
) -> list[Finding]:
    command = find("iptables")
    if command is None or find("nft") is not None:
        # With nftables there, iptables is mostly a way to write its rules.
        return []
    rules = await _output(run, [command, "-S", "INPUT"])
    if rules is None:
        what = "iptables is installed; its rules are only told to root"
        return [Finding(CHECK, "unknown", what, "sudo iptables -S INPUT")]
    if "-P INPUT ACCEPT" in rules and not re.search(r"-j (DROP|REJECT)", rules):
        return [Finding(CHECK, "ok", "no rule of iptables filters what comes in")]
    if "5353" in rules and (port is None or str(port) in rules):
        return [Finding(CHECK, "ok", "iptables has rules for UDP port 5353 and this node's port")]
    what = f"iptables refuses what no rule lets in, and none names UDP 5353 or TCP {port}"
    return [Finding(CHECK, "warning", what, _opening("iptables", port, etc))]
