"""How far the log has been cut: for each category and type the newest event that went. Pure.

Who reads the log from before there would not be told of it, so that is refused (`Truncated`). The rows stand in `meta` and are few,
whatever was cut: a store has few categories and types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from perdure.backends import keys
from perdure.backends.errors import Truncated
from perdure.backends.event import Position, category_of
from perdure.backends.frame import TypeName
from perdure.backends.protocol import CutBound
from perdure.backends.sealing import sealed, unseal
from perdure.backends.selector import Item, Selector
from perdure.backends.stream_row import StreamRow, read_row

if TYPE_CHECKING:
    from perdure.backends.tables import Reader, Writer

PREFIX: Final = b"cut "
ANY_TYPE: Final = 0xFFFF_FFFF
"""In the place of a type's number: of events that were cut where this store does not know what they were."""
_MANY: Final = 1 << 20


def write_bounds(writer: Writer, stream: str, types: Mapping[int, Position], times: int = 1) -> None:
    """Events of those types (by their numbers) were cut of *stream*, each up to a position; so many *times*."""
    for type, position in sorted(types.items()):
        key = PREFIX + keys.named(category_of(stream)) + type.to_bytes(4, "big")
        raw = writer.get("meta", key)
        known = (Position(0), "", 0) if raw is None else _read(key, raw)
        newest, name = max((position, stream), known[:2], key=lambda place: place[0])
        writer.put("meta", key, sealed(key, keys.number(newest) + keys.number(known[2] + times) + name.encode()))


def bounds(reader: Reader, types: Sequence[TypeName], categories: Sequence[str] = ()) -> Iterator[CutBound]:
    """All of them, or those of some *categories*."""
    for lead in [PREFIX + keys.named(category) for category in categories] or [PREFIX]:
        for key, raw in reader.scan("meta", lead, keys.after_prefix(lead), _MANY):
            yield read_bound(bytes(key), raw, types)


def read_bound(key: bytes, raw: bytes | memoryview, types: Sequence[TypeName]) -> CutBound:
    """What a row says.

    Raises:
      Corrupt: it does not fit its checksum.
    """
    position, stream, times = _read(key, raw)
    number = int.from_bytes(key[-4:], "big")
    return CutBound(key[len(PREFIX) : -5].decode(), None if number == ANY_TYPE else types[number].name, position, stream, times)


def _read(key: bytes, raw: bytes | memoryview) -> tuple[Position, str, int]:
    body = unseal("a row that says how far the log was cut", key, raw)
    return Position(keys.read_number(body)), body[16:].decode(), keys.read_number(body[8:16])


def truncated(reader: Reader, types: Sequence[TypeName], where: Selector[Any], after: Position) -> Truncated | None:
    """What stands against reading the selected events beyond *after*: that some have been cut, as far as can be told without them.

    That is by stream, or by category and type; what tags they had is not known any more.
    """
    found = max((bound for item in where.items for bound in _bounds_of(reader, types, item)), default=None)
    if found is None or found[0] <= after:
        return None
    position, stream = found
    row = _row(reader, stream)
    return Truncated(stream, 1 if row is None else row.first, None if row is None else row.archive, position)


def _bounds_of(reader: Reader, types: Sequence[TypeName], item: Item) -> Iterator[tuple[Position, str]]:
    if item.streams:
        for stream in item.streams:
            row = _row(reader, stream) if item.wants_stream(stream) else None
            if row is not None and row.cut:
                yield row.cut, stream
        return
    for bound in bounds(reader, types, item.categories):
        if not item.types or bound.type is None or bound.type in item.types:
            yield bound.position, bound.stream


def _row(reader: Reader, stream: str) -> StreamRow | None:
    name = stream.encode()
    raw = reader.get("streams", name)
    return None if raw is None else read_row(name, raw)
