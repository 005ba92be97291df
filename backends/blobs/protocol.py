"""What a blob store is: large objects by their content, apart from the backend. `directory` and `ipfs` are two."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from perdure.backends.blobs.reader import BlobReader
from perdure.backends.blobs.ref import OCTETS, BlobRef, BlobStat
from perdure.backends.blobs.source import Source


class BlobStore(Protocol):
    """Blobs under their CIDs. A blob is there whole or not at all; put twice, it is there once.

    *what* is a `BlobRef`, or a CID as text. Every method raises, besides what it says:
      Misuse: *what* names no blob.
      BlobsUnavailable: the store cannot be reached, has no room, or is too slow.
      Closed: the store was closed.
    """

    url: str

    async def put(self, source: Source, *, media_type: str = OCTETS) -> BlobRef:
        """Keep what *source* gives: bytes, a path, or an asynchronous iterable of bytes (a Trio stream).

        On return it is durable. If cancelled, or if the source raises, there is no such blob (unless it was there before).
        A blob that is there and damaged is whole again.

        Raises:
          Misuse: the source gives no bytes, or the media type is none; nothing was put.
        """
        ...

    def get(self, what: BlobRef | str, *, start: int = 0, end: int | None = None) -> BlobReader:
        """Its bytes from *start* to *end*, to iterate over in pieces of at most 1 MiB; each is checked against the CID before it is given.

        Raises while iterating:
          BlobMissing: the blob, or a part of it, is not there.
          Corrupt: its bytes are not those of the CID, or it has not the size that the `BlobRef` says.
        """
        ...

    async def stat(self, what: BlobRef | str) -> BlobStat | None:
        """Its size; None: it is not there. Its bytes are not read.

        Raises:
          Corrupt: what is needed to know the size is damaged.
        """
        ...

    async def has(self, what: BlobRef | str) -> bool:
        """Whether it is kept here. Its bytes are not read."""
        ...

    async def delete(self, what: BlobRef | str) -> bool:
        """Keep it no longer; false: it was not kept. Nobody looks whether a `BlobRef` still leads to it (`perdure blob verify` does)."""
        ...

    async def verify(self, what: BlobRef | str) -> BlobStat:
        """Read all of it.

        Raises:
          BlobMissing, Corrupt: as `get`.
        """
        ...

    async def cids(self, *, after: str | None = None, limit: int = 1_000) -> list[str]:
        """The CIDs of what is kept, in order, beyond *after*."""
        ...

    async def aclose(self) -> None:
        """Let go of the store. Idempotent."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A blob store that can tell of blobs whose bytes are gone."""

    async def lost(self) -> list[str]:
        """Their CIDs: something of them is kept, and not their bytes."""
        ...
