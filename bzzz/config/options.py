"""The one table of options. Flags, the file, the environment and the reference all come from it.

What leaves is :class:`Config`: frozen, and valid however it was made.
"""

from __future__ import annotations

# ruff: noqa: RUF009 - _option() makes a dataclasses.field() and nothing that fields share
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bzzz.config import kinds, places
from bzzz.config.amounts import AllOr, Cores, Size
from bzzz.config.kinds import BadValue, Kind
from bzzz.errors import ConfigError
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Config", "OPTIONS", "Option", "Setting"]

NAME = kinds.pattern(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "a node's name (letters, digits and . _ -, at most 63, a letter or digit first)",
)
CAPABILITY = kinds.pattern(
    r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,62}",
    "a capability's name (letters, digits and . _ : / + -, at most 63)",
)
SPECIALIZATION = kinds.pattern(
    r"([A-Za-z0-9][A-Za-z0-9._:/+-]{0,62})?", "a specialization (letters, digits and . _ : / + -)"
)

# The sandboxes that the executors have.
PROFILES = ("default", "no-network", "trusted")


@dataclasses.dataclass(frozen=True)
class Option:
    """A row of the table.

    :ivar key: its name in the file, and of the field of :class:`Config`.
    :ivar default: from the environment, where it depends on it.
    :ivar default_text: the default as a person would put it.
    :ivar reason: why the default is what it is.
    :ivar live: whether a running node can change it when it reads its configuration again.
    """

    key: str
    kind: Kind[Any]
    default: Callable[[Mapping[str, str]], Any]
    default_text: str
    help: str
    reason: str
    live: bool = False

    @property
    def flag(self) -> str:
        """``--listen-port``"""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """``BZZZ_LISTEN_PORT``"""
        return "BZZZ_" + self.key.upper()


@dataclasses.dataclass(frozen=True)
class Setting:
    """An effective value and where it came from: ``default``, a flag, a variable, a file's line."""

    key: str
    value: object
    source: str


