"""What a store holds beside its log, brought to another one that is being loaded: entries, tombstones, answers, snapshots, counters.

It is laid over the target as a whole once, by a merge of both in order, and read back. Then it is followed: entries and tombstones by the trace
of the source, answers by their time, and each part is read back too. So what is left to bring and to verify at any time depends on what
was changed since, not on how much there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
import trio

from perdure.backends.carried import Answered, BucketEntry, Numbers, Rest, SnapshotHead, Tombstone
from perdure.backends.errors import Corrupt, PerdureError
from perdure.backends.event import Position
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend
from perdure.runtime import pages
from perdure.runtime.pages import Aged, Pages, Step, aged_key, aged_pages, entry_key, entry_pages

T = TypeVar("T")

MERGES: Final = 3
"""So often a merge is tried until what is read back is the same: on the way the source may have told of a deleted entry twice."""
END_S: Final = 2.0
_encode: Final = msgspec.msgpack.Encoder().encode


class Beside:
    """See the module. `bring` again and again, then `finish` while nobody commits to the source; `aclose`."""

    def __init__(self, source: Backend, target: Backend, progress: Told = nobody) -> None:
        self.entries = 0
        """How many were brought."""
        self._source = source
        self._target = target
        self._progress = progress
        self._trace = 0
        self._numbers: Numbers | None = None
        """The counters of the source before it was read last; None: it has to be read as a whole."""
        self._answered_us = 0
        """The target has no answer that is older."""
        self._snapshots: dict[tuple[str, Position], SnapshotHead] = {}

    async def bring(self) -> None:
        """Bring all that there is, later what was changed since.

        Raises:
          Corrupt: what is read back is not what was brought.
        """
        if self._numbers is None or not await self._follow(self._numbers):
            await self._lay_over()

    async def finish(self) -> bool:
        """Bring what is missing while nobody commits to the source: whether the target holds the same now. If not, `bring` once more before.

        Raises:
          Corrupt: what is read back is not what was brought.
        """
        if self._numbers is None or not await self._follow(self._numbers, last=True):
            return False
        await self._target.load_rest(Rest(numbers=self._numbers))
        if await self._target.read_numbers() != self._numbers or _by_place(await self._target.snapshot_heads()) != self._snapshots:
            raise Corrupt("the target", "its numbers or snapshots are not those that were brought")
        return True

    async def aclose(self) -> None:
        """The source need not be followed any more."""
        if self._trace:
            with trio.move_on_after(END_S, shield=True), suppress(PerdureError):  # else upkeep ends it
                await self._source.end_trace()

    # -- as a whole --------------------------------------------------------------------------

    async def _lay_over(self) -> None:
        self._numbers = None
        self._trace = await self._source.begin_trace()
        numbers = await self._source.read_numbers()
        await self._merge(entry_pages, entry_key, _put_entry, _drop_entry)
        await self._merge(aged_pages, aged_key, _put_aged, _drop_aged)
        oldest = await _first_answer(self._source, 0)
        self._answered_us = numbers.at_us if oldest is None else min(oldest.kept.at_us, numbers.at_us)
        self._snapshots = _by_place(await self._target.snapshot_heads())
        await self._bring_snapshots()
        self._numbers = numbers

    async def _merge(
        self, read: Callable[[Backend], Pages[T]], key: Callable[[T], bytes], put: Callable[[Rest, T], int], drop: Callable[[Rest, T], None]
    ) -> None:
        for _ in range(MERGES):
            wanted, found = await self._merge_once(read, key, put, drop), hashlib.blake2b()
            back = read(self._target)
            while (one := await back.next()) is not None:
                found.update(_encode(one))
            if wanted == found.digest():
                return
        raise Corrupt("the target", "what is read back of its entries, deletes and answers is not what was brought")

    async def _merge_once(
        self, read: Callable[[Backend], Pages[T]], key: Callable[[T], bytes], put: Callable[[Rest, T], int], drop: Callable[[Rest, T], None]
    ) -> bytes:
        """Walk through both in order, and change what differs; the digest of what the source has told."""
        there, here = read(self._source), read(self._target)
        left, right = await there.next(), await here.next()
        step, wanted = Step(self._target), hashlib.blake2b()
        while left is not None or right is not None:
            if left is None or (right is not None and key(right) < key(left)):
                assert right is not None
                drop(step.rest, right)
                await step.note(0)
                right = await here.next()
                continue
            wanted.update(_encode(left))
            if left != right:
                await step.note(put(step.rest, left))
                self._count()
            if right is not None and key(right) == key(left):
                right = await here.next()
            left = await there.next()
        await step.load()
        return wanted.digest()

    def _count(self) -> None:
        self.entries += 1
        if self.entries % pages.PAGE_ROWS == 0:
            self._progress(Progress("entries", self.entries))

    async def _bring_snapshots(self) -> None:
        """Those that the target has not, and away with those that the source has no more."""
        wanted, step = _by_place(await self._source.snapshot_heads()), Step(self._target)
        for place in [place for place in self._snapshots if place not in wanted]:
            step.rest.gone_snapshots.append(place)
            del self._snapshots[place]
            await step.note(0)
        for (name, position), head in wanted.items():
            if self._snapshots.get((name, position)) == head:
                continue
            snapshot = await self._source.read_snapshot(name, at_most=position)
            if snapshot is not None and snapshot.position == position:  # else it went meanwhile
                step.rest.snapshots.append(snapshot)
                self._snapshots[name, position] = SnapshotHead(name, position, snapshot.fingerprint, snapshot.at_us)
                await step.note(len(snapshot.state))
        await step.load()

    # -- as it changes -----------------------------------------------------------------------

    async def _follow(self, before: Numbers, *, last: bool = False) -> bool:
        """Bring what was changed since *before*; *last*: nobody commits. Whether it is known."""
        numbers = await self._source.read_numbers()
        if not await self._follow_trace(last=last):
            return False
        await self._follow_aged(before.at_us, last=last)
        await self._bring_snapshots()
        self._numbers = numbers
        return True

    async def _follow_trace(self, *, last: bool) -> bool:
        after: bytes | None = b""
        while after is not None:
            page = await self._source.read_trace(after=after, limit=pages.PAGE_ROWS)
            if page.trace != self._trace:
                return False
            await self._bring_these([(one.bucket, one.key) for one in page.traced])
            if page.traced and not last:
                await self._source.forget_trace(page.traced)
            after = page.after
        return True

    async def _bring_these(self, names: Sequence[tuple[str, bytes]]) -> None:
        """Those entries; deletes come after them, as tombstones."""
        while names:
            wanted = await self._source.read_these(names, bytes_max=pages.PAGE_BYTES)
            entries, count = wanted
            there = {(one.bucket, one.key) for one in entries}
            await self._target.load_rest(Rest(entries=entries, gone=[name for name in names[:count] if name not in there]))
            if await self._target.read_these(names[:count], bytes_max=pages.PAGE_BYTES) != wanted:
                raise Corrupt("the target", "what is read back of its entries is not what was brought last")
            for _ in entries:
                self._count()
            names = names[count:]

    async def _follow_aged(self, since_us: int, *, last: bool) -> None:
        step, wanted = Step(self._target), dict[object, Aged]()
        aged = aged_pages(self._source, since_us=since_us)
        while (one := await aged.next()) is not None:
            wanted[_aged_name(one)] = one
            await step.note(_put_aged(step.rest, one))
        await step.load()
        await self._forget_answers()
        found = {_aged_name(one): one for one in await aged_pages(self._target, since_us=since_us).all()}
        if not last:  # what was put again meanwhile is there still
            found = {name: found[name] for name in wanted if name in found}
        if wanted != found:
            raise Corrupt("the target", "what is read back of its deletes and answers is not what was brought last")

    async def _forget_answers(self) -> None:
        """Those that the source has forgotten: answers go in order of their time."""
        newest_us = (await self._source.read_numbers()).at_us
        oldest = await _first_answer(self._source, self._answered_us)
        step, aged = Step(self._target), aged_pages(self._target, since_us=self._answered_us)
        while (one := await aged.next()) is not None and (oldest is None or aged_key(one) < aged_key(oldest)):
            if isinstance(one, Answered):
                step.rest.gone_answers.append(one.id)
                await step.note(0)
        await step.load()
        self._answered_us = newest_us if oldest is None else oldest.kept.at_us


async def _first_answer(backend: Backend, since_us: int) -> Answered | None:
    aged = aged_pages(backend, since_us=since_us)
    while (one := await aged.next()) is not None:
        if isinstance(one, Answered):
            return one
    return None


def _put_entry(rest: Rest, entry: BucketEntry) -> int:
    rest.entries.append(entry)
    return len(entry.value)


def _drop_entry(rest: Rest, entry: BucketEntry) -> None:
    rest.gone.append((entry.bucket, entry.key))


def _put_aged(rest: Rest, one: Aged) -> int:
    rest.aged.append(one)
    return 100


def _drop_aged(rest: Rest, one: Aged) -> None:
    if isinstance(one, Tombstone):
        rest.gone.append((one.bucket, one.key))
    else:
        rest.gone_answers.append(one.id)


def _aged_name(one: Aged) -> object:
    return (one.bucket, one.key) if isinstance(one, Tombstone) else one.id


def _by_place(heads: Sequence[SnapshotHead]) -> dict[tuple[str, Position], SnapshotHead]:
    return {(head.name, head.position): head for head in heads}
