"""The reference of commands."""

from __future__ import annotations

import re

import docutils.core  # type: ignore[import-untyped]
import msgspec
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from bzzz import config
from bzzz.cli import cluster, identity, invite, members
from bzzz.cli.main import bzzz
from bzzz.cli.reference import commands, reference
from bzzz.web import cluster_schema, schema


class ReferenceTests(SynchronousTestCase):
    """What the manual includes."""

    def test_commands(self) -> None:
        """Every command has its section with its options."""
        text = reference()
        for command in (
            *("status", "id", "peers", "capabilities", "events", "doctor", "completion"),
            *("config show", "config check"),
            *("cluster create", "cluster show", "cluster export", "cluster import", "leave"),
            *("invite", "invitations", "invitations withdraw", "join"),
            *("members", "admit", "rename", "revoke"),
            *("audit verify", "audit show", "audit checkpoints"),
        ):
            self.assertEqual(text.count(f"``bzzz {command}``\n"), 1, command)
        # All but completion.
        self.assertEqual(text.count("``--runtime-dir DIR``"), len(list(commands())) - 1)

    def test_what_asks_first(self) -> None:
        """What changes much says when it asks, and when it does not."""
        for command in (cluster.leave, identity.rotate, members.revoke):
            said = " ".join((command.help or "").split())
            self.assertIn("asks first; with -y, or without a terminal, it does not.", said)

    def test_how_to_withdraw(self) -> None:
        """The command that makes a token void is named where tokens are made."""
        said = " ".join((invite.invite.help or "").split())
        self.assertIn("bzzz invitations withdraw CHANNEL makes it void", said)

    def test_unreadable_files(self) -> None:
        """Of which commands an unreadable file is exit code 5, as they do it, is said."""
        said = " ".join((bzzz.epilog or "").split())
        self.assertIn("5 bzzz audit cannot read a file (other commands: 1).", said)
        for code, command in (
            (5, "audit verify"),
            (5, "audit show"),
            (1, "join --token-file"),
            (1, "cluster import"),
            (1, "config check"),
        ):
            result = CliRunner().invoke(bzzz, [*command.split(), "/nonexistent"])
            self.assertEqual(result.exit_code, code, result.output)

    def test_json_fields(self) -> None:
        """Every field that --json promises says what it means."""
        for module in (schema, cluster_schema):
            for name in module.__all__:
                struct = getattr(module, name)
                if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
                    said = re.findall(r":ivar (\w+):", struct.__doc__ or "")
                    self.assertEqual(said, list(struct.__struct_fields__), name)

    def test_is_rest(self) -> None:
        """Both references are reST without a warning."""
        for text in (reference(), config.reference()):
            docutils.core.publish_doctree(
                text, settings_overrides={"halt_level": 2, "report_level": 5}
            )
