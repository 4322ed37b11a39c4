"""Pairing: whole runs, and everything that somebody without the code may do to one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from spake2 import SPAKE2_A, SPAKE2_B  # type: ignore[import-untyped]  # it has no types
from spake2.parameters.ed25519 import (  # type: ignore[import-untyped]  # it has no types
    ParamsEd25519,
)
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.invitations import MAX_WRONG
from bzzz.trust.pairing import (
    MAX_MESSAGE,
    MAX_ROSTER,
    Admission,
    Confirmed,
    Inviter,
    Joined,
    Joiner,
    PairingRefused,
    Request,
    State,
    WrongCode,
    encode_statements,
)
from bzzz.trust.pairing_messages import MAX_CODE, MAX_WORDS, REFUSALS
from bzzz.wire import varint

ACACIA = PrivateKey(b"a" * 32).peer_id
WALNUT = PrivateKey(b"w" * 32).peer_id
MALLORY = PrivateKey(b"m" * 32).peer_id
HASH, OTHER_HASH = b"h" * 32, b"o" * 32
PASSWORD = b"7-guitar-lunar"
STATEMENTS = [b"found", b"admit acacia"]
ENCODED = encode_statements(STATEMENTS)

# Frozen: what a run with the randomness of :func:`repeated` says. A change is a change of the wire.
WIRE = [
    b'{"channel":"7","name":"acacia","spake":"QVKYQLoR24gETw8D3J9rGhFiKCjS0PsFjOwo8yLNTYuW"}',
    b'{"spake":"Qr3n860Y8t7Ck1nm5GSIKHm9EFZpBTijq98HBImJ/UnK"}',
    b'{"confirm":"McC0VeK64Q4xebYYgh/fjHKokWB+gSEfCVCEN8zRGLw="}',
    b'{"confirm":"4RW8uub9xwPQAWZVWeMHVJKAOW8WfDOPPwzP/qsDqn0=",'
    b'"statements":["Zm91bmQ=","YWRtaXQgYWNhY2lh"]}',
    b'{"joined":true}',
]


def repeated(letter: bytes) -> Callable[[int], bytes]:
    """Randomness that is the same in every run."""
    return lambda size: letter * size


def make_joiner(**changes: Any) -> Joiner:
    arguments: dict[str, Any] = {
        "joiner": ACACIA,
        "inviter": WALNUT,
        "channel": "7",
        "password": PASSWORD,
        "name": "acacia",
        "handshake_hash": HASH,
        "random_bytes": repeated(b"j"),
        **changes,
    }
    return Joiner(**arguments)


def make_inviter(**changes: Any) -> Inviter:
    arguments: dict[str, Any] = {
        "inviter": WALNUT,
        "joiner": ACACIA,
        "handshake_hash": HASH,
        "random_bytes": repeated(b"i"),
        **changes,
    }
    return Inviter(**arguments)


@dataclass
class Sides:
    """Both sides of a run, and the messages that were sent."""

    joiner: Joiner
    inviter: Inviter
    sent: list[bytes]


Change = Callable[[int, bytes], bytes]


def run(
    until: int = 6,
    change: Change = lambda step, message: message,
    password: bytes = PASSWORD,
    joiner: dict[str, Any] | None = None,
    inviter: dict[str, Any] | None = None,
) -> Sides:
    """A run up to the message of step ``until``, each message as ``change`` makes it.

    What the sides raise comes out; of a wrong code that is :class:`AssertionError`.
    """
    sides = Sides(make_joiner(**joiner or {}), make_inviter(**inviter or {}), [])
    sent = sides.sent

    def deliver(message: bytes) -> bytes:
        sent.append(message)
        return change(len(sent), message)

    first = deliver(sides.joiner.begin())
    if until == 1:
        return sides
    sides.inviter.receive(first)
    second = deliver(sides.inviter.offer(password))
    if until == 2:
        return sides
    sides.joiner.receive(second)
    third = deliver(sides.joiner.confirm())
    if until == 3:
        return sides
    event = sides.inviter.receive(third)
    assert isinstance(event, Confirmed), event
    fourth = deliver(sides.inviter.accept(ENCODED))
    if until == 4:
        return sides
    admission = sides.joiner.receive(fourth)
    assert isinstance(admission, Admission)
    assert admission.decode() == STATEMENTS
    fifth = deliver(sides.joiner.joined())
    if until == 5:
        return sides
    sides.inviter.receive(fifth)
    return sides


@lru_cache(maxsize=1)
def messages() -> tuple[bytes, ...]:
    """The messages of a whole run."""
    return tuple(run().sent)


def waiting_for(step: int) -> tuple[Joiner | Inviter, bytes]:
    """The side that waits for the message of a step, and that message."""
    sides = run(step)
    return (sides.inviter if step % 2 else sides.joiner), sides.sent[step - 1]


def as_json(message: bytes, **changes: Any) -> bytes:
    """The message with other fields."""
    said = {**json.loads(message), **changes}
    fields = {name: value for name, value in said.items() if value is not None}
    return json.dumps(fields, separators=(",", ":")).encode()


def spake(element: bytes) -> str:
    return base64.b64encode(element).decode()


class Base(SynchronousTestCase):
    def assert_error(self, code: str, side: Joiner | Inviter, message: bytes) -> str:
        """The message ends the run with this error."""
        error = self.assertRaises(RemoteProtocolError, side.receive, message)
        self.assertEqual(error.code, code, str(error))
        self.assert_shown(str(error))
        self.assertIs(side.state, State.FAILED)
        return str(error)

    def assert_shown(self, text: str) -> None:
        self.assertTrue(text.isprintable(), text)
        self.assertLess(len(text), 500)


class WholeRunTests(Base):
    """Nobody interferes."""

    def test_events(self) -> None:
        """Step by step, both sides know what they should, and no sooner."""
        joiner, inviter = make_joiner(), make_inviter()
        request = inviter.receive(joiner.begin())
        self.assertEqual(request, Request("7", "acacia"))
        self.assertIsNone(joiner.receive(inviter.offer(PASSWORD)))
        self.assertFalse(joiner.guess_given)
        confirm = joiner.confirm()
        self.assertTrue(joiner.guess_given)
        self.assertEqual(inviter.receive(confirm), Confirmed("acacia", ACACIA))
        self.assertIs(inviter.state, State.CONFIRMED)
        admission = joiner.receive(inviter.accept(ENCODED))
        assert isinstance(admission, Admission)
        self.assertFalse(joiner.guess_given)
        self.assertEqual(admission.decode(), STATEMENTS)
        self.assertEqual(inviter.receive(joiner.joined()), Joined())
        self.assertEqual((joiner.state, inviter.state), (State.JOINED, State.JOINED))

    def test_fresh_secrets(self) -> None:
        """Two runs with the same code have no SPAKE2 message and no confirmation in common."""
        seeds = iter(range(256))
        sides = [{"random_bytes": lambda size: bytes((next(seeds),)) * size} for _ in range(2)]
        runs = [run(joiner=side, inviter=side).sent for side in sides]
        for first, second in list(zip(*runs, strict=True))[:4]:
            self.assertNotEqual(first, second)

    def test_wire(self) -> None:
        """Every byte of the five messages is what it was in version 1.0.0."""
        self.assertEqual(list(messages()), WIRE)

    def test_by_hand(self) -> None:
        """The same bytes come of the package's own group and another HKDF, put together here."""
        ids = f":{ACACIA}:{WALNUT}".encode()
        names = {"idA": b"bzzz-pair-v1:joiner" + ids, "idB": b"bzzz-pair-v1:inviter" + ids}
        joiner = SPAKE2_A(PASSWORD, **names, entropy_f=repeated(b"j"))
        inviter = SPAKE2_B(PASSWORD, **names, entropy_f=repeated(b"i"))
        first, second = joiner.start(), inviter.start()
        self.assertEqual(json.loads(WIRE[0])["spake"], spake(first))
        self.assertEqual(json.loads(WIRE[1])["spake"], spake(second))
        key = joiner.finish(second)
        said = b"".join(varint.encode(len(message)) + message for message in WIRE[:2])
        roster = b'["Zm91bmQ=","YWRtaXQgYWNhY2lh"]'
        for side, step, confirmed in (
            (b"joiner", 2, said),
            (b"inviter", 3, said + varint.encode(len(roster)) + roster),
        ):
            info = b"bzzz-pair-v1:confirm:" + side
            mac_key = HKDF(hashes.SHA256(), 32, HASH, info).derive(key)
            confirm = hmac.new(mac_key, confirmed, hashlib.sha256).digest()
            self.assertEqual(json.loads(WIRE[step])["confirm"], spake(confirm))

    def test_simulator(self) -> None:
        """A link that binds nothing will do where somebody says so, on both sides."""
        for make in (make_joiner, make_inviter):
            make_side: Callable[..., Any] = make
            self.assertRaises(LocalProtocolError, make_side, handshake_hash=b"")
        unbound = {"handshake_hash": b"", "unbound": True}
        self.assertIs(run(joiner=unbound, inviter=unbound).inviter.state, State.JOINED)

    def test_large_roster(self) -> None:
        """A roster of almost the cap comes through, and a longer message is refused unread."""
        statements = [bytes((number % 256,)) * 600 for number in range(10_000)]
        sides = run(3)
        sides.inviter.receive(sides.sent[2])
        message = sides.inviter.accept(encode_statements(statements))
        self.assertGreater(len(message), MAX_ROSTER * 0.9)
        self.assertEqual(sides.joiner.max_length, MAX_ROSTER)
        admission = sides.joiner.receive(message)
        assert isinstance(admission, Admission)
        self.assertEqual(admission.decode(), statements)
        self.assertEqual(sides.joiner.max_length, MAX_MESSAGE)
        joiner = run(3).joiner
        error = self.assertRaises(LimitExceeded, joiner.receive, b" " * (MAX_ROSTER + 1))
        self.assertEqual(error.code, "pair_too_long")

    def test_unreadable_roster(self) -> None:
        """Statements of a right inviter that cannot be read are its error."""
        for encoded in (b"[1]", b'["QQ"]', b"{}", b'["\xc3\xa9"]'):
            sides = run(3)
            sides.inviter.receive(sides.sent[2])
            admission = sides.joiner.receive(sides.inviter.accept(encoded))
            assert isinstance(admission, Admission)
            error = self.assertRaises(RemoteProtocolError, admission.decode)
            self.assertEqual(error.code, "pair_bad_message")
            self.assert_shown(str(error))


