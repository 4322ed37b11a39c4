"""Another key for this node: the rotation, and what becomes of it where a crash came in between.

Enters: the owner's wish; at each start, the keys and the roster that are on the disk. Leaves: a
node that has to be started again, and then one with another peer ID, under its name and with its
rights. docs/trust.rst, "Rotating a key".

What decides is the roster on the disk. A ``rotate`` in it is never taken back, because somebody may
have heard of it, and another one beside it would make both void. So a running node only gets as far
as that; the keys are exchanged at the start that follows, whether a crash came before it or not:
:func:`settle`, then :func:`finish`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Shape

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.errors import BzzzError, IdentityError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.trust.audit_chain import DamagedLine, Line, open_line
from bzzz.trust.audit_disk import TAIL, files_of, open_for_reading
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import InvalidCode, parse_token
from bzzz.trust.invitation_store import InvitationStore
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.presenting import MAX_PROOF
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import encode_batch
from bzzz.trust.statements import Rotate
from bzzz.wire.multiaddr import Multiaddr

__all__ = [
    "TELL_SECONDS",
    "Keys",
    "Rotated",
    "Rotation",
    "Whereabouts",
    "drop_tokens",
    "finish",
    "settle",
]

# Seconds that linked members have to hear of the new key before the node goes on. Who has not heard
# by then is shown the proof when it is dialled with the new key.
TELL_SECONDS = 2.0
LOOK_SECONDS = 0.02

# Seconds between the answer to the owner and the end of the process, for the answer to leave.
ANSWER_SECONDS = 0.2

VOID = "the key of this node was rotated"

InThread = Callable[[Callable[[], Any]], Deferred[Any]]

_log = Logger()


class Keys(Shape):
    """This node's keys on the disk: :class:`bzzz.state.OpenState`. All of it blocks.

    :ivar identity: the key that the node uses.
    :ivar previous: the one before it, while that is still in its place on the disk.
    """

    identity: PrivateKey
    previous: PrivateKey | None

    def next_identity(self) -> PrivateKey | None:
        """The key that is to follow."""

    def make_next_identity(self) -> PrivateKey:
        """Make it, unless it is there."""

    def forget_next_identity(self) -> None:
        """Delete it."""

    def follow(self, key: PrivateKey) -> None:
        """Use it, but for the disk."""

    def take_next_identity(self) -> None:
        """Have it on the disk in the place of the one before, and destroy that one."""


class Talk(Shape):
    """What is used of :class:`bzzz.trust.roster_streams.RosterStreams`."""

    @property
    def talking(self) -> Collection[PeerID]:
        """The members with whom there is a stream."""

    def flush(self) -> None:
        """Send what there is for them."""


@dataclass(frozen=True)
class Rotated:
    """A rotation that counts at the next start, which follows.

    :ivar old: this node's peer ID until then.
    :ivar new: its peer ID from then on.
    :ivar cluster: that it is in; nothing if none.
    :ivar name: its name there.
    :ivar linked: how many members could be told.
    :ivar told: how many of them have heard it.
    :ivar can_prove: whether the others can be shown a proof when they are met.
    :ivar void: the channels of its invitations, which are void.
    """

    old: PeerID
    new: PeerID
    cluster: str
    name: str
    linked: int
    told: int
    can_prove: bool
    void: tuple[str, ...]


class Rotation:
    """Has the running node take another key.

    :param restart: has the process end in order, and be started again by the same command line.
    """

    def __init__(
        self,
        keys: Keys,
        cluster: Cluster,
        pairing: Pairing,
        talk: Talk,
        clock: Clock,
        in_thread: InThread,
        restart: Callable[[], object],
    ) -> None:
        self._keys = keys
        self._cluster = cluster
        self._pairing = pairing
        self._talk = talk
        self._clock = clock
        self._in_thread = in_thread
        self._restart = restart
        self._under_way = False

    async def rotate(self) -> Rotated:
        """Make a key, say that it takes this node's place, and have the node started again with it.

        :raises ClusterError: that cannot be done now; nothing has changed.
        :raises BzzzError: the disk takes nothing, or the roster; the old key stays, unless the
            roster on the disk says otherwise when the node starts the next time.
        """
        if self._under_way:
            raise ClusterError("busy", "the key of this node is being rotated at this moment")
        if self._keys.previous is not None:
            raise ClusterError(
                "unfinished",
                "the last rotation is not at its end, as the disk does not take the audit log's"
                " line of it: see the node's log for what is wrong, and mend that",
            )
        self._under_way = True
        try:
            rotated = await self._rotate()
        except BaseException:
            self._under_way = False
            raise
        # It is under way from here on until the process ends.
        self._clock.callLater(ANSWER_SECONDS, self._restart)
        return rotated

    async def _rotate(self) -> Rotated:
        old, roster = self._keys.identity.peer_id, self._cluster.roster
        cluster = name = ""
        linked = told = 0
        can_prove = True
        if roster is not None:
            if not roster.admits(old) and not self._cluster.is_rotating:
                raise ClusterError(
                    "revoked",
                    f"this node was revoked from {roster.cluster}, and with another key it would"
                    " be no member either: bzzz leave makes it one of no cluster, then rotate",
                )
            cluster, name = roster.cluster, roster.name_of(old)
            can_prove = await self._in_thread(lambda: _is_short(roster.copy()))
            if not can_prove and not self._talk.talking:
                raise ClusterError(
                    "nobody_linked",
                    f"no member of {cluster} is linked that could be told of the new key, and the"
                    " roster is too long to prove it to one later: connect this node first",
                )
        new = await self._in_thread(self._keys.make_next_identity)
        if roster is not None:
            try:
                await self._cluster.say_rotating(new)
            except BzzzError:
                if not self._cluster.is_rotating:
                    await self._in_thread(self._keys.forget_next_identity)
                raise
            linked, told = await self._tell()
        void = tuple(invitation.channel for invitation, _ in self._pairing.open_ones())
        for invitation, _ in self._pairing.open_ones():
            self._pairing.close(invitation, VOID)
        _log.info(
            "{old} gets another key: it starts again as {new}. {told} of {linked} linked members"
            " have heard it",
            old=old,
            new=new.peer_id,
            told=told,
            linked=linked,
        )
        return Rotated(old, new.peer_id, cluster, name, linked, told, can_prove, void)

    async def _tell(self) -> tuple[int, int]:
        """Tell the linked members; how many there are, and how many have heard it."""
        linked = set(self._talk.talking)
        self._talk.flush()
        end = self._clock.seconds() + TELL_SECONDS
        # Who has heard it ends the link: the old key is no member's any more.
        while linked & set(self._talk.talking) and self._clock.seconds() < end:
            await _pause(self._clock, LOOK_SECONDS)
        return len(linked), len(linked - set(self._talk.talking))


class Whereabouts:
    """Has members that have another key looked for where they were with the old one.

    Nobody else may be able to tell where they are, such as where there is no mDNS.

    :param addresses: where a peer was.
    :param found: told of a peer, its addresses and its name.
    """

    def __init__(
        self,
        cluster: Cluster,
        addresses: Callable[[PeerID], Sequence[Multiaddr]],
        found: Callable[[PeerID, Sequence[Multiaddr], str], object],
    ) -> None:
        self._cluster = cluster
        self._addresses = addresses
        self._found = found
        self._told: set[PeerID] = set()
        cluster.on_change(self.look)

    def look(self) -> None:
        """Tell of those that have not been told of; again when more addresses are known."""
        roster = self._cluster.roster
        if roster is None:
            self._told.clear()
            return
        revoked = roster.revoked
        for peer, member in roster.members.items():
            before = revoked.get(member.admitted_by)
            if before is None or before.statement != member.statement or peer in self._told:
                continue
            addresses = self._addresses(before.peer_id)
            if addresses:
                self._told.add(peer)
                self._found(peer, addresses, member.name)


def _is_short(roster: Roster) -> bool:
    """Whether the roster, with one statement more, can be shown as a proof. Takes long."""
    encoded = encode_batch(roster.statements())
    return len(msgspec.json.encode({"statements": encoded})) + 2048 <= MAX_PROOF


# -- at the start


def settle(keys: Keys, roster: Roster | None, log: Path) -> None:
    """See what became of a rotation, before anything uses the key. Blocks.

    Afterwards the node has the key that its roster says. :func:`finish` has to follow, with an
    audit log that signs with ``keys.previous`` if there is one.

    :param log: the audit log.
    :raises BzzzError: the disk cannot be read or written, or the new key is lost.
    """
    old = keys.identity.peer_id
    try:
        new = keys.next_identity()
    except IdentityError as error:
        if roster is not None and _successors(roster, old):
            raise IdentityError(
                f"{error}. The roster of {roster.cluster} knows this node by that key: without it,"
                " delete the file, start the node, and have it leave and join again"
            ) from error
        new = None
        keys.forget_next_identity()
    if new is None:
        return
    if roster is not None and new.peer_id not in _successors(roster, old):
        _log.warn(
            "The key of this node was to be rotated, which came to nothing before anybody was told:"
            " it stays {old}",
            old=old,
        )
        keys.forget_next_identity()
        return
    keys.follow(new)
    _log.info(
        "The key of this node was rotated: it is {new}, and was {old}", new=new.peer_id, old=old
    )
    if _has_line(log, new.peer_id):
        keys.take_next_identity()


async def finish(keys: Keys, written: Awaitable[bool], in_thread: InThread) -> None:
    """Destroy the old key, once the line of the audit log that it alone can sign is on the disk.

    :param written: of :meth:`~bzzz.trust.audit.AuditLog.rotate_key`.
    """
    if not await written:
        return  # the node has ended before; the next start goes on here
    try:
        await in_thread(keys.take_next_identity)
    except BzzzError as error:
        _log.error(
            "{error}. The old key is still on the disk; the next start tries again", error=error
        )


async def drop_tokens(store: InvitationStore, own: PeerID, record: Callable[..., object]) -> None:
    """Forget the tokens that name this node by an older key: nobody can find it by them.

    :param record: for the audit log.
    """
    for kept, _ in await store.load():
        try:
            token = parse_token(kept.token)
        except InvalidCode:
            continue  # whoever opens it again tells of that
        if token.inviter != own:
            await store.remove(token.channel)
            record("invitation_void", invitation=token.channel, reason=VOID)


def _successors(roster: Roster, peer: PeerID) -> set[PeerID]:
    """Those that take the peer's place, as it has said itself."""
    said = (each.statement for each in roster.statements())
    return {each.target for each in said if isinstance(each, Rotate) and each.author == peer}


def _has_line(log: Path, new: PeerID) -> bool:
    """Whether the audit log says already that this key follows."""
    try:
        line = _last_good_line(log)
    except OSError:
        return False  # the log itself will tell
    if line is None:
        return False
    return line.key == str(new) or (
        line.event == "key_rotated" and line.fields.get("new_key") == str(new)
    )


def _last_good_line(log: Path) -> Line | None:
    """The last line that is one, where a crash may have left the rest of another behind it."""
    for path in reversed(files_of(log)):
        with open_for_reading(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            content = file.read(TAIL)
        for raw in reversed(content.split(b"\n")[:-1]):
            try:
                return open_line(raw)
            except DamagedLine:
                continue
    return None


def _pause(clock: Clock, seconds: float) -> Deferred[None]:
    paused: Deferred[None] = Deferred()
    clock.callLater(seconds, paused.callback, None)
    return paused
