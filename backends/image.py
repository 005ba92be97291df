"""The image: all rows of all tables of a store as one stream of bytes. Pure. Drawn byte by byte in ARCHITECTURE.md.

A header, blocks of rows, a trailer; each part's checksum begins where that of the part before ended, so
a part is valid only in its place. All numbers are little end first.

An image may be *fuzzy*: made in slices while writing goes on, it shows some rows older than others.
It surely holds all batches of the commit log up to the header's number and none beyond the trailer's;
who applies those between to what it has read gets the state at the trailer's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Final
from zlib import crc32

import attrs

from perdure.backends.errors import Corrupt, TooNew
from perdure.backends.keys import TABLES

Rows = list[tuple[bytes, bytes]]

MAGIC = b"PdIm"
FORMAT = 1

HEADER = struct.Struct("<4sHH16sQ")
"""magic, format, flags, id of the store, number; then the checksum."""
LEAD = struct.Struct("<IHHI")
"""Of a block: bytes of its body, number of its table, zero, rows; then the checksum. The body follows, then the checksum of both."""
END = struct.Struct("<QQQ")
"""Body of the trailer: blocks, rows, number."""
CRC = struct.Struct("<I")
END_TABLE: Final = 0xFFFF
"""The trailer is a block of this table."""

HEADER_BYTES: Final = HEADER.size + CRC.size
_LEAD_BYTES = LEAD.size + CRC.size
_NUMBERS = {table: number for number, table in enumerate(TABLES)}


@attrs.frozen
class Header:
    """Whose image it is; *number*: of the last batch that it surely holds."""

    id: bytes
    number: int


@attrs.frozen
class Trailer:
    """What the image has in all; *number*: of the last batch that had been written when it ended."""

    blocks: int
    rows: int
    number: int


# -- writing ---------------------------------------------------------------------------------


def begin(id: bytes, number: int) -> bytes:
    """The header of an image of the store *id* (16 bytes) that is sure to hold all batches up to *number*."""
    return _sealed(HEADER.pack(MAGIC, FORMAT, 0, id, number), 0)


def block(table: str, rows: Sequence[tuple[bytes, bytes]], seed: int) -> bytes:
    """Some rows of a table; *seed* is `seed_of` the part before."""
    keys, values = [row[0] for row in rows], [row[1] for row in rows]
    sizes = struct.pack(f"<{len(rows)}H{len(rows)}I", *map(len, keys), *map(len, values))
    return _block(_NUMBERS[table], len(rows), sizes + b"".join(chain.from_iterable(zip(keys, values, strict=True))), seed)


def end(blocks: int, rows: int, number: int, seed: int) -> bytes:
    """The trailer of an image of so many *blocks* and *rows*, written while batches up to *number* were; *seed* is `seed_of` the part before."""
    return _block(END_TABLE, 0, END.pack(blocks, rows, number), seed)


def seed_of(part: bytes) -> int:
    """Where the checksum of the part after *part* (a header or block) starts."""
    return int.from_bytes(part[-CRC.size :], "little")


def _block(table: int, rows: int, body: bytes, seed: int) -> bytes:
    lead = _sealed(LEAD.pack(len(body), table, 0, rows), seed)
    return b"".join((lead, body, CRC.pack(crc32(body, seed_of(lead)))))


def _sealed(body: bytes, seed: int) -> bytes:
    return body + CRC.pack(crc32(body, seed))


# -- reading ---------------------------------------------------------------------------------


class Image:
    """An image that is read as its bytes come in: `feed` them, then say that this was all with `finish`.

    *header* and *trailer* are there once they have been read. Every block is checked before its rows are
    given; that none is missing is known when `finish` has returned.
    """

    def __init__(self, where: str = "the image") -> None:
        self.where = where
        self.header: Header | None = None
        self.trailer: Trailer | None = None
        self._buffer = bytearray()
        self._offset = 0
        """Of the buffer's first byte in the image."""
        self._seed = 0
        self._blocks = self._rows = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, Rows]]:
        """The (table, rows) of each block that *data* completes. Nothing of it is read before it is iterated.

        Raises:
          Corrupt: naming the offset of the part that is not as it was written.
          TooNew: a newer format.
        """
        self._buffer += data
        if self.header is None and len(self._buffer) >= HEADER_BYTES:
            self._read_header()
        while self.header is not None and (body := self._next_body()) is not None:
            table, rows, raw = body
            if table == END_TABLE:
                self._read_trailer(rows, raw)
            else:
                found = self._read_rows(table, rows, raw)
                self._blocks, self._rows = self._blocks + 1, self._rows + rows
                self._take(len(raw) + _LEAD_BYTES + CRC.size)
                yield TABLES[table], found

    def finish(self) -> Trailer:
        """That was all.

        Raises:
          Corrupt: the image ends too early.
        """
        if self.trailer is None:
            raise self._corrupt("it ends here, without its trailer: it was cut off")
        return self.trailer

    def _read_header(self) -> None:
        magic, format, flags, id, number = HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            raise self._corrupt("it does not begin like an image")
        if self._crc(HEADER.size) != crc32(self._buffer[: HEADER.size]):
            raise self._corrupt("the checksum of its header does not fit")
        if format > FORMAT or flags:
            raise TooNew(self.where, format if format > FORMAT else FORMAT + 1, FORMAT)
        self.header = Header(id, number)
        self._seed = self._crc(HEADER.size)
        self._take(HEADER_BYTES)

    def _next_body(self) -> tuple[int, int, bytes] | None:
        """Table, rows and body of the next block; None while it is not there as a whole."""
        if self.trailer is not None and self._buffer:
            raise self._corrupt("more bytes follow its trailer")
        if len(self._buffer) < _LEAD_BYTES:
            return None
        size, table, _, rows = LEAD.unpack_from(self._buffer)
        crc = crc32(self._buffer[: LEAD.size], self._seed)
        if self._crc(LEAD.size) != crc:  # before its size is believed
            raise self._corrupt("the checksum of a block's lead does not fit")
        if len(self._buffer) < _LEAD_BYTES + size + CRC.size:
            return None
        body = bytes(memoryview(self._buffer)[_LEAD_BYTES : _LEAD_BYTES + size])
        self._seed = crc32(body, crc)
        if self._crc(_LEAD_BYTES + size) != self._seed:
            raise self._corrupt("the checksum of a block does not fit")
        return table, rows, body

    def _read_rows(self, table: int, count: int, body: bytes) -> Rows:
        try:
            key_sizes, value_sizes = struct.unpack_from(f"<{count}H", body), struct.unpack_from(f"<{count}I", body, 2 * count)
        except struct.error as error:
            raise self._corrupt(f"a block is too short for its rows ({error})") from error
        ends = list(accumulate(chain.from_iterable(zip(key_sizes, value_sizes, strict=True)), initial=6 * count))
        if table >= len(TABLES) or ends[-1] != len(body):
            raise self._corrupt("a block's rows do not fill it" if table < len(TABLES) else f"there is no table {table}")
        parts = [body[a:b] for a, b in pairwise(ends)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _read_trailer(self, rows: int, body: bytes) -> None:
        if rows or len(body) != END.size:
            raise self._corrupt("its trailer has the wrong size")
        trailer = Trailer(*END.unpack(body))
        if (trailer.blocks, trailer.rows) != (self._blocks, self._rows):
            raise self._corrupt(f"its trailer counts {trailer.blocks} blocks and {trailer.rows} rows, there were {self._blocks} and {self._rows}")
        self.trailer = trailer
        self._take(_LEAD_BYTES + END.size + CRC.size)

    def _crc(self, place: int) -> int:
        return int.from_bytes(self._buffer[place : place + CRC.size], "little")

    def _take(self, size: int) -> None:
        del self._buffer[:size]
        self._offset += size

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self.where} at offset {self._offset}", why)


def blocks(data: bytes, where: str = "the image") -> Iterator[tuple[str, Rows]]:
    """The (table, rows) of each block of a whole image.

    Raises:
      Corrupt: it is not as it was written; what was given before is.
    """
    image = Image(where)
    yield from image.feed(data)
    image.finish()
