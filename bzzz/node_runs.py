"""The part of the composition root that has to do with running commands.

Everything here is wiring; what it does is in :mod:`bzzz.tasks.executors`.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from bzzz.config import Config
from bzzz.errors import BzzzError
from bzzz.net.interfaces import Randomness
from bzzz.state import KEY, OpenState
from bzzz.tasks.boot_clock import BootClock
from bzzz.tasks.executors.chosen import ChosenExecutor, prove
from bzzz.tasks.executors.interfaces import IExecutor
from bzzz.tasks.executors.process import ProcessExecutor
from bzzz.tasks.executors.systemd import SystemdExecutor
from bzzz.tasks.executors.unit_specs import Places, own_python

__all__ = ["make_executor"]

# In the runtime directory.
SOCKET = "runs.sock"
TRIAL = "trial"


def make_executor(
    config: Config, state: OpenState, reactor: Any, random: Randomness
) -> ChosenExecutor:
    """What runs the commands of a node's tasks."""

    def systemd() -> Deferred[IExecutor]:
        return Deferred.fromCoroutine(_systemd(config, state, reactor, random))

    return ChosenExecutor(config.executor, ProcessExecutor(reactor), systemd)


async def _systemd(config: Config, state: OpenState, reactor: Any, random: Randomness) -> IExecutor:
    """The systemd executor, which works.

    :raises BzzzError: it does not, and why.
    """
    uid = os.geteuid()
    # Not where a shell's environment says, which may be another user's, or a bus without a systemd.
    runtime = f"/run/user/{uid}"
    if not os.path.exists(f"{runtime}/bus"):
        raise BzzzError(f"the node's user has no systemd of its own: there is no {runtime}/bus")
    # Only here: without a systemd nothing needs D-Bus, and a node is smaller without it.
    from bzzz.systemd.task_units import TaskUnits
    from bzzz.systemd.units import txdbus_connect

    connect = txdbus_connect(reactor, {"XDG_RUNTIME_DIR": runtime})
    clock = BootClock(reactor)
    private = (str(state.path), str(config.runtime_dir))
    modules, readable = own_python(private)
    executor = SystemdExecutor(
        reactor,
        clock,
        TaskUnits(clock, uid, random=random, connect=lambda: connect("session")),
        Places(
            node=state.peer_id.short,
            socket=str(config.runtime_dir / SOCKET),
            private=private,
            modules=modules,
            readable=readable,
        ),
        lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
    )
    try:
        await prove(executor, clock, str(config.runtime_dir / TRIAL), str(state.path / KEY))
    except BzzzError:
        await executor.close()
        raise
    return executor
