"""A commit log before an ordered map: acknowledged when the batch is flushed, applied to the map in bulk.

What flushed batches say and the map does not yet is laid over it: every read and decision goes through both.
The map is written when so much is waiting, or when the journal is idle: many batches in one durable
transaction that also says how far it goes. Only then their part of the log may be used again. Opening
applies what is waiting before anything is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from perdure.backends import redo
from perdure.backends.commit_log import CommitLog, LogDoubtful, LogFull
from perdure.backends.denied import check_denied
from perdure.backends.errors import Unavailable
from perdure.backends.layered import Layered, Many, Recorder, Rows
from perdure.backends.news import LocalNews
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull, MapStatus, OrderedMap
from perdure.backends.protocol import State
from perdure.backends.recovery import Recovery
from perdure.backends.tables import Reader, Writer, read_meta, write_meta

T = TypeVar("T")

APPLIED = "applied"
"""The number in `meta` that says which batch the map has as its last."""
LOGGED = "logged"
"""The number in `meta` that is 1 while a commit log stands before the map, and 2 when one did: all of it is in the map."""
BEFORE, ENDED = 1, 2
BATCHES_MAX = 1_024
BYTES_MAX = 4 << 20
WAITING_S = 1.0
"""So many batches, bytes and seconds may wait before they are applied."""
_ROOM_FACTOR = 4
"""What rows take in the map, at most, compared with what they weigh (pages half full, and copied)."""
_ROOM_SHARE = 32
"""In a map of limited size no more than this part of it waits."""
_ROOM_FIXED = 256 << 10
_PART_ROWS = 256
"""Where all that waits does not fit into one transaction, for each page that it touches is copied, so many rows go into one."""
_LARGE_BYTES = 2_000
_DISK_LOOK_S = 0.5
_DISK_LOOK_BYTES = 1 << 20
_DISK_BYTES = 2 << 20
"""Room that the map needs on the disk to write anything at all."""
_BACK_S = 0.01


def is_logged(base: OrderedMap) -> bool:
    """Whether a commit log stands before *base*."""
    return base.read(lambda reader: read_meta(reader, LOGGED)) == BEFORE


def has_ended_log(base: OrderedMap) -> bool:
    """Whether one stood before *base*, and what is found of it may go."""
    return base.read(lambda reader: read_meta(reader, LOGGED)) == ENDED


async def open_logged(base: OrderedMap, new_log: Callable[[], CommitLog], stretch: Callable[[], bool] = lambda: False) -> LoggedMap:
    """*base* with a commit log before it, made if it has none yet; what waits there is applied.

    Raises:
      Corrupt, WrongStore, TooNew: the log is damaged, or not this store's.
      Unavailable: the disk refuses, or the map has no room for what waits.
    """
    store = LoggedMap(base, new_log, stretch)
    try:
        if not is_logged(base):
            await new_log().create(_applied_to(base))
            await write_base(base, lambda writer: write_meta(writer, LOGGED, BEFORE))
        await store.load()
    except MapFull as error:
        raise Unavailable("there is no room for what the commit log has: open it with a larger ?size=, or free the disk") from error
    except (OSError, MapDoubtful, MapAway) as error:
        check_denied(error, f"the commit log of store {base.id}")
        why = getattr(error, "strerror", None) or error
        raise Unavailable(f"the commit log cannot be brought into the map: {why}; see to the disk") from error
    return store


async def end_logged(store: LoggedMap, base: OrderedMap, log: CommitLog) -> None:
    """Let *base* stand alone again: it has all, and the log is removed.

    It says so before the first file goes, and how far the log went: what a crash leaves of it is known for what it is, and
    the batches of a later one have other numbers.

    Raises:
      Unavailable: the map has no room for what waits.
    """
    try:
        await store.end_log()
        await write_base(base, lambda writer: write_meta(writer, LOGGED, ENDED))
    except MapFull as error:
        raise Unavailable("there is no room for what the commit log has: open it with a larger ?size=, or free the disk") from error
    await remove_ended(base, log)


async def remove_ended(base: OrderedMap, log: CommitLog) -> None:
    """Remove what is left of a log that has ended.

    Raises:
      Corrupt: it has more than *base* knows of.
    """
    await log.remove(_applied_to(base))


def _applied_to(base: OrderedMap) -> int:
    return base.read(lambda reader: read_meta(reader, APPLIED))


async def write_base(base: OrderedMap, fn: Callable[[Writer], None]) -> None:
    """Write to the map itself."""
    await base.take_turn()
    try:
        await base.write(fn, small=True)
    finally:
        base.end_turn()


class LoggedMap:
    """See `OrderedMap`. *base* is durable by itself, and nobody else writes to it."""

    def __init__(self, base: OrderedMap, new_log: Callable[[], CommitLog], stretch: Callable[[], bool] = lambda: False) -> None:
        """*stretch* makes the map larger than its limit, for what was acknowledged; whether it did."""
        self._base = base
        self._stretch = stretch
        self._new_log = new_log
        self._log = new_log()
        self._recovery = Recovery()
        self._state = State.OPEN
        self._away = False
        """Whether it can not be read, for the moment."""
        self._why = ""
        self.news = LocalNews()
        self._above = Many()
        """Rows of batches that are flushed and not applied,"""
        self._held: list[_Held] = []
        self._batches = self._bytes = 0
        """how many batches, how much,"""
        self._since = float("inf")
        """and since when the first of them waits."""
        self._applied = 0
        self._times_applied = 0
        self._looked_at, self._unseen_bytes = float("-inf"), 0
        self._room = (0, BYTES_MAX * _ROOM_SHARE)
        """Bytes used in the map, and its limit, when it was looked at last."""
        self._reopened = 0
        self._closed = False

    @property
    def id(self) -> str:
        return self._base.id

    @property
    def state(self) -> State:
        return self._state if self._state is not State.OPEN else self._base.state

    # -- opening -----------------------------------------------------------------------------

    async def load(self, *, anew: bool = False) -> None:
        """Bring into the map, durably, what the log has beyond it.

        Raises:
          Corrupt, WrongStore, TooNew: the log is damaged, or not this store's.
          MapDoubtful, MapFull: the map cannot be written.
        """
        try:
            await self._load(anew)
        except BaseException:
            self._log.let_go()
            raise

    async def _load(self, anew: bool) -> None:
        self._applied = _applied_to(self._base)
        for batch in await self._log.recover(self._applied, anew=anew):
            self._lay(redo.decode(batch.payload, f"batch {batch.number} of {self._log.folder}"), len(batch.payload))
        self._recovery = attrs.evolve(self._log.recovery, cuts=self._recovery.cuts + self._log.recovery.cuts)
        try:
            await self._apply(small=True)
        except MapFull as error:
            if error.disk is None:
                raise
        self._look_at_room()  # what the disk has no room for waits on, in the log

    # -- reading -----------------------------------------------------------------------------

    def read(self, fn: Callable[[Reader], T]) -> T:
        if self._away:
            raise MapAway
        return self._base.read(lambda reader: fn(Layered(reader, self._above)))

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        if self._away:
            raise MapAway
        with self._base.hold(busy=busy) as reader:
            held = _Held(self._above)
            self._held.append(held)
            try:
                yield Layered(reader, held.rows)
            finally:
                self._held.remove(held)

    # -- writing -----------------------------------------------------------------------------

    async def take_turn(self, *, patient: bool = True) -> None:
        if self.state is not State.OPEN:
            raise Unavailable(f"{self._why or 'a flush failed'}; it has to be reopened first")

    def end_turn(self) -> None:
        """Nobody else writes."""

    def end_waits(self) -> None:
        self._base.end_waits()

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        with trio.CancelScope(shield=True):
            if self._due:
                try:
                    await self._apply(small=small)
                except MapFull:
                    if not small:  # what frees room goes into the log, and waits
                        raise
            recorder, result = self._base.read(partial(self._record, fn))
            if recorder.rows:
                payload = redo.encode(recorder.rows)
                if not small or _has_large(recorder.rows):
                    self._look_for_room(len(payload))
                if not small:
                    await self._look_at_disk(len(payload))
                await self._append(payload)
                self._part_from_views()
                self._lay(recorder.rows, len(payload))
        return result

    def _record(self, fn: Callable[[Writer], T], reader: Reader) -> tuple[Recorder, T]:
        recorder = Recorder(Layered(reader, self._above))
        return recorder, fn(recorder)

    async def _append(self, payload: bytes) -> None:
        try:
            await self._log.append(payload)
        except LogFull as error:
            used = self.status().bytes_used
            raise MapFull((used, used)) from error  # a quota, say, of which the disk does not tell
        except LogDoubtful as error:
            raise self._doubt(str(error)) from error

    def _doubt(self, why: str) -> MapDoubtful:
        if self._state is State.OPEN:
            self._state, self._why = State.DOUBTFUL, why
        return MapDoubtful(why)

    def _lay(self, rows: Rows, size_bytes: int) -> None:
        """Rows that are durable: whoever reads from here on sees them."""
        if not self._batches:
            self._since = trio.current_time()
        self._above.update(rows)
        self._batches += 1
        self._bytes += size_bytes

    def _part_from_views(self) -> None:
        """Views keep the layer they began with; we go on with a copy."""
        if any(held.rows is self._above for held in self._held):
            self._above = self._above.copy()

    def _look_for_room(self, payload_bytes: int) -> None:
        """What is acknowledged must fit into the map one day.

        Raises:
          MapFull: it may not.
        """
        wanted = _ROOM_FACTOR * (self._bytes + payload_bytes) + _ROOM_FIXED
        if self._room[0] + wanted > self._room[1]:
            self._look_at_room()
            if self._room[0] + wanted > self._room[1]:
                raise MapFull

    async def _look_at_disk(self, payload_bytes: int) -> None:
        """A full disk must not be met while what was acknowledged is applied: so look first, from time to time.

        Raises:
          MapFull: there is too little left.
        """
        now = trio.current_time()
        self._unseen_bytes += payload_bytes
        if now - self._looked_at >= _DISK_LOOK_S or self._unseen_bytes >= _DISK_LOOK_BYTES:
            await self._check_disk(2 * self._log.segment_bytes)
            self._looked_at, self._unseen_bytes = now, 0

    async def _check_disk(self, more_bytes: int = 0) -> None:
        with suppress(OSError):  # it does not say: then the write will
            free = await self._log.free_bytes()
            if free < _ROOM_FACTOR * self._bytes + _DISK_BYTES + more_bytes:
                used = self._base.status().bytes_used
                raise MapFull((used, used + free))

    def _look_at_room(self) -> None:
        status = self._base.status()
        self._room = (status.bytes_used, status.bytes_limit or 1 << 62)

    @property
    def _bytes_max(self) -> int:
        return min(BYTES_MAX, self._room[1] // _ROOM_SHARE)

    # -- applying ----------------------------------------------------------------------------

    @property
    def _due(self) -> bool:
        return self._batches >= BATCHES_MAX or self._bytes >= self._bytes_max or trio.current_time() - self._since >= WAITING_S

    async def tidy(self) -> bool:
        more = False
        with trio.CancelScope(shield=True):  # what was let go of the log has to be synced before it is used again
            if self._batches:
                await self._apply()
            more = await self._base.tidy()
        return more  # noqa: RET504 - a scope may swallow what is raised in it

    def claim_move(self) -> AbstractContextManager[None]:
        return nullcontext()  # no other process has it open

    async def shrink(self) -> str:
        if self.state is not State.OPEN:
            return "it has to be reopened first, after a failed flush"
        try:
            with trio.CancelScope(shield=True):
                await self._apply(small=True)
        except (MapFull, MapDoubtful):
            return "what waits in the commit log cannot be applied"
        return await self._base.shrink()

    async def _apply(self, *, small: bool = False) -> None:
        """Write what waits into the map, in one durable transaction, and let the log before it go. The caller has the turn.

        Raises:
          MapDoubtful: nobody knows whether the map has it; the log has.
          MapFull: it does not fit; it goes on waiting.
        """
        if not self._batches:
            return
        through = self._log.last
        await self._check_disk()
        await self._base.take_turn()
        try:
            try:
                await self._base.write(partial(_write_rows, self._above, through), small=small, size_bytes=self._bytes)
            except MapFull as error:
                if error.disk is not None:
                    raise
                await self._apply_in_parts(through)
        except MapAway as error:
            raise self._doubt(f"the map behind {self._log.folder} cannot be written") from error
        except MapDoubtful as error:
            raise self._doubt(str(error)) from error
        finally:
            self._base.end_turn()
        self._applied = through
        self._look_at_room()
        self._times_applied += 1
        if any(held.rows is self._above for held in self._held):
            self._above = Many()
        else:
            self._above.clear()
        self._batches = self._bytes = 0
        self._since = float("inf")
        try:
            await self._log.cut(through)
        except OSError as error:
            raise self._doubt(f"{self._log.folder} cannot be tidied: {error.strerror or error}") from error

    async def _apply_in_parts(self, through: int) -> None:
        """The same in small transactions: what one lets go of a later one uses; where not even that fits, beyond the map's limit.

        What waits is laid over the map until all of it is there.

        Raises:
          MapFull: it does not fit, for the map is being read; some of it may be in the map, and all of it goes on waiting.
        """
        rows, done, size = _deletes_first(self._above), 0, _PART_ROWS
        while done < len(rows):
            await trio.lowlevel.checkpoint()
            try:
                await self._base.write(partial(_write_part, rows[done : done + size]), small=True)
                done += size
            except MapFull:
                if size == 1 and not self._stretch():
                    raise
                size = max(1, size // 4)
        await self._base.write(lambda writer: write_meta(writer, APPLIED, through), small=True)

    # -- opening again -----------------------------------------------------------------------

    async def reopen(self) -> None:
        while self._state is State.REOPENING:  # noqa: ASYNC110 - another handle's task may be at it
            await trio.sleep(_BACK_S)
        if self.state is State.OPEN:
            return
        self._why, self._state = self._why or "a flush failed", State.REOPENING
        try:
            await self._base.reopen()
            await self._log.aclose(clean=False)
            self._away = True  # what is read of the log may be more than anybody was told
            self._log = self._new_log()
            self._above, self._batches, self._bytes, self._since = Many(), 0, 0, float("inf")
            await self.load(anew=True)
            self._reopened += 1
            self._away, self._state = False, State.OPEN
        except (OSError, MapDoubtful, MapFull, MapAway) as error:
            raise Unavailable(f"{self._log.folder} cannot be opened: {error}") from error
        finally:
            if self._state is not State.OPEN:
                self._state = State.DOUBTFUL

    async def wait_back(self) -> None:
        while self._away and not self._closed:  # noqa: ASYNC110 - a reopening ends, one way or the other
            await trio.sleep(_BACK_S)
        await self._base.wait_back()

    # -- the rest ----------------------------------------------------------------------------

    def status(self) -> MapStatus:
        below, log = self._base.status(), self._log
        details: dict[str, Any] = {
            **below.details,
            "map_flushes": below.details.get("flushes", 0),
            "flush": log.place.how,
            "flushes": log.flushes.count,
            "flushes_in_thread": log.flushes_in_thread,
            "flush_mean_s": log.flushes.mean_s,
            "flush_p50_s": log.flushes.quantile_s(0.5),
            "flush_p99_s": log.flushes.quantile_s(0.99),
            "flush_max_s": log.flushes.max_s,
            "reopened": self._reopened,
            "batches": log.last,
            "batches_waiting": self._batches,
            "bytes_waiting": self._bytes,
            "times_applied": self._times_applied,
            "segments": log.segments,
            "log_bytes": log.size_bytes,
        }
        recovery = attrs.evolve(
            below.recovery,
            clean=below.recovery.clean and self._recovery.clean,
            replayed=self._recovery.replayed,
            cuts=below.recovery.cuts + self._recovery.cuts,
        )
        return attrs.evolve(below, bytes_used=below.bytes_used + self._bytes, recovery=recovery, details=details)

    def found_sound(self) -> None:
        self._base.found_sound()

    async def check_files(self) -> list[str]:
        return await self._base.check_files()

    async def end_log(self) -> None:
        """Apply what waits and let go of the log: the map has all."""
        await self._apply(small=True)
        await self._log.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        sound = self.state is State.OPEN and not self._log.inherited
        async with AsyncExitStack() as stack:  # whatever fails, and if it is cancelled: all is let go of
            stack.callback(self._note_closed)
            stack.push_async_callback(self._base.aclose)
            stack.push_async_callback(self._close_log, sound)
            if sound:
                with suppress(MapFull, MapDoubtful, Unavailable, MapAway):
                    await self._apply(small=True)

    async def _close_log(self, sound: bool) -> None:
        with suppress(OSError):
            await self._log.aclose(clean=sound and self._state is State.OPEN)

    def _note_closed(self) -> None:
        self._state = State.CLOSED


class _Held:
    """A view's layer."""

    def __init__(self, rows: Many) -> None:
        self.rows = rows


def _has_large(rows: Rows) -> bool:
    """Whether a value needs pages side by side: that is more than freeing room."""
    return any(value is not None and len(value) > _LARGE_BYTES for changed in rows.values() for value in changed.values())


def _deletes_first(above: Many) -> list[tuple[str, bytes, bytes | None]]:
    rows = [(table, key, value) for table, changed in above.rows.items() for key, value in changed.items()]
    return sorted(rows, key=lambda row: row[2] is not None)


def _write_part(rows: Sequence[tuple[str, bytes, bytes | None]], writer: Writer) -> None:
    for table, key, value in rows:
        if value is None:
            writer.delete(table, key)
        else:
            writer.put(table, key, value)


def _write_rows(above: Many, through: int, writer: Writer) -> None:
    for table, rows in above.rows.items():
        put = [(key, value) for key, value in rows.items() if value is not None]
        if put:
            writer.put_all(table, put)
        for key, value in rows.items():
            if value is None:
                writer.delete(table, key)
    write_meta(writer, APPLIED, through)
