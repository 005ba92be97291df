"""`blob put|get|verify|delete`: large objects by their content, in a folder or in an IPFS node."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import attrs
import trio
from cyclopts import App, Parameter

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.ref import OCTETS
from perdure.backends.blobs.source import Source
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.denied import check_denied
from perdure.backends.errors import Misuse
from perdure.backends.undone import undone_blobs
from perdure.runtime.cli import out, stdin
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.store import told_bytes
from perdure.runtime.cli.stores import reading
from perdure.runtime.verify_blobs import BlobReport, verify_blobs

app = App(name="blob", help="Put and get large objects by their content.")

Blobs = Annotated[str, Parameter(help="The blob store: directory:DIR or ipfs://HOST:PORT.")]
Cid = Annotated[str, Parameter(help="The blob's CID, as put printed it.")]


@app.command
def put(
    blobs: Blobs,
    file: Annotated[str, Parameter(help="The file; - reads standard input.", allow_leading_hyphen=True)],
    /,
    *,
    media_type: Annotated[str | None, Parameter(name="--type", help="Its media type, as image/png; guessed from the file's name unless given.")] = None,
    json: AsJson = False,
) -> int:
    """Keep the bytes of a file, and print their CID.

    With --json it is the BlobRef, to be put into an event's data as it is. A folder is made if there is none.

    For example:

        perdure blob put directory:blobs letter.pdf

    JSON: cid, size_bytes, media_type.
    """
    kind = media_type or (None if file == "-" else mimetypes.MimeTypes().guess_type(file)[0]) or OCTETS

    async def command() -> int:
        source: Source = stdin.Pieces(stdin.standard()) if file == "-" else Path(file)
        async with undone_blobs(blobs), open_blobs(blobs) as store:
            with out.busy(f"putting {file} into {store.url}"):
                ref = await store.put(source, media_type=kind)
        if json:
            out.document(attrs.asdict(ref))
        else:
            out.line(ref.cid)
        return Exit.DONE

    return run_async(command)


@app.command
def get(
    blobs: Blobs,
    cid: Cid,
    /,
    *,
    to: Annotated[str | None, Parameter(name="--out", help="Write to this file, which is there whole or not at all.")] = None,
    json: AsJson = False,
) -> int:
    """Write the bytes of a blob to standard output, or with --out to a file.

    Each is checked before it is written. --json goes with --out.

    For example:

        perdure blob get directory:blobs bafk... --out letter.pdf

    JSON: cid, size_bytes, out.
    """
    if json and to is None:
        raise Misuse("the bytes go to standard output, so --json has no room there: give --out FILE")
    if to is not None:
        _check_file(to)

    async def command() -> int:
        async with opened(blobs) as store:
            if to is None:
                async for piece in store.get(cid):
                    out.raw(piece)
                out.flush()
                return Exit.DONE
            with out.busy(f"getting {cid} from {store.url}"):
                size_bytes = await _save(store, cid, Path(to))
        if json:
            out.document({"cid": cid, "size_bytes": size_bytes, "out": to})
        else:
            out.line(f"{size_bytes:,} bytes in {to}")
        return Exit.DONE

    return run_async(command)


def _check_file(to: str) -> None:
    """Whether a file can be made there, before anything is read for it.

    Raises:
      Misuse: it cannot.
    """
    path = Path(to)
    if not to:
        raise Misuse("--out is empty: give --out FILE")
    if path.is_dir():
        raise Misuse(f"{to} is a folder: give --out a file, such as {path / 'letter.pdf'}")
    if not path.parent.is_dir():
        raise Misuse(f"there is no folder {path.parent}: make it first, or give another --out FILE")
    if path.exists() and not path.is_file():
        raise Misuse(f"{to} is no file: give another --out FILE, or let standard output go there")


async def _save(store: BlobStore, cid: str, path: Path) -> int:
    """Write beside *path*, then give it the name; how many bytes."""
    beside, size_bytes = trio.Path(path.with_name(f".{path.name}.{os.getpid()}")), 0
    try:
        file = await beside.open("xb")
    except OSError as error:
        check_denied(error, path.parent, "give another --out FILE")
        raise
    try:
        async with file:
            async for piece in store.get(cid):
                await file.write(piece)
                size_bytes += len(piece)
        await beside.replace(path)
    finally:
        with trio.CancelScope(shield=True):
            await beside.unlink(missing_ok=True)
    return size_bytes


@app.command
def delete(blobs: Blobs, cid: Cid, /, *, json: AsJson = False) -> int:
    """Keep a blob no longer.

    Nobody looks whether an event refers to it: `perdure blob verify BLOBS --store URL` says which ones nothing refers to.

    For example:

        perdure blob delete directory:blobs bafk...

    JSON: cid, deleted.
    """

    async def command() -> int:
        async with opened(blobs) as store:
            deleted = await store.delete(cid)
        if json:
            out.document({"cid": cid, "deleted": deleted})
        elif deleted:
            out.line(f"deleted {cid}")
        if not deleted:
            out.note(f"{store.url} has no blob {cid}")
        return Exit.DONE if deleted else Exit.NO

    return run_async(command)


@app.command
def verify(
    blobs: Blobs,
    /,
    *,
    store: Annotated[
        list[str], Parameter(name="--store", help="A store whose BlobRefs are looked for; may be given several times.", negative=(), show_default=False)
    ] = [],  # noqa: B006 - never changed
    json: AsJson = False,
) -> int:
    """Read every blob and check it; with --store look for refs without bytes, and bytes without refs.

    Damaged blobs and refs without bytes are problems. Bytes without refs are only told: they may be there for an event
    that is still to come, or for another store.

    For example:

        perdure blob verify directory:blobs --store lmdb:shop

    What is kept beside the bytes to check them by (the nodes of a large blob) is made again from them where it is damaged: that
    is told, and no problem. A folder that may not be written is read all the same.

    JSON: url, blobs, size_bytes, refs, problems, unreferenced, left_out, mended.
    """

    async def command() -> int:
        async with AsyncExitStack() as stack:
            opened_blobs = await stack.enter_async_context(opened(blobs))
            stores = [await stack.enter_async_context(reading(url)) for url in store]
            with out.told(f"verifying {opened_blobs.url}") as progress:
                report = await verify_blobs(opened_blobs, stores, progress=progress)
        if json:
            out.document({"url": opened_blobs.url, **attrs.asdict(report)})
        else:
            _tell(report, looked=bool(store))
        return Exit.NO if report.problems else Exit.DONE

    return run_async(command)


def _tell(report: BlobReport, *, looked: bool) -> None:
    for problem in report.problems:
        out.line(problem)
    for text in report.mended:
        out.line(f"mended: {text}")
    for cid in report.unreferenced:
        out.line(f"unreferenced: {cid}")
    for text in report.left_out:
        out.note(f"left out: {text}")
    refs = f"; refs: {report.refs:,}, blobs without one: {len(report.unreferenced):,}" if looked else ""
    out.line(f"blobs read: {report.blobs:,} ({told_bytes(report.size_bytes)}); problems found: {len(report.problems):,}{refs}")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[BlobStore]:
    """The blob store, which is not made here."""
    async with open_blobs(url, create=False) as store:
        yield store
