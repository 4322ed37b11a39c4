"""This node's own document, over time."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.capability import Gpu, OwnerRules
from bzzz.mesh.detect import Detected
from bzzz.mesh.inventory import FIRST_WAIT, INTERVAL, Configured, Inventory


class InventoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.answer: Deferred[Detected] | None = None
        self.found = Detected(cpu_cores=4, disk_free_bytes=10, os="Debian", models=("phi3",))
        self.changes = 0
        self.addresses = ["/ip4/192.0.2.7/tcp/40001"]
        self.inventory = Inventory(
            self.clock,
            Configured(
                node_id="me",
                name="walnut",
                version="0.1.0",
                capabilities=("fast", "python"),
                labels={"rack": "a3"},
                specialization="code",
            ),
            self.detect,
            lambda: self.addresses,
        )
        self.inventory.on_change(self.count)

    async def detect(self) -> Detected:
        return await (succeed(self.found) if self.answer is None else self.answer)

    def count(self) -> None:
        self.changes += 1

    def test_document(self) -> None:
        """What is configured and what is detected come together, each capability once."""
        self.successResultOf(self.inventory.start())
        document = self.inventory.document()
        self.assertEqual(
            (document.node_id, document.name, document.version, document.specialization),
            ("me", "walnut", "0.1.0", "code"),
        )
        self.assertEqual(document.capabilities, ("fast", "python", "ollama"))
        self.assertEqual((document.models, document.labels), (("phi3",), {"rack": "a3"}))
        self.assertEqual(document.addresses, ("/ip4/192.0.2.7/tcp/40001",))
        self.assertEqual((document.resources.cpu_cores, document.os), (4, "Debian"))

    def test_changes(self) -> None:
        """It is detected again each minute; observers hear of changes, and of those alone."""
        self.inventory.start()
        self.assertEqual(self.changes, 1)
        self.found = Detected(cpu_cores=4, disk_free_bytes=5, os="Debian", models=("phi3",))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.changes, 1)
        self.assertEqual(self.inventory.document().resources.disk_free_bytes, 5)
        self.found = Detected(gpus=(Gpu(name="RTX", vendor="nvidia"),))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.changes, 2)
        self.assertIn("gpu", self.inventory.document().capabilities)
        self.inventory.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_configured_anew(self) -> None:
        """Another configuration is in the document at once, beside what was detected."""
        self.inventory.start()
        rules = OwnerRules(forbidden_commands=("docker",))
        self.inventory.configure(
            Configured(node_id="me", name="walnut", version="0.1.0", rules=rules)
        )
        self.assertEqual(self.changes, 2)
        document = self.inventory.document()
        self.assertEqual(document.rules, rules)
        self.assertEqual((document.capabilities, document.labels), (("ollama", "python"), {}))
        self.assertEqual(document.resources.cpu_cores, 4)

    def test_slow_detection(self) -> None:
        """A start does not wait long for a slow driver, and hears of it when it has answered."""
        self.answer = Deferred()
        started = self.inventory.start()
        self.assertNoResult(started)
        self.clock.advance(FIRST_WAIT)
        self.successResultOf(started)
        self.assertEqual(self.changes, 0)
        self.answer.callback(self.found)
        self.assertEqual(self.changes, 1)
        self.inventory.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_service_and_addresses(self) -> None:
        """The state of the unit, and other addresses, are changes too."""
        self.inventory.start()
        self.inventory.set_service({"active_state": "active"})
        self.inventory.set_service({"active_state": "active"})
        self.assertEqual(self.changes, 2)
        self.assertEqual(self.inventory.document().service, {"active_state": "active"})
        self.addresses.append("/ip6/2001:db8::7/tcp/40001")
        self.inventory.look()
        self.inventory.look()
        self.assertEqual(self.changes, 3)

    def test_odd_texts(self) -> None:
        """What the machine says of itself can be shown."""
        self.found = Detected(os="a\x1b[2J\n")
        self.inventory.start()
        self.assertEqual(self.inventory.document().os, "a\\x1b[2J\\n")
