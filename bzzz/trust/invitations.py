"""The open invitations of a node (``docs/trust.rst``, "Pairing").

Enters: what the owner opens and closes, runs and how they went, the time. Leaves: invitations, and
whether a run may go on. Nothing here admits anybody.

How an inviter uses it, for each run:

1. Message 1: :meth:`Invitations.look_up` its channel, and :meth:`Invitations.begin_run`.
2. Message 3 with a wrong code: :meth:`Invitations.wrong_guess`.
3. Message 3 with the right code: :meth:`Invitations.use` at once, before anything is written to
   disk, as other runs of the same code may be under way. Then the admission, and
   :meth:`Invitations.admitted` or :meth:`Invitations.give_back`.

A machine that has a use comes again only as the member that it is: it may not have heard that it is
one. Who was revoked, has left or has another key by now is none, whoever said so, and however many
uses are left.

Times are in seconds since the epoch, as tokens outlive a restart of the node. A clock that is set
back makes a code good for longer; its guesses are no more for that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping
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
from bzzz.trust.run_limits import RunBucket, RunPlaces

__all__ = [
    "ALL_RUNS_PER_MINUTE",
    "CODE_SECONDS",
    "Invitation",
    "InvitationError",
    "Invitations",
    "MAX_OPEN",
    "MAX_USES",
    "MAX_WRONG",
    "RUNS_PER_HOST",
    "RUNS_PER_MINUTE",
    "RUNS_PER_SUBNET",
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
RUNS_PER_MINUTE = 16
TOKEN_RUNS_PER_MINUTE = 120
ALL_RUNS_PER_MINUTE = 600

# Runs of one code that one IP address, and one IPv6 /64, may have of these: whoever begins runs and
# ends them, which costs no guess, leaves some to others. Nobody can name a token's channel who has
# not seen the token, so a token has no such limit.
RUNS_PER_HOST = 3
RUNS_PER_SUBNET = 12

# Addresses that are told to the owner of a code whose runs are used up.
MAX_BUSIEST = 3

# Invitations that are open at once: the number in a code stays short, and what is kept is little.
MAX_OPEN = 32

# Machines that one token may be for: as many as a roster has members. Their IDs are kept.
MAX_USES = 512


class InvitationError(BzzzError):
    """An invitation cannot be opened, or a record of one cannot be read; says why."""


class TokenRecord(msgspec.Struct, frozen=True):
    """A token's invitation as a database keeps it. ``token`` is a secret.

    :ivar expires_at: seconds since the epoch.
    :ivar machines: peer IDs of those that it has let in, or lets in at the moment.
    :ivar cluster: ID of the cluster that it is for; older records have none.
    """

    token: str
    uses: int
    expires_at: float
    machines: tuple[str, ...] = ()
    wrong: int = 0
    cluster: str = ""

    def __repr__(self) -> str:
        return f"<TokenRecord for {self.uses} machines>"


@dataclass(slots=True, eq=False)
class Invitation:
    """An invitation.

    :ivar secret: what it is open to; its representation does not show it.
    :ivar uses: machines that it is for.
    :ivar expires_at: seconds since the epoch.
    :ivar machines: who has one of the uses: was admitted, or is being admitted now.
    :ivar wrong: wrong guesses so far.
    :ivar cluster: ID of the cluster that it is for.
    :ivar open: whether it is.
    :ivar is_dry: whether a run was refused because its runs of that minute were used up.
    """

    secret: Code | Token
    uses: int
    expires_at: float
    machines: list[PeerID] = field(default_factory=list)
    wrong: int = 0
    cluster: str = ""
    open: bool = True
    is_dry: bool = field(default=False, init=False)
    # Machines that are being admitted, and whether the use of each is a new one.
    _admitting: dict[PeerID, bool] = field(default_factory=dict, init=False, repr=False)
    _bucket: RunBucket = field(init=False, repr=False)
    _hosts: RunPlaces = field(init=False, repr=False)
    _subnets: RunPlaces = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._hosts, self._subnets = RunPlaces(RUNS_PER_HOST), RunPlaces(RUNS_PER_SUBNET)
        self._bucket = RunBucket(TOKEN_RUNS_PER_MINUTE if self.is_token else RUNS_PER_MINUTE)

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

    @property
    def admitting(self) -> tuple[PeerID, ...]:
        """The machines that are being admitted."""
        return tuple(self._admitting)

    def busiest(self, now: float) -> list[str]:
        """The IP addresses that begin most runs of it, at most :data:`MAX_BUSIEST`."""
        return [str(host) for host in self._hosts.busiest(MAX_BUSIEST, now)]

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
            self.cluster,
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
        self._bucket = RunBucket(ALL_RUNS_PER_MINUTE)

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

    def open_code(self, now: float, cluster: str = "") -> Invitation:
        """Open an invitation for one machine, by a code with the smallest number that is free.

        :param cluster: ID of the cluster that it is for.
        :raises InvitationError: too many are open.
        """
        self._make_room(now)
        channel = next(str(n) for n in range(1, MAX_OPEN + 1) if str(n) not in self._open)
        code = make_code(channel, self._random_bytes)
        return self._add(Invitation(code, 1, now + CODE_SECONDS, cluster=cluster))

    def open_token(self, uses: int, expires_at: float, now: float, cluster: str = "") -> Invitation:
        """Open an invitation by a token.

        :param uses: machines that it is for.
        :param expires_at: seconds since the epoch.
        :param cluster: ID of the cluster that it is for.
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
        return self._add(Invitation(token, uses, expires_at, cluster=cluster))

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
        return self._add(
            Invitation(token, kept.uses, kept.expires_at, machines, kept.wrong, kept.cluster)
        )

    def look_up(self, channel: str, now: float) -> Invitation | None:
        """The open invitation of a channel."""
        found = self._open.get(channel)
        return found if found is not None and now < found.expires_at else None

    def begin_run(
        self,
        invitation: Invitation,
        peer: PeerID,
        now: float,
        is_member: bool,
        host: str,
        subnet: Hashable,
    ) -> str | None:
        """Count one more run with a peer.

        :param is_member: whether the peer is a member of the cluster now.
        :param host: its IP address.
        :param subnet: what has caps together with that address.
        :returns: None if it may go on, else the code of a refusal: ``used``, ``busy``, or
            ``no_channel`` if the invitation is closed or has expired.
        """
        refusal = self._refusal(invitation, peer, now, is_member)
        if refusal is not None:
            return refusal
        hosts, subnets = invitation._hosts, invitation._subnets
        # All are asked first: who may not have a run takes none from others.
        if not (
            invitation.is_token or (hosts.has(host, now) and subnets.has(subnet, now))
        ) or not self._bucket.has(now):
            return "busy"
        if not invitation._bucket.has(now):
            invitation.is_dry = True
            return "busy"
        if not invitation.is_token:
            hosts.take(host, now)
            subnets.take(subnet, now)
        invitation._bucket.take()
        self._bucket.take()
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

    def use(self, invitation: Invitation, peer: PeerID, now: float, is_member: bool) -> str | None:
        """A peer confirmed with the right code: it has one of the uses while it is being admitted.

        :param is_member: whether the peer is a member of the cluster now.
        :returns: None if it may be admitted, else the code of a refusal, as of :meth:`begin_run`.
        """
        refusal = self._refusal(invitation, peer, now, is_member)
        if refusal is not None:
            return refusal
        is_new = peer not in invitation.machines
        if is_new:
            invitation.machines.append(peer)
        invitation._admitting[peer] = is_new
        return None

    def admitted(self, invitation: Invitation, peer: PeerID) -> None:
        """The peer, which has a use, is a member: it keeps the use."""
        invitation._admitting.pop(peer, None)

    def give_back(self, invitation: Invitation, peer: PeerID) -> bool:
        """The peer was not admitted: its use is free, unless it had it before; whether it is."""
        was_new = invitation._admitting.pop(peer, False)
        if was_new:
            invitation.machines.remove(peer)
        return was_new

    def keep_uses_of(self, invitation: Invitation, admitted: Container[PeerID]) -> None:
        """Free the uses of machines that are not among those that were ever admitted.

        A crash may have come between what was written of a use and the admission.
        """
        invitation.machines[:] = [peer for peer in invitation.machines if peer in admitted]

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

    def _refusal(
        self, invitation: Invitation, peer: PeerID, now: float, is_member: bool
    ) -> str | None:
        if not self._is_open(invitation, now):
            return "no_channel"
        if peer in invitation._admitting:
            # Another run of it may end either way.
            return "busy"
        if peer in invitation.machines:
            return None if is_member else "used"
        return None if len(invitation.machines) < invitation.uses else "used"

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
