"""The open invitations of a node (``docs/trust.rst``, "Pairing").

Enters: what the owner opens and closes, runs and how they went, the time. Leaves: invitations, and
whether a run may go on. Nothing here admits anybody.

How an inviter uses it, for each run:

1. Message 1: :meth:`Invitations.look_up` its channel, and :meth:`Invitations.begin_run`.
2. Message 3 with a wrong code: :meth:`Invitations.wrong_guess`.
3. Message 3 with the right code: :meth:`Invitations.use` at once, before anything is written to
   disk, as other runs of the same code may be under way. Then the admission, and
   :meth:`Invitations.admitted` or :meth:`Invitations.give_back`.

Times are in seconds since the epoch, as tokens outlive a restart of the node. A clock that is set
back makes a code good for longer; its guesses are no more for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bzzz.errors import BzzzError, IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.codes import (
    CHANNEL_BYTES,
    Code,
    InvalidCode,
    Token,
    make_code,
    make_token,
    parse_token,
)

__all__ = [
    "ALL_RUNS_PER_MINUTE",
    "CODE_SECONDS",
    "Invitation",
    "InvitationError",
    "Invitations",
    "MAX_OPEN",
    "MAX_USES",
    "MAX_WRONG",
    "RUNS_PER_MINUTE",
    "TOKEN_RUNS_PER_MINUTE",
    "TokenRecord",
]

# Seconds that a code is good for: time to walk to the other machine.
CODE_SECONDS = 600

# Wrong guesses that make a code void. Of 2^22 codes, somebody who guesses hits one in 1.4 million.
MAX_WRONG = 3

# Runs of one code that are answered in a minute, of one token, and of all invitations. A person
# needs one or two; a token may be for a rack of machines that start together. Each run takes
# 0.7 ms. The third is more than all codes together may have, so that guessing stops no token.
RUNS_PER_MINUTE = 10
TOKEN_RUNS_PER_MINUTE = 120
ALL_RUNS_PER_MINUTE = 600

# Invitations that are open at once: the number in a code stays short, and what is kept is little.
MAX_OPEN = 32

# Machines that one token may be for: as many as a roster has members. Their IDs are kept.
MAX_USES = 512


class InvitationError(BzzzError):
    """An invitation cannot be opened, or a record of one cannot be read; says why."""


class TokenRecord(msgspec.Struct, frozen=True):
    """A token's invitation as a database keeps it. ``token`` is a secret.

    :ivar expires_at: seconds since the epoch.
    :ivar machines: peer IDs of those that it has let in.
    """

    token: str
    uses: int
    expires_at: float
    machines: tuple[str, ...] = ()
    wrong: int = 0

    def __repr__(self) -> str:
        return f"<TokenRecord for {self.uses} machines>"


class _Bucket:
    """A token bucket: so many at once, and as many more in each minute."""

    __slots__ = ("_left", "_size", "_then")

    def __init__(self, size: int) -> None:
        self._size = float(size)
        self._left = float(size)
        self._then = float("-inf")

    def has(self, now: float) -> bool:
        """Whether there is one."""
        # A clock that was set back gives nothing, and takes nothing away.
        passed = min(max(0.0, now - self._then), 60.0)
        self._left = min(self._size, self._left + passed * self._size / 60.0)
        self._then = now
        return self._left >= 1.0

    def take(self) -> None:
        """Take the one that there is."""
        self._left -= 1.0


@dataclass(slots=True, eq=False)
class Invitation:
    """An invitation.

    :ivar secret: what it is open to; its representation does not show it.
    :ivar uses: machines that it is for.
    :ivar expires_at: seconds since the epoch.
    :ivar machines: who has one of the uses: was admitted, or is being admitted now.
    :ivar wrong: wrong guesses so far.
    :ivar open: whether it is.
    """

    secret: Code | Token
    uses: int
    expires_at: float
    machines: list[PeerID] = field(default_factory=list)
    wrong: int = 0
    open: bool = True
    # Runs of each machine in which it is being admitted, and machines that were.
    _admitting: dict[PeerID, int] = field(default_factory=dict, init=False, repr=False)
    _admitted: set[PeerID] = field(init=False, repr=False)
    _bucket: _Bucket = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._admitted = set(self.machines)
        self._bucket = _Bucket(TOKEN_RUNS_PER_MINUTE if self.is_token else RUNS_PER_MINUTE)

    @property
    def channel(self) -> str:
        """What a joiner names it by."""
        return self.secret.channel

    @property
    def is_token(self) -> bool:
        """Whether it is a token's."""
        return isinstance(self.secret, Token)

    @property
    def guesses_left(self) -> int | None:
        """Wrong guesses that make it void; None where none do."""
        return None if self.is_token else max(0, MAX_WRONG - self.wrong)

    def is_good_for(self, peer: PeerID) -> bool:
        """Whether it is for this peer too: there is a use left, or the peer has one already."""
        return self.open and (peer in self.machines or len(self.machines) < self.uses)

    def record(self) -> TokenRecord | None:
        """What a database keeps of it: of a code nothing, as a restart makes it void."""
        if not isinstance(self.secret, Token):
            return None
        return TokenRecord(
            self.secret.text,
            self.uses,
            self.expires_at,
            tuple(map(str, self.machines)),
            self.wrong,
        )


