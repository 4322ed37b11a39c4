"""The reference of commands."""

from __future__ import annotations

import re

import docutils.core  # type: ignore[import-untyped]
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz import config
from bzzz.cli.reference import reference
from bzzz.web import schema


class ReferenceTests(SynchronousTestCase):
    """What the manual includes."""

    def test_commands(self) -> None:
        """Every command has its section with its options."""
        text = reference()
        for command in (
            *("status", "id", "peers", "capabilities", "events", "doctor", "completion"),
            *("config show", "config check"),
        ):
            self.assertIn(f"``bzzz {command}``\n", text)
        self.assertEqual(text.count("``--runtime-dir DIR``"), 8)

    def test_json_fields(self) -> None:
        """Every field that --json promises says what it means."""
        for name in schema.__all__:
            struct = getattr(schema, name)
            if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
                said = re.findall(r":ivar (\w+):", struct.__doc__ or "")
                self.assertEqual(said, list(struct.__struct_fields__), name)

    def test_is_rest(self) -> None:
        """Both references are reST without a warning."""
        for text in (reference(), config.reference()):
            docutils.core.publish_doctree(
                text, settings_overrides={"halt_level": 2, "report_level": 5}
            )
