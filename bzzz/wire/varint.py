"""Unsigned varints: little-endian groups of 7 bits, of 9 bytes at most.

Enters and leaves: numbers and their bytes. Lengths and codes on the wire are written so
(multiformats/unsigned-varint); the shortest form is the only one that is read.
"""

from __future__ import annotations

from bzzz.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["decode", "encode"]

MAX_BYTES = 9


def encode(value: int) -> bytes:
    """The shortest encoding of ``value``.

    :raises LocalProtocolError: it is negative or needs more than 63 bits.
    """
    if 0 <= value < 0x80:
        return bytes((value,))
    if not 0 <= value < 1 << 63:
        raise LocalProtocolError(f"{value} does not fit an unsigned varint")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(
    data: bytes | bytearray | memoryview, offset: int = 0, max_bytes: int = MAX_BYTES
) -> tuple[int, int] | None:
    """The value at ``offset`` and the offset after it, or None where more bytes are needed.

    :raises RemoteProtocolError: it is longer than ``max_bytes``, or than it need be.
    """
    value = 0
    shift = 0
    for position in range(offset, min(len(data), offset + max_bytes)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise RemoteProtocolError(
                    "a varint is longer than it need be", "varint_not_minimal"
                )
            return value, position + 1
        shift += 7
    if len(data) - offset >= max_bytes:
        raise RemoteProtocolError(f"a varint has more than {max_bytes} bytes", "varint_too_long")
    return None
