"""The laws that every blob store keeps, for holding against any of them, also one written elsewhere. No pytest is needed.

for law in CHECKS:
    await law(blobs)        # an open store, which may hold other things; `Broken` says what it does not keep
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from random import Random
from typing import Any, Final, Self

import trio

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.ref import BlobRef, BlobStat
from perdure.backends.blobs.unixfs import CHUNK_BYTES
from perdure.backends.conformance.law import Broken
from perdure.backends.errors import BlobMissing, Corrupt, Misuse, PerdureError

Check = Callable[[BlobStore], Awaitable[None]]

SIZES: Final = (0, 1, 255 << 10, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 << 20, (5 << 20) + 7)
"""Bytes: around the bounds of chunks."""
KNOWN: Final = {
    (b"", 1): "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    (b"hello world\n", 1): "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4",
    (bytes(CHUNK_BYTES), 2): "bafybeiam7fzx7ebtpwnfqb4tfhcthbgihdavyir433y6dd5jjy37dftd4e",
}
"""What other implementations of IPFS call these bytes, so many times repeated."""


def content(what: str, size_bytes: int) -> bytes:
    """Bytes that no other law puts."""
    return Random(what).randbytes(size_bytes)


async def what_was_put_is_read(blobs: BlobStore) -> None:
    """What was put is read back, whatever its size; it has that size, and is there."""
    for size in SIZES:
        data = content("round trip", size)
        ref = await blobs.put(data, media_type="application/x-law")
        _hold(ref.size_bytes == size and ref.media_type == "application/x-law", f"put of {size:,} bytes answered {ref}")
        _hold(await blobs.get(ref).read() == data, f"{size:,} bytes came back as others")
        _hold(await blobs.stat(ref) == BlobStat(ref.cid, size), f"stat of {size:,} bytes says {await blobs.stat(ref)}")
        _hold(await blobs.has(ref.cid), f"{size:,} bytes that were put are not there")
        _hold(await blobs.verify(ref) == BlobStat(ref.cid, size), f"verify of {size:,} bytes answers something else")


async def addresses_are_those_of_ipfs(blobs: BlobStore) -> None:
    """The CID is the one that other implementations give, and does not depend on how the bytes come."""
    for (part, times), cid in KNOWN.items():
        _hold((await blobs.put(part * times)).cid == cid, f"{times} times {part[:12]!r} has not the CID {cid}")
    data = content("pieces", 3 * CHUNK_BYTES + 17)
    ref = await blobs.put(data)
    for size in (1_000, CHUNK_BYTES + 1, len(data)):
        _hold(await blobs.put(_Pieces(_cut(data, size))) == ref, f"in pieces of {size:,} bytes it is another blob")


async def pieces_are_small(blobs: BlobStore) -> None:
    """Bytes are given in pieces of at most 1 MiB, none of them empty."""
    ref = await blobs.put(content("small", 2 * CHUNK_BYTES + 5))
    _hold([len(piece) async for piece in blobs.get(ref)] == [CHUNK_BYTES, CHUNK_BYTES, 5], "the pieces have other sizes")
    nothing = await blobs.put(b"")
    _hold([piece async for piece in blobs.get(nothing)] == [], "a blob of nothing gave a piece")


async def parts_can_be_read(blobs: BlobStore) -> None:
    """A part of a blob is what a slice of its bytes is."""
    data = content("parts", 5 * CHUNK_BYTES + 3)
    ref = await blobs.put(data)
    for start, end in [(0, 0), (0, 1), (3, CHUNK_BYTES + 9), (CHUNK_BYTES, 2 * CHUNK_BYTES), (4 * CHUNK_BYTES + 7, None), (len(data), None), (9, 10**12)]:
        _hold(await blobs.get(ref, start=start, end=end).read() == data[start:end], f"bytes {start} to {end} are others")


async def what_is_not_there(blobs: BlobStore) -> None:
    """Of a blob that was never put, `get` and `verify` raise `BlobMissing`, `stat` is None, `has` and `delete` are false."""
    for size in (9, 2 * CHUNK_BYTES):
        cid = (await blobs.put(content("absent", size))).cid
        await blobs.delete(cid)
        _hold(await blobs.stat(cid) is None, "stat knows it")
        _hold(not await blobs.has(cid), "has says that it is there")
        _hold(not await blobs.delete(cid), "delete says that it was there")
        await _raises(BlobMissing, blobs.get(cid).read)
        await _raises(BlobMissing, partial(blobs.verify, cid))


async def others_stay(blobs: BlobStore) -> None:
    """What is deleted takes nothing along that another blob needs."""
    shared = content("shared", 2 * CHUNK_BYTES)
    kept, gone = await blobs.put(shared + b"kept"), await blobs.put(shared + b"gone")

    _hold(await blobs.delete(gone), "delete says that there was nothing")

    _hold(not await blobs.has(gone), "it is still there")
    _hold(await blobs.get(kept).read() == shared + b"kept", "the other blob has changed")


async def put_again_is_once(blobs: BlobStore) -> None:
    """A blob that is put several times, at once too, is there once."""
    data = content("twice", CHUNK_BYTES + 1)
    refs: list[BlobRef] = []

    async def put() -> None:
        refs.append(await blobs.put(data))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(put)

    _hold(len(set(refs)) == 1, "they have several CIDs")
    _hold((await _all_cids(blobs)).count(refs[0].cid) == 1, "it is listed more than once, or not at all")
    _hold(await blobs.delete(refs[0]) and not await blobs.has(refs[0]), "it was there twice")


async def a_broken_source_leaves_nothing(blobs: BlobStore) -> None:
    """Of a put whose source raises, and of one that is cancelled, there is no blob; the error leaves as it is."""
    data = content("broken", 6 * CHUNK_BYTES)
    before = await _all_cids(blobs)

    async def break_off() -> None:
        await trio.lowlevel.checkpoint()
        raise _Lost

    async def hang() -> None:
        scope.cancel()
        await trio.sleep_forever()

    await _raises(_Lost, lambda: blobs.put(_Pieces([data], break_off)))
    with trio.CancelScope() as scope:
        await blobs.put(_Pieces([data], hang))

    _hold(scope.cancelled_caught, "the put was not cancelled")
    _hold(await _all_cids(blobs) == before, "there are other blobs than before")


async def cids_come_in_pages(blobs: BlobStore) -> None:
    """`cids` lists what is kept, each once, in an order that `after` goes on in."""
    put = {(await blobs.put(content(f"page {number}", 10))).cid for number in range(7)}

    by_three = await _all_cids(blobs, limit=3)

    _hold(by_three == await _all_cids(blobs), "pages of three list something else than one page")
    _hold(len(set(by_three)) == len(by_three), "a CID comes twice")
    _hold(put <= set(by_three), "some are not listed")


async def a_ref_with_another_size(blobs: BlobStore) -> None:
    """A `BlobRef` whose size is not that of its blob is `Corrupt` before a byte is given."""
    for size in (10, CHUNK_BYTES + 10):
        ref = await blobs.put(content("size", size))
        await _raises(Corrupt, blobs.get(BlobRef(ref.cid, size + 1)).read)


async def asked_wrongly(blobs: BlobStore) -> None:
    """A name that is no CID, a range that is none, a source that gives no bytes and a media type that is none are `Misuse`."""
    qm = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPBdG"
    for name in ("", "bafy", qm, content("name", 3).hex()):
        await _raises(Misuse, partial(blobs.has, name))
        await _raises(Misuse, partial(blobs.verify, name))
    given: list[Any] = ["a text", 7, [b"a list"], _Pieces(["a text"])]
    for source in given:
        await _raises(Misuse, partial(blobs.put, source))
    for kind in ("", "image", "image/", "/png", "image/png\n", "i/" + "p" * 300):
        await _raises(Misuse, partial(blobs.put, b"x", media_type=kind))
    ref = await blobs.put(b"x")

    async def read(start: int, end: int | None) -> bytes:
        return await blobs.get(ref, start=start, end=end).read()

    for start, end in ((-1, None), (2, 1)):
        await _raises(Misuse, partial(read, start, end))


CHECKS: Final[tuple[Check, ...]] = (
    what_was_put_is_read,
    addresses_are_those_of_ipfs,
    pieces_are_small,
    parts_can_be_read,
    what_is_not_there,
    others_stay,
    put_again_is_once,
    a_broken_source_leaves_nothing,
    cids_come_in_pages,
    a_ref_with_another_size,
    asked_wrongly,
)
"""All laws."""


# -- helpers ---------------------------------------------------------------------------------


class _Lost(Exception):
    """What the source of a blob may raise."""


def _hold(kept: bool, what: str) -> None:
    if not kept:
        raise Broken("", what)


async def _raises(expected: type[Exception], call: Callable[[], Awaitable[object]]) -> None:
    try:
        answer = await call()
    except expected:
        return
    except PerdureError as error:
        raise Broken("", f"{type(error).__name__} in place of {expected.__name__}: {error}") from error
    raise Broken("", f"no {expected.__name__}, but {answer!r:.80}")


async def _all_cids(blobs: BlobStore, limit: int = 1_000) -> list[str]:
    found: list[str] = []
    while page := await blobs.cids(after=found[-1] if found else None, limit=limit):
        found += page
    return found


class _Pieces:
    """Bytes as they may come from anywhere, and what happens then."""

    def __init__(self, pieces: Iterable[Any], end: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        self._left = iter(pieces)
        self._end = end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for piece in self._left:
            return piece
        await self._end()
        raise StopAsyncIteration


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
        yield b""  # nothing in hand is not the end
