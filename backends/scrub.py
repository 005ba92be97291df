"""The scrub: everything that a store keeps is read again, a slice at a time, to see whether it still fits its checksums. Pure.

A slice stands on its own: between two of them others write, and no reader is held. What moves meanwhile
(merged frames, new values) was checked when it was written, or is met further on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from perdure.backends import frame, keys, tables
from perdure.backends.errors import Corrupt, PerdureError
from perdure.backends.event import Position
from perdure.backends.frame import TypeName
from perdure.backends.stream_row import read_row
from perdure.backends.tables import Reader, Row

SLICE_BYTES: Final = 64 << 10
"""A slice is about so much: half a millisecond."""
SLICE_ROWS: Final = 200
PROBLEMS_MAX: Final = 100


@attrs.frozen
class Place:
    """How far a scrub is: in which table, beyond which key."""

    table: int = 0
    start: bytes = b""
    rows: int = 0
    """How many were read."""

    @property
    def done(self) -> bool:
        """Whether it has been through."""
        return self.table >= len(keys.TABLES)


def scrub_some(reader: Reader, types: Sequence[TypeName], place: Place) -> tuple[Place, list[str]]:
    """Check a slice from *place* on: where the next one begins, and the problems found, each a sentence."""
    table = keys.TABLES[place.table]
    size, problems, last = 0, list[str](), b""
    count = 0
    for row in reader.scan(table, place.start, None, SLICE_ROWS):
        last = bytes(row[0])
        count += 1
        size += len(last) + len(row[1])
        try:
            _check(reader, types, table, last, row)
        except PerdureError as error:
            problems.append(str(error))
        except (*tables.DAMAGE, msgspec.MsgspecError) as error:
            problems.append(f"row {last!r:.80} of table {table!r} cannot be read ({error})")
        if size >= SLICE_BYTES:
            break
    else:
        if count < SLICE_ROWS:
            return Place(place.table + 1, b"", place.rows + count), problems
    return Place(place.table, last + b"\0", place.rows + count), problems


def _check(reader: Reader, types: Sequence[TypeName], table: str, key: bytes, row: Row) -> None:
    """Read a row as whoever needs it would.

    Raises:
      PerdureError, and what unpacking raises: it is not as it was written.
    """
    match table:
        case "frames":
            frame.read_frame(bytes(row[1]), types)
        case "kv":
            tables.read_entry(key, row[1])
        case "snapshots":
            tables.read_snapshot(reader, key[:-9].decode(), Position(keys.last_number(key)))
        case "keys":
            tables.read_kept(reader, key)
        case "runs":
            keys.read_run(key), keys.read_run_row(row[1])
        case "streams":
            read_row(key, row[1])
        case "changes":
            if lost := tables.lost_by(reader, key):
                raise Corrupt(f"row {key!r} of table 'changes'", lost)
        case _:
            bytes(row[1])
