"""Stand-ins for zeroconf, without sockets."""

from __future__ import annotations

from typing import Any

from zeroconf import DNSCache, DNSIncoming, DNSOutgoing  # type: ignore[attr-defined]

__all__ = ["FakeAsyncZeroconf", "FakeEngine", "FakeZeroconf"]


class FakeRegistry:
    def __init__(self) -> None:
        self.services: list[Any] = []

    def async_add(self, service: Any) -> None:
        self.services.append(service)

    def async_get_service_infos(self) -> list[Any]:
        return list(self.services)

    def async_remove(self, services: list[Any]) -> None:
        for service in services:
            self.services.remove(service)


class FakeEngine:
    """The sockets."""

    nothing = False

    def __init__(self) -> None:
        self.senders: tuple[str, ...] = () if self.nothing else ("IPv4",)
        self.readers: tuple[Any, ...] = ()


class FakeZeroconf:
    """What is used of a zeroconf instance, with its real cache."""

    done = False

    def __init__(self) -> None:
        self.cache = DNSCache()
        self.registry = FakeRegistry()
        self.engine = FakeEngine()
        self.listeners: list[Any] = []
        self.repairs = 0
        self.sent: list[DNSIncoming] = []

    async def async_wait_for_start(self) -> None:
        pass

    async def async_update_interfaces(self) -> None:
        self.repairs += 1
        self.engine.senders = ("IPv4", "IPv6")

    def close(self) -> None:
        pass

    def async_add_listener(self, listener: Any, question: None) -> None:
        self.listeners.append(listener)

    def async_remove_listener(self, listener: Any) -> None:
        self.listeners.remove(listener)

    def async_send(self, out: DNSOutgoing) -> None:
        self.sent += [DNSIncoming(data) for data in out.packets()]

    def take(self) -> list[DNSIncoming]:
        sent, self.sent = self.sent, []
        return sent


class FakeAsyncZeroconf:
    def __init__(self, zc: object) -> None:
        pass

    async def async_close(self) -> None:
        pass
