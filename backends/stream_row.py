"""The row of a stream: its number, where it begins, and what has been cut of it. Drawn in ARCHITECTURE.md.

Of a stream of which nothing was cut the row is two numbers, and what they lead to says the same of itself. What was cut
says nothing any more, so from then on the row has a checksum.
"""

from __future__ import annotations

import struct
from zlib import crc32

import attrs

from perdure.backends.errors import Corrupt
from perdure.backends.event import Position

_PLAIN = struct.Struct("<QQ")
_CUT = struct.Struct("<QQQII")
"""number, first, position of the newest event that was cut, 1 if nothing was left then, checksum of these, the name and the archive."""


@attrs.frozen
class StreamRow:
    """A row of `streams`."""

    number: int
    first: int
    cut: Position = Position(0)
    """The position of the newest event that was cut; 0: none was."""
    emptied: bool = False
    """Whether no event was left then, and none has come since: its last seq is the one before *first*."""
    archive: str | None = None
    """Where what was cut is kept: the newest archive that has some of it."""

    def packed(self, name: bytes) -> bytes:
        """The row's value, under that name."""
        if not self.cut:
            return _PLAIN.pack(self.number, self.first)
        archive = (self.archive or "").encode()
        lead = _CUT.pack(self.number, self.first, self.cut, self.emptied, 0)[:-4]
        return lead + crc32(archive, crc32(name, crc32(lead))).to_bytes(4, "little") + archive


def read_row(name: bytes, value: bytes | memoryview) -> StreamRow:
    """The inverse of `StreamRow.packed`.

    Raises:
      Corrupt: what it says of a cut does not fit its checksum.
    """
    if len(value) <= _PLAIN.size:
        return StreamRow(*_PLAIN.unpack(value))
    number, first, cut, emptied, crc = _CUT.unpack_from(value)
    archive = bytes(value[_CUT.size :])
    if crc32(archive, crc32(name, crc32(value[: _CUT.size - 4]))) != crc:
        raise Corrupt(f"the row of stream {name.decode(errors='replace')!r}", "its checksum does not fit")
    return StreamRow(number, first, Position(cut), bool(emptied), archive.decode() or None)
