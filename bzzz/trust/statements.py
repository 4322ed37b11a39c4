"""One statement of a roster: its fields, its one form as bytes, its ID and its signature.

Enters: bytes from a peer or from disk, or what somebody wants to say and the key to sign it with.
Leaves: a :class:`SignedStatement`, or an error. What a statement does, and who may say it, is
judged in :mod:`bzzz.trust.roster`. docs/trust.rst, "The roster".

============================ =====================================================================
code of the error            what is wrong
============================ =====================================================================
``statement_length``         longer than a statement can be, or shorter than a signature
``statement_unreadable``     no JSON object
``statement_kind``           a kind that is not known here
``statement_fields``         a field is missing, or of another type, or there is one too many
``statement_peer``           a peer ID is not that of an Ed25519 key
``statement_not_canonical``  the same can be said in other bytes, and those are the right ones
``statement_parents``        none, too many, not sorted or one twice; or a ``found`` that has some
``statement_time``           ``time`` is not a time of RFC 3339
``statement_text``           a name or a text is empty, too long or not fit to be shown
``statement_target``         an ``admit`` or a ``rotate`` of the author to itself
============================ =====================================================================
"""

from __future__ import annotations

import base64
import binascii
import datetime
import enum
import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from bzzz.errors import IdentityError, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import SIGNATURE_LENGTH, PrivateKey
from bzzz.identity.peer_id import PeerID

__all__ = [
    "MAX_NAME",
    "MAX_PARENTS",
    "MAX_REASON",
    "MAX_STATEMENT",
    "Admit",
    "Found",
    "Rename",
    "Revoke",
    "Right",
    "Role",
    "Rotate",
    "SignedStatement",
    "Statement",
    "StatementID",
    "decode_statement",
    "prove_rotation",
    "sign",
    "verify",
]

# What signatures cover, before the statement itself.
SIGN_PREFIX = b"bzzz-roster-v1:"
ROTATE_PREFIX = b"bzzz-rotate-v1:"

ID_LENGTH = 32
NONCE_LENGTH = 16

# Parents of a statement: the newest ones that its author knew. There are more only where more than
# as many members spoke since anybody heard of the others.
MAX_PARENTS = 64

# Characters of the name of a machine or of a cluster. ``--name`` takes 63.
MAX_NAME = 63

# Characters of why somebody was revoked: a line.
MAX_REASON = 200

# Bytes of a statement without its signature. The longest that the other limits allow has 5.6 KiB.
MAX_STATEMENT = 6 << 10

# Machines are called as ``--name`` allows, and so that nobody can take a name that only looks like
# another's.
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")

# What other texts are free of: controls, which terminals act on; characters that end lines, that
# nobody sees, or that turn the order of the text around. A fixed list, because str.isprintable
# differs between versions of Python, and what is well-formed must not.
_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]"
)

_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)

# The BLAKE2b-256 hash of a statement's bytes.
StatementID = bytes


class Right(enum.Enum):
    """What a member may do. The values are bits."""

    ADMINISTER = 1
    SUBMIT = 2
    RUN = 4


class Role(enum.StrEnum):
    """The sets of rights that a peer can be admitted with."""

    ADMIN = "admin"
    MEMBER = "member"
    SUBMIT_ONLY = "submit-only"
    RUN_ONLY = "run-only"

    @property
    def rights(self) -> frozenset[Right]:
        """What a member in this role may do."""
        return _RIGHTS[self]


_RIGHTS = {
    Role.ADMIN: frozenset(Right),
    Role.MEMBER: frozenset({Right.SUBMIT, Right.RUN}),
    Role.SUBMIT_ONLY: frozenset({Right.SUBMIT}),
    Role.RUN_ONLY: frozenset({Right.RUN}),
}