class WrongCodeTests(Base):
    """Who does not know the code."""

    def test_joiner(self) -> None:
        """The inviter learns it at step 3, says so, and the joiner tells its person."""
        sides = run(3, password=b"7-guitar-lumber")
        self.assertEqual(sides.inviter.receive(sides.sent[2]), WrongCode())
        self.assertIs(sides.inviter.state, State.WRONG)
        self.assertRaises(LocalProtocolError, sides.inviter.accept, ENCODED)
        refused = self.assertRaises(
            PairingRefused, sides.joiner.receive, sides.inviter.refuse("wrong_code")
        )
        self.assertEqual(refused.code, "wrong_code")
        self.assertIn("somebody in between", str(refused))
        self.assertTrue(sides.joiner.guess_given)
        self.assertEqual((sides.joiner.state, sides.inviter.state), (State.REFUSED, State.REFUSED))

    def test_inviter(self) -> None:
        """Who admits without the code is told from who has it, and gets no second guess."""
        sides = run(3, password=b"7-guitar-lumber")
        for confirm in (bytes(32), b"\xff" * 32):
            joiner = run(3, password=b"7-guitar-lumber").joiner
            message = json.dumps({"confirm": spake(confirm), "statements": []}).encode()
            self.assertIn("bzzz invite", self.assert_error("pair_wrong_confirm", joiner, message))
            self.assertTrue(joiner.guess_given)
            self.assert_error("pair_out_of_turn", joiner, message)
        # The joiner's own confirmation is none of an inviter.
        reflected = as_json(sides.sent[2], statements=[])
        self.assert_error("pair_wrong_confirm", sides.joiner, reflected)

    def test_right_guess_is_not_told_before_step_3(self) -> None:
        """A SPAKE2 message that is the code's own multiple, or another's, is answered alike."""
        for guess in (PASSWORD, b"7-guitar-lumber"):
            scalar = ParamsEd25519.group.password_to_scalar(guess)
            element = b"A" + ParamsEd25519.M.scalarmult(scalar).to_bytes()
            inviter = make_inviter()
            inviter.receive(as_json(messages()[0], spake=spake(element)))
            self.assertEqual(set(json.loads(inviter.offer(PASSWORD))), {"spake"})
            self.assertIs(inviter.state, State.OFFERED)


