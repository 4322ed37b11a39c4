"""``bzzz join``, against the control API of a node with a real cluster."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import Result

from bzzz.cli import join
from bzzz.cli.session import Session
from bzzz.trust.codes import make_token
from tests.cli.cluster_case import WALNUT, ClusterCase
from tests.web.clusters import Home


class JoinCommandTests(ClusterCase):
    """join, on ``acacia``."""

    def setUp(self) -> None:
        super().setUp()
        self.inviter = self.machine
        self.inviter.found()
        self.use(Home("acacia"))
        self.machine.joining.inviter = self.inviter
        self.token = make_token(WALNUT, b"channel_", lambda size: b"s" * size)

    def joined(self, result: Result, name: str = "acacia") -> None:
        self.assertEqual(
            (result.exit_code, result.stdout),
            (0, f"Joined homelab: walnut ({WALNUT.short}) let this node in as {name}\n"),
            result.stderr,
        )

    def secret(self) -> Any:
        return self.machine.joining.asked[0]

    def test_code(self) -> None:
        """Who let it in is told, and what went on before on stderr."""
        result = self.run_command("join", "7-guitar-lunar")
        self.joined(result)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "Looking for the machine that made it, for 30 s at most",
                f"Found it at 192.0.2.1:4001 ({WALNUT.short})",
            ],
        )
        self.assertEqual(self.secret().text, "7-guitar-lunar")
        # Nobody is looked for then.
        self.assertEqual(
            self.refused(4, "join", "7-guitar-lunar"),
            "The node answered: this node is a member of homelab: bzzz leave comes first\n",
        )

    def test_code_in_words(self) -> None:
        """A code may be typed as several words."""
        self.joined(self.run_command("join", "7", "Guitar", "LUNA"))
        self.assertEqual(self.secret().text, "7-guitar-lunar")

    def test_options(self) -> None:
        """--name and --at reach the node."""
        at = ("/ip4/192.0.2.1/tcp/4001", f"/ip6/2001:db8::1/tcp/4001/p2p/{WALNUT}")
        self.joined(
            self.run_command(
                "join", "7-guitar-lunar", "--name", "oak", "--at", at[0], "--at", at[1]
            ),
            "oak",
        )
        self.assertEqual(tuple(map(str, self.machine.joining.asked[2])), at)

    def test_mistyped(self) -> None:
        """A word that is in no code is told with the nearest, and nobody is asked."""
        self.assertEqual(
            self.refused(2, "join", "7-guitr-lunar"),
            "Word 1, 'guitr', is in no code: did you mean guitar?\n",
        )
        self.assertIn("has 2 words after its number", self.refused(2, "join", "7", "guitar"))
        self.assertEqual(self.asked, [])

    def test_nothing_given(self) -> None:
        """Without a code one is told where it is shown."""
        result = self.run_command("join")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("bzzz invite shows it", " ".join(result.stderr.split()))

    def test_bad_addresses(self) -> None:
        """An address that cannot be dialled is a wrong command line."""
        for address in ("192.0.2.1:4001", "/ip4/192.0.2.1", "/dns4/walnut/tcp/4001"):
            result = self.run_command("join", "7-guitar-lunar", "--at", address)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("bzzz id on the other machine", " ".join(result.stderr.split()))

    def test_token_in_a_file(self) -> None:
        """A token is read from a file, with the end of its line."""
        file = Path(self.mktemp())
        file.write_text(self.token.text + "\n")
        self.joined(self.run_command("join", "--token-file", str(file)))
        self.assertEqual(self.secret(), self.token)
        self.assertEqual(self.titles, [])

    def test_token_in_the_environment(self) -> None:
        """A token is taken from its variable, which is not for the configuration."""
        result = self.run_command(
            "join", BZZZ_JOIN_TOKEN=self.token.text, BZZZ_RUNTIME_DIR="/chosen"
        )
        self.joined(result)
        self.assertEqual(self.secret(), self.token)
        self.assertTrue(self.asked[0].startswith("/chosen/"), self.asked)
        self.assertEqual(self.titles, [])

    def test_what_is_typed_wins(self) -> None:
        """A code on the command line is meant, whatever the environment has."""
        self.joined(self.run_command("join", "7-guitar-lunar", BZZZ_JOIN_TOKEN=self.token.text))
        self.assertEqual(self.secret().channel, "7")

    def test_standard_input(self) -> None:
        """A dash reads standard input, which need not be a token."""
        for text, expected in ((self.token.text, self.token.channel), ("7 guitar lunar", "7")):
            self.use(Home("acacia"))
            self.inviter = Home()
            self.inviter.found()
            self.machine.joining.inviter = self.inviter
            self.patch(join, "_read", lambda file, text=text: text if file == "-" else "")
            self.joined(self.run_command("join", "-"))
            self.assertEqual(self.secret().channel, expected)

    def test_typed_at_a_terminal(self) -> None:
        """A dash at a terminal asks, and shows nothing of what is typed."""
        asked: list[dict[str, object]] = []

        def prompt(text: str, **options: object) -> str:
            asked.append(options)
            return self.token.text

        self.patch(join, "_at_terminal", lambda: True)
        self.patch(click, "prompt", prompt)
        self.joined(self.run_command("join", "-"))
        self.assertEqual(asked, [{"hide_input": True, "err": True}])

    def test_files_without_a_token(self) -> None:
        """A file that cannot be read, or has something else, is told; what is in it is not."""
        file = Path(self.mktemp())
        neither = f"{file} has no token, which bzzz invite --token makes, and no code: "
        for content, code, expected in (
            (None, 1, "cannot be read: No such file or directory"),
            (b"", 2, f"{neither}the code is missing"),
            (b"garbage\n", 2, f"{neither}a code begins with a number"),
            (b"\xff\xfe", 2, "it is not text"),
            (self.token.text[:-4].encode(), 2, f"{file}: the token is damaged, or a part is"),
            (b"x" * (1 << 20), 2, "too long"),
        ):
            if content is not None:
                file.write_bytes(content)
            said = self.refused(code, "join", "--token-file", str(file))
            self.assertIn(expected, said)
            self.assertNotIn(self.token.text[12:30], said)
        both = self.run_command("join", "7-guitar-lunar", "--token-file", str(file))
        self.assertEqual(both.exit_code, 2)

    def test_where_no_token_is(self) -> None:
        """What is no token is told with where it was: the variable, or standard input."""
        said = self.refused(2, "join", BZZZ_JOIN_TOKEN="garbage")
        self.assertTrue(said.startswith("BZZZ_JOIN_TOKEN has no token"), said)
        self.patch(join, "_read", lambda file: self.token.text[:-4])
        said = self.refused(2, "join", "-")
        self.assertTrue(said.startswith("Standard input: the token is damaged"), said)

    def test_hidden(self) -> None:
        """A token that was typed is hidden before anything else is done, be it right or not."""
        for token in (self.token.text, self.token.text[:-4]):
            self.titles.clear()
            self.run_command("join", token, "--at", "nowhere")
            self.assertEqual(self.titles, ["bzzz join"])

    def test_hidden_from_ps(self) -> None:
        """The process list does not have it, while the node is waited for."""
        directory = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(directory.cleanup)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(f"{directory.name}/control.sock")
        listening.listen()
        listening.settimeout(20)
        command = [sys.executable, "-m", "bzzz.cli", "--runtime-dir", directory.name]
        with subprocess.Popen([*command, "join", self.token.text]) as process:
            try:
                connection, _ = listening.accept()
                self.addCleanup(connection.close)
                shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            finally:
                process.kill()
        self.assertNotIn(b"bzzz-join-", shown)
        self.assertIn(b"bzzz join", shown)

    def test_errors_of_the_node(self) -> None:
        """Why it has not joined is told in words, with what to do; exit code 4."""
        self.machine.joining.inviter = None
        result = self.run_command("join", "7-guitar-lunar", "--at", "/ip4/192.0.2.1/tcp/4001")
        self.assertEqual((result.exit_code, result.stdout), (4, ""))
        self.assertEqual(
            result.stderr.splitlines()[-1],
            "The node answered: nobody can be reached: /ip4/192.0.2.1/tcp/4001: connection refused",
        )

    def test_json(self) -> None:
        """With --json each thing is a line."""
        lines = [
            json.loads(line)
            for line in self.output("join", "7-guitar-lunar", "--json").splitlines()
        ]
        self.assertEqual(
            [line["event"] for line in lines], ["looking", "asking", "found", "joined"]
        )
        self.assertEqual(lines[-1]["by_name"], "walnut")

    def test_interrupted(self) -> None:
        """Ctrl-C ends the search; whether the node had joined by then is told."""
        stream = Session.stream

        def interrupted(session: Session, what: str, body: object = None) -> Iterator[Any]:
            yield next(stream(session, what, body))
            raise KeyboardInterrupt

        self.patch(Session, "stream", interrupted)
        result = self.run_command("join", "7-guitar-lunar")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(
            result.stderr.splitlines()[-1],
            "Interrupted, but this node had joined homelab already.",
        )
        self.use(Home("oak"))
        result = self.run_command("join", "7-guitar-lunar")
        self.assertEqual(result.stderr.splitlines()[-1], "Interrupted: this node has not joined.")
