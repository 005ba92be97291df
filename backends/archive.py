"""The archive: events that were cut, as one blob. Records stand in order of position, an index by stream at the end. Pure. Drawn in ARCHITECTURE.md.

Records keep everything, their checksums too. For each stream the index says which seqs are here, in which blocks, and which archive has those
before: archives of a stream are a chain, and its row in the store names the newest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from zlib import crc32

import msgspec

from perdure.backends.errors import Corrupt, TooNew
from perdure.backends.event import Position, Record
from perdure.backends.frame import with_checksum

FORMAT: Final = 1
MEDIA_TYPE: Final = "application/vnd.perdure.archive"
BLOCK_BYTES: Final = 256 << 10
"""A block is closed when it has so many."""

HEADER: Final = struct.Struct("<4sHH16sqI")
"""magic, format, zero, id of the store, time, checksum of these."""
BLOCK: Final = struct.Struct("<4sIII")
"""magic, bytes of the body, records, checksum of these and the body."""
FOOTER: Final = struct.Struct("<4sQIII")
"""magic, where the index begins, its bytes, its checksum, checksum of these."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Where a block lies, and the positions of its first and last record."""

    offset: int
    size_bytes: int
    first: int
    last: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What is here of a stream: seqs *first* to *last*, in those *blocks*; *previous* is the archive that has what came before, if any has."""

    first: int
    last: int
    previous: str | None
    blocks: list[int]


class Index(msgspec.Struct, frozen=True, array_like=True):
    """What an archive holds. Where *store* is another one's id, that one was restored or migrated since."""

    store: str
    at_us: int
    blocks: list[Block]
    streams: dict[str, Part]


class _Body(msgspec.Struct, frozen=True, array_like=True):
    streams: list[str]
    types: list[tuple[str, int]]
    commits: list[tuple[bytes, int]]
    records: list[tuple[int, int, int, int, int, int, bytes, bytes, int]]
    """stream, type, commit (places in the lists before), seq, position, ordinal, extra, payload, checksum."""


_pack = msgspec.msgpack.Encoder().encode
_unpack_body = msgspec.msgpack.Decoder(_Body).decode
_unpack_index = msgspec.msgpack.Decoder(Index).decode


# -- writing ---------------------------------------------------------------------------------


class ArchiveWriter:
    """Turns records, in order of position, into the bytes of an archive; *previous* names for streams the archive that has what came before."""

    def __init__(self, store: str, at_us: int, previous: Mapping[str, str | None]) -> None:
        self._store = store
        self._at_us = at_us
        self._previous = previous
        self._waiting: list[Record] = []
        self._waiting_bytes = 0
        self._offset = 0
        self._blocks: list[Block] = []
        self._streams: dict[str, tuple[int, int, list[int]]] = {}
        self.events = 0

    def begin(self) -> bytes:
        """The first bytes."""
        lead = HEADER.pack(b"PdAr", FORMAT, 0, bytes.fromhex(self._store), self._at_us, 0)[:-4]
        return self._gone(lead + crc32(lead).to_bytes(4, "little"))

    def add(self, records: Iterable[Record]) -> Iterator[bytes]:
        """The bytes that are ready with these."""
        for record in records:
            self._waiting.append(record)
            self._waiting_bytes += len(record.payload) + len(record.extra) + 50
            if self._waiting_bytes >= BLOCK_BYTES:
                yield self._block()

    def finish(self) -> Iterator[bytes]:
        """The rest."""
        if self._waiting:
            yield self._block()
        parts = {name: Part(first, last, self._previous.get(name), blocks) for name, (first, last, blocks) in self._streams.items()}
        index = _pack(Index(self._store, self._at_us, self._blocks, parts))
        lead = FOOTER.pack(b"PdAe", self._offset, len(index), crc32(index), 0)[:-4]
        yield index + lead + crc32(lead).to_bytes(4, "little")

    @property
    def seqs(self) -> dict[str, tuple[int, int]]:
        """The first and last seq of each stream that is in it."""
        return {name: (first, last) for name, (first, last, _) in self._streams.items()}

    def _block(self) -> bytes:
        records, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for record in records:
            first, _, blocks = self._streams.setdefault(record.stream, (record.seq, 0, []))
            if not blocks or blocks[-1] != len(self._blocks):
                blocks.append(len(self._blocks))
            self._streams[record.stream] = first, record.seq, blocks
        body = _pack(_packed(records))
        lead = BLOCK.pack(b"PdAb", len(body), len(records), 0)[:-4]
        value = lead + crc32(body, crc32(lead)).to_bytes(4, "little") + body
        self._blocks.append(Block(self._offset, len(value), records[0].position, records[-1].position))
        self.events += len(records)
        return self._gone(value)

    def _gone(self, value: bytes) -> bytes:
        self._offset += len(value)
        return value