class BetweenTests(Base):
    """Somebody has a link with each side, and passes on what they say."""

    def relay(self, change: Change = lambda step, message: message) -> Sides:
        """The first three steps between sides whose links are not the same."""
        return run(
            3,
            change,
            joiner={"inviter": MALLORY},
            inviter={"joiner": MALLORY, "handshake_hash": OTHER_HASH},
        )

    def test_relay(self) -> None:
        """Both sides find out, and nobody is admitted."""
        sides = self.relay()
        self.assertEqual(sides.inviter.receive(sides.sent[2]), WrongCode())
        self.assertRaises(LocalProtocolError, sides.inviter.accept, ENCODED)
        admission = json.dumps({"confirm": spake(bytes(32)), "statements": []}).encode()
        self.assert_error("pair_wrong_confirm", sides.joiner, admission)

    def test_each_binding_is_enough(self) -> None:
        """Another handshake alone, or another peer ID alone, is found out too."""
        for changes in (
            {"handshake_hash": OTHER_HASH},
            {"joiner": MALLORY},
            {"inviter": MALLORY},
            {"joiner": WALNUT, "inviter": ACACIA},
        ):
            sides = run(3, inviter=changes)
            self.assertEqual(sides.inviter.receive(sides.sent[2]), WrongCode(), changes)

    def test_an_inviter_that_confirmed_elsewhere(self) -> None:
        """Message 4 of another run, with the same code, admits nobody in this one."""
        for changes in (
            {"handshake_hash": OTHER_HASH},
            {"random_bytes": repeated(b"k")},
            {"name": "ironwood"},
        ):
            theirs = dict(changes)
            if "name" not in changes:
                other = run(4, joiner=changes, inviter=theirs).sent[3]
            else:
                other = run(4, joiner=changes).sent[3]
            joiner, _ = waiting_for(4)
            self.assert_error("pair_wrong_confirm", joiner, other)

    def test_name(self) -> None:
        """A name that was changed on the way is found out by both."""

        def change(step: int, message: bytes) -> bytes:
            return as_json(message, name="mallory") if step == 1 else message

        sides = run(3, change)
        self.assertEqual(sides.inviter.receive(sides.sent[2]), WrongCode())

    def test_unknown_field(self) -> None:
        """Also a field that means nothing here is confirmed, if it is in message 1 or 2."""

        def change(step: int, message: bytes) -> bytes:
            return as_json(message, later="x") if step == 1 else message

        sides = run(3, change)
        self.assertEqual(sides.inviter.receive(sides.sent[2]), WrongCode())

    def test_statements(self) -> None:
        """The roster of message 4 cannot be another, shorter or in another order."""
        for statements in ([], STATEMENTS[:1], STATEMENTS[::-1], [*STATEMENTS, b"x"]):
            joiner, message = waiting_for(4)
            other = as_json(message, statements=json.loads(encode_statements(statements)))
            self.assert_error("pair_wrong_confirm", joiner, other)

    def test_reflected(self) -> None:
        """A side's own message, with or without the other side's mark, is an error."""
        joiner, _ = waiting_for(2)
        own = json.loads(messages()[0])["spake"]
        turned = spake(b"B" + base64.b64decode(own)[1:])
        for element in (own, turned):
            joiner, _ = waiting_for(2)
            answer = json.dumps({"spake": element}).encode()
            self.assert_error("pair_bad_element", joiner, answer)
        inviter = make_inviter()
        second = json.loads(messages()[1])["spake"]
        self.assert_error("pair_bad_element", inviter, as_json(messages()[0], spake=second))


