"""Holding a blob store against itself, and against what refers to it: damaged blobs, refs without bytes, bytes without refs.

Archives are referred to by the rows of the streams that were cut, and by newer archives; what stands in their events refers to blobs as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
import trio

from perdure.backends import tables
from perdure.backends.blobs.protocol import BlobStore, Remembers
from perdure.backends.blobs.ref import BlobRef, refs_in
from perdure.backends.errors import BlobMissing, Corrupt, Misuse, TooNew, Unsupported
from perdure.backends.event import START, Record, unpack_extra
from perdure.backends.limits import LIMITS
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend
from perdure.backends.tree import read
from perdure.runtime.archives import cut_streams, open_archive

PAGE_CIDS: Final = 1_000
_MARK: Final = b"size_bytes"
"""What does not hold this holds no `BlobRef`, and need not be decoded."""


@attrs.frozen
class BlobReport:
    """What was found. *blobs* were read, of *size_bytes* together; *refs* are the distinct blobs referred to.

    A damaged blob counts with the bytes that its store has of it. *problems* are blobs that are damaged or whose bytes are gone, and refs and archives
    whose bytes are not there. *unreferenced* is no problem by itself: it may have been put for an event that is still to come, for another store, or by a
    program that was killed before it appended. *left_out* says what was not looked through, or not mended.
    """

    blobs: int
    size_bytes: int
    refs: int
    problems: tuple[str, ...]
    unreferenced: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    """What was damaged beside the bytes, and was made again from them."""


async def verify_blobs(blobs: BlobStore, stores: Sequence[Backend] = (), *, progress: Told = nobody) -> BlobReport:
    """Read every blob, then look through *stores* for archives, and for `BlobRef`s: in events (archived ones too), their meta, values, states and snapshots.

    Nothing is changed; others may go on. Each distinct blob takes some 250 bytes of memory meanwhile.

    Raises:
      BlobsUnavailable, Unavailable: the blob store, or a store, cannot be read now.
    """
    # The blobs first: what is put and appended meanwhile is then found by its ref, and asked for once more.
    looked = await _read_all(blobs, progress)
    kept, problems = looked.kept, looked.problems
    found = _Found(blobs, frozenset(cid for cid, size in kept.items() if size is None))
    left_out = looked.left_out + [text for store in stores for text in await found.look_through(store, progress)]
    problems += found.missing
    problems += [text for ref, place in found.places.items() if (text := await _why_wrong(blobs, kept, ref, place))]
    named = {ref.cid for ref in found.places}
    referred = named | found.archives
    problems += [f"the bytes of blob {cid} are gone from {blobs.url}: put the same bytes again, or delete it" for cid in looked.lost if cid not in named]
    unreferenced = tuple(cid for cid in kept if cid not in referred) if stores else ()
    return BlobReport(len(kept), looked.size_bytes, len(referred), tuple(problems), unreferenced, tuple(left_out), tuple(looked.mended))


@attrs.define
class _Read:
    """What reading every blob has given."""

    kept: dict[str, int | None] = attrs.field(factory=dict)
    """The size of each; None: it is damaged, or not whole."""
    size_bytes: int = 0
    problems: list[str] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    """Blobs whose bytes are gone."""
    mended: list[str] = attrs.field(factory=list)
    left_out: list[str] = attrs.field(factory=list)


async def _read_all(blobs: BlobStore, progress: Told) -> _Read:
    found = _Read()
    cids = await blobs.cids(limit=PAGE_CIDS)
    while cids:
        for cid in cids:
            progress(Progress("blobs", len(found.kept)))
            await _read_one(blobs, cid, found)
        cids = await blobs.cids(after=cids[-1], limit=PAGE_CIDS)
    found.lost = await blobs.lost() if isinstance(blobs, Remembers) else []
    return found


async def _read_one(blobs: BlobStore, cid: str, found: _Read) -> None:
    try:
        stat = await blobs.verify(cid)
    except (Corrupt, BlobMissing) as error:
        if not isinstance(error, BlobMissing) or await blobs.has(cid):  # else it was deleted meanwhile
            found.kept[cid] = None
            found.problems.append(str(error))
            found.size_bytes += await _size_of_damaged(blobs, cid)
        return
    found.kept[cid] = stat.size_bytes
    found.size_bytes += stat.size_bytes
    if stat.nodes == "mended":
        found.mended.append(f"the nodes of blob {cid} in {blobs.url} were damaged or missing: they were made again from its bytes, which are sound")
    elif stat.nodes == "damaged":
        why = f"{blobs.url} may not be written by this user; its bytes are sound"
        found.left_out.append(f"the mending of blob {cid}, whose nodes are damaged or missing: {why}")


async def _size_of_damaged(blobs: BlobStore, cid: str) -> int:
    try:
        stat = await blobs.stat(cid)
    except Corrupt:
        return 0
    return 0 if stat is None else stat.size_bytes


async def _why_wrong(blobs: BlobStore, kept: dict[str, int | None], ref: BlobRef, place: str) -> str:
    if ref.cid in kept:
        size = kept[ref.cid]
    else:
        stat = await blobs.stat(ref)
        if stat is None:
            return f"blob {ref.cid} ({ref.size_bytes:,} bytes) is not in {blobs.url}, {place} refers to it: put the same bytes again"
        size = stat.size_bytes
    if size not in (None, ref.size_bytes):
        return f"{place} says that blob {ref.cid} has {ref.size_bytes:,} bytes, it has {size:,}: append a BlobRef that is right"
    return ""


class _Found:
    """The refs of several stores, each with the first place that it stands in. *damaged* blobs are not read again."""

    def __init__(self, blobs: BlobStore, damaged: frozenset[str]) -> None:
        self.places: dict[BlobRef, str] = {}
        self.archives: set[str] = set()
        self.missing: list[str] = []
        self._blobs = blobs
        self._damaged = damaged

    async def look_through(self, store: Backend, progress: Told) -> list[str]:
        """Take all refs of *store*; the answer says what could not be looked through."""
        cursor, head = START, await store.head()
        while cursor < head:
            page = await store.read_log(after=cursor, limit=LIMITS.page_records, bytes_max=LIMITS.page_bytes, over_cuts=True)
            for record in page.records:
                self._of_record(record)
            cursor = page.examined
            progress(Progress("the log", cursor, head))
            await trio.lowlevel.checkpoint()
        left_out = await self._of_archives(store, progress)
        done = 0
        try:
            async with store.moment() as moment:
                async for table, rows in moment:
                    if table in ("kv", "snapshots"):
                        self._of_rows(table, rows)
                    done += len(rows)
                    progress(Progress("values and states", done))
        except Unsupported:
            left_out.append(f"values and states of {store!r}, which has no images: a blob that only they refer to is told as unreferenced")
        return left_out

    async def _of_archives(self, store: Backend, progress: Told) -> list[str]:
        """The archives that streams lead to, and what is in them; what could not be read."""
        waiting = {info.archive: f"stream {info.name!r}" for info in await cut_streams(store) if info.archive}  # read after the log: nothing goes between them
        left_out: list[str] = []
        while waiting:
            cid, place = waiting.popitem()
            if cid in self.archives:
                continue
            self.archives.add(cid)
            progress(Progress("archives", len(self.archives)))
            if cid in self._damaged:
                left_out.append(f"archive {cid}, which is damaged, and those that it leads to")
                continue
            try:
                one = await open_archive(self._blobs, cid)
                for number in range(len(one.index.blocks)):
                    for record in await one.block(number):
                        self._of_record(record)
            except Misuse:
                self.missing.append(f"archive {cid} is not in {self._blobs.url}, {place} leads to it: put the same bytes again, what it holds is nowhere else")
            except (Corrupt, TooNew) as error:
                self.missing.append(str(error))
            else:
                waiting |= {part.previous: f"archive {cid}" for part in one.index.streams.values() if part.previous}
        return left_out

    def _of_record(self, record: Record) -> None:
        place = f"event {record.seq} of stream {record.stream!r}"
        if _MARK in record.payload:
            self._take(refs_in(_plain(record.payload)), place)
        if _MARK in record.extra:
            self._take(refs_in(_plain(unpack_extra(record.extra).meta)), f"the meta of {place}")

    def _of_rows(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        for key, raw in rows:
            if _MARK in raw:
                name = key.partition(b"\0")[0].decode(errors="replace")
                if table == "kv":
                    self._take(refs_in(_plain(tables.read_entry(key, raw)[1] or b"")), f"an entry of bucket {name!r}")
                else:
                    self._take(refs_in(_plain(tables.snapshot_state(key, raw))), f"a snapshot of {name!r}")

    def _take(self, refs: Iterable[BlobRef], place: str) -> None:
        for ref in refs:
            self.places.setdefault(ref, place)


def _plain(raw: Any) -> Any:
    try:
        return read(raw)
    except Exception:  # perdure's own entries are not all msgpack, and none of those holds a ref
        return None