def _option(
    kind: Kind[Any],
    default: Any,
    default_text: str,
    help: str,
    reason: str,
    *,
    live: bool = False,
) -> Any:
    """A field of :class:`Config`. A callable default is called with the environment."""
    depends = default if callable(default) else lambda environ: default
    return dataclasses.field(
        default_factory=lambda: depends(os.environ),
        metadata={"row": (kind, depends, default_text, help, reason, live)},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How one node is set up. Making one with a wrong value raises :class:`ConfigError`.

    :ivar listen_port: 0 for the remembered one, or at first start a free one.
    :ivar broadcast_interval: in seconds.
    :ivar task_cpus: None for all that the machine has; likewise the next two.
    :ivar task_memory: in bytes, as are the sizes below.
    :ivar sources: for each key that is not at its default, where its value came from.
    """

    name: str = _option(
        kinds.Text("NAME", NAME),
        places.host_name,
        "the host name without its domain",
        "The name by which people know this node.",
        "people know their machines by these names already",
    )
    state_dir: Path = _option(
        kinds.Directory(),
        places.state_dir,
        "``$STATE_DIRECTORY`` (systemd), else ``$XDG_STATE_HOME/bzzz``,"
        " else ``~/.local/state/bzzz``",
        "Directory of the identity key and of what is remembered between starts. One node each.",
        "the XDG directory for data that should survive restarts but is not worth a backup's time",
    )
    runtime_dir: Path = _option(
        kinds.Directory(),
        places.runtime_dir,
        "``$RUNTIME_DIRECTORY`` (systemd), else ``$XDG_RUNTIME_DIR/bzzz``, else ``/tmp/bzzz-UID``",
        "Directory of the control socket that the bzzz command talks to.",
        "private to the user and gone after a reboot, as sockets should be",
    )
    interface: tuple[str, ...] = _option(
        kinds.Many("NAME|ADDRESS", kinds.interface),
        (),
        "all that are up, without container bridges and virtual machines' taps",
        "Network interface, or one of its addresses, to listen, announce and browse on; no others."
        " Peers are dialled wherever a route leads.",
        "zero configuration; addresses of docker0 and the like lead nowhere from other machines",
        live=True,
    )
    listen_port: int = _option(
        kinds.Whole(0, 65535, "PORT"),
        0,
        "0: a free port of 32768-65535 chosen at first start, then remembered",
        "TCP port to listen on.",
        "a port that stays keeps firewall rules and other nodes' address books valid",
    )
    bootstrap: tuple[Multiaddr, ...] = _option(
        kinds.Many("MULTIADDR", kinds.multiaddr),
        (),
        "none",
        "Address of a node to dial at start and to retry for ever,"
        " such as /ip4/192.0.2.7/tcp/40001 or /dns/walnut.lan/tcp/40001.",
        "on one LAN mDNS finds everybody; bootstrap addresses are for where multicast fails",
        live=True,
    )
    mdns: bool = _option(
        kinds.Boolean(),
        True,
        "yes",
        "Announce this node and find others by multicast DNS.",
        "two fresh nodes on a LAN should meet without configuration",
    )
    label: Mapping[str, str] = _option(
        kinds.Labels(),
        MappingProxyType({}),
        "none",
        "A label that other nodes see, such as rack=a3.",
        "labels mean what their owner says they mean, so that there are none to begin with",
        live=True,
    )
    capability: tuple[str, ...] = _option(
        kinds.Many("NAME", CAPABILITY),
        (),
        "none beside those detected",
        "Name of something that this node can do, added to what it detects.",
        "the rest is detected",
        live=True,
    )
    specialization: str = _option(
        kinds.Text("NAME", SPECIALIZATION),
        "",
        "none",
        "What this node is best at, in one word; shown to other nodes.",
        "a general machine has none",
        live=True,
    )
    broadcast_interval: float = _option(
        kinds.Seconds(0.1, 3600.0),
        30.0,
        "30s",
        "Time between two broadcasts of what this node can do and how busy it is.",
        "what the nodes of the running cluster use; changes are sent at once anyway",
        live=True,
    )
    max_links: int = _option(
        kinds.Whole(1, 4096),
        256,
        "256",
        "Most links to other nodes at one time.",
        "every member is linked to every other, and a link costs 0.2 MB: 256 are 50 MB and far"
        " below the usual limit of 1024 open files",
        live=True,
    )
    max_tasks: int = _option(
        kinds.Whole(0, 10_000),
        places.cores,
        "the number of cores this process may use",
        "Most tasks to run at one time; 0 to run none.",
        "one busy task a core is what a machine can do without slowing each of them",
        live=True,
    )
    stop_timeout: float = _option(
        kinds.Seconds(0.0, 86400.0),
        30.0,
        "30s",
        "Time that tasks which run have to end when the node stops. Those that have not are ended"
        " and run elsewhere.",
        "a machine that is shut down should not wait for ever, and many tasks are short",
    )
    task_forbid_command: tuple[str, ...] = _option(
        kinds.Many("PATTERN", kinds.wildcard, most_bytes=kinds.MAX_RULE_BYTES),
        (),
        "none",
        "Command that tasks may not run here, such as docker or ``/opt/*``, in which ``*`` is"
        " anything. The first word of a task's command is held against it, and what is behind the"
        " last slash of that; what a shell or a script runs is not.",
        "a member may run what the node's user may; that is for its owner to narrow",
        live=True,
    )
    task_forbid_submitter: tuple[str, ...] = _option(
        kinds.Many("NAME|PEER_ID", kinds.submitter, most_bytes=kinds.MAX_RULE_BYTES),
        (),
        "none",
        "Whose tasks are not run here: those of a user, or all that are submitted on a machine, by"
        " its name in the cluster or its peer ID. What a user is called is said by their machine.",
        "who may submit is decided by the cluster's admins; this is for the owner of one machine",
        live=True,
    )
    task_profile: tuple[str, ...] = _option(
        kinds.Many(
            "PROFILE",
            kinds.one_of(*PROFILES),
            empty="a task has some profile: name one (to run no tasks: max_tasks = 0)",
        ),
        PROFILES,
        "default, no-network and trusted",
        "Sandbox that a task may have here; no others.",
        "a task has the profile default unless somebody asks for another",
        live=True,
    )
    task_cpus: float | None = _option(
        AllOr(Cores(65536.0)),
        None,
        "all of the machine's",
        "Processor cores that tasks may have together, such as 6 or 1.5. They are counted as what"
        " tasks ask for.",
        "a machine that runs tasks has nothing better to do, unless its owner says so",
        live=True,
    )
    task_memory: int | None = _option(
        AllOr(Size(1 << 20, 1 << 53)),
        None,
        "all of the machine's",
        "Memory that tasks may have together, such as 16GiB. It is counted as what tasks ask for.",
        "the same",
        live=True,
    )
    task_gpus: int | None = _option(
        AllOr(kinds.Whole(0, 64)),
        None,
        "all of the machine's",
        "Graphics processors that tasks may have together: those with the most memory.",
        "the same",
        live=True,
    )
    task_output_limit: int = _option(
        Size(4 << 10, 1 << 40),
        64 << 20,
        "64MiB",
        "How much is kept of what a task prints, of its standard output and of its standard error"
        " each. The rest is read and thrown away.",
        "a log of that size is more than anybody reads, and a task that prints without end fills no"
        " disk",
        live=True,
    )
    task_output_quota: int = _option(
        Size(1 << 20, 1 << 50),
        1 << 30,
        "1GiB",
        "How much the output of all tasks that have run here may take on the disk. The oldest goes"
        " first.",
        "thousands of tasks' usual output, on a disk that is not the node's alone",
        live=True,
    )
    cache_quota: int = _option(
        Size(64 << 20, 1 << 50),
        10 << 30,
        "10GiB",
        "How much the files that tasks read and leave may take on the disk of this node. What was"
        " used least recently goes first, but nothing that a task needs.",
        "the inputs of a day's work, on a disk that is not the node's alone",
        live=True,
    )
    executor: str = _option(
        kinds.Choice("auto", "systemd", "process"),
        "auto",
        "auto",
        "What runs the commands of tasks: transient units of the systemd that the node's user has"
        " for itself, processes below the node, or the first where it works.",
        "units have a sandbox of their own; where there is no such systemd tasks should run all the"
        " same",
    )
    log_level: str = _option(
        kinds.Choice("debug", "info", "warn", "error"),
        "info",
        "info",
        "Least level of log lines that are written.",
        "at info an idle node writes two lines a broadcast interval",
        live=True,
    )
    sources: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            try:
                checked = option.kind.from_toml(getattr(self, option.key))
            except BadValue as bad:
                raise ConfigError(f"{option.key}: {bad}") from None
            object.__setattr__(self, option.key, checked)

    def effective(self) -> list[Setting]:
        """Every value and where it came from, in the order of the table."""
        return [
            Setting(
                option.key,
                option.kind.plain(getattr(self, option.key)),
                self.sources.get(option.key, "default"),
            )
            for option in OPTIONS
        ]


def _table() -> tuple[Option, ...]:
    return tuple(
        Option(field.name, *field.metadata["row"])
        for field in dataclasses.fields(Config)
        if "row" in field.metadata
    )


OPTIONS: tuple[Option, ...] = _table()
