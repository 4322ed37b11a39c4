"""Members that take no new tasks because somebody wants it so.

Enters: what the owner of this machine wants, here or on another member, and what admins on other
members want here. Leaves: an availability that says ``draining``, answers, lines of the audit log.
The wish is kept in memory alone: a node that is started again takes tasks. docs/tasks.rst.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability
from bzzz.mesh.capability import printable
from bzzz.net.calls import NotAsked
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import MAX_USER, Answer, Done, Drain, Failed, Refused

__all__ = ["DrainWish", "Draining", "NotDrained"]


class NotDrained(BzzzError):
    """Another member did not do what was wanted, or it is not known whether it did.

    :ivar code: ``not_linked``, ``drain_refused`` or ``unknown``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DrainWish(NamedTuple):
    """Whose wish it is that this node takes no new tasks.

    :ivar peer: the peer ID of the member where it was wished.
    :ivar user: who wished it there, "" where that is not known.
    """

    peer: str
    user: str


class Draining:
    """Drains this node, and asks others to.

    :ivar wish: of the first who has wished it, while it drains for that.

    :param own: this node.
    :param peers: the members that can be asked.
    :param may_administer: whether a member is an admin.
    :param name_of: what the member with a peer ID is called.
    :param record: takes an event and its fields, for the audit log.
    """

    _log = Logger()

    def __init__(
        self,
        own: PeerID,
        availability: Availability,
        peers: Peers,
        may_administer: Callable[[PeerID], bool],
        name_of: Callable[[str], str],
        record: Callable[..., object],
    ) -> None:
        self._own = own
        self._availability = availability
        self._peers = peers
        self._may_administer = may_administer
        self._name_of = name_of
        self._record = record
        self.wish: DrainWish | None = None

    async def ask(self, peer: PeerID, on: bool, user: str) -> None:
        """Have a member, or this node, take nothing new, or take tasks again.

        :param user: who wants it, on this machine.
        :raises NotDrained: another member did not do it.
        """
        if peer == self._own:
            self._set(DrainWish(str(peer), user) if on else None)
            return
        name = self._name_of(str(peer))
        try:
            answer = await self._peers.ask(peer, Drain(on, printable(user, 64)[:MAX_USER]))
        except NotAsked:
            raise NotDrained(
                "not_linked",
                f"{name} is not linked with this node: see bzzz peers. Or on {name} itself:"
                f" bzzz {_command(on)}",
            ) from None
        except BzzzError as error:
            raise NotDrained(
                "unknown",
                f"it is not known whether {name} has heard it: {error}. To see whether it takes"
                f" tasks: bzzz capabilities {name}",
            ) from None
        if isinstance(answer, Refused | Failed):
            raise NotDrained("drain_refused", f"{name} refuses: {answer.reason}")

    def asked(self, peer: PeerID, wanted: Drain) -> Answer:
        """Do what another member wants, if it may want that."""
        name = self._name_of(str(peer))
        said = {"peer_id": str(peer), "name": name, "user": wanted.user}
        command = _command(wanted.on)
        if not self._may_administer(peer):
            self._record("drain_refused", **said)
            return Refused(
                f"{name} is no admin of the cluster, and only admins {command} other members. On"
                f" {self._name_of(str(self._own))} itself: bzzz {command}. Or on the machine of an"
                f" admin: bzzz admit {name} --role admin",
                for_good=True,
            )
        self._record("drained" if wanted.on else "undrained", **said)
        self._log.info(
            "{user} on {name} ({peer}) has this node take {what}",
            user=wanted.user or "Somebody",
            name=name,
            peer=peer.short,
            what="no new tasks" if wanted.on else "tasks again",
            event="drained" if wanted.on else "undrained",
        )
        self._set(DrainWish(str(peer), wanted.user) if wanted.on else None)
        return Done()

    def _set(self, wish: DrainWish | None) -> None:
        if wish is None:
            self.wish = None
            self._availability.resume()
        else:
            self.wish = self.wish or wish
            self._availability.drain()


def _command(on: bool) -> str:
    return "drain" if on else "undrain"