class OrderTests(Base):
    """Messages that are missing, doubled, from elsewhere or in another order."""

    def test_any_other_message(self) -> None:
        """Wherever one is due, each of the others, of this run or an earlier one, is refused."""
        earlier = run(
            joiner={"random_bytes": repeated(b"e")}, inviter={"random_bytes": repeated(b"f")}
        ).sent
        for step in range(1, 6):
            for other in range(1, 6):
                for message in (messages()[other - 1], earlier[other - 1]):
                    if other != step:
                        side, _ = waiting_for(step)
                        self.assert_error("pair_out_of_turn", side, message)

    def test_replayed(self) -> None:
        """Messages of an earlier run with the same code get nobody through this one."""
        earlier = run(
            joiner={"random_bytes": repeated(b"e")}, inviter={"random_bytes": repeated(b"f")}
        ).sent
        # The joiner's: its first message is as good as any, its confirmation is not.
        inviter = make_inviter()
        inviter.receive(earlier[0])
        inviter.offer(PASSWORD)
        self.assertEqual(inviter.receive(earlier[2]), WrongCode())
        # The inviter's.
        joiner = make_joiner()
        joiner.begin()
        joiner.receive(earlier[1])
        joiner.confirm()
        self.assert_error("pair_wrong_confirm", joiner, earlier[3])

    def test_doubled(self) -> None:
        """A message that comes twice ends the run, also after the last one."""
        for step in range(1, 6):
            side, message = waiting_for(step)
            side.receive(message)
            if step == 1:
                assert isinstance(side, Inviter)
                side.offer(PASSWORD)
            elif step == 3:
                assert isinstance(side, Inviter)
                side.accept(ENCODED)
            elif step == 4:
                assert isinstance(side, Joiner)
                side.joined()
            self.assert_error("pair_out_of_turn", side, message)

    def test_early(self) -> None:
        """A message that comes before this side has answered the last one is early."""
        side, message = waiting_for(1)
        side.receive(message)
        self.assert_error("pair_out_of_turn", side, messages()[2])
        side, message = waiting_for(3)
        side.receive(message)
        self.assert_error("pair_out_of_turn", side, messages()[4])
        assert isinstance(side, Inviter)
        self.assertRaises(LocalProtocolError, side.accept, ENCODED)
        self.assert_error("pair_out_of_turn", make_joiner(), messages()[1])

    def test_before_message_3(self) -> None:
        """A message 4 that comes before message 3 was made is not judged, right or wrong."""
        for password in (PASSWORD, b"7-guitar-lumber"):
            sides = run(2, password=password)
            self.assertIsNone(sides.joiner.receive(sides.sent[1]))
            self.assertIs(sides.joiner.state, State.OFFERED)
            self.assertEqual(sides.joiner.max_length, MAX_MESSAGE)
            # It can be made without message 3.
            sides.inviter.state = State.CONFIRMED
            guess = sides.inviter.accept(ENCODED)
            self.assert_error("pair_out_of_turn", sides.joiner, guess)
            self.assertFalse(sides.joiner.guess_given)
            self.assertIsNone(sides.joiner._confirmations)
            self.assertRaises(LocalProtocolError, sides.joiner.confirm)

    def test_confirm_later(self) -> None:
        """Message 3 is the same when it is made later, and then message 4 may come."""
        sides = run(2)
        self.assertIsNone(sides.joiner.receive(sides.sent[1]))
        self.assertFalse(sides.joiner.guess_given)
        self.assertEqual(sides.joiner.confirm(), messages()[2])
        self.assertTrue(sides.joiner.guess_given)
        self.assertRaises(LocalProtocolError, sides.joiner.confirm)
        self.assertIsInstance(sides.joiner.receive(messages()[3]), Admission)

    def test_while_others_go_first(self) -> None:
        """Whatever comes between message 2 and message 3 is out of turn, a refusal, too."""
        for message in (*messages(), b'{"error":"busy"}', b'{"confirm":""}'):
            sides = run(2)
            sides.joiner.receive(sides.sent[1])
            self.assert_error("pair_out_of_turn", sides.joiner, message)

    def test_own_messages(self) -> None:
        """What a side says itself is out of turn from its peer, also where it is to say it next."""
        sides = run(4)
        sides.joiner.receive(sides.sent[3])
        self.assert_error("pair_out_of_turn", sides.joiner, messages()[4])
        inviter = make_inviter()
        inviter.receive(messages()[0])
        self.assert_error("pair_out_of_turn", inviter, messages()[1])

    def test_this_side(self) -> None:
        """What this side may not do yet, or any more, is its own error and changes nothing."""
        inviter = make_inviter()
        for call in (
            lambda: inviter.offer(PASSWORD),
            lambda: inviter.accept(ENCODED),
            lambda: inviter.refuse("busy"),
        ):
            self.assertRaises(LocalProtocolError, call)
        inviter.receive(messages()[0])
        self.assertRaises(LocalProtocolError, inviter.accept, ENCODED)
        joiner = make_joiner()
        self.assertRaises(LocalProtocolError, joiner.joined)
        joiner.begin()
        self.assertRaises(LocalProtocolError, joiner.begin)
        self.assertRaises(LocalProtocolError, joiner.confirm)
        self.assertRaises(LocalProtocolError, joiner.joined)
        for name, channel in (("", "7"), ("a b", "7"), ("x" * 64, "7"), ("acacia", "")):
            make: Callable[..., Joiner] = make_joiner
            self.assertRaises(LocalProtocolError, make, name=name, channel=channel)


