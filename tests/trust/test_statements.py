"""The bytes of statements, and what is wrong with some."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.statements import (
    MAX_NAME,
    MAX_PARENTS,
    MAX_REASON,
    MAX_STATEMENT,
    Admit,
    Found,
    Rename,
    Revoke,
    Right,
    Role,
    Rotate,
    SignedStatement,
    Statement,
    decode_statement,
    prove_rotation,
    sign,
    verify,
)
from tests.trust.rosters import NONCE, TIME, admit, found, key, rename, revoke, rotate

ACACIA = key("acacia").peer_id
WALNUT = key("walnut").peer_id
PARENT = b"\1" * 32
ROOT = found("acacia")

ONE_OF_EACH = (
    ROOT,
    admit("acacia", "walnut", ROOT),
    revoke("acacia", "walnut", ROOT, reason='it was "sold" \\ lost, é'),
    rename("acacia", "acacia", "ironwood", ROOT),
    rotate("acacia", "walnut", ROOT),
)

# Fields of an admit, in their order.
FIELDS: dict[str, Any] = {
    "kind": "admit",
    "author": str(ACACIA),
    "parents": [PARENT.hex()],
    "time": TIME,
    "target": str(WALNUT),
    "name": "walnut",
    "role": "member",
}


def body_of(fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def signed(body: bytes, by: PrivateKey | None = None) -> bytes:
    """What a peer could send: any body, with a good signature of it."""
    return (by or key("acacia")).sign(b"bzzz-roster-v1:" + body) + body


class FormTests(SynchronousTestCase):
    """A statement has one form, one ID and one signature."""

    def test_round_trip(self) -> None:
        """What is encoded is what is decoded, for each kind."""
        for statement in ONE_OF_EACH:
            self.assertEqual(decode_statement(statement.encode()), statement)
            self.assertTrue(verify(statement))

    def test_bytes(self) -> None:
        """The bytes are those of the specification: the order of the fields, the encodings."""
        parent = ROOT.id
        proof = prove_rotation(key("walnut"), ACACIA, (parent,))
        first = f'"author":"{ACACIA}","parents":["{parent.hex()}"],"time":"{TIME}"'
        second = f'"target":"{WALNUT}"'
        for statement, body in zip(
            ONE_OF_EACH,
            (
                f'{{"kind":"found","author":"{ACACIA}","parents":[],"time":"{TIME}",'
                f'"cluster":"home","name":"acacia","nonce":"{NONCE.hex()}"}}',
                f'{{"kind":"admit",{first},{second},"name":"walnut","role":"member"}}',
                f'{{"kind":"revoke",{first},{second},"reason":"it was \\"sold\\" \\\\ lost, é"}}',
                f'{{"kind":"rename",{first},"target":"{ACACIA}","name":"ironwood"}}',
                f'{{"kind":"rotate",{first},{second},"proof":"{base64.b64encode(proof).decode()}"}}',
            ),
            strict=True,
        ):
            self.assertEqual(statement.body.decode(), body)

    def test_id(self) -> None:
        """The ID is the hash of the bytes without the signature."""
        self.assertEqual(
            decode_statement(signed(body_of(FIELDS))).id.hex(),
            "fec40f982df0b9fe33f06170c0c706733e88d21ef2b898eb8a11d19b66c26738",
        )

    def test_signature(self) -> None:
        """The signature is that of the prefix and the bytes."""
        for statement in ONE_OF_EACH:
            self.assertTrue(
                key("acacia").public.verify(
                    b"bzzz-roster-v1:" + statement.body, statement.signature
                )
            )

    def test_proof(self) -> None:
        """The proof of a rotate is the new key's, of the author and the parents."""
        statement = ONE_OF_EACH[4].statement
        assert isinstance(statement, Rotate)
        said = f"bzzz-rotate-v1:{ACACIA}:{ROOT.id.hex()}".encode()
        self.assertTrue(key("walnut").public.verify(said, statement.proof))

    def test_roles(self) -> None:
        """Each role has the rights of the specification."""
        self.assertEqual(Role.ADMIN.rights, {Right.ADMINISTER, Right.SUBMIT, Right.RUN})
        self.assertEqual(Role.MEMBER.rights, {Right.SUBMIT, Right.RUN})
        self.assertEqual(Role.SUBMIT_ONLY.rights, {Right.SUBMIT})
        self.assertEqual(Role.RUN_ONLY.rights, {Right.RUN})

    def test_longest(self) -> None:
        """The longest statements that the other limits allow can be read."""
        parents = tuple(bytes((number,)) * 32 for number in range(MAX_PARENTS))
        name = "a" * MAX_NAME
        longest: list[Statement] = [
            Found(ACACIA, (), TIME, "\U0001f41d" * MAX_NAME, name, NONCE),
            Admit(ACACIA, parents, TIME, WALNUT, name, Role.SUBMIT_ONLY),
            Revoke(ACACIA, parents, TIME, WALNUT, "\U0001f41d" * MAX_REASON),
            Rename(ACACIA, parents, TIME, WALNUT, name),
            Rotate(ACACIA, parents, TIME, WALNUT, prove_rotation(key("walnut"), ACACIA, parents)),
        ]
        for statement in longest:
            self.assertLessEqual(len(sign(key("acacia"), statement).body), MAX_STATEMENT - 256)


