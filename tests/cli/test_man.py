"""The manual pages."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.man import _text, pages
from bzzz.cli.reference import commands
from bzzz.config.options import OPTIONS


class ManTests(SynchronousTestCase):
    """``python -m bzzz.cli.man DIR``."""

    def test_every_command_is_in(self) -> None:
        """bzzz.1 has a section for each command."""
        page = pages()["bzzz.1"]
        for context, _ in commands():
            self.assertIn(f".SS {context.command_path} ", page)

    def test_every_key_is_in(self) -> None:
        """bzzz.toml.5 has each key, with its variable."""
        page = pages()["bzzz.toml.5"]
        for option in OPTIONS:
            self.assertIn(f"\\fB{option.key}\\fR", page)
            self.assertIn(option.variable, page)

    def test_nothing_is_taken_for_a_request(self) -> None:
        """A dot or a quote at the beginning of a line, and backslashes, are shown as they are."""
        self.assertEqual(_text(".so /etc/passwd\n'x\\n"), "\\&.so /etc/passwd\n\\&'x\\en")
        for page in pages().values():
            for line in page.splitlines():
                if line.startswith((".", "'")):
                    self.assertRegex(line, r"^\.(TH|SH|SS|PP|TP|nf|fi|RS|RE|br)( |$)")

    def test_quotes_of_the_manual_are_bold(self) -> None:
        """What is code in the manual is bold in a page, and no quote of it is left."""
        self.assertEqual(_text("the ``--json`` flag"), "the \\fB\\-\\-json\\fR flag")
        self.assertIsNone(re.search("``", "".join(pages().values())))
