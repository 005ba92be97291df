"""The commit log: a totally ordered sequence of batches on segment files, each durable when its append returns.

One write and one flush a batch, into files that were written with zeros before. What stands in the files is
judged once, at opening; the rules are DESIGN 13's:

- A chain that ends before where it must (another segment goes on, the flushed mark says more, a later batch
  stands behind) is damage: `Corrupt`, and nothing is changed.
- What stands behind the end otherwise was being written when the machine stopped: it is set aside in `lost/` and reported.
- Of a batch that has a successor the flush was confirmed, for the successor was written afterwards. The last one may
  be in the page cache only: so after anything but a clean close it is written again, into a fresh segment, before
  anything is shown.

A segment's name appears only when the file is whole and flushed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import attrs
import trio

from perdure.backends.denied import check_denied
from perdure.backends.disk import Disk, File, make_folder_durably, parent_of
from perdure.backends.errors import Corrupt, Unavailable, WrongStore
from perdure.backends.marks import FLUSHED, Mark, read_flushed, read_mark, write_mark
from perdure.backends.place import Place
from perdure.backends.recovery import Cut, Recovery
from perdure.backends.segment import END_BYTES, HEADER_BYTES, Found, Header, Scanned, batch_bytes, encode_batch, end_mark, extent, read_header, scan
from perdure.backends.timing import Timings

SEGMENT_BYTES = 16 << 20
_ZEROS = bytes(1 << 20)
_BULK_BYTES = 256 << 10
"""The time that more than this takes says little of the disk."""
SPARE = "spare"


class LogFull(Exception):
    """There is no room for another segment; nothing was written."""


class LogDoubtful(Exception):
    """A flush failed: nobody knows what is stored of the last batch. The log is dead; open it again."""


@attrs.frozen
class Batch:
    """What one append holds, and its number: each is one more than the one before."""

    number: int
    payload: bytes


@attrs.define
class _Segment:
    path: str
    header: Header
    data: bytes
    scanned: Scanned


class CommitLog:
    """See the module. One task at a time calls it; who opens it holds the store's lock."""

    def __init__(self, disk: Disk, folder: str, store: bytes, place: Place, segment_bytes: int) -> None:
        self._disk = disk
        self.folder = folder
        self._store = store
        self.place = place
        self._segment_bytes = max(segment_bytes, HEADER_BYTES + 512)
        self.last = 0
        """Number of the newest batch."""
        self.epoch = 0
        self.recovery = Recovery()
        """What `recover` found."""
        self.flushes = Timings()
        self.flushes_in_thread = 0
        self.dead = ""
        """Why it can be written no more."""
        self._headers: list[tuple[str, Header]] = []
        """Segments that are kept, oldest first; the last one is written to."""
        self._file: File | None = None
        self._hint: File | None = None
        self._named = 0
        """The newest segment that may have its name by now."""
        self._at = 0
        self._crc = 0
        self._seed = 0
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a fork of the process that opened it: nothing is its to write."""
        return os.getpid() != self._pid

    # -- opening -----------------------------------------------------------------------------

    async def create(self, after: int = 0) -> None:
        """Make a new log, in a folder of its own; its first batch will be the one after *after*.

        What an attempt before, or a log that ended with *after*, left there is removed.

        Raises:
          Corrupt: there are batches beyond *after* already.
        """
        await make_folder_durably(self._disk, self.folder)
        await self._remove_files(after)
        self.epoch = 1
        await self._make_segment(1, after + 1, 0)
        await self.aclose()

    async def remove(self, after: int) -> None:
        """Remove its files: what they said, up to *after*, is elsewhere. What was set aside stays.

        Raises:
          Corrupt: there are batches beyond *after*.
        """
        await self._remove_files(after)
        try:
            await self._disk.remove_folder(self.folder)
        except OSError:  # something was set aside
            await self._disk.sync_folder(self.folder)
        await self._disk.sync_folder(parent_of(self.folder))

    async def _remove_files(self, after: int) -> None:
        names = await self._disk.entries(self.folder)
        for name in names:
            path = f"{self.folder}/{name}"
            if name.endswith(".log"):
                header = read_header(await self._read(path, HEADER_BYTES), path)
                if any(found.number > after for found in (await self._read_segment(path, header)).scanned.batches):
                    raise Corrupt(path, "it holds what was committed, and what says whose it is, is missing or older: restore that from a backup")
        for name in names:
            if name != "lost":
                await self._disk.remove(f"{self.folder}/{name}")

    async def recover(self, after: int, *, kept: int | None = None, write: bool = True, anew: bool = False) -> list[Batch]:
        """The batches beyond *after*, which are durable from here on (not *write*: as far as that is confirmed).

        Batches up to *after* were flushed; those up to *kept* (None: *after*) are durable elsewhere, and their files removed.
        *anew*: go on in a fresh file in any case. If cancelled, the log is as it was.

        Raises:
          Corrupt: damage, with file and offset.
          Unavailable: the disk refuses; try again.
        """
        try:
            return await self._recover(after, after if kept is None else kept, write, anew)
        except OSError as error:
            self.let_go()
            check_denied(error, self.folder)
            raise Unavailable(f"{self.folder} cannot be read or written: {error.strerror or error}", "see to the disk, then open it again") from error
        except BaseException:
            self.let_go()
            raise

    async def _recover(self, after: int, kept: int, write: bool, anew: bool) -> list[Batch]:
        if write:
            await self._disk.sync_folder(self.folder)  # at every opening: an earlier one may have failed to
        mark = await read_mark(self._disk, self.folder)
        confirmed = max(mark.number, after, (await read_flushed(self._disk, self.folder)).number)
        heads = await self._read_heads()
        needed = _since(heads, kept)
        if write:
            for path, _ in heads[: len(heads) - len(needed)]:
                await self._disk.remove(path)  # it was removed before, or used again, and that was not durable
        segments = [await self._read_segment(path, header) for path, header in _since(needed, after)]
        batches, last, crc = judge(segments, after, confirmed)
        self.epoch = max((segment.header.epoch for segment in segments), default=0)
        self.last, self._crc = last, crc
        if not write:
            return batches[:-1] if last > confirmed else batches
        await self._disk.sync_folder(self.folder)  # an earlier one may have failed: a spare whose old name is not gone is not to be written to
        newest = segments[-1]
        cuts: tuple[Cut, ...] = ()
        clean = mark.number == last and newest.scanned.clean and not anew
        if clean:
            await self._go_on(newest)
        else:
            if not newest.scanned.clean:
                cuts = (await self._set_aside(newest),)
            await self._begin_anew(batches[-1:] if last > confirmed else [], segments)
        read_bytes = sum(segment.header.size_bytes for segment in segments)
        self.recovery = Recovery(clean, "all batches of the commit log that are needed", read_bytes, len(batches), cuts)
        self._headers = needed + self._headers
        await self._open_hint()
        return batches

    async def _open_hint(self) -> None:
        self._hint = await self._disk.open(f"{self.folder}/{FLUSHED}", create=True)
        self._hint.hint(0, Mark(self.last, self.epoch).encode())

    async def _read_heads(self) -> list[tuple[str, Header]]:
        """All segments, oldest first."""
        heads: list[tuple[str, Header]] = []
        for name in await self._disk.entries(self.folder):
            if name.endswith(".log"):
                path = f"{self.folder}/{name}"
                header = read_header(await self._read(path, HEADER_BYTES), path)
                if header.store != self._store:
                    raise WrongStore(self._store.hex(), header.store.hex())
                heads.append((path, header))
        return _by_number(heads)

    async def _read_segment(self, path: str, header: Header) -> _Segment:
        data = await self._read(path, header.size_bytes)
        return _Segment(path, header, data, scan(data, header))

    async def _read(self, path: str, size: int) -> bytes:
        file = await self._disk.open(path, write=False)
        try:
            return await file.read(0, size)
        finally:
            file.close()

    async def _go_on(self, segment: _Segment) -> None:
        """Write on where a clean close ended."""
        self._file = await self._disk.open(segment.path)
        self._at, self._seed = segment.scanned.end, segment.header.seed

    async def _set_aside(self, segment: _Segment) -> Cut:
        """Keep what stands behind the end of the chain, and is none of it, in `lost/`."""
        at = segment.scanned.end
        size = extent(segment.data, at)
        folder = f"{self.folder}/lost"
        await self._disk.make_folder(folder)
        path = f"{folder}/{segment.path.rpartition('/')[2]}-{at}-{self.epoch}"
        file = await self._disk.open(path, create=True)
        try:
            await file.write(0, segment.data[at : at + size])
            await file.flush()
        finally:
            file.close()
        await self._disk.sync_folder(folder)
        return Cut("what was being written when the machine stopped", segment.path, at, size, path)

    async def _begin_anew(self, again: Sequence[Batch], segments: Sequence[_Segment]) -> None:
        """A fresh segment of a new epoch, which holds *again*: in the page cache they may be a lie."""
        self.epoch += 1
        first = again[0].number if again else self.last + 1
        previous = self._crc
        if again:
            previous = _crc_before(segments, first)
            self.last = first - 1
        number = max((segment.header.number for segment in segments), default=0) + 1
        payloads = [batch.payload for batch in again]
        await self._make_segment(number, first, previous, payloads)

    # -- segments ----------------------------------------------------------------------------

    async def _make_segment(self, number: int, first: int, previous: int, payloads: Sequence[bytes] = ()) -> None:
        """Make a segment that holds *payloads*, flushed before its name appears, and write there from now on."""
        need = HEADER_BYTES + sum(batch_bytes(len(payload)) for payload in payloads) + END_BYTES
        file, size = await self._blank(max(self._segment_bytes, -(-need // HEADER_BYTES) * HEADER_BYTES))
        try:
            header = Header(self._store, number, self.epoch, first, previous, size)
            parts, crc = [header.encode()], previous
            for place, payload in enumerate(payloads):
                batch, crc = encode_batch(payload, first + place, crc, header.seed)
                parts.append(batch[:-END_BYTES])
            last = first + len(payloads) - 1
            parts.append(end_mark(last, crc, header.seed))
            page = b"".join(parts)
            await file.write(0, page)
            await file.flush()
            path = f"{self.folder}/{_name(number)}"
            self._named = number
            await self._disk.rename(f"{self.folder}/{_name(0)}.new", path)
            await self._disk.sync_folder(self.folder)
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._at, self._seed, self._crc, self.last = file, len(page) - END_BYTES, header.seed, crc, last
        self._headers.append((path, header))

    async def _blank(self, size: int) -> tuple[File, int]:
        """A file of zeros, or of what nobody needs any more, under a name that says so; and its size."""
        path = f"{self.folder}/{_name(0)}.new"
        if size == self._segment_bytes and await self._disk.exists(f"{self.folder}/{SPARE}"):
            await self._disk.rename(f"{self.folder}/{SPARE}", path)
            file = await self._disk.open(path)
            if await file.size() == size:
                return file, size
            file.close()
        await self._disk.remove(path)
        file = await self._disk.open(path, create=True)
        try:
            for at in range(0, size, len(_ZEROS)):
                await file.write(at, _ZEROS[: size - at])
            await file.flush()
        except BaseException:
            file.close()
            with trio.CancelScope(shield=True):
                await self._disk.remove(path)
            raise
        return file, size

    # -- writing -----------------------------------------------------------------------------

    async def append(self, payload: bytes) -> int:
        """Write a batch; durable on return, which gives its number. Not to be cancelled.

        Raises:
          LogFull: there is no room; nothing was written.
          LogDoubtful: nobody knows whether it is stored.
        """
        if self.dead:
            raise LogDoubtful(self.dead)
        if self._at + batch_bytes(len(payload)) > self._headers[-1][1].size_bytes:
            await self._roll(len(payload))
        assert self._file is not None
        batch, crc = encode_batch(payload, self.last + 1, self._crc, self._seed)
        in_thread = self.place.in_thread
        began = trio.current_time()
        try:
            await self._file.write_flush(self._at, batch, in_thread=in_thread)
        except OSError as error:
            raise self._die(f"a flush of {self.folder} failed: {error.strerror or error}") from error
        except BaseException:
            self._die(f"a write to {self.folder} was broken off")
            raise
        took = trio.current_time() - began
        self.flushes.note(took)
        self.flushes_in_thread += in_thread
        if len(batch) <= _BULK_BYTES or in_thread:
            self.place.note(took)
        self._at += len(batch) - END_BYTES
        self._crc = crc
        self.last += 1
        if self._hint is not None:
            self._hint.hint(0, Mark(self.last, self.epoch).encode())
        return self.last

    async def _roll(self, payload_bytes: int) -> None:
        """Go on in another segment. The batches before are flushed; none is written again."""
        number = self._headers[-1][1].number + 1
        standard = self._segment_bytes
        self._segment_bytes = max(standard, -(-(HEADER_BYTES + batch_bytes(payload_bytes) + END_BYTES) // HEADER_BYTES) * HEADER_BYTES)
        try:
            await self._make_segment(number, self.last + 1, self._crc)
        except OSError as error:
            if self._named == number or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise self._die(f"a segment of {self.folder} could not be made durable: {error.strerror or error}") from error
            raise LogFull(f"{self.folder}: {error.strerror or error}") from error
        finally:
            self._segment_bytes = standard

    def _die(self, why: str) -> LogDoubtful:
        self.dead = why
        return LogDoubtful(why)

    # -- cutting -----------------------------------------------------------------------------

    @property
    def segment_bytes(self) -> int:
        """Bytes of a file, mostly."""
        return self._segment_bytes

    async def free_bytes(self) -> int:
        """Room on its disk."""
        return await self._disk.free_bytes(self.folder)

    @property
    def segments(self) -> int:
        """How many there are."""
        return len(self._headers)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(header.size_bytes for _, header in self._headers)

    async def cut(self, through: int) -> None:
        """Batches up to *through* are needed no more: they are durable elsewhere. Their files are used again, or removed."""
        changed = False
        while len(self._headers) > 1 and self._headers[1][1].first <= through + 1:
            path, header = self._headers[0]
            if header.size_bytes == self._segment_bytes and not await self._disk.exists(f"{self.folder}/{SPARE}"):
                await self._disk.rename(path, f"{self.folder}/{SPARE}")
            else:
                await self._disk.remove(path)
            del self._headers[0]
            changed = True
        if changed:
            await self._disk.sync_folder(self.folder)  # before the spare is written to: its old name must be gone

    # -- closing -----------------------------------------------------------------------------

    async def aclose(self, *, clean: bool = True) -> None:
        """Let go of the files; *clean*: and say durably how far they were flushed. Idempotent."""
        if self._file is None:
            return
        self.let_go()
        if clean and not self.dead and not self.inherited:
            await write_mark(self._disk, self.folder, Mark(self.last, self.epoch))

    def let_go(self) -> None:
        """Close the files and say nothing. Idempotent."""
        for file in (self._file, self._hint):
            if file is not None:
                file.close()
        self._file = self._hint = None


def judge(segments: Sequence[_Segment], after: int, confirmed: int) -> tuple[list[Batch], int, int]:
    """The batches beyond *after*, the number of the last one there is and its checksum.

    A segment may begin with the last batch before it once more (or with that of an older segment, where the one before has
    none): then that one counts.

    Raises:
      Corrupt: something is missing that was there once.
    """
    if not segments:
        raise Corrupt("the commit log", f"its files are gone; batches up to {confirmed} had been flushed, and perhaps more: restore it from a backup")
    header, path = segments[0].header, segments[0].path
    if header.first > after + 1:
        raise Corrupt(path, f"it begins with batch {header.first}, and what was kept before ends with {after}")
    payloads: dict[int, bytes] = {}
    crcs = {header.first - 1: header.previous}
    for place, segment in enumerate(segments):
        header, scanned, path = segment.header, segment.scanned, segment.path
        last = max(crcs)
        if header.first > last + 1:
            before = segments[place - 1]
            raise Corrupt(before.path, f"at offset {before.scanned.end} stands no batch {last + 1}, and the next segment begins with {header.first}")
        if crcs.get(header.first - 1) != header.previous:
            raise Corrupt(path, f"it does not follow batch {header.first - 1}")
        for number in range(header.first, last + 1):
            del crcs[number]
            payloads.pop(number, None)
        for found in scanned.batches:
            crcs[found.number] = found.crc
            if found.number > after:
                payloads[found.number] = _payload(segment.data, found)
    last = max(crcs)
    newest = segments[-1].scanned
    if newest.later is not None:
        raise Corrupt(path, f"at offset {newest.end} stands no batch {last + 1}, but a later one stands at {newest.later}")
    if last < confirmed:
        raise Corrupt(path, f"the log ends with batch {last}, and batches up to {confirmed} had been flushed")
    return [Batch(number, payload) for number, payload in payloads.items()], last, crcs[last]


def _in_force(segments: Sequence[_Segment]) -> list[_Segment]:
    """Those of which a part counts: where a later one begins at the same batch or before, it was written again there."""
    kept: list[_Segment] = []
    for segment in reversed(segments):
        if not kept or segment.header.first < kept[-1].header.first:
            kept.append(segment)
    return kept[::-1]


def _since(heads: list[tuple[str, Header]], after: int) -> list[tuple[str, Header]]:
    """Those that have batches beyond *after*, or are going to."""
    return heads[max((place for place, (_, header) in enumerate(heads) if header.first <= after + 1), default=0) :]


def _by_number(heads: list[tuple[str, Header]]) -> list[tuple[str, Header]]:
    """In order. The header says which segment it is: the name is that of an earlier life where a rename was lost, or one of two."""
    known = {header.number: (path, header) for path, header in heads}
    return [known[number] for number in sorted(known)]


def _payload(data: bytes, found: Found) -> bytes:
    return data[found.offset : found.offset + found.size_bytes]


def _crc_before(segments: Sequence[_Segment], number: int) -> int:
    """The checksum of the batch before *number*."""
    for segment in reversed(_in_force(segments)):
        for found in reversed(segment.scanned.batches):
            if found.number == number - 1:
                return found.crc
        if segment.header.first == number:
            return segment.header.previous
    raise AssertionError("the batch that is written again is the last one")


def _name(number: int) -> str:
    return f"{number:016d}.log"
