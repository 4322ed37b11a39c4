"""A cluster of machines with a real systemd: founded, joined, left, and tried by who is not in it.

Walnut, ironwood and acacia become a cluster by the first test; elm is next to them and in none.
Each test finds them so and leaves them so. What outsiders try is in :mod:`tests.cluster.outsider`.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bzzz.wire.framing import FrameReader
from bzzz.wire.identify import Identify
from tests.cluster.home import CLUSTER, PATIENCE, home, is_whole, linked_at
from tests.cluster.machine import ROOT, Machine
from tests.cluster.machines import without_machines
from tests.cluster.netns import until
from tests.cluster.nodes import NodeProcess, when
from tests.cluster.outsider import LIST, NAME
from tests.cluster.service import (
    CHECKOUT,
    ServiceTestCase,
    ask,
    connected,
    events,
    install,
    invite,
    invited,
    log,
    with_journals,
)
from tests.needs import needs

# What is promised, in seconds: from Enter to a mesh of members, and from a revoke to none.
PAIRED_WITHIN = 2.0
REVOKED_WITHIN = 1.0

# Between two broadcasts of each machine, where somebody listens for them, and how long they listen.
INTERVAL = 1.0
LISTENING = 10.0

CONFIG = "/etc/bzzz/bzzz.toml"
STATE = "/var/lib/bzzz"
TOKEN_FILE = "/root/token"

# What a member says of those to whom it is none.
GUEST = "it has not heard that this node is a member, or has revoked it"

# What somebody is answered who is not in the cluster.
ANSWERED = {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/bzzz/pair/1.0.0", LIST}
UNANSWERED = "/bzzz/present/1.0.0"

# What tells of the cluster, and is heard by a member that tries the same.
TELLING = {
    "/bzzz/peers/1.0.0",
    "/bzzz/roster/1.0.0",
    "/bzzz/audit/1.0.0",
    "/bzzz/chunks/1.0.0",
    "/bzzz/output/1.0.0",
    "/bzzz/task/1.0.0",
    "/meshsub/1.2.0",
}

Line = dict[str, Any]


def lost_at(machine: Machine, peer_id: str, since: float) -> float | None:
    """When a machine's node lost its link with a peer."""
    times = [when(one["time"]) for one in events(machine, "lost", peer_id=peer_id)]
    return next((at for at in times if at >= since), None)


def heard_from(machine: Machine, peer_id: str, since: float) -> bool:
    """Whether a machine's node has got a broadcast of a peer."""
    return any(
        when(one["time"]) >= since and one.get("direction") == "received"
        for kind in ("capability_broadcast", "availability_broadcast")
        for one in events(machine, kind, peer_id=peer_id)
    )


