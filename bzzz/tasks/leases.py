"""The lease of an attempt, at its worker and at the replicas (``docs/tasks.rst``, "Leases").

Enters: what was asked, granted and accepted, with the time on the clock of whoever it concerns.
Leaves: until when a worker may run an attempt, and when a replica may close its token. The two
clocks are never compared; all that is taken for granted is how wrong their rates may be. After Gray
and Cheriton, *Leases* (SOSP 1989), with a majority in the place of their server.
"""

from __future__ import annotations

from bzzz.tasks.proposer import majority

__all__ = ["DRIFT", "KILL", "MAX_LEASE", "Grants", "Lease", "grace"]

# A clock's rate is between 1 - DRIFT and 1 + DRIFT. Crystals are a thousand times better; virtual
# machines that are short of time are not.
DRIFT = 0.1

# Seconds that the keeper takes from the end of a lease until nothing of the attempt is left: it
# asks the kernel once, which may be busy.
KILL = 0.3

# Seconds of the longest lease. A worker that is lost is replaced after that at the earliest.
MAX_LEASE = 600.0


def grace(lease: float) -> float:
    """Seconds on a replica's clock after which a lease of so many on a worker's has ended."""
    return (lease + KILL) * (1 + DRIFT) / (1 - DRIFT)


class Lease:
    """What a worker knows of its lease of one token.

    :param replicas: how many the task has.
    :param seconds: for which a grant of a majority is good, from when it was asked for.
    :ivar until: when it ends, on the worker's clock; minus infinity: it has not begun.
    """

    def __init__(self, replicas: int, seconds: float) -> None:
        self._majority = majority(replicas)
        self._seconds = seconds
        # By place: when that was asked for which the replica granted last.
        self._granted = [float("-inf")] * replicas
        self.until = float("-inf")

    def granted(self, place: int, asked: float) -> None:
        """A replica has granted what it was asked for at ``asked`` on the worker's clock."""
        if asked > self._granted[place]:
            self._granted[place] = asked
            last = sorted(self._granted, reverse=True)[self._majority - 1]
            self.until = last + self._seconds

    @property
    def has_grant(self) -> bool:
        """Whether any replica has ever granted it."""
        return max(self._granted) > float("-inf")


class Grants:
    """What a replica remembers of the leases that it granted. It is lost with the process.

    :param started: now, on the replica's clock.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._last: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def grant(self, task: str, token: int, now: float) -> None:
        """A lease was granted, or the token accepted; the caller has seen that it is current."""
        self._last[task] = (token, now)

    def forget(self, task: str) -> None:
        """The task has no current token any more."""
        self._last.pop(task, None)

    def until_closed(self, task: str, token: int, lease: float, now: float) -> float:
        """Seconds after which the token may be closed, 0 for now.

        :param lease: the task's, in seconds.
        """
        last, when = self._last.get(task, (token, self._started))
        if last > token:
            return 0.0
        return max(0.0, max(when, self._started) + grace(lease) - now)