class VerifyTests(SynchronousTestCase):
    """Signatures."""

    def replaced(self, statement: SignedStatement, signature: bytes) -> SignedStatement:
        return decode_statement(signature + statement.body)

    def test_wrong_signature(self) -> None:
        """A signature of somebody else, of something else or of nothing is not good."""
        statement = ONE_OF_EACH[1]
        for signature in (
            key("walnut").sign(b"bzzz-roster-v1:" + statement.body),
            key("acacia").sign(statement.body),
            ONE_OF_EACH[2].signature,
            bytes(64),
            statement.signature[:-1] + bytes((statement.signature[-1] ^ 1,)),
        ):
            self.assertFalse(verify(self.replaced(statement, signature)))

    def test_wrong_proof(self) -> None:
        """A rotate proves that the new key's owner wants it: that author, those parents."""
        acacia, walnut = key("acacia"), key("walnut")
        good = prove_rotation(walnut, ACACIA, (PARENT,))
        for proof, right in (
            (good, True),
            (prove_rotation(acacia, ACACIA, (PARENT,)), False),
            (prove_rotation(walnut, WALNUT, (PARENT,)), False),
            (prove_rotation(walnut, ACACIA, (ROOT.id,)), False),
        ):
            statement = sign(acacia, Rotate(ACACIA, (PARENT,), TIME, WALNUT, proof))
            self.assertEqual(verify(statement), right)


