"""Keyed projections: one state per key in kv; touched keys and checkpoint in one commit per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from perdure.actors.cursor import Checkpoint, Progress
from perdure.actors.fold import Keyed, Stopped, keys_of, takes_key
from perdure.actors.follower import Follower
from perdure.actors.model import Cell, bucket_of
from perdure.actors.pace import SLICE
from perdure.actors.projection import ProjectionActor, Services
from perdure.backends.commit import Committed, Delete, PutAll, Stored, Write, check_entry
from perdure.backends.errors import TooLarge, Unreadable
from perdure.backends.event import START, Event, Position, Record

BATCH_KEYS: Final = 4_096
"""A batch is committed when so many keys are dirty,"""
BATCH_EVENTS: Final = 50_000
"""or so many events were folded,"""
BATCH_BYTES: Final = 16 << 20
"""or so many bytes of payload or of states, or when the projection is up to date."""


LINGER_S: Final = 0.005
"""Up to date, with callers about and nobody waiting for the model, it looks so often: a writer should not pay for each of its events."""


class KeyedActor(ProjectionActor[Keyed[Any, Any]]):
    """A projection with one state per key: dirty states are never dropped, recent ones are remembered within a budget."""

    def __init__(self, projection: Keyed[Any, Any], services: Services, cell: Cell) -> None:
        super().__init__(projection, services, cell)
        self._bucket = bucket_of(projection.name)
        self._step: Callable[..., Any] = projection.step
        self._told = takes_key(projection.step)
        """Whether the step is told the key."""
        self._dirty: dict[str, Any] = {}
        self._recent: dict[str, tuple[Any, int]] = {}
        self._recent_bytes = 0
        self._state_bytes = BATCH_BYTES
        """The largest state of the last batch; before the first one, which a page fills, it is not known."""
        self._caught_up = False
        self._whole = False
        """Whether every key there is stands in memory: a key that does not is new."""

    async def _begin(self, kept: Checkpoint | None) -> None:
        self._dirty.clear()
        self._recent.clear()
        self._recent_bytes = 0
        self._whole = kept is None
        self.cell.hurry = self._interrupt
        position = START if kept is None else Position(kept.position)
        self._progress = Progress(position, position)
        self.cell.publish(None, position)

    async def _discard(self) -> None:
        """Delete the states of the old version, in bounded commits; first of all its checkpoint, so that no version takes what is left for its own."""
        services, blank = self._services, Checkpoint(self._services.backend.id, 0)
        match await self._commit([self._place.put(blank)]):
            case Committed(parts=(Stored(revision),)):
                self._place.wrote(blank, revision)
        while self.owns and (entries := await services.backend.scan(self._bucket, limit=1_000)):
            await self._commit([Delete(self._bucket, entry.key) for entry in entries])

    def _drop(self) -> None:
        self._dirty.clear()
        self._recent.clear()
        self._recent_bytes, self._whole = 0, False

    async def _show_kept(self, kept: Checkpoint) -> None:
        self.cell.publish(None, Position(kept.position))

    # -- a page ------------------------------------------------------------------------------

    async def _next_page(self, follower: Follower) -> list[Record] | None:
        if self._caught_up and self._services.pace.pressed and not (self.cell.awaited or self._stopping or self._failure or self.mailbox.depth):
            with trio.move_on_after(LINGER_S) as self._waiting:  # ended by whoever waits for the model, asks it or stops it
                await trio.sleep_forever()
            if self._stopping:
                return follower.page_nowait()  # what it has held back so long
        return await super()._next_page(follower)

    async def _apply_slice(self, records: list[Record]) -> Stopped | None:
        events, stopped = self._decode(records)
        keyed, stopped_at_key = self._keys(events)
        stopped = stopped_at_key or stopped
        await self._load(keyed)
        stopped = self._fold(keyed) or stopped
        self._shrink()
        return stopped

    def _decode(self, records: list[Record]) -> tuple[Sequence[Event[Any]], Stopped | None]:
        try:
            return self._codec.events(records), None
        except Unreadable:
            events = []
            for record in records:
                try:
                    events.append(self._codec.event(record))
                except Unreadable as error:
                    return events, Stopped(record, error)
            return events, None

    def _keys(self, events: Sequence[Event[Any]]) -> tuple[list[tuple[Event[Any], tuple[str, ...]]], Stopped | None]:
        """The keys of each event, up to one where they cannot be told."""
        keyed: list[tuple[Event[Any], tuple[str, ...]]] = []
        recent, dirty = self._recent, self._dirty
        for event in events:
            try:
                keys = keys_of(self.projection, event)
                for key in keys:
                    if key not in recent and key not in dirty:
                        check_entry("a model", key.encode(), self._services.limits)
            except Exception as error:
                return keyed, Stopped(event.record, error)
            if keys:
                keyed.append((event, keys))
        return keyed, None

    async def _load(self, keyed: Sequence[tuple[Event[Any], tuple[str, ...]]]) -> None:
        """Bring the states of the keys into memory."""
        if self._whole:
            return
        decode = self._codec.decoder(self.projection.state_type)
        for _, keys in keyed:
            for key in keys:
                if key not in self._dirty and key not in self._recent:
                    entry = await self._services.backend.get(self._bucket, key.encode())
                    if entry is not None:  # all the page needs stays until it is folded
                        self._remember(key, decode(entry.value), len(entry.value))

    def _fold(self, keyed: Sequence[tuple[Event[Any], tuple[str, ...]]]) -> Stopped | None:
        step, told, dirty, recent, initial = self._step, self._told, self._dirty, self._recent, self.projection.initial
        for event, keys in keyed:
            try:
                if len(keys) == 1:
                    key = keys[0]
                    state = dirty[key] if key in dirty else recent[key][0] if key in recent else initial
                    dirty[key] = step(state, event, key) if told else step(state, event)
                else:
                    states = {key: dirty[key] if key in dirty else recent[key][0] if key in recent else initial for key in keys}
                    dirty.update({key: step(state, event, key) if told else step(state, event) for key, state in states.items()})
            except Exception as error:
                return Stopped(event.record, error)
        return None

    def _show(self, records: list[Record], stopped: Stopped | None) -> None:
        """Nothing is shown before it is durable: see `_writes`."""
        if not self._dirty and stopped is None:
            self.cell.publish(None, self._progress.position, records[-1].at_us if records else 0)
        elif records:
            self.cell.at_us = records[-1].at_us

    # -- keeping -----------------------------------------------------------------------------

    def due(self, follower: Follower) -> bool:
        progress, dirty = self._progress, len(self._dirty)
        self._caught_up = follower.caught_up
        return bool(progress.events) and (
            self._caught_up
            or self._services.pace.pressed
            or dirty >= BATCH_KEYS
            or dirty * self._state_bytes >= BATCH_BYTES
            or progress.events >= BATCH_EVENTS
            or progress.bytes >= BATCH_BYTES
        )

    async def _writes(self) -> tuple[list[Write], Callable[[], None]]:
        bucket, limit = self._bucket, self._services.limits.value_bytes
        dirty = dict(self._dirty)
        states: list[tuple[bytes, bytes]] = []
        sizes: dict[str, int] = {}
        encode = self._encoder()
        for place, (key, state) in enumerate(dirty.items(), 1):
            if place % SLICE == 0:
                await trio.lowlevel.checkpoint()
            raw = encode(state)
            if len(raw) > limit:
                raise TooLarge("value", f"key {key!r} of model {self.name!r}", len(raw), limit)
            sizes[key] = len(raw)
            states.append((key.encode(), raw))
        position = self._progress.position

        def done() -> None:
            self._dirty.clear()
            if sizes:
                self._state_bytes = max(sizes.values())
            self._remember_all(dirty, sizes)
            self._shrink()
            self.cell.publish(None, position, 0, tuple(sizes))

        return [PutAll(bucket, states)] if states else [], done

    def _remember(self, key: str, state: Any, size: int) -> None:
        before = self._recent.pop(key, None)
        self._recent[key] = (state, size)
        self._recent_bytes += size + 200 - (before[1] + 200 if before is not None else 0)

    def _remember_all(self, states: dict[str, Any], sizes: dict[str, int]) -> None:
        """`_remember` for a whole batch."""
        recent = self._recent
        known = [before[1] + 200 for key in sizes if (before := recent.pop(key, None)) is not None]
        recent.update({key: (states[key], size) for key, size in sizes.items()})
        self._recent_bytes += sum(sizes.values()) + 200 * len(sizes) - sum(known)

    def _shrink(self) -> None:
        """Forget what was touched longest ago, down to the budget."""
        while self._recent_bytes > self._services.limits.keyed_memory_bytes and len(self._recent) > 1:
            oldest = next(iter(self._recent))
            self._recent_bytes -= self._recent.pop(oldest)[1] + 200
            self._whole = False