class AlteredTests(Base):
    """Single bytes that are not as they were sent."""

    def admitted(self, step: int, place: int, byte: int) -> str:
        """How a run ends in which one byte was another."""

        def change(at: int, message: bytes) -> bytes:
            if at != step:
                return message
            return message[:place] + bytes((byte,)) + message[place + 1 :]

        sides = run(3, change) if step < 4 else run(step)
        try:
            if step < 4:
                event = sides.inviter.receive(change(3, sides.sent[2]))
            elif step == 4:
                event = sides.joiner.receive(change(4, sides.sent[3]))  # type: ignore[assignment]  # the other side's
            else:
                event = sides.inviter.receive(change(5, sides.sent[4]))
        finally:
            self.assertIsNot(sides.inviter.state, State.CONFIRMED)
            self.assertIsNot(sides.joiner.state, State.ADMITTED if step == 4 else None)
        return type(event).__name__

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_a_byte(self, data: st.DataObject) -> None:
        """Any byte of any message that is another one ends the run: nobody is admitted by it."""
        step = data.draw(st.integers(1, 5), "step")
        message = messages()[step - 1]
        place = data.draw(st.integers(0, len(message) - 1), "place")
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != message[place]), "byte")
        try:
            ended = self.admitted(step, place, byte)
        except RemoteProtocolError as error:
            self.assertTrue(error.code.startswith("pair_"), error.code)
            self.assert_shown(str(error))
        else:
            self.assertEqual(ended, "WrongCode")

    def test_every_byte(self) -> None:
        """The same of every byte of the last three messages, with each of its bits turned."""
        for step in (3, 4, 5):
            side, message = waiting_for(step)
            states = vars(side).copy()
            for place in range(len(message)):
                for bit in range(8):
                    vars(side).update(states)
                    altered = bytearray(message)
                    altered[place] ^= 1 << bit
                    try:
                        event = side.receive(bytes(altered))
                    except RemoteProtocolError as error:
                        self.assertTrue(error.code.startswith("pair_"))
                    else:
                        self.assertEqual(event, WrongCode(), (step, place, bit))