class DecodeTests(SynchronousTestCase):
    """What is refused, with its code."""

    def check(self, data: bytes, code: str) -> None:
        error = self.assertRaises(RemoteProtocolError, decode_statement, data)
        self.assertEqual(error.code, code, str(error))
        self.assertTrue(str(error).isprintable())

    def check_fields(self, code: str, **changes: Any) -> None:
        self.check(signed(body_of({**FIELDS, **changes})), code)

    def test_the_rest_is_good(self) -> None:
        """What the other tests change is well-formed before."""
        self.assertTrue(verify(decode_statement(signed(body_of(FIELDS)))))

    def test_length(self) -> None:
        """A statement is longer than its signature, and not too long."""
        for data in (b"", bytes(64), bytes(64 + MAX_STATEMENT + 1)):
            self.check(data, "statement_length")

    def test_unreadable(self) -> None:
        """What is not a JSON object is refused."""
        for body in (b"\xff", b"{", b"[]", b"1", b"[" * 5000, b'{"a":"\\ud800"}', b'"\xff"'):
            self.check(signed(body), "statement_unreadable")

    def test_kind(self) -> None:
        """A kind that is not known here is refused as such."""
        for kind in ("promote", "Admit", "", None, 1, ["admit"], {"admit": 1}):
            self.check_fields("statement_kind", kind=kind)
        self.check(signed(b"{}"), "statement_kind")

    def test_fields(self) -> None:
        """A missing, additional or mistyped field is refused."""
        wrong: tuple[Any, ...] = (None, 1, {}, [[]])
        for name in FIELDS:
            if name != "kind":
                less = {each: value for each, value in FIELDS.items() if each != name}
                self.check(signed(body_of(less)), "statement_fields")
                for value in wrong:
                    code = "statement_peer" if name in ("author", "target") else "statement_fields"
                    self.check_fields(code, **{name: value})
        self.check_fields("statement_fields", more=1)
        self.check_fields("statement_fields", role="owner")

    def test_encodings(self) -> None:
        """IDs, nonces and proofs have their length and their digits."""
        for parent in ("", "00", "g" * 64, PARENT.hex() + "00"):
            self.check_fields("statement_fields", parents=[parent])
        founding = json.loads(ROOT.body)
        self.check(signed(body_of({**founding, "nonce": "00" * 15})), "statement_fields")
        self.check(signed(body_of({**founding, "nonce": 1})), "statement_fields")
        rotation = json.loads(ONE_OF_EACH[4].body)
        for proof in ("", "AAAA", "?" * 88, 5):
            self.check(signed(body_of({**rotation, "proof": proof})), "statement_fields")

    def test_not_canonical(self) -> None:
        """The same said in other bytes is refused."""
        body = body_of(FIELDS)
        spaced = body.replace(PARENT.hex().encode(), b"01 " + b"01" * 30 + b" ")
        upper = body.replace(PARENT.hex().encode(), b"0" * 63 + b"A")
        reordered = body_of(dict(sorted(FIELDS.items())))
        for other in (
            body + b" ",
            body.replace(b",", b", "),
            body.replace(b'"walnut"', b'"\\u0077alnut"'),
            body.replace(b'"name"', b'"name":"acacia","name"'),
            spaced,
            upper,
            reordered,
        ):
            self.assertNotEqual(other, body)
            self.check(signed(other), "statement_not_canonical")
        reason = body_of({**json.loads(ONE_OF_EACH[2].body), "reason": "a/b"})
        self.check(signed(reason.replace(b"a/b", b"a\\/b")), "statement_not_canonical")

    def test_peers(self) -> None:
        """Authors and targets are peer IDs of Ed25519 keys in base58."""
        hashed = PeerID(b"\x12\x20" + bytes(32))
        other = PeerID.from_encoded_key(b"\x08\x02\x12\x21" + bytes(33))
        for text in ("", "walnut", "1", "12D3Koo0", "Q" + "m" * 200, str(hashed), str(other)):
            self.check_fields("statement_peer", author=text)
            self.check_fields("statement_peer", target=text)

    def test_parents(self) -> None:
        """Parents are sorted, each there once, not too many; a found has none, all others have."""
        one, two = (bytes((number,)) * 32 for number in (1, 2))
        many = [number.to_bytes(32, "big").hex() for number in range(MAX_PARENTS + 1)]
        self.check_fields("statement_parents", parents=[])
        self.check_fields("statement_parents", parents=[two.hex(), one.hex()])
        self.check_fields("statement_parents", parents=[one.hex(), one.hex()])
        self.check_fields("statement_parents", parents=many)
        founding = {**json.loads(ROOT.body), "parents": [one.hex()]}
        self.check(signed(body_of(founding)), "statement_parents")

    def test_time(self) -> None:
        """The time is one of RFC 3339."""
        for time in (
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.123456789Z",
            "2024-02-29T23:59:59+05:30",
        ):
            decode_statement(signed(body_of({**FIELDS, "time": time})))
        for time in (
            "",
            "yesterday",
            "2026-01-02",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:05",
            "2026-01-02T24:04:05Z",
            "2026-13-02T03:04:05Z",
            "2026-02-30T03:04:05Z",
            "0000-01-01T03:04:05Z",
            "2026-01-02T03:04:05Z\n",
            "2026-01-02T03:04:05.1234567890Z",
            "2026-01-02T03:04:05+24:00",
            "２026-01-02T03:04:05Z",
        ):
            self.check_fields("statement_time", time=time)

    def test_names(self) -> None:
        """A machine's name has the characters of --name."""
        for name in ("a", "A-1._", "9" * MAX_NAME):
            decode_statement(signed(body_of({**FIELDS, "name": name})))
        for name in ("", "-a", ".a", "a b", "a\n", "b\u00fcro", "a\u202e", "wa\u200blnut"):
            self.check_fields("statement_text", name=name)
        self.check_fields("statement_text", name="a" * (MAX_NAME + 1))

    def test_texts(self) -> None:
        """A cluster's name and a reason can be shown as they are."""
        founding, revocation = json.loads(ROOT.body), json.loads(ONE_OF_EACH[2].body)
        for text in ("B\u00fcro 2", "\u5bb6", "it's \U0001f41d"):
            decode_statement(signed(body_of({**founding, "cluster": text})))
            decode_statement(signed(body_of({**revocation, "reason": text})))
        decode_statement(signed(body_of({**revocation, "reason": ""})))
        self.check(signed(body_of({**founding, "cluster": ""})), "statement_text")
        self.check(signed(body_of({**founding, "cluster": "a" * (MAX_NAME + 1)})), "statement_text")
        self.check(
            signed(body_of({**revocation, "reason": "a" * (MAX_REASON + 1)})), "statement_text"
        )
        for unfit in "\x7f\x85\u00ad\u200b\u2028\u202e\u2066\ufeff":
            self.check(signed(body_of({**founding, "cluster": f"a{unfit}b"})), "statement_text")
        for text in (" a", "a ", "a\u202eb"):
            self.check(signed(body_of({**founding, "cluster": text})), "statement_text")
            self.check(signed(body_of({**revocation, "reason": text})), "statement_text")

    def test_target(self) -> None:
        """Nobody admits itself, or rotates to the key that it has."""
        self.check_fields("statement_target", target=str(ACACIA))
        rotation = json.loads(ONE_OF_EACH[4].body)
        self.check(signed(body_of({**rotation, "target": str(ACACIA)})), "statement_target")

    @given(st.binary(max_size=400))
    def test_anything(self, data: bytes) -> None:
        """Bytes of any kind are a statement or a RemoteProtocolError."""
        try:
            statement = decode_statement(bytes(64) + data)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(statement.encode(), bytes(64) + data)

    @given(
        st.sampled_from([json.loads(each.body) for each in ONE_OF_EACH]),
        st.dictionaries(
            st.sampled_from(
                ["author", "parents", "time", "target", "name", "role", "reason", "proof", "nonce"]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
                ),
                max_leaves=4,
            ),
            max_size=3,
        ),
    )
    def test_any_fields(self, fields: dict[str, Any], changes: dict[str, Any]) -> None:
        """Fields with content of any kind are a statement or a RemoteProtocolError."""
        body = json.dumps({**fields, **changes}, separators=(",", ":")).encode()
        try:
            statement = decode_statement(bytes(64) + body)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 500)
        else:
            self.assertEqual(statement.body, body)


class SignTests(SynchronousTestCase):
    """Nobody signs what others would refuse."""

    def test_wrong(self) -> None:
        """What is wrong is the maker's error, in words."""
        acacia = key("acacia")
        wrong: list[tuple[Statement, str]] = [
            (Admit(WALNUT, (PARENT,), TIME, ACACIA, "x", Role.MEMBER), "cannot sign what"),
            (Admit(ACACIA, (), TIME, WALNUT, "x", Role.MEMBER), "0 parents"),
            (Admit(ACACIA, (PARENT,), TIME, WALNUT, "b\u00fcro", Role.MEMBER), "letters, digits"),
            (Admit(ACACIA, (PARENT,), TIME, ACACIA, "x", Role.MEMBER), "nobody can admit itself"),
            (Revoke(ACACIA, (PARENT,), "now", WALNUT, ""), "not a time"),
            (Revoke(ACACIA, (PARENT,), TIME, WALNUT, "\ud800"), "surrogates"),
            (Found(ACACIA, (), TIME, "home", "x", b"short"), "hexadecimal"),
        ]
        for statement, words in wrong:
            error = self.assertRaises(LocalProtocolError, sign, acacia, statement)
            self.assertIn(words, str(error))
            self.assertTrue(str(error).isprintable())
