"""Bootstrap addresses: dialled until linked, and again, for ever.

A bootstrap address may be a name and may lack a peer ID, so whom it leads to is known only once it
has been reached. While that peer is linked the address rests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.backoff import Backoff
from bzzz.net.guests import CLAIMED
from bzzz.net.interfaces import Clock, Randomness
from bzzz.net.swarm import Swarm
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Seeds"]

# How often a resting address is looked at, in seconds. Its peer, once known, is redialled by the
# membership at once; this only finds that another peer answers at the address now.
REST = 10.0

# Seconds until one who belongs to a cluster is dialled again.
CLAIMED_REST = 600.0

# What came of an address that could be reached.
LINKED = "linked"


class _Seed:
    def __init__(self, address: Multiaddr, backoff: Backoff) -> None:
        self.address = address
        self.peer = address.peer_id
        self.backoff = backoff
        self.timer: IDelayedCall | None = None
        self.work: Deferred[None] | None = None
        self.said = ""
        self.dropped = False


class Seeds:
    """Keeps every bootstrap address linked.

    :param resolve: the concrete addresses of a bootstrap address at this moment; fails with
        :class:`BzzzError` naming what could not be resolved.
    :param claimed: whether a peer is in a cluster that takes no links of this node. It is asked
        again after :data:`CLAIMED_REST` s, or when :meth:`look_again` is called.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        clock: Clock,
        random: Randomness,
        addresses: Sequence[Multiaddr],
        resolve: Callable[[Multiaddr], Deferred[Sequence[Multiaddr]]],
        claimed: Callable[[PeerID], bool] = lambda peer: False,
    ) -> None:
        self._swarm = swarm
        self._clock = clock
        self._random = random
        self._resolve = resolve
        self._claimed = claimed
        self._seeds = [self._seed(address) for address in addresses]
        self._running = False

    def start(self) -> None:
        """Dial all of them."""
        self._running = True
        for seed in self._seeds:
            self._look(seed)

    def stop(self) -> None:
        """Dial no more."""
        self._running = False
        for seed in self._seeds:
            self._rest(seed)

    def use(self, addresses: Sequence[Multiaddr]) -> None:
        """Keep these addresses linked from now on. Links to others that are up stay up."""
        before = {seed.address: seed for seed in self._seeds}
        self._seeds = [
            before.pop(each) if each in before else self._seed(each) for each in addresses
        ]
        for seed in before.values():
            seed.dropped = True
            self._rest(seed)
        for seed in self._seeds:
            if self._running and seed.timer is None and seed.work is None:
                self._look(seed)

    def look_again(self) -> None:
        """Who takes no links of this node may do so now."""
        for seed in self._seeds:
            if seed.said == CLAIMED and seed.timer is not None and seed.timer.active():
                seed.timer.cancel()
                self._look(seed)

    def tried(self) -> list[str]:
        """Each address with what came of it last, in words."""
        return [f"{seed.address} ({seed.said or 'under way'})" for seed in self._seeds]

    def failing(self) -> list[tuple[str, str]]:
        """Each address that could not be reached last, and why."""
        return [
            (str(seed.address), seed.said)
            for seed in self._seeds
            if seed.said and seed.said != LINKED
        ]

    def _seed(self, address: Multiaddr) -> _Seed:
        return _Seed(address, Backoff(random=self._random))

    def _rest(self, seed: _Seed) -> None:
        """Dial it no more."""
        if seed.timer is not None and seed.timer.active():
            seed.timer.cancel()
        if seed.work is not None:
            seed.work.cancel()

    def _look(self, seed: _Seed) -> None:
        seed.timer = None
        if not self._running:
            return
        if seed.peer is not None and seed.peer in self._swarm.links:
            seed.said = LINKED
            seed.backoff.reset()
            self._again(seed, REST)
            return
        if seed.peer is not None and self._claimed(seed.peer):
            seed.said = CLAIMED
            self._again(seed, CLAIMED_REST)
            return
        seed.work = Deferred.fromCoroutine(self._reach(seed))
        seed.work.addCallbacks(
            self._reached, self._failed, callbackArgs=(seed,), errbackArgs=(seed,)
        )

    async def _reach(self, seed: _Seed) -> None:
        concrete = await self._resolve(seed.address)
        link = await self._swarm.dial(concrete, seed.address.peer_id)
        seed.peer = link.remote_peer

    def _reached(self, _: None, seed: _Seed) -> None:
        seed.work = None
        seed.said = LINKED
        self._again(seed, REST)

    def _failed(self, failure: Failure, seed: _Seed) -> None:
        seed.work = None
        if not self._running or seed.dropped:
            return
        if failure.check(BzzzError) is None:
            # A mistake of ours; the address is tried again all the same.
            self._log.failure("dialling {address} failed", failure, address=str(seed.address))
            seed.said = "an error here, see the log"
            self._again(seed, seed.backoff.next_delay())
            return
        reason = failure.getErrorMessage()
        if reason != seed.said:
            # Once for each new reason: it is tried for ever, the log is not for that.
            self._log.warn(
                "Bootstrap address {address} cannot be reached: {reason}; trying again, at most "
                "60 s apart",
                address=str(seed.address),
                reason=reason,
            )
        seed.said = reason
        self._again(seed, seed.backoff.next_delay())

    def _again(self, seed: _Seed, delay: float) -> None:
        if self._running and not seed.dropped:
            seed.timer = self._clock.callLater(delay, self._look, seed)
