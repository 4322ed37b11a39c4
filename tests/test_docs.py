"""The examples of the documentation are what the code understands."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh import messages

PROTOCOL = Path(__file__).parent.parent / "docs" / "protocol.rst"


class ExampleTests(SynchronousTestCase):
    def examples(self) -> list[bytes]:
        blocks = re.findall(
            r"^\.\. code-block:: json\n\n((?: {3}.*\n)+)", PROTOCOL.read_text("utf-8"), re.MULTILINE
        )
        return [textwrap.dedent(block).encode() for block in blocks]

    def test_messages(self) -> None:
        """Each message in protocol.rst is understood."""
        kinds = []
        for example in self.examples():
            sender = PeerID.parse(json.loads(example)["from"])
            kinds.append(messages.decode(example, sender).type)
        self.assertEqual(kinds, [messages.CAPABILITY, messages.AVAILABILITY, messages.AVAILABILITY])

    def test_fields(self) -> None:
        """The first two have every field that there is, and no other."""
        for example in self.examples()[:2]:
            data = json.loads(example)["data"]
            document = messages.decode(example, PeerID.parse(data["node_id"])).document
            assert document is not None
            self.assertEqual(set(data), set(msgspec.structs.asdict(document)))