class _Said(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """What all statements have.

    :ivar author: who says and signs it.
    :ivar parents: the newest statements that the author knew, sorted.
    :ivar time: the author's clock, RFC 3339; for people only.
    """

    author: PeerID
    parents: tuple[StatementID, ...]
    time: str


class Found(_Said, frozen=True, tag="found"):
    """Founds a cluster, and admits its author as admin.

    :ivar cluster: what people call it; its ID is the statement's.
    :ivar name: of the author.
    :ivar nonce: 16 random bytes.
    """

    cluster: str
    name: str
    nonce: bytes


class Admit(_Said, frozen=True, tag="admit"):
    """Makes ``target`` a member, called ``name``, in ``role``."""

    target: PeerID
    name: str
    role: Role


class Revoke(_Said, frozen=True, tag="revoke"):
    """Ends the membership of ``target``; ``reason`` is for people."""

    target: PeerID
    reason: str


class Rename(_Said, frozen=True, tag="rename"):
    """Calls ``target`` ``name`` from now on."""

    target: PeerID
    name: str


class Rotate(_Said, frozen=True, tag="rotate"):
    """Puts ``target``, a new peer ID, in the author's place.

    :ivar proof: the new key's signature, see :func:`prove_rotation`.
    """

    target: PeerID
    proof: bytes


Statement = Found | Admit | Revoke | Rename | Rotate

_KINDS = ("found", "admit", "revoke", "rename", "rotate")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, its bytes and its author's signature of them.

    :ivar body: the statement in its one form.
    :ivar id: the hash of ``body``. The signature has no part in it.
    """

    statement: Statement
    body: bytes
    signature: bytes
    id: StatementID

    def encode(self) -> bytes:
        """The signature and the body: what is sent and kept."""
        return self.signature + self.body


def decode_statement(data: bytes) -> SignedStatement:
    """Read what :meth:`SignedStatement.encode` gave. The signature is not checked.

    :raises RemoteProtocolError: it is no statement in its one form; the module's table has the
        codes.
    """
    if not SIGNATURE_LENGTH < len(data) <= SIGNATURE_LENGTH + MAX_STATEMENT:
        raise RemoteProtocolError(
            f"a statement of {len(data)} bytes with its signature: "
            f"at most {SIGNATURE_LENGTH + MAX_STATEMENT} are allowed",
            "statement_length",
        )
    body = bytes(data[SIGNATURE_LENGTH:])
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"a statement is not JSON: {_shown(error)}", "statement_unreadable"
        ) from error
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a statement is not a JSON object", "statement_unreadable")
    statement = _from_fields(fields)
    if _encode(statement) != body:
        raise RemoteProtocolError(
            "a statement is not in the one form that it has", "statement_not_canonical"
        )
    _check(statement)
    return SignedStatement(statement, body, bytes(data[:SIGNATURE_LENGTH]), _id_of(body))


def verify(signed: SignedStatement) -> bool:
    """Whether the signature is the author's, and the proof of a ``rotate`` the new key's."""
    statement = signed.statement
    if not _signed_by(statement.author, SIGN_PREFIX + signed.body, signed.signature):
        return False
    if isinstance(statement, Rotate):
        proven = _proven(statement.author, statement.parents)
        return _signed_by(statement.target, proven, statement.proof)
    return True


def sign(key: PrivateKey, statement: Statement) -> SignedStatement:
    """Make a statement that others take.

    :raises LocalProtocolError: it is not the key's owner who says it, or it is not as it should be;
        the message says what is wrong.
    """
    if statement.author != key.peer_id:
        raise LocalProtocolError(f"{key.peer_id} cannot sign what {statement.author} says")
    try:
        body = _encode(statement)
        return decode_statement(key.sign(SIGN_PREFIX + body) + body)
    except (RemoteProtocolError, UnicodeError) as error:
        raise LocalProtocolError(_shown(error)) from error


def prove_rotation(key: PrivateKey, author: PeerID, parents: tuple[StatementID, ...]) -> bytes:
    """The ``proof`` of a ``rotate``: that who has the new ``key`` wants it, there and then."""
    return key.sign(_proven(author, parents))


def _proven(author: PeerID, parents: tuple[StatementID, ...]) -> bytes:
    joined = "".join(parent.hex() for parent in parents)
    return ROTATE_PREFIX + f"{author}:{joined}".encode()


def _signed_by(peer: PeerID, data: bytes, signature: bytes) -> bool:
    try:
        key = peer.public_key
    except IdentityError:
        return False
    return key is not None and key.verify(data, signature)


def _id_of(body: bytes) -> StatementID:
    return hashlib.blake2b(body, digest_size=ID_LENGTH).digest()


def _encode(statement: Statement) -> bytes:
    fields = msgspec.to_builtins(statement, builtin_types=(bytes,), enc_hook=str)
    fields["parents"] = [parent.hex() for parent in statement.parents]
    if isinstance(statement, Found):
        fields["nonce"] = statement.nonce.hex()
    elif isinstance(statement, Rotate):
        fields["proof"] = base64.b64encode(statement.proof).decode()
    return _encoder.encode(fields)


def _from_fields(fields: dict[str, Any]) -> Statement:
    if fields.get("kind") not in _KINDS:
        # Not quoted: it may be of any type and length.
        raise RemoteProtocolError("a statement is of a kind not known here", "statement_kind")
    try:
        if isinstance(parents := fields.get("parents"), list):
            fields["parents"] = [_from_hex(parent, ID_LENGTH) for parent in parents]
        if "nonce" in fields:
            fields["nonce"] = _from_hex(fields["nonce"], NONCE_LENGTH)
        if "proof" in fields:
            fields["proof"] = _from_base64(fields["proof"])
        statement: Statement = msgspec.convert(
            fields, Statement, builtin_types=(bytes,), dec_hook=_peer
        )
    except IdentityError as error:
        raise RemoteProtocolError(
            "a statement names what is not the peer ID of an Ed25519 key", "statement_peer"
        ) from error
    except (ValueError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(
            f"a statement is not as it should be: {_shown(error)}", "statement_fields"
        ) from error
    return statement


def _from_hex(text: object, length: int) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * length:
        raise ValueError(f"{2 * length} hexadecimal digits are something else")
    return bytes.fromhex(text)


def _from_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("base64 is something else")
    try:
        proof = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"base64 is something else: {error}") from error
    if len(proof) != SIGNATURE_LENGTH:
        raise ValueError(f"a signature has {len(proof)} bytes")
    return proof


def _peer(kind: type, text: object) -> PeerID:
    # The form as a CID is not the one form, and costs more to read.
    if not isinstance(text, str) or not text.startswith("1"):
        raise IdentityError("not the base58 text of a key")
    peer = PeerID.parse(text)
    if peer.public_key is None:
        raise IdentityError("only the hash of a key")
    return peer


def _check(statement: Statement) -> None:
    """What the types of the fields do not say.

    :raises RemoteProtocolError: something is not as it should be.
    """
    parents = statement.parents
    if isinstance(statement, Found):
        if parents:
            _refuse("a cluster is founded after nothing", "statement_parents")
        _check_text("the cluster's name", statement.cluster, 1, MAX_NAME)
    elif not 0 < len(parents) <= MAX_PARENTS:
        _refuse(
            f"a statement has {len(parents)} parents, not 1 to {MAX_PARENTS}", "statement_parents"
        )
    if any(one >= other for one, other in itertools.pairwise(parents)):
        _refuse("the parents of a statement are not sorted, or one is twice", "statement_parents")
    _check_time(statement.time)
    if isinstance(statement, Revoke):
        _check_text("the reason", statement.reason, 0, MAX_REASON)
    elif not isinstance(statement, Rotate) and _NAME.fullmatch(statement.name) is None:
        _refuse(
            f"a machine's name has letters, digits and . _ -, at most {MAX_NAME}, "
            "a letter or digit first",
            "statement_text",
        )
    if isinstance(statement, Admit | Rotate) and statement.target == statement.author:
        _refuse("nobody can admit itself, or rotate to the key it has", "statement_target")


def _check_text(what: str, text: str, least: int, most: int) -> None:
    if not least <= len(text) <= most:
        _refuse(f"{what} has {len(text)} characters, not {least} to {most}", "statement_text")
    if _UNFIT.search(text) is not None or text != text.strip(" "):
        _refuse(
            f"{what} begins or ends with a space, or has characters that cannot be shown",
            "statement_text",
        )


def _check_time(text: str) -> None:
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError("not of the form")
        datetime.date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError as error:
        raise RemoteProtocolError(
            "the time of a statement is not a time (write 2026-01-02T03:04:05Z)", "statement_time"
        ) from error


def _refuse(what: str, code: str) -> NoReturn:
    raise RemoteProtocolError(what, code)


def _shown(error: Exception) -> str:
    """Its text, which may quote what a peer wrote, in a line fit to be shown."""
    return str(error).encode("unicode_escape").decode("ascii")[:200]
