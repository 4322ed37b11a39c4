"""The ping protocol's numbers (libp2p specs, ping/ping.md, "Protocol")."""

from __future__ import annotations

__all__ = ["LENGTH", "PROTOCOL"]

PROTOCOL = "/ipfs/ping/1.0.0"

# Random bytes sent, and sent back.
LENGTH = 32
