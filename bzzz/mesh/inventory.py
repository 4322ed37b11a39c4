"""This node's own capability document, kept up to date.

Enters: the configuration, and what is detected at the start and every :data:`INTERVAL` seconds.
Leaves: the document as it is now, and a call when it says something else.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.mesh.capability import (
    EVERYTHING,
    MAX_ADDRESSES,
    MAX_CAPABILITIES,
    CapabilityDocument,
    OwnerRules,
    Resources,
    ServiceState,
    printable,
)
from bzzz.mesh.detect import Detected
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.periodic import Periodic

__all__ = ["Configured", "Inventory"]

# Seconds between two detections: a model that was pulled is known to the mesh within a minute.
INTERVAL = 60.0

# Seconds that a start waits for the first detection, so that the first broadcast says something.
# Files take a few milliseconds; a GPU's driver may take seconds, and is told of when it answers.
FIRST_WAIT = 0.25


@dataclass(frozen=True)
class Configured:
    """What is not detected.

    :ivar capabilities: added to those detected.
    :ivar rules: what tasks may do here.
    """

    node_id: str
    name: str
    version: str
    capabilities: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    specialization: str = ""
    rules: OwnerRules = EVERYTHING


class Inventory:
    """The document of this node.

    :param detect: detects; never fails.
    :param addresses: the multiaddrs that this node listens on, at this moment.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        configured: Configured,
        detect: Callable[[], Coroutine[Deferred[Any], Any, Detected]],
        addresses: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        self._clock = clock
        self._configured = configured
        self._detect = detect
        self._addresses = addresses
        self._document: CapabilityDocument | None = None
        self._made_of: tuple[object, ...] = ()
        self._detected = Detected()
        self._service: ServiceState | None = None
        self._observers: list[Callable[[], object]] = []
        self._told: CapabilityDocument | None = None
        self._rounds = Periodic(clock, INTERVAL, self.refresh, "detecting capabilities", self._log)

    def on_change(self, observer: Callable[[], object]) -> None:
        """Call ``observer`` whenever the document says something else than before."""
        self._observers.append(observer)

    def start(self) -> Deferred[None]:
        """Detect now, and again every :data:`INTERVAL` seconds.

        :return: fires when the first detection has ended, or after :data:`FIRST_WAIT` seconds.
        """
        ready: Deferred[None] = Deferred()

        def proceed(_: object = None) -> None:
            if not ready.called:
                ready.callback(None)

        in_background(self.refresh(), "detecting capabilities", self._log).addCallback(proceed)
        if not ready.called:
            waiting = self._clock.callLater(FIRST_WAIT, proceed)
            ready.addBoth(lambda _: waiting.cancel() if waiting.active() else None)
        self._rounds.start(now=False)
        return ready

    def stop(self) -> None:
        """Detect no more."""
        self._rounds.stop()

    async def refresh(self) -> None:
        """Detect now."""
        self._detected = await self._detect()
        self.look()

    def configure(self, configured: Configured) -> None:
        """What is not detected is this from now on."""
        self._configured = configured
        self.look()

    def set_service(self, state: ServiceState | None) -> None:
        """The state of this node's systemd unit; None where it does not run as a service."""
        self._service = state
        self.look()

    def look(self) -> None:
        """Tell the observers if the document changed, as when addresses came or went."""
        document = self.document()
        if self._told is not None and document.same_as(self._told):
            return
        self._told = document
        self._log.debug("Capabilities: {document}", document=document)
        for observer in self._observers:
            observer()

    def document(self) -> CapabilityDocument:
        """The document as it is now, the same one as long as nothing has changed."""
        configured, detected = self._configured, self._detected
        addresses = tuple(self._addresses())[:MAX_ADDRESSES]
        made_of = (configured, detected, self._service, addresses)
        if self._document is not None and self._made_of == made_of:
            return self._document
        self._made_of = made_of
        names = dict.fromkeys((*configured.capabilities, *detected.capabilities))
        self._document = CapabilityDocument(
            node_id=configured.node_id,
            name=configured.name,
            version=configured.version,
            capabilities=tuple(names)[:MAX_CAPABILITIES],
            models=detected.models or (),
            specialization=configured.specialization,
            resources=Resources(
                cpu_cores=detected.cpu_cores,
                memory_bytes=detected.memory_bytes,
                gpus=detected.gpus,
                disk_bytes=detected.disk_bytes,
                disk_free_bytes=detected.disk_free_bytes,
            ),
            labels=dict(configured.labels),
            os=printable(detected.os, 128),
            arch=printable(detected.arch, 64),
            python=printable(detected.python, 64),
            runtimes=detected.runtimes,
            service=self._service,
            addresses=addresses,
            rules=configured.rules,
        )
        return self._document