class Invitations:
    """The open ones.

    :param inviter: this node.
    :param random_bytes: the kernel's, but in tests.
    """

    def __init__(self, inviter: PeerID, random_bytes: Callable[[int], bytes]) -> None:
        self._inviter = inviter
        self._random_bytes = random_bytes
        self._open: dict[str, Invitation] = {}
        self._bucket = _Bucket(ALL_RUNS_PER_MINUTE)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def all(self) -> tuple[Invitation, ...]:
        """All that are open, and those that have expired since :meth:`expire`."""
        return tuple(self._open.values())

    @property
    def next_expiry(self) -> float | None:
        """When the first of them expires, in seconds since the epoch; None if none is open."""
        return min((each.expires_at for each in self._open.values()), default=None)

    def open_code(self, now: float) -> Invitation:
        """Open an invitation for one machine, by a code with the smallest number that is free.

        :raises InvitationError: too many are open.
        """
        self._make_room(now)
        channel = next(str(n) for n in range(1, MAX_OPEN + 1) if str(n) not in self._open)
        return self._add(Invitation(make_code(channel, self._random_bytes), 1, now + CODE_SECONDS))

    def open_token(self, uses: int, expires_at: float, now: float) -> Invitation:
        """Open an invitation by a token.

        :param uses: machines that it is for.
        :param expires_at: seconds since the epoch.
        :raises InvitationError: too many are open, it is for no machine or too many, or it has
            expired already.
        """
        self._make_room(now)
        if not 0 < uses <= MAX_USES:
            raise InvitationError(f"a token is for 1 to {MAX_USES} machines, not for {uses}")
        if not now < expires_at < float("inf"):
            raise InvitationError("a token has to expire after now")
        channel = self._random_bytes(CHANNEL_BYTES)
        token = make_token(self._inviter, channel, self._random_bytes)
        return self._add(Invitation(token, uses, expires_at))

    def restore(self, record: TokenRecord | Mapping[str, Any], now: float) -> Invitation | None:
        """Open an invitation again that a database has kept; None if it has expired since.

        :raises InvitationError: the record is damaged, or of another node; or too many are open.
        """
        damaged = InvitationError(
            "the record of a token is damaged, so the token is void: make a new one"
        )
        try:
            kept = msgspec.convert(record, TokenRecord, from_attributes=True)
            token = parse_token(kept.token)
            machines = [PeerID.parse(text) for text in kept.machines]
        except (msgspec.ValidationError, InvalidCode, IdentityError):
            # Their texts may have parts of the record, which has the secret.
            raise damaged from None
        if not (
            0 < kept.uses <= MAX_USES
            and len(set(machines)) == len(machines) <= kept.uses
            and kept.wrong >= 0
            and kept.expires_at < float("inf")
        ):
            raise damaged
        if token.inviter != self._inviter:
            raise InvitationError(f"the record of a token is of another node, {token.inviter}")
        if token.channel in self._open:
            raise InvitationError(f"the invitation of channel {token.channel} is open already")
        if not now < kept.expires_at:
            return None
        self._make_room(now)
        return self._add(Invitation(token, kept.uses, kept.expires_at, machines, kept.wrong))

    def look_up(self, channel: str, now: float) -> Invitation | None:
        """The open invitation of a channel."""
        found = self._open.get(channel)
        return found if found is not None and now < found.expires_at else None

    def begin_run(self, invitation: Invitation, peer: PeerID, now: float) -> str | None:
        """Count one more run with a peer.

        :returns: None if it may go on, else the code of a refusal: ``used``, ``busy``, or
            ``no_channel`` if the invitation is closed or has expired.
        """
        if not self._is_open(invitation, now):
            return "no_channel"
        if not invitation.is_good_for(peer):
            return "used"
        # Both are asked first: who may not have a run takes none from others.
        mine, all_of_them = invitation._bucket, self._bucket
        if not (mine.has(now) and all_of_them.has(now)):
            return "busy"
        mine.take()
        all_of_them.take()
        return None

    def wrong_guess(self, invitation: Invitation) -> int | None:
        """A peer confirmed with a wrong code. The last guess makes the code void.

        :returns: guesses left; None for a token, which no number of them makes void.
        """
        if invitation.open:
            invitation.wrong += 1
            if invitation.guesses_left == 0:
                self.close(invitation)
        return invitation.guesses_left

    def use(self, invitation: Invitation, peer: PeerID, now: float) -> str | None:
        """A peer confirmed with the right code: it has one of the uses while it is being admitted.

        :returns: None if it may be admitted, else the code of a refusal, as of :meth:`begin_run`.
        """
        if not self._is_open(invitation, now):
            return "no_channel"
        if not invitation.is_good_for(peer):
            return "used"
        if peer not in invitation.machines:
            invitation.machines.append(peer)
        invitation._admitting[peer] = invitation._admitting.get(peer, 0) + 1
        return None

    def admitted(self, invitation: Invitation, peer: PeerID) -> None:
        """The peer, which has a use, was admitted: it keeps the use."""
        if self._end_use(invitation, peer):
            invitation._admitted.add(peer)

    def give_back(self, invitation: Invitation, peer: PeerID) -> None:
        """The peer was not admitted in this run: its use is free, unless it was in another."""
        if (
            self._end_use(invitation, peer)
            and peer not in invitation._admitting
            and peer not in invitation._admitted
        ):
            invitation.machines.remove(peer)

    def close(self, invitation: Invitation) -> bool:
        """Close it, so that its code is void; whether it was open."""
        was_open = invitation.open
        invitation.open = False
        if self._open.get(invitation.channel) is invitation:
            del self._open[invitation.channel]
        return was_open

    def expire(self, now: float) -> list[Invitation]:
        """Close those that have expired; they are returned."""
        gone = [each for each in self._open.values() if now >= each.expires_at]
        for invitation in gone:
            self.close(invitation)
        return gone

    def _end_use(self, invitation: Invitation, peer: PeerID) -> bool:
        runs = invitation._admitting.pop(peer, 0)
        if runs > 1:
            invitation._admitting[peer] = runs - 1
        return runs > 0

    def _is_open(self, invitation: Invitation, now: float) -> bool:
        return invitation.open and now < invitation.expires_at

    def _make_room(self, now: float) -> None:
        self.expire(now)
        if len(self._open) >= MAX_OPEN:
            raise InvitationError(
                f"{MAX_OPEN} invitations are open, which is the most: close one first"
            )

    def _add(self, invitation: Invitation) -> Invitation:
        self._open[invitation.channel] = invitation
        return invitation
