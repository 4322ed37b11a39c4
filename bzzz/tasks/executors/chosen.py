"""Which executor a node has: the one that was asked for, or the best that works here.

Enters: what the configuration says. Leaves: an executor, and why it is that one. What works is not
guessed: a command is run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from bzzz.errors import BzzzError
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.executors.systemd import SystemdExecutor

__all__ = ["ChosenExecutor", "prove"]

# Seconds for each half of the trial: connecting, and a unit that is started and over. Both take 0.3
# where there is processor time.
TRIAL_TIMEOUT: Final = 12.0

TRIAL_KEY: Final = "trial"


async def prove(
    executor: SystemdExecutor, clock: IReactorTime, directory: str, hidden: str
) -> None:
    """Have it run a command that looks whether it is in a sandbox.

    :param directory: where the command may be, made for it; an absolute path.
    :param hidden: what the command must not find: a file of the node.
    :raises BzzzError: it does not work, and why.
    """
    executor.open()
    try:
        await executor.bus.when_ready().addTimeout(TRIAL_TIMEOUT, clock)
        # A name of a unit is used once. One of a node that was killed may be on its way out.
        key = f"{TRIAL_KEY}.{os.getpid()}"
        over: Deferred[Over] = Deferred()
        shutil.rmtree(directory, ignore_errors=True)
        os.mkdir(directory, 0o700)
        try:
            run = Run(
                key=key,
                argv=("/bin/sh", "-c", 'test ! -e "$0" && : >here', hidden),
                env={"PATH": os.defpath},
                directory=directory,
                stdout=os.devnull,
                stderr=os.devnull,
            )
            executor.start(run, clock.seconds() + TRIAL_TIMEOUT, over.callback)
            ended = await over.addTimeout(TRIAL_TIMEOUT, clock)
            made = os.path.exists(f"{directory}/here")
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    except TimeoutError:
        raise BzzzError(f"a trial had no end within {TRIAL_TIMEOUT:g} s") from None
    except OSError as error:
        raise BzzzError(f"{directory}: {error.strerror}") from None
    if ended.ending is not Ending.EXITED:
        raise BzzzError(f"a trial failed: {ended.reason}")
    if ended.exit_status:
        raise BzzzError(f"in a trial the sandbox hid nothing: {hidden} was seen")
    if not made:
        raise BzzzError("in a trial the command could not write into its own directory")


@implementer(IExecutor)
class ChosenExecutor:
    """Implements :class:`IExecutor` by one of two, from :meth:`choose` on by that which is chosen.

    :param wanted: ``auto``, ``systemd`` or ``process``.
    :param process: the process executor.
    :param systemd: makes the systemd executor, and proves it; fails with a BzzzError where it does
        not work, having closed it.
    :ivar reason: why it is not the systemd executor; empty where it is.
    :ivar is_chosen: whether it is known yet.
    """

    _log = Logger()

    def __init__(
        self,
        wanted: str,
        process: IExecutor,
        systemd: Callable[[], Deferred[IExecutor]],
    ) -> None:
        self._wanted = wanted
        self._systemd = systemd
        self._executor = process
        self._closing = False
        self.reason = ""
        self.is_chosen = False

    @property
    def name(self) -> str:
        """See :class:`IExecutor`."""
        return str(self._executor.name)

    @property
    def problem(self) -> str:
        """Why nothing can be started now, for people; empty where it can."""
        executor = self._executor
        problem = executor.bus.problem if isinstance(executor, SystemdExecutor) else ""
        return problem and f"the systemd of the node's user cannot be asked: {problem}"

    async def choose(self) -> None:
        """Find out which it is.

        :raises BzzzError: the systemd executor is asked for, and does not work.
        """
        if self._wanted == "process":
            self.reason = "the configuration says so"
        else:
            try:
                chosen = await self._systemd()
            except BzzzError as error:
                if self._wanted == "systemd":
                    raise BzzzError(
                        f'executor is "systemd", and that does not work here: {error}. Have a'
                        " systemd run for the node's user (loginctl enable-linger USER), or set"
                        ' executor to "auto" or "process"'
                    ) from None
                self.reason = str(error)
            else:
                self._executor = chosen
                if self._closing:
                    await chosen.close()
        self.is_chosen = True
        self._log.info(
            "Commands of tasks are run by the {name} executor{why}",
            name=self.name,
            why=f": {self.reason}" if self.reason else "",
        )

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        """See :class:`IExecutor`."""
        self._executor.start(run, until, over)

    def extend(self, key: str, until: float) -> None:
        """See :class:`IExecutor`."""
        self._executor.extend(key, until)

    def stop(self, key: str, grace: float) -> None:
        """See :class:`IExecutor`."""
        self._executor.stop(key, grace)

    def close(self) -> Deferred[None]:
        """See :class:`IExecutor`."""
        self._closing = True
        closed: Deferred[None] = self._executor.close()
        return closed
