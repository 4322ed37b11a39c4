"""Which tasks a member will not run, as it has said itself.

Enters: refusals for good of offers, and the time. Leaves: whether a member has refused what asks
for the same. That is known for as long as the member says nothing new of itself, and not for ever:
it may have known less of its own role, or its rules, than it knows a moment later.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bzzz.tasks.placement import Wanted

__all__ = ["MAX_REFUSED", "REFUSED", "Refusals"]

# Seconds for which what was refused is not offered again.
REFUSED: Final = 300.0

# Different kinds of tasks of which refusals are known. Beyond, those refused longest ago are
# offered once more.
MAX_REFUSED: Final = 1000


class Refusals:
    """Refusals for good. Times are seconds on one clock."""

    def __init__(self) -> None:
        # By what was asked for, and by peer ID: until when it holds, and why.
        self._known: OrderedDict[Wanted, dict[str, tuple[float, str]]] = OrderedDict()
        self._ends_at = float("inf")

    def add(self, wanted: Wanted, peer: str, now: float, reason: str) -> None:
        """A member has refused."""
        self._known.setdefault(wanted, {})[peer] = (now + REFUSED, reason)
        self._known.move_to_end(wanted)
        if len(self._known) > MAX_REFUSED:
            self._known.popitem(last=False)
        self._ends_at = min(self._ends_at, now + REFUSED)

    def reason(self, wanted: Wanted, peer: str, now: float) -> str:
        """Why a member has refused what asks for the same; "" where it has not."""
        if not self._known:
            return ""
        until, reason = self._known.get(wanted, {}).get(peer, (now, ""))
        return (reason or "it did not say why") if until > now else ""

    def forget(self, peer: str) -> None:
        """The member says something new of itself, or is gone."""
        for wanted in [each for each, by_peer in self._known.items() if peer in by_peer]:
            self._drop(wanted, peer)

    @property
    def ends_at(self) -> float:
        """When the next refusal holds no more; infinity for never."""
        return self._ends_at

    def end(self, now: float) -> set[str]:
        """Forget refusals that hold no more; whose they were."""
        over = [
            (wanted, peer)
            for wanted, by_peer in self._known.items()
            for peer, (until, _) in by_peer.items()
            if until <= now
        ]
        for wanted, peer in over:
            self._drop(wanted, peer)
        left = [until for by_peer in self._known.values() for until, _ in by_peer.values()]
        self._ends_at = min(left, default=float("inf"))
        return {peer for _, peer in over}

    def _drop(self, wanted: Wanted, peer: str) -> None:
        del self._known[wanted][peer]
        if not self._known[wanted]:
            del self._known[wanted]
