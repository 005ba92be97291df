"""What was answered to a commit, found again by its id: what resolves doubt.

A caller's key has a row of its own (see `tables.read_kept`); an id drawn for a commit with events is in
its frame; of one without, it is kept in its writer's row, in the place of those of the group before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from perdure.backends import frame, keys
from perdure.backends.commit import Appended, Committed
from perdure.backends.engine import Kept
from perdure.backends.event import Position, Record
from perdure.backends.frame import TypeName
from perdure.backends.sealing import sealed, unseal
from perdure.backends.tables import Reader, Writer, frames_beyond, read_head, read_kept

RECENT_FRAMES = 128
"""How far back a drawn commit id is looked for when nothing says where its commit began."""
_unpack_drawn = msgspec.msgpack.Decoder(list[tuple[bytes, Kept]]).decode
_pack = msgspec.msgpack.Encoder().encode
_DRAWN = b"drawn "
_DRAWN_ROWS = 64
"""So many rows of drawn ids may lie about; beyond, old ones are swept at opening."""
_DRAWN_OLD_US = 3_600_000_000


def write_drawn(writer: Writer, owner: bytes, drawn: Sequence[tuple[bytes, Kept]]) -> None:
    """Keep the answers of commits without a key whose events do not tell them, in the place of those of the owner's group before."""
    key = _DRAWN + owner
    writer.put("meta", key, sealed(key, _pack(drawn)))


def read_drawn(reader: Reader) -> dict[bytes, Kept]:
    """What is kept of such commits: for each owner those of its last group that had any."""
    found: dict[bytes, Kept] = {}
    for _, drawn in _drawn_rows(reader):
        found.update(drawn)
    return found


def sweep_drawn(writer: Writer) -> None:
    """Forget the rows of owners that are long gone: doubt is resolved within minutes."""
    rows = list(_drawn_rows(writer))
    newest = max((kept.at_us for _, drawn in rows for kept in drawn.values()), default=0)
    for key, drawn in rows if len(rows) > _DRAWN_ROWS else ():
        if all(kept.at_us < newest - _DRAWN_OLD_US for kept in drawn.values()):
            writer.delete("meta", key)


def _drawn_rows(reader: Reader) -> Iterator[tuple[bytes, dict[bytes, Kept]]]:
    for key, raw in reader.scan("meta", _DRAWN, keys.after_prefix(_DRAWN), 1 << 20):
        yield bytes(key), dict(_unpack_drawn(unseal("a row of ids of a last group", bytes(key), raw)))


def answers(reader: Reader, types: Sequence[TypeName], ids: Iterable[bytes], after: Position) -> dict[bytes, Committed]:
    """What is known of commits of which none has events at or before *after*: those that are not stored are missing."""
    drawn, wanted = read_drawn(reader), set(ids)
    found = {id: kept.answer() for id in wanted if (kept := read_kept(reader, id) or drawn.get(id)) is not None}
    wanted -= found.keys()
    cursor, (end, _) = after, read_head(reader)
    while wanted and cursor < end:
        for value, head in frames_beyond(reader, cursor):
            cursor = head.last
            own = wanted.intersection(commit[0] for commit in head.commits)
            if own:
                records = frame.read_frame(value, types, head=head)
                found.update({id: answer for id in own if (answer := _answer_of(head, records, id)) is not None})
                wanted -= own
    return found


def answer(reader: Reader, types: Sequence[TypeName], id: bytes) -> Committed | None:
    """See `Reads.answer`: by its row if it had a key, else among the newest frames and the ids kept of commits without events."""
    kept = read_kept(reader, id)
    kept = kept or read_drawn(reader).get(id)
    if kept is not None:
        return kept.answer()
    for _, value in reader.scan_back("frames", b"", None, RECENT_FRAMES):
        head = frame.read_head(value)
        if any(commit[0] == id for commit in head.commits):
            return _answer_of(head, frame.read_frame(bytes(value), types), id)
    return None


def _answer_of(head: frame.Head, records: Sequence[Record], id: bytes) -> Committed | None:
    """None where a part of the commit has been cut since: what was answered is not known any more."""
    own = [record for record in records if record.commit == id]
    end = next(head.first + place for commit, _, place in head.commits if commit == id)
    if not own or own[-1].position != end or own[-1].ordinal + 1 != len(own):
        return None
    return committed_of(own)


def committed_of(records: Sequence[Record]) -> Committed:
    """The answer to a commit, from its records (its kv writes are not among them)."""
    by_stream: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.ordinal):
        by_stream.setdefault(record.stream, []).append(record)
    parts = tuple(Appended(part[0].seq, part[-1].seq, part[-1].position) for part in by_stream.values())
    return Committed(max(record.position for record in records), parts)