class Outsider:
    """A process of :mod:`tests.cluster.outsider` on a machine, and what it tells."""

    def __init__(self, machine: Machine, directory: Path, seconds: float, *at: str) -> None:
        self.file = directory / f"outsider-{time.time()}"
        argv = [sys.executable, "-m", "tests.cluster.outsider", str(directory), str(seconds), *at]
        with self.file.open("wb") as output:
            self.process = machine.host.start(argv, output, {"PYTHONPATH": str(ROOT)})

    def lines(self, event: str, since: float = 0.0, **fields: Any) -> list[Line]:
        """What it has told of this kind, and of these fields, since a time."""
        found = []
        for text in self.file.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                raise AssertionError(self.file.read_text()) from None
            if line["event"] == event and line["time"] >= since and fields.items() <= line.items():
                found.append(line)
        return found

    def wait(self) -> None:
        """Until it ends by itself."""
        code = self.process.wait(PATIENCE)
        assert code == 0, self.file.read_text()

    def end(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def content(line: Line) -> bytes:
    return base64.b64decode(line["data"])


def frames(lines: Sequence[Line]) -> Iterator[bytes]:
    """The messages of a stream that has only whole ones in each piece."""
    for line in lines:
        yield from FrameReader(1 << 20).receive(content(line))


@needs(without_machines())
@with_journals
class TrustTests(ServiceTestCase):
    """Three members, and one machine that is none."""

    def setUp(self) -> None:
        self.home = home()
        self.walnut, self.ironwood, self.acacia, self.elm = self.home.service.all
        self.members = (self.walnut, self.ironwood, self.acacia)
        self.until_members()
        self.directory = Path(tempfile.mkdtemp(prefix="bzzz-trust-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.began = time.time()

    # -- what several tests do

    def until_members(self) -> None:
        for machine in self.members:
            until(partial(is_whole, machine, self.members), PATIENCE, "a mesh of members", 0.2)

    def peer_id(self, machine: Machine) -> str:
        return str(ask(machine, "id")["peer_id"])

    def address(self, machine: Machine) -> str:
        """Where a machine's node is, over IPv4."""
        found = [each for each in ask(machine, "id")["addresses"] if each.startswith("/ip4/")]
        return str(found[0])

    def come_back(self, machine: Machine) -> None:
        """Let a machine that was revoked, or has left, in again, by a code."""
        machine.run("systemctl", "start", "bzzz")
        machine.run("bzzz", "status", "--wait", "20")
        if ask(machine, "cluster", "show")["cluster"] is not None:
            machine.run("bzzz", "leave")
        machine.run("bzzz", "join", invite(self.walnut), timeout=PATIENCE)
        self.until_members()

    def broadcast_often(self) -> None:
        """Have each member broadcast each second, until the test ends."""
        for machine in self.members:
            self.configure(machine, f'broadcast_interval = "{INTERVAL:g}s"')
            self.addCleanup(self.configure, machine, "")

    def configure(self, machine: Machine, text: str) -> None:
        machine.run("tee", CONFIG, stdin=f"{text}\n")
        machine.run("systemctl", "reload", "bzzz")

    def state_of(self, machine: Machine) -> Path:
        """A copy of the state directory of a machine whose node has stopped."""
        packed = machine.run("sh", "-c", f"tar -c -C {STATE} . | base64 -w0").stdout
        directory = self.directory / machine.name
        directory.mkdir()
        subprocess.run(
            ["tar", "-x", "--no-same-owner", "-C", str(directory)],
            input=base64.b64decode(packed),
            check=True,
        )
        return directory

    def outsider(self, directory: Path, seconds: float, *at: str) -> Outsider:
        outsider = Outsider(self.elm, directory, seconds, *at)
        self.addCleanup(outsider.end)
        return outsider

    def assert_told_nothing(self, outsider: Outsider, peer: str, since: float) -> None:
        """Since a time, a member has told no more than it tells anybody."""
        (protocols,) = outsider.lines("protocols")
        guests = set(protocols["guests"])
        self.assertEqual(guests, (ANSWERED | {UNANSWERED}) - {LIST})
        heard = outsider.lines("heard", since, peer=peer)
        self.assertEqual({line["protocol"] for line in heard}, ANSWERED)
        self.assertEqual({line["began"] for line in heard}, {"us"})
        self.assertEqual(outsider.lines("came", since, peer=peer), [])
        for protocol in protocols["all"]:
            ends = outsider.lines("over", since, peer=peer, protocol=protocol)
            self.assertTrue(ends, protocol)
            hows = {line["how"] for line in ends} - {"unlinked"}
            if protocol not in guests:
                self.assertEqual(hows, {"refused"}, protocol)
        for told in frames(self.said(heard, "/ipfs/id/1.0.0")):
            said = Identify.decode(told)
            self.assertEqual((said.name, said.listen_addrs, said.guest), ("", (), True))
            self.assertEqual(set(said.protocols), guests)
        for told in frames(self.said(heard, "/bzzz/pair/1.0.0")):
            self.assertEqual(json.loads(told), {"error": "no_channel"})
        for line in self.said(heard, LIST):
            listing = content(line)
            for protocol in protocols["all"]:
                self.assertEqual(protocol.encode() + b"\n" in listing, protocol in guests)

    def said(self, heard: Sequence[Line], protocol: str) -> list[Line]:
        return [line for line in heard if line["protocol"] == protocol]

    # -- three commands

    def test_three_commands(self) -> None:
        """Create, invite, join (twice): a mesh of members, as each of them sees it."""
        print("", *self.home.transcript, sep="\n")
        made = self.home
        print(f"\n      four installations at once: {made.installed:.1f} s", end=" ")
        print(f"\n      {made.commands} commands, and a mesh: {made.founded:.2f} s", end=" ")
        self.figure("joined by a token, from Enter to meshed", made.joined, PAIRED_WITHIN)
        for machine in self.members:
            known = ask(machine, "cluster", "show")["cluster"]
            self.assertEqual((known["name"], known["members"]), (CLUSTER, 3))
            roles = {each["name"]: each["role"] for each in ask(machine, "members")["members"]}
            self.assertEqual(roles, {"walnut": "admin", "ironwood": "member", "acacia": "member"})
            # Of elm they tell nothing: they are not linked with it.
            self.assertEqual(connected(machine), self.other_names(machine))
            self.assertNotIn("elm", machine.run("bzzz", "peers").stdout)

    def other_names(self, machine: Machine) -> list[str]:
        return sorted(one.name for one in self.members if one is not machine)

    def test_by_code(self) -> None:
        """A machine that has left comes back by a code, and is meshed soon after Enter."""
        acacia = self.acacia
        acacia.run("bzzz", "leave")
        for machine in (self.walnut, self.ironwood):
            until(
                lambda one=machine: "acacia" not in connected(one),  # type: ignore[misc]  # bound at once
                REVOKED_WITHIN,
                "acacia has left",
                0.1,
            )
        self.assertIsNone(ask(acacia, "cluster", "show")["cluster"])
        until(partial(self.is_claimed_for, acacia), PATIENCE, "acacia sees who is claimed", 0.1)
        code = invite(self.walnut)
        began = time.time()
        said = acacia.run("bzzz", "join", code).output
        self.until_members()
        self.assertIn(f"Joined {CLUSTER}: walnut", said)
        until(lambda: f"has joined {CLUSTER}" in invited(self.walnut), 5.0, "walnut is told", 0.1)
        meshed = linked_at(acacia, self.members, began)
        self.figure("joined by a code, from Enter to meshed", meshed - began, PAIRED_WITHIN)

    def is_claimed_for(self, machine: Machine) -> bool:
        """Whether a machine outside sees that walnut is in a cluster."""
        peers = ask(machine, "peers")["peers"]
        return any(peer["name"] == "walnut" and peer["state"] == "claimed" for peer in peers)

    def test_restarts(self) -> None:
        """Members stay members through restarts, a reboot, and when all start at once."""
        self.ironwood.run("systemctl", "restart", "bzzz")
        self.until_members()
        self.acacia.reboot()
        self.until_members()
        for machine in self.members:
            machine.run("systemctl", "restart", "bzzz")
        self.until_members()
        self.assertFalse(any(log(one, self.began, "-p", "err") for one in self.members))

    def test_upgrade(self) -> None:
        """The installer leaves a member alone, also with a token of somewhere else."""
        self.ironwood.run("tee", TOKEN_FILE, stdin="bzzz-join-elsewhere\n")
        said = install(self.ironwood, CHECKOUT, "--join-file", TOKEN_FILE).output
        self.assertIn(f"this machine is a member of {CLUSTER} already: it stays as it is", said)
        self.until_members()

    # -- who is not in it

    def test_unclaimed(self) -> None:
        """A machine next to them stays in no cluster, is linked to none, and says what to do."""
        elm = self.elm
        elm.run("systemctl", "restart", "bzzz")
        names = sorted(one.name for one in self.members)

        def claimed() -> bool:
            peers = ask(elm, "peers")
            states = [] if peers is None else peers["peers"]
            return sorted(one["name"] for one in states if one["state"] == "claimed") == names

        until(claimed, PATIENCE, "elm sees that they are claimed", 0.2)
        self.assertEqual(connected(elm), [])
        self.assertIsNone(ask(elm, "cluster", "show")["cluster"])
        self.assertIn("bzzz invite there, bzzz join here", elm.run("bzzz", "peers").stdout)
        self.assertIn("bzzz join CODE here", elm.run("bzzz", "cluster", "show").stdout)
        said = elm.run("bzzz", "invite", check=False)
        self.assertNotEqual(said.code, 0)
        for machine in self.members:
            self.assertFalse(heard_from(elm, self.peer_id(machine), self.began))

    def test_outsider(self) -> None:
        """Who was never admitted sees the adverts; no protocol gets it anything of the cluster."""
        self.broadcast_often()
        self.elm.run("systemctl", "stop", "bzzz")
        self.addCleanup(self.elm.run, "systemctl", "start", "bzzz")
        outsider = self.outsider(self.directory, LISTENING)
        outsider.wait()
        for machine in self.members:
            peer = self.peer_id(machine)
            self.assertEqual(len(outsider.lines("advert", peer=peer)), 1, machine.name)
            self.assert_told_nothing(outsider, peer, 0.0)
            # What it said has reached nobody.
            known = [node["name"] for node in ask(machine, "capabilities")["nodes"]]
            self.assertEqual(sorted(known), sorted(one.name for one in self.members))
        # Nobody has linked with it; each link was its own.
        self.assertEqual(outsider.lines("up", is_initiator=False), [])
        self.until_members()

    def test_revoked(self) -> None:
        """From 1 s after the revoke a member's key and roster get what an outsider gets."""
        self.broadcast_often()
        acacia, peer = self.acacia, self.peer_id(self.acacia)
        others = {one.name: self.peer_id(one) for one in (self.walnut, self.ironwood)}
        # Somebody has copied its disk.
        acacia.run("systemctl", "stop", "bzzz")
        outsider = self.outsider(self.state_of(acacia), 2 * LISTENING)
        self.until_heard(outsider, *others.values())
        self.addCleanup(self.come_back, acacia)
        asked = time.time()
        said = self.walnut.run("bzzz", "revoke", "acacia").stdout
        revoked = time.time()
        self.assertIn("Revoked acacia", said)
        outsider.wait()
        for name, other in others.items():
            machine = self.home.service.machines.machines[name]
            lost = lost_at(machine, peer, asked)
            assert lost is not None
            down = outsider.lines("down", asked, peer=other)[0]
            self.figure(f"{name} has no link with it any more", lost - revoked, REVOKED_WITHIN)
            self.figure(f"seen from there, {name}", down["time"] - revoked, REVOKED_WITHIN)
            self.assert_told_nothing(outsider, other, revoked + REVOKED_WITHIN)
            named = [node["name"] for node in ask(machine, "capabilities")["nodes"]]
            self.assertNotIn(NAME, named)

    def test_revoked_while_running(self) -> None:
        """A running node that is revoked loses its links at once, and hears nothing any more."""
        self.broadcast_often()
        acacia, peer = self.acacia, self.peer_id(self.acacia)
        self.addCleanup(self.come_back, acacia)
        self.walnut.run("bzzz", "revoke", "acacia")
        revoked = time.time()
        for machine in (self.walnut, self.ironwood):
            lost = until(
                partial(lost_at, machine, peer, self.began), PATIENCE, "it has lost acacia", 0.1
            )
            self.figure(f"{machine.name} has lost it", lost - revoked, REVOKED_WITHIN)
        time.sleep(LISTENING)
        # With what it knew before it starts again, too.
        acacia.run("systemctl", "restart", "bzzz")
        acacia.run("bzzz", "status", "--wait", "20")
        time.sleep(LISTENING)
        for other in (self.walnut, self.ironwood):
            self.assertFalse(heard_from(acacia, self.peer_id(other), revoked + REVOKED_WITHIN))
            self.assertNotIn("acacia", connected(other))
        linked = [one["name"] for one in ask(acacia, "members")["members"] if one["connected"]]
        if ask(acacia, "cluster", "show")["cluster"]["revoked"]:
            # It has heard of it before its links were cut.
            self.assertEqual(linked, [])
            self.assertIn("revoked", acacia.run("bzzz", "status").stdout)
            return
        # Nobody has told it so, but it says of each that it is no member to it.
        until(
            lambda: acacia.run("bzzz", "peers").stdout.count(GUEST) == 2,
            PATIENCE,
            "acacia says of both that they take it for a guest",
            0.5,
        )
        self.assertEqual(linked, ["acacia"])

    def test_revoked_while_a_member_was_away(self) -> None:
        """Who was cut off when it was said still talks to the revoked, and stops when it hears."""
        self.broadcast_often()
        walnut, ironwood, acacia = self.members
        peer, away = self.peer_id(acacia), self.peer_id(ironwood)
        acacia.run("systemctl", "stop", "bzzz")
        self.addCleanup(self.come_back, acacia)
        self.cut_off(ironwood)
        walnut.run("bzzz", "revoke", "acacia")
        # The revoked one is there before walnut is.
        self.addCleanup(walnut.plug, True)
        walnut.plug(False)
        ironwood.plug(True)
        outsider = self.outsider(self.state_of(acacia), 3 * LISTENING, self.address(ironwood))
        self.until_heard(outsider, away)
        plugged = time.time()
        walnut.plug(True)
        healed = self.learnt(ironwood, walnut, plugged)
        outsider.wait()
        lost = lost_at(ironwood, peer, plugged)
        assert lost is not None
        self.figure("after walnut was back, ironwood lost it", lost - healed, REVOKED_WITHIN)
        self.assert_told_nothing(outsider, away, healed + REVOKED_WITHIN)

    def test_revoked_by_one_that_was_away(self) -> None:
        """What an admin says while it is cut off counts at all others once it is back."""
        self.broadcast_often()
        walnut, ironwood, acacia = self.members
        peer = self.peer_id(acacia)
        self.addCleanup(self.come_back, acacia)
        self.cut_off(walnut)
        walnut.run("bzzz", "revoke", "acacia")
        # Nobody there has heard of it.
        self.assertEqual(connected(ironwood), ["acacia"])
        plugged = time.time()
        walnut.plug(True)
        healed = self.learnt(ironwood, walnut, plugged)
        lost = until(partial(lost_at, ironwood, peer, plugged), PATIENCE, "it is revoked", 0.1)
        self.figure("after walnut was back, ironwood lost it", lost - healed, REVOKED_WITHIN)
        time.sleep(LISTENING)
        for other in (ironwood, walnut):
            self.assertNotIn("acacia", connected(other))
            self.assertFalse(heard_from(acacia, self.peer_id(other), healed + REVOKED_WITHIN))

    def until_heard(self, outsider: Outsider, *peers: str) -> None:
        """Wait until an outsider has got from each of these what a member gets."""
        for peer in peers:
            for protocol in sorted(TELLING):
                until(
                    partial(outsider.lines, "heard", peer=peer, protocol=protocol),
                    PATIENCE,
                    f"what a member hears by {protocol}",
                    0.1,
                )

    def cut_off(self, machine: Machine) -> None:
        """Pull a machine's cable, and wait until all have noticed."""
        since = time.time()
        self.addCleanup(machine.plug, True)
        machine.plug(False)
        own = self.peer_id(machine)
        for other in self.members:
            if other is machine or ask(other, "status") is None:
                continue
            what = f"{other.name} and {machine.name} have noticed"
            until(partial(lost_at, other, own, since), PATIENCE, what, 0.2)
            until(partial(lost_at, machine, self.peer_id(other), since), PATIENCE, what, 0.2)

    def learnt(self, machine: Machine, other: Machine, plugged: float) -> float:
        """Wait until two machines are linked again; returns since when."""
        what = f"{machine.name} and {other.name} are linked again"
        for one, two in ((machine, other), (other, machine)):
            until(lambda one=one, two=two: two.name in connected(one), PATIENCE, what, 0.1)  # type: ignore[misc]  # bound at once
        at = linked_at(machine, [other], plugged)
        print(f"\n      linked again {at - plugged:.2f} s after the cable", end=" ")
        return at

    # -- a fleet

    def test_fleet(self) -> None:
        """One command and a file with a token bring a fresh machine in; the token counts them."""
        elm, acacia = self.elm, self.acacia
        elm.run("tee", TOKEN_FILE, stdin="bzzz-join-elsewhere\n")
        wrong = install(elm, CHECKOUT, "--join-file", TOKEN_FILE, check=False)
        self.assertEqual(wrong.code, 1, wrong.output)
        self.assertIn("is installed and runs, but it is in no cluster", wrong.output)
        elm.run("systemctl", "is-active", "bzzz")
        acacia.run("bzzz", "leave")
        before = self.open_channels()
        token = self.walnut.run("bzzz", "invite", "--token", "--uses", "2").stdout
        (channel,) = self.open_channels() - before
        self.addCleanup(elm.run, "bzzz", "leave", check=False)
        acacia.run("tee", TOKEN_FILE, stdin=token)
        acacia.run("bzzz", "join", "--token-file", TOKEN_FILE, timeout=PATIENCE)
        elm.run(f"{CHECKOUT}/uninstall-service.sh", "--purge")
        elm.run("tee", TOKEN_FILE, stdin=token)
        began = time.time()
        said = install(elm, CHECKOUT, "--join-file", TOKEN_FILE).output
        self.assertIn(f"Joined {CLUSTER}: walnut", said)
        self.assertNotIn(token.strip(), said)
        everybody = (*self.members, elm)
        for machine in everybody:
            until(partial(is_whole, machine, everybody), PATIENCE, "all are members", 0.2)
        print(f"\n      installed and a member after {time.time() - began:.1f} s", end=" ")
        again = install(elm, CHECKOUT, "--join-file", TOKEN_FILE).output
        self.assertIn(f"a member of {CLUSTER} already: it stays as it is", again)
        # A third one, on elm's network.
        hazel = NodeProcess(elm.host, self.directory / "hazel", "--name", "hazel")
        hazel.start()
        self.addCleanup(hazel.kill)
        hazel.listening()
        refused = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "bzzz"), "join", "-"),
                *("--runtime-dir", str(self.directory / "hazel" / "run")),
            ],
            input=token,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertNotEqual(refused.returncode, 0, refused.stdout)
        print(f"\n      the third: {refused.stderr.splitlines()[-1]}", end=" ")
        self.walnut.run("bzzz", "invitations", "withdraw", channel)
        self.assertNotIn(token.strip(), "".join(log(one, self.began) for one in everybody))

    def open_channels(self) -> set[str]:
        """The invitations of walnut that are open."""
        return {each["channel"] for each in ask(self.walnut, "invitations")["invitations"]}

    # -- the record

    def test_written_down(self) -> None:
        """Each log is whole, others vouch for it, and what is done to a copy is told."""
        for machine in self.members:
            what = f"others vouch for {machine.name}"
            said = until(partial(self.vouched_for, machine), PATIENCE, what, 1.0)
            print(f"\n      {machine.name}: {said}", end=" ")
        walnut = self.walnut
        shown = walnut.run("bzzz", "audit", "show").stdout
        for event in ("cluster_created", "invited", "admitted", "invitation_used"):
            self.assertIn(f" {event} ", shown)
        self.assertIn(" joined ", self.acacia.run("bzzz", "audit", "show").stdout)
        self.assertNotIn("bzzz-join-", shown)
        copy = "/root/audit.log"
        for what, told in (
            (f"sed '2s/./x/20' {STATE}/audit.log", f"{copy}:2"),
            (f"sed 2d {STATE}/audit.log", f"{copy}:2"),
            (f"head -n 3 {STATE}/audit.log", "checkpoint"),
        ):
            walnut.shell(f"{what} >{copy}")
            ran = walnut.run("bzzz", "audit", "verify", copy, check=False)
            self.assertEqual(ran.code, 1, f"{what}: {ran.output}")
            self.assertIn(told, ran.stdout)

    def vouched_for(self, machine: Machine) -> str | None:
        """What is said of a machine's log once others vouch for some of it."""
        ran = machine.run("bzzz", "audit", "verify", check=False)
        self.assertEqual(ran.code, 0, ran.output)
        self.assertIn("it is whole", ran.stdout)
        found = re.search(r"(?m)^.* vouch(es)? for what is up to line .*$", ran.stdout)
        return found and found[0]
