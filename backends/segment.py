"""The file of a commit log: a header, then batches, each chained to the one before. Pure; drawn in ARCHITECTURE.md.

A batch can be checked by itself, given its segment's header: its checksum starts from the header's, so
what an earlier life of the same file left behind, or another store's file, does not fit. And each says
the checksum of the one before it: the chain. Behind the last one stands an end mark, overwritten by the next:
where neither a batch nor the mark stands, something was written, or destroyed.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import attrs

from perdure.backends.errors import Corrupt, TooNew

FORMAT: Final = 1
HEADER_BYTES: Final = 4_096
"""A page of its own: a batch that is torn never harms it."""
_MAGIC = b"PdSg"
_HEADER = struct.Struct("<4sI16sQQQQI")
_BATCH_MAGIC = b"PdBt"
_BATCH = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _BATCH.size + 4
_END = struct.Struct("<4sI")
_END_MAGIC = b"PdEn"
END_BYTES: Final = _END.size
_ALIGN = 8


@attrs.frozen
class Header:
    """*first* is the number of its first batch, *previous* the checksum of the batch before that; *size_bytes* that of the file."""

    store: bytes
    number: int
    epoch: int
    first: int
    previous: int
    size_bytes: int

    def encode(self) -> bytes:
        """The header's page."""
        body = self._body()
        return (body + _CRC.pack(crc32(body))).ljust(HEADER_BYTES, b"\0")

    @property
    def seed(self) -> int:
        """What the checksums of its batches start from."""
        return crc32(self._body())

    def _body(self) -> bytes:
        return _HEADER.pack(_MAGIC, FORMAT, self.store, self.number, self.epoch, self.first, self.size_bytes, self.previous)


def read_header(data: bytes, where: str) -> Header:
    """The header that *data* begins with.

    Raises:
      Corrupt: it does not fit its checksum.
      TooNew: a newer perdure wrote it.
    """
    if len(data) < HEADER_BYTES:
        raise Corrupt(where, f"it has {len(data):,} bytes, less than its header")
    magic, format, store, number, epoch, first, size, previous = _HEADER.unpack_from(data)
    if crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0] or magic != _MAGIC:
        raise Corrupt(where, "its header does not fit its checksum")
    if any(data[_HEADER.size + 4 : HEADER_BYTES]):
        raise Corrupt(where, "there is something behind its header that nobody wrote")
    if format > FORMAT:
        raise TooNew(where, format, FORMAT)
    return Header(store, number, epoch, first, previous, size)


def encode_batch(payload: bytes, number: int, previous: int, seed: int) -> tuple[bytes, int]:
    """The batch as it is written, end mark included, and its checksum. The next one begins `END_BYTES` before the end."""
    head = _BATCH.pack(_BATCH_MAGIC, len(payload), number, previous)
    crc = crc32(payload, crc32(head, seed))
    padding = -(_HEAD_BYTES + len(payload)) % _ALIGN
    return b"".join((head, _CRC.pack(crc), payload, bytes(padding), end_mark(number, crc, seed))), crc


def end_mark(number: int, crc: int, seed: int) -> bytes:
    """What stands behind batch *number* until another one does."""
    return _END.pack(_END_MAGIC, crc32(number.to_bytes(8, "little") + crc.to_bytes(4, "little"), seed))


def batch_bytes(payload_bytes: int) -> int:
    """Room that a batch takes, end mark included."""
    return -(-(_HEAD_BYTES + payload_bytes) // _ALIGN) * _ALIGN + END_BYTES


@attrs.frozen
class Found:
    """A batch where it stands: its payload begins at *offset*."""

    number: int
    offset: int
    size_bytes: int
    crc: int


@attrs.frozen
class Scanned:
    """The chain of a segment: its batches, where it ends, and whether it ends as it was left."""

    batches: list[Found]
    end: int
    clean: bool
    """The end mark stands there."""
    later: int | None
    """Where a batch stands that belongs behind the end: so what is missing between was there once."""


def scan(data: bytes, header: Header) -> Scanned:
    """Follow the chain from the header on."""
    seed, number, crc, at = header.seed, header.first - 1, header.previous, HEADER_BYTES
    found: list[Found] = []
    while (batch := _batch_at(data, at, seed)) is not None:
        if batch.number != number + 1 or _previous_at(data, at) != crc:
            break
        found.append(batch)
        number, crc = batch.number, batch.crc
        at += batch_bytes(batch.size_bytes) - END_BYTES
    clean = data[at : at + END_BYTES] == end_mark(number, crc, seed)
    return Scanned(found, at, clean, None if clean else _find_later(data, at, seed, number))


def _batch_at(data: bytes, at: int, seed: int) -> Found | None:
    """The batch that begins at *at*, if one does that fits its checksum."""
    if at + _HEAD_BYTES > len(data):
        return None
    magic, size, number, _ = _BATCH.unpack_from(data, at)
    start = at + _HEAD_BYTES
    if magic != _BATCH_MAGIC or start + size > len(data):
        return None
    crc = crc32(memoryview(data)[start : start + size], crc32(data[at : at + _BATCH.size], seed))
    if crc != _CRC.unpack_from(data, at + _BATCH.size)[0]:
        return None
    return Found(number, start, size, crc)


def _previous_at(data: bytes, at: int) -> int:
    previous: int = _BATCH.unpack_from(data, at)[3]
    return previous


def _find_later(data: bytes, at: int, seed: int, number: int) -> int | None:
    """Where a whole batch stands behind *at* with a number beyond *number*."""
    while (at := data.find(_BATCH_MAGIC, at)) >= 0:
        if at % _ALIGN == 0 and (batch := _batch_at(data, at, seed)) is not None and batch.number > number:
            return at
        at += 1
    return None


def extent(data: bytes, at: int) -> int:
    """How far what stands at *at*, and is no batch, may reach: what is set aside when it is cut."""
    magic, size, _, _ = _BATCH.unpack_from(data, at) if at + _BATCH.size <= len(data) else (b"", 0, 0, 0)
    if magic == _BATCH_MAGIC and at + batch_bytes(size) <= len(data):
        return batch_bytes(size)
    return len(data[at : at + (1 << 20)].rstrip(b"\0"))
