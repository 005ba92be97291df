"""Buckets: current values by key, each bucket with one type."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
import trio

from perdure.backends.codec import Codec
from perdure.backends.commit import ANY, Commit, Committed, Delete, Expected, Put, Stored
from perdure.backends.errors import Conflict, Misuse, Unreadable
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, Reads
from perdure.runtime.encode import AnyWrite, to_key

V = TypeVar("V")


@attrs.frozen
class KvEntry(Generic[V]):
    """A value with the revision it was stored at."""

    key: str
    value: V
    revision: int


@attrs.frozen
class Scan(Generic[V]):
    """Entries in order of their keys, all of one moment; watch from *revision* on to miss nothing."""

    entries: tuple[KvEntry[V], ...]
    revision: int


@attrs.frozen
class Changed(Generic[V]):
    """A key that changed at *revision*; *entry* None means that it was deleted."""

    key: str
    revision: int
    entry: KvEntry[V] | None


class Bucket(Generic[V]):
    """See `Runtime.kv`."""

    def __init__(
        self,
        name: str,
        type: Any,
        *,
        backend: Backend,
        codec: Codec,
        limits: Limits,
        propose: Callable[[list[AnyWrite]], Commit],
        commit: Callable[[Commit], Awaitable[Committed | Conflict]],
    ) -> None:
        self.name = name
        self.type = type
        self._backend = backend
        self._limits = limits
        codec.encoder(type)  # a type that cannot be stored is refused here
        self._decode = codec.decoder(type)
        self._commit = commit
        self._propose = propose

    def __repr__(self) -> str:
        return f"<bucket {self.name}>"

    async def get(self, key: str) -> KvEntry[V] | None:
        """The entry, or None.

        Raises:
          Unreadable: the value does not fit the bucket's type.
        """
        entry = await self._backend.get(self.name, to_key(key))
        return None if entry is None else KvEntry(key, self._decode(entry.value), entry.revision)

    async def put(self, key: str, value: V, *, expected: Expected = ANY) -> Stored | Conflict:
        """Store *value*; with *expected* only if the key's revision is that (0: absent).

        If cancelled, nothing was stored. Raises as `Runtime.append` does.
        """
        return await self._write(Put(self.name, key, value, expected))

    async def delete(self, key: str, *, expected: Expected = ANY) -> Stored | Conflict:
        """Delete the entry; of an absent one too it is a change, with a revision. If cancelled, nothing was deleted."""
        return await self._write(Delete(self.name, key, expected))

    async def _write(self, write: AnyWrite) -> Stored | Conflict:
        answer = await self._commit(self._propose([write]))
        if isinstance(answer, Conflict):
            return answer
        part = answer.parts[0]
        assert isinstance(part, Stored)
        return part

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> Scan[V]:
        """Entries whose keys begin with *prefix*, those beyond *after*, all of one moment."""
        async with self._backend.view() as view:
            entries = await self._scan(view, prefix.encode(), None if after is None else to_key(after), limit)
            return Scan(tuple(entries), await view.revision())

    async def _scan(self, reads: Reads, prefix: bytes, after: bytes | None, limit: int | None) -> list[KvEntry[V]]:
        found: list[KvEntry[V]] = []
        while limit is None or len(found) < limit:
            most = self._limits.page_records if limit is None else min(self._limits.page_records, limit - len(found))
            page = await reads.scan(self.name, prefix=prefix, after=after, limit=most)
            found += [KvEntry(entry.key.decode(), self._decode(entry.value), entry.revision) for entry in page]
            if len(page) < most:
                break
            after = page[-1].key
        return found

    def watch(self, prefix: str = "", *, after: int = 0) -> Watch[V]:
        """Changes beyond revision *after*, in order of revision, then those to come, for ever.

        Of several changes of a key at least the last, deletes included. Resumable by revision, also in
        another process.

        Raises (while iterating):
          Compacted: deletes since *after* have been forgotten: scan, then watch from the scan's revision.
        """
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise Misuse(f"watch(after=...) takes a revision from 0, not {after!r}")
        return Watch(self._backend, self.name, prefix.encode(), after, self._decode, self._limits.page_records)


class Watch(Generic[V]):
    """An iterator over a bucket's changes; *revision* is how far it has looked."""

    def __init__(self, backend: Backend, bucket: str, prefix: bytes, after: int, decode: Callable[[bytes], V], page: int) -> None:
        self.revision = after
        self._backend = backend
        self._bucket = bucket
        self._prefix = prefix
        self._decode = decode
        self._page = page
        self._changes: deque[Changed[V] | Unreadable] = deque()

    def __aiter__(self) -> AsyncIterator[Changed[V]]:
        return self

    async def __anext__(self) -> Changed[V]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._changes:
            found = await self._backend.read_changes(self._bucket, after=self.revision, limit=self._page)
            for change in found.changes:
                if change.key.startswith(self._prefix):
                    self._changes.append(self._changed(change.key.decode(), change.revision, change.value))
            if found.examined > self.revision:
                self.revision = found.examined
            else:
                await self._backend.wait_changed(self.revision)
        found_next = self._changes.popleft()
        if isinstance(found_next, Unreadable):
            raise found_next  # asking again gives the one after it
        return found_next

    def _changed(self, key: str, revision: int, value: bytes | None) -> Changed[V] | Unreadable:
        try:
            return Changed(key, revision, None if value is None else KvEntry(key, self._decode(value), revision))
        except Unreadable as error:
            return error