class BadMessageTests(Base):
    """What cannot be read, or cannot be what it says."""

    def test_unreadable(self) -> None:
        """What is not one JSON object with fields of the right types is unreadable."""
        for message in (
            b"",
            b"\xff",
            b"[]",
            b"null",
            b'{"channel": 7}',
            b'{"confirm": "\xff"}',
            b'{"joined": "true"}',
            b'{"x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
            messages()[0] + b"x",
        ):
            self.assert_error("pair_unreadable", make_inviter(), message)
            joiner, _ = waiting_for(2)
            self.assert_error("pair_unreadable", joiner, message)

    def test_no_message(self) -> None:
        """Fields that make no message are none of pairing, however many there are."""
        for message in (
            b"{}",
            b'{"x": 1}',
            b'{"channel": "7"}',
            b'{"statements": []}',
            b'{"words": "x"}',
            as_json(messages()[0], joined=True),
            as_json(messages()[3], error="busy"),
        ):
            self.assert_error("pair_bad_message", make_inviter(), message)

    def test_too_long(self) -> None:
        """A message above the cap is refused before it is read."""
        first = messages()[0]
        padded = first[:-1] + b',"x":"' + b"x" * MAX_MESSAGE + b'"}'
        for side in (make_inviter(), waiting_for(2)[0]):
            self.assertEqual(side.max_length, MAX_MESSAGE)
            self.assert_error("pair_too_long", side, padded)

    def test_unknown_fields(self) -> None:
        """Fields of a later version are ignored."""
        inviter = make_inviter()
        inviter.receive(as_json(messages()[0], later={"a": [1]}))
        self.assertIs(inviter.state, State.REQUESTED)

    def test_request(self) -> None:
        """A channel or a name that none has is refused; a token's channel is one."""
        first = messages()[0]
        for channel in ("", "x", "-1", "0123456789abcdef0", "7\n", "٧"):
            self.assert_error("pair_bad_message", make_inviter(), as_json(first, channel=channel))
        for name in ("", "a b", "-a", "\x1b[2J", "é", "x" * 64, "x\n"):
            self.assert_error("pair_bad_message", make_inviter(), as_json(first, name=name))
        event = make_inviter().receive(as_json(first, channel="0001020304050607"))
        self.assertEqual(event, Request("0001020304050607", "acacia"))

    def test_elements(self) -> None:
        """What is no element of the group is refused, by both sides, before anything else."""
        good = base64.b64decode(json.loads(messages()[0])["spake"])[1:]
        for element in (
            b"\x01" + bytes(31),
            b"\x01" + bytes(30) + b"\x80",
            (2**255 - 18).to_bytes(32, "little"),
            bytes(32),
            b"\xff" * 32,
            b"\x02" + bytes(31),
        ):
            first = as_json(messages()[0], spake=spake(b"A" + element))
            self.assert_error("pair_bad_element", make_inviter(), first)
            joiner, _ = waiting_for(2)
            second = json.dumps({"spake": spake(b"B" + element)}).encode()
            self.assert_error("pair_bad_element", joiner, second)
        for mark in (b"B", b"S", b"a", b"\0"):
            first = as_json(messages()[0], spake=spake(mark + good))
            self.assert_error("pair_bad_element", make_inviter(), first)
        for text in (
            "",
            "x",
            spake(b"A"),
            spake(b"A" + good + b"x"),
            spake(good),
            " " + spake(good),
        ):
            first = as_json(messages()[0], spake=text)
            self.assert_error("pair_bad_message", make_inviter(), first)

    def test_not_joined(self) -> None:
        """A joiner that says that it did not join has not."""
        inviter, _ = waiting_for(5)
        self.assert_error("pair_bad_message", inviter, b'{"joined":false}')

    def test_confirm_in_one_form(self) -> None:
        """Base64 whose last character has bits too many is not taken."""
        inviter, message = waiting_for(3)
        confirm = json.loads(message)["confirm"]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        last = alphabet[alphabet.index(confirm[-2]) + 1]
        altered = confirm[:-2] + last + "="
        self.assertEqual(base64.b64decode(altered), base64.b64decode(confirm))
        self.assert_error("pair_bad_message", inviter, as_json(message, confirm=altered))


