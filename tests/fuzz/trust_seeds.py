"""Well-formed inputs for what guests and members say of rosters, and to a node that is a member."""

from __future__ import annotations

import msgspec

from bzzz.identity.keys import PrivateKey
from bzzz.trust.pairing import Inviter, Joiner
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import encode_batch
from bzzz.trust.statements import Role, SignedStatement
from bzzz.wire.framing import frame
from bzzz.wire.identify import Identify
from tests.fuzz.exchange_targets import ACACIA, KNOWN, LATER, proof
from tests.fuzz.member_target import ADMITTED, HISTORY, MEMBER, NOW, MemberWorld, made_roster
from tests.fuzz.node_target import (
    AGAIN,
    ANSWER,
    CONNECT,
    ENDING,
    HANG_UP,
    SPOKEN,
    TURN,
    WAIT,
    encode_step,
)
from tests.fuzz.registry import OURS, THEIRS, fixed_bytes
from tests.trust.rosters import admit, found

__all__ = ["member_seeds", "trust_seeds"]

# Places in SPOKEN.
PAIR, PRESENT, ROSTER = 5, 6, 7


def said(**fields: list[str]) -> bytes:
    """A message of the exchange."""
    return frame(msgspec.json.encode(fields))


def ids(*statements: SignedStatement) -> list[str]:
    """As messages have them."""
    return [each.id.hex() for each in statements]


def exchange_seeds() -> list[bytes]:
    """Heads; questions; batches of news, of what is known, of what is wrong and of nothing."""
    other = found("mallory", b"m" * 16)
    return [
        said(heads=ids(KNOWN[-1])) + said(heads=ids(*LATER[1:])),
        said(want=ids(KNOWN[-1]), have=[]) + said(want=ids(*KNOWN), have=ids(KNOWN[0])),
        said(statements=encode_batch(LATER)),
        said(statements=encode_batch(LATER[1:])) + said(statements=encode_batch(LATER)),
        said(statements=encode_batch([admit("sumac", "acacia", KNOWN[-1])])),
        said(statements=encode_batch([other, admit("mallory", "acacia", other)])),
    ]


def proof_seeds() -> list[bytes]:
    """Proofs, whole and in pieces; of nothing; of another cluster."""
    proofs = (proof(*KNOWN, ACACIA), proof(*KNOWN, *LATER), proof(found("mallory", b"m" * 16)))
    return [b"\0" + frame(each) for each in (*proofs, b"{}")] + [b"\x7f" + frame(proofs[0])]


def pairing() -> list[bytes]:
    """The joiner's messages to the node, with the token that is open there."""
    invitation, _ = MemberWorld().pairing.open_ones()[0]
    password = invitation.secret.password
    joiner = Joiner(
        *(THEIRS.peer_id, OURS.peer_id, invitation.channel, password, "acacia", b"", fixed_bytes),
        unbound=True,
    )
    inviter = Inviter(OURS.peer_id, THEIRS.peer_id, b"", fixed_bytes, unbound=True)
    request = joiner.begin()
    inviter.receive(request)
    joiner.receive(inviter.offer(password))
    return [frame(request), frame(joiner.confirm()), frame(b'{"joined":true}')]


def member_seeds() -> list[bytes]:
    """Guests that ask, pair and present; a member that says who is let in, and who is put out."""
    who = Identify(public_key=MEMBER.public, protocols=SPOKEN, name="ironwood")
    first, *others = pairing()
    pairs = [encode_step(PAIR, first), *(encode_step(AGAIN, each) for each in others)]
    presents = encode_step(PRESENT, frame(proof(*HISTORY, ADMITTED)))
    comes = [
        encode_step(CONNECT | 1 << 6, b""),
        # What the node opens streams for: it has RPCs to send, and asks who this is.
        encode_step(ANSWER, b""),
        encode_step(ANSWER | ENDING, frame(who.encode())),
        encode_step(ROSTER, said(heads=ids(HISTORY[-1]))),
    ]
    roster = made_roster()
    roster.add(ADMITTED)
    revokes = [roster.make_revoke(MEMBER, peer, "", NOW) for peer in (THEIRS.peer_id, OURS.peer_id)]
    tells = [
        encode_step(AGAIN, said(statements=encode_batch([each]))) for each in (ADMITTED, *revokes)
    ]
    asks = [encode_step(kind | ENDING, b"") for kind in (0, 1, 2, 3, 4, 5, 6, 7)]
    waits = [encode_step(WAIT | wait << 6, b"") for wait in (0, 1, 2, 3)]
    return [
        b"".join(asks + waits),
        b"".join(pairs),
        b"".join([presents, *waits[:2], *asks]),
        b"".join([*comes, *tells]),
        b"".join([*comes, tells[0], encode_step(TURN, b""), *asks, encode_step(TURN, b""), *tells]),
        b"".join([presents, *comes, *tells[1:], waits[1], encode_step(HANG_UP, b"")]),
        b"".join([encode_step(PRESENT, frame(b"{}")), pairs[0], *waits]),
    ]


def grown(count: int) -> Roster:
    """A roster with so many statements by one admin."""
    roster = made_roster()
    for number in range(count):
        peer = PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id
        roster.add(roster.make_admit(OURS, peer, f"m{number}", Role.MEMBER, NOW))
    return roster


def trust_seeds() -> dict[str, list[bytes]]:
    """Of all these targets."""
    return {
        "roster_messages": exchange_seeds(),
        "present": proof_seeds(),
        "member": [*member_seeds(), encode_step(PRESENT, frame(proof(*grown(30).statements())))],
    }
