"""Reading a whole store to see whether it says what it should; the problems, each a sentence that names what is lost.

A check is a generator: it yields problems, and between them how far it is (`Progress`), so that whoever runs it
may stop between two steps. See `verify_log` for the log and its indexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from perdure.backends import keys, tables
from perdure.backends.answers import read_drawn
from perdure.backends.apply import UNWATCHED
from perdure.backends.cutting import check_queue
from perdure.backends.errors import PerdureError
from perdure.backends.loading import COMPACTED, OURS
from perdure.backends.progress import Progress
from perdure.backends.tables import Reader, Row
from perdure.backends.verify_log import check_log, rows_of

PROBLEMS_MAX: Final = 100
"""Enough to know that a store is damaged."""
_STEP: Final = 1_000

Finding = str | Progress
"""A problem, or how far the check is."""


def verify_tables(reader: Reader) -> Iterator[Finding]:
    """Check everything in the tables of a store at one moment: frames, indexes, entries, changes, keys, snapshots, numbers."""
    found = 0
    for check in (check_log, _entries, _changes, _aged, _snapshots, _numbers):
        try:
            for finding in check(reader):
                yield finding
                found += type(finding) is str
                if found >= PROBLEMS_MAX:
                    yield "more problems follow"
                    return
        except PerdureError as error:
            found += 1
            yield str(error)
        except tables.DAMAGE as error:
            found += 1
            yield f"a row cannot be read ({error})"


def _counted(reader: Reader, table: str, what: str) -> Iterator[Row | Progress]:
    """The same, with how far it is."""
    for done, row in enumerate(rows_of(reader, table)):
        if not done % _STEP:
            yield Progress(what, done)
        yield row


def _entries(reader: Reader) -> Iterator[Finding]:
    """Entries fit their checksums, no revision is beyond the store's, and each watched entry has its change."""
    last = tables.read_meta(reader, "revision")
    for row in _counted(reader, "kv", "entries"):
        if isinstance(row, Progress):
            yield row
            continue
        key = bytes(row[0])
        try:
            revision, _ = tables.read_entry(key, row[1])
        except PerdureError as error:
            yield str(error)
            continue
        if revision > last:
            yield f"kv entry {key!r} has revision {revision}, the store's last is {last}"
        bucket, _, name = key.partition(b"\0")
        if not bucket.decode().startswith(UNWATCHED) and reader.get("changes", keys.change(bucket.decode(), revision, name)) is None:
            yield f"kv entry {key!r} at revision {revision} is missing among the changes: who watches its bucket is not told of it"


def _changes(reader: Reader) -> Iterator[Finding]:
    """Every change row leads to an entry of its revision."""
    for row in _counted(reader, "changes", "changes"):
        if isinstance(row, Progress):
            yield row
            continue
        try:
            lost = tables.lost_by(reader, bytes(row[0]))
        except PerdureError:
            continue  # told among the entries
        if lost:
            yield lost


def _aged(reader: Reader) -> Iterator[Finding]:
    """Answers kept for idempotency keys can be read, and each is to be forgotten one day."""
    kept = 0
    for row in _counted(reader, "keys", "idempotency keys"):
        if isinstance(row, Progress):
            yield row
            continue
        id, kept = bytes(row[0]), kept + 1
        try:
            answer = tables.read_kept(reader, id)
        except (PerdureError, msgspec.DecodeError) as error:
            yield f"{error}: a retry of that commit would be stored a second time"
            continue
        if answer is not None and reader.get("ages", keys.aged(answer.at_us, "key", id)) is None:
            yield f"the row of commit {id.hex()} would never be forgotten"
    aged = sum(1 for key, _ in rows_of(reader, "ages") if keys.read_aged(bytes(key))[1] == "key")
    if aged > kept:
        yield f"{aged - kept} of {aged} kept idempotency keys are missing: a retry of their commits would be stored a second time"


def _snapshots(reader: Reader) -> Iterator[Finding]:
    """Snapshots fit their checksums and are not beyond the head."""
    head, _ = tables.read_head(reader)
    names = dict.fromkeys(bytes(key)[:-9].decode() for key, _ in rows_of(reader, "snapshots"))
    for done, name in enumerate(names):
        yield Progress("snapshots", done, len(names))
        for position in tables.snapshots(reader, name):
            try:
                tables.read_snapshot(reader, name, position)
            except (PerdureError, msgspec.DecodeError) as error:
                yield str(error)
            if position > head:
                yield f"snapshot {name!r} stands at position {position}, the log ends at {head}"


def _numbers(reader: Reader) -> Iterator[Finding]:
    """The numbers of the store as a whole fit their checksums, and so do the ids kept of last groups."""
    for key, _ in rows_of(reader, "meta"):
        name = bytes(key)
        if name in OURS or name.startswith(COMPACTED):
            try:
                tables.read_meta(reader, name.decode())
            except PerdureError as error:
                yield str(error)
    read_drawn(reader)
    tables.read_moved(reader)
    check_queue(reader)