class RefusalTests(Base):
    """The inviter says no."""

    def refused(self, message: bytes, step: int = 2) -> PairingRefused:
        joiner, _ = waiting_for(step)
        error: PairingRefused = self.assertRaises(PairingRefused, joiner.receive, message)
        self.assert_shown(str(error))
        self.assertIs(joiner.state, State.REFUSED)
        self.assert_error("pair_out_of_turn", joiner, message)
        return error

    def test_at_once(self) -> None:
        """Without an invitation for the channel the run ends at step 2, and no guess is given."""
        inviter = make_inviter()
        inviter.receive(messages()[0])
        message = inviter.refuse("no_channel")
        self.assertEqual(message, b'{"error":"no_channel"}')
        self.assertIs(inviter.state, State.REFUSED)
        self.assertRaises(LocalProtocolError, inviter.offer, PASSWORD)
        error = self.refused(message)
        self.assertEqual(error.code, "no_channel")
        self.assertIn("no open invitation 7", str(error))
        self.assertIn(str(WALNUT), str(error))
        joiner, _ = waiting_for(2)
        self.assertRaises(PairingRefused, joiner.receive, message)
        assert isinstance(joiner, Joiner)
        self.assertFalse(joiner.guess_given)

    def test_name_taken(self) -> None:
        """After step 3 the name may be refused, and the person is told what to do."""
        inviter, message = waiting_for(3)
        inviter.receive(message)
        assert isinstance(inviter, Inviter)
        error = self.refused(inviter.refuse("name_taken"), 4)
        self.assertIn("called acacia", str(error))
        self.assertIn("--name", str(error))

    def test_every_text(self) -> None:
        """Each known code has a text in which nothing is left to be filled in."""
        for code in REFUSALS:
            error = self.refused(json.dumps({"error": code, "words": "{x} ignored"}).encode())
            self.assertEqual(error.code, code)
            self.assertNotIn("{", str(error))
            self.assertNotIn("ignored", str(error))

    def test_wrong_code(self) -> None:
        """Who mistyped a code is told how many guesses make it void: it may be void by now."""
        self.assertEqual(MAX_WRONG, 3)
        error = self.refused(b'{"error":"wrong_code"}')
        self.assertIn("three wrong guesses make a code void", str(error))

    def test_unknown_code(self) -> None:
        """A code of a later version is shown with its words, escaped and cut."""
        error = self.refused(b'{"error":"moon_phase","words":"not today"}')
        self.assertEqual(error.code, "moon_phase")
        self.assertEqual(str(error), f'{WALNUT} refused (moon_phase): "not today"')
        self.assertEqual(str(self.refused(b'{"error":""}')), f"{WALNUT} refused ()")
        message = json.dumps({"error": "\x1b[2J" * 10, "words": "\u202e\n" * 200}).encode()
        error = self.refused(message)
        self.assertEqual(len(error.code), MAX_CODE)
        self.assertLess(len(str(error)), MAX_WORDS + MAX_CODE + 80)

    def test_words_are_capped(self) -> None:
        """What this side says fits a message, whatever it is."""
        inviter = make_inviter()
        inviter.receive(messages()[0])
        message = inviter.refuse("\x00" * 500, "\x00" * 5000)
        self.assertLess(len(message), MAX_MESSAGE)
        self.refused(message)

    def test_not_by_the_joiner(self) -> None:
        """A refusal is no message of a joiner."""
        self.assert_error("pair_out_of_turn", make_inviter(), b'{"error":"busy"}')


class SecretTests(Base):
    """What is not shown."""

    def test_hidden(self) -> None:
        """Sides and events do not show the code, keys or the roster."""
        sides = run()
        shown = repr(sides.joiner) + repr(sides.inviter)
        sides = run(4)
        shown += repr(sides.joiner.receive(sides.sent[3]))
        for secret in ("guitar", "lunar", "Zm91bmQ"):
            self.assertNotIn(secret, shown)

    def test_forgotten(self) -> None:
        """When a run is over, its keys are not kept."""
        over = [run().joiner, run().inviter]
        joiner, _ = waiting_for(4)
        self.assertRaises(PairingRefused, joiner.receive, b'{"error":"failed"}')
        inviter, _ = waiting_for(3)
        inviter.receive(as_json(messages()[2], confirm=spake(bytes(32))))
        for side in (*over, joiner, inviter):
            self.assertIsNone(side._confirmations)

    def test_peers(self) -> None:
        """Errors name the peer that made them."""
        inviter = make_inviter(joiner=MALLORY)
        self.assertIn(str(MALLORY), self.assert_error("pair_unreadable", inviter, b"x"))
        self.assertIsInstance(MALLORY, PeerID)
