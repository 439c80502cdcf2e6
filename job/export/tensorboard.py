"""TensorBoard's event files as TensorFlow defines them, without TensorFlow or TensorBoard.

A file is a sequence of records: length (8 bytes), its masked CRC-32C (4), a message, the masked
CRC-32C of that (4), little-endian. The messages are protocol buffers; scalars need three:

    Event    1: wall_time (double)   2: step (int64)   3: file_version (string)   5: summary
    Summary  1: value (repeated)
    Value    1: tag (string)         2: simple_value (float)
"""

from __future__ import annotations

import math
import struct
from typing import IO

import google_crc32c

VERSION = b"brain.Event:2"
DOUBLE, FIXED, BYTES, VARINT = 1, 5, 2, 0
"""Wire types of protocol buffers."""


class EventFile:
    """Writes scalars, many in a record."""

    def __init__(self, file: IO[bytes], wall_time: float) -> None:
        self._file = file
        self._prefixes: dict[str, bytes] = {}
        self._record(_key(1, DOUBLE) + struct.pack("<d", wall_time) + _bytes(3, VERSION))

    def add(self, wall_time: float, step: int, values: dict[str, float]) -> None:
        """Write scalars by tag, at a step; wall_time: seconds since 1970."""
        start = _key(1, DOUBLE) + struct.pack("<d", wall_time) + _key(2, VARINT) + _varint(step)
        scalars = [self._prefix(tag) + _float(value) for tag, value in values.items()]
        self._record(start + _bytes(5, b"".join(scalars)))

    def _prefix(self, tag: str) -> bytes:
        """A value's message up to its number: only the number differs from step to step."""
        if tag not in self._prefixes:
            value = _bytes(1, tag.encode()) + _key(2, FIXED)
            self._prefixes[tag] = _key(1, BYTES) + _varint(len(value) + 4) + value
        return self._prefixes[tag]

    def _record(self, message: bytes) -> None:
        length = struct.pack("<Q", len(message))
        self._file.write(length + _checksum(length) + message + _checksum(message))


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TensorFlow does: a checksum over checksums would be weak."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _float(value: float) -> bytes:
    """A number in single precision, as TensorBoard's scalars have no more."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