def _packed(records: Sequence[Record]) -> _Body:
    streams: dict[str, int] = {}
    types: dict[tuple[str, int], int] = {}
    commits: dict[tuple[bytes, int], int] = {}
    rows = [
        (
            streams.setdefault(record.stream, len(streams)),
            types.setdefault((record.type, record.version), len(types)),
            commits.setdefault((record.commit, record.at_us), len(commits)),
            record.seq,
            int(record.position),
            record.ordinal,
            record.extra,
            record.payload,
            record.crc,
        )
        for record in records
    ]
    return _Body(list(streams), list(types), list(commits), rows)


# -- reading ---------------------------------------------------------------------------------


def read_footer(where: str, value: bytes) -> tuple[int, int]:
    """Where the index begins, and how many bytes it has.

    Raises:
      Corrupt: these are not the last bytes of an archive.
    """
    if len(value) != FOOTER.size or value[:4] != b"PdAe" or crc32(value[:-4]) != int.from_bytes(value[-4:], "little"):
        raise Corrupt(where, "it does not end like an archive")
    _, offset, size, _, _ = FOOTER.unpack(value)
    return offset, size


def read_index(where: str, index: bytes, footer: bytes) -> Index:
    """What an archive holds.

    Raises:
      Corrupt: the index does not fit its checksum.
    """
    if crc32(index) != FOOTER.unpack(footer)[3]:
        raise Corrupt(where, "the checksum of its index does not fit")
    return _unpack_index(index)


def read_header(where: str, value: bytes) -> None:
    """Look whether this is an archive that can be read.

    Raises:
      Corrupt: it is none.
      TooNew: it was made by a newer perdure.
    """
    if len(value) != HEADER.size or value[:4] != b"PdAr" or crc32(value[:-4]) != int.from_bytes(value[-4:], "little"):
        raise Corrupt(where, "it does not begin like an archive")
    if (format := HEADER.unpack(value)[1]) > FORMAT:
        raise TooNew(where, format, FORMAT)


def read_block(where: str, value: bytes) -> list[Record]:
    """The records of a block, checked.

    Raises:
      Corrupt: the block or a record does not fit its checksum.
    """
    if len(value) < BLOCK.size or value[:4] != b"PdAb":
        raise Corrupt(where, "there is no block where its index says")
    _, size, count, crc = BLOCK.unpack_from(value)
    if len(value) != BLOCK.size + size or crc32(value[BLOCK.size :], crc32(value[: BLOCK.size - 4])) != crc:
        raise Corrupt(where, "the checksum of a block does not fit")
    body = _unpack_body(value[BLOCK.size :])
    records = []
    for stream, type, commit, seq, position, ordinal, extra, payload, check in body.records:
        name, version = body.types[type]
        id, at_us = body.commits[commit]
        record = Record(body.streams[stream], seq, Position(position), name, version, at_us, id, ordinal, extra, payload, check)
        if with_checksum(record) != record:
            raise Corrupt(where, f"the checksum of the record at position {position} does not fit")
        records.append(record)
    if len(records) != count:
        raise Corrupt(where, f"a block has {len(records)} records, not {count}")
    return records
