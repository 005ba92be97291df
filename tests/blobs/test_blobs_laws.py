"""Every blob store keeps every law; a store that does not is found out."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from perdure.backends.blobs import conformance
from perdure.backends.blobs.cid import RAW, Cid
from perdure.backends.blobs.directory import DirectoryBlobs, open_directory
from perdure.backends.blobs.ref import BlobRef, BlobStat


@pytest.mark.parametrize("law", conformance.CHECKS, ids=lambda law: law.__name__)
async def test_law(blobs, law):
    await law(blobs)


def test_every_law_is_in_the_list():
    written = {name for name, value in vars(conformance).items() if inspect.iscoroutinefunction(value) and not name.startswith("_")}

    assert {law.__name__ for law in conformance.CHECKS} == written


# -- liars -----------------------------------------------------------------------------------


class Liar:
    """An honest store but for what a subclass does."""

    def __init__(self, honest: DirectoryBlobs) -> None:
        self.honest: Any = honest
        self.url = honest.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)


class Forgets(Liar):
    async def put(self, source, **kind):
        ref = await self.honest.put(source, **kind)
        if ref.size_bytes > 1 << 20:
            await self.honest.delete(ref)
        return ref


class OwnAddresses(Liar):
    async def put(self, source, **kind):
        ref = await self.honest.put(source, **kind)
        return BlobRef(str(Cid.of(RAW, ref.cid.encode())), ref.size_bytes, ref.media_type)


class KeepsHalf(Liar):
    """What came before the source broke becomes a blob."""

    async def put(self, source, **kind):
        if not isinstance(source, AsyncIterator):
            return await self.honest.put(source, **kind)
        parts, ref = [], None
        try:
            while True:
                parts.append(await anext(source))
        except StopAsyncIteration:
            pass
        finally:
            with trio.CancelScope(shield=True):
                ref = await self.honest.put(b"".join(parts), **kind)
        return ref


class NeverDeletes(Liar):
    async def delete(self, what):
        return await self.honest.has(what)


class BelievesRefs(Liar):
    def get(self, what, **part):
        return self.honest.get(what.cid if isinstance(what, BlobRef) else what, **part)


class GuessesSizes(Liar):
    async def stat(self, what):
        return BlobStat(what if isinstance(what, str) else what.cid, 0)


class LosesPages(Liar):
    async def cids(self, *, after=None, limit=1_000):
        return (await self.honest.cids(after=after, limit=limit + 1))[1:]


@pytest.mark.parametrize("liar", [Forgets, OwnAddresses, KeepsHalf, NeverDeletes, BelievesRefs, GuessesSizes, LosesPages])
async def test_a_liar_is_found_out(tmp_path: Path, liar: type[Liar]):
    found: list[str] = []
    for law in conformance.CHECKS:
        store = await open_directory(f"{tmp_path}/{law.__name__}", url="directory:liar")
        try:
            await law(liar(store))
        except Exception as error:
            found.append(f"{law.__name__}: {error!r}")
        await store.aclose()

    assert found
