"""`directory:DIR`: a blob is a file that holds its bytes and nothing else.

    format                     {"format": 1}
    blobs/qa/bafy...zqa        a blob, under its CID, in a folder named as the CID ends
    trees/4e/bafy...34e        a node of a blob of several chunks, as IPFS has it
    incoming/ID.lock           held by the process that puts under this id
    incoming/ID.7              what is being put

A put writes under `incoming`, flushes, renames, and syncs the folder: a blob is there whole or not at all, and what a killed put left is
removed by the next opening. The nodes say how to check each chunk by itself. They can be made again from the bytes, and are, where they
are missing or damaged: only the files in `blobs` matter. They get their names after the blob and lose them before it, so nodes without a blob are of one
whose bytes are gone. Who may not write to the folder reads it all the same.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from itertools import count
from typing import Final

import attrs
import msgspec
import trio

from perdure.backends.blobs.cid import DAG_PB, RAW, Cid
from perdure.backends.blobs.putting import Chunk, put_tree
from perdure.backends.blobs.reader import MENDED, BlobReader, read_through
from perdure.backends.blobs.ref import OCTETS, BlobRef, BlobStat, address_of, is_address
from perdure.backends.blobs.source import WINDOW_BYTES, Source, Window, reading
from perdure.backends.blobs.unixfs import BLOCK_BYTES_MAX, Block, Link, Part, read_node
from perdure.backends.denied import check_denied, is_denied
from perdure.backends.disk import Disk, Lock, Taken, make_folder_durably, name_durably
from perdure.backends.environment import Environment
from perdure.backends.errors import BlobsUnavailable, Closed, Corrupt, Misuse, TooNew

FORMAT: Final = 1
_FOLDERS: Final = ("blobs", "trees", "incoming")


async def open_directory(folder: str, *, url: str, create: bool = True, environment: Environment | None = None) -> DirectoryBlobs:
    """The blob store in *folder*, which is made if it is not there, unless *create* is false.

    Raises:
      Misuse: the folder is none, holds something else, or is not there and was not to be made.
      TooNew: a newer perdure made it.
      BlobsUnavailable: the disk refuses it.
    """
    environment = environment or Environment()
    with translated(url):
        await _enter(environment, folder, url=url, create=create)
        try:
            id, lock = await _take_part(environment, folder)
        except OSError as error:
            if not is_denied(error):
                raise
            id, lock = "", None
    return DirectoryBlobs(folder, url, environment, id, lock)


class DirectoryBlobs:
    """See `BlobStore`. Any number of processes may have the folder open."""

    def __init__(self, folder: str, url: str, environment: Environment, id: str, lock: Lock | None) -> None:
        """*lock* None: nothing may be written."""
        self.url = url
        self._closed = False
        self._folder = folder
        self._disk = environment.disk
        self._threads = environment.threads
        self._id = id
        self._lock = lock
        self._numbers = count(1)
        self._made: set[str] = set()
        """Folders whose entries are known to be durable: at most 512."""

    def __repr__(self) -> str:
        return f"<blobs in {self.url}>"

    # -- the protocol ------------------------------------------------------------------------

    async def put(self, source: Source, *, media_type: str = OCTETS) -> BlobRef:
        self._check_open()
        if self._lock is None:
            raise Misuse(f"{self.url} may not be written by this user: give it the right, or name another folder")
        BlobRef(str(_NOTHING), 0, media_type)  # a media type that is none is told before anything is read
        async with reading(source) as read, self._incoming() as temporary, AsyncExitStack() as kept:
            nodes: list[tuple[str, Cid]] = []

            async def put_node(block: Block) -> None:
                nodes.append((await kept.enter_async_context(self._written(block)), block.cid))

            with translated(self.url):
                file = await self._disk.open(temporary, create=True)
            try:
                at = 0

                async def put_window(window: Window, _: Sequence[Chunk]) -> None:
                    nonlocal at
                    with translated(self.url):
                        await file.write(at, bytes(window))
                    at += len(window)

                root = await put_tree(read, self._threads, put_window=put_window, put_node=put_node)
                with translated(self.url):
                    await file.flush()
            finally:
                file.close()
            await self._name(temporary, self._blob(root.cid))
            for written, cid in nodes:
                await self._name(written, self._tree(cid))
        return BlobRef(str(root.cid), root.size_bytes, media_type)

    def get(self, what: BlobRef | str, *, start: int = 0, end: int | None = None) -> BlobReader:
        self._check_open()
        return BlobReader(_Blocks(self, address_of(what)), self._threads, what, start, end)

    async def stat(self, what: BlobRef | str) -> BlobStat | None:
        self._check_open()
        cid = address_of(what)
        size_bytes = await self._size(self._blob(cid))
        return None if size_bytes is None else BlobStat(str(cid), size_bytes)

    async def has(self, what: BlobRef | str) -> bool:
        self._check_open()
        with translated(self.url):
            return await self._disk.exists(self._blob(address_of(what)))

    async def delete(self, what: BlobRef | str) -> bool:
        cid, found = address_of(what), await self.has(what)
        kept = found or await self.node(cid) is not None  # its bytes may be gone
        nodes = await self._nodes_below(cid) if kept else []
        with translated(self.url):
            for node in reversed(nodes):  # the root last: below none that is there. Another blob may have the same one: it is made again for it
                await self._disk.remove(self._tree(node))
            if found:
                await self._disk.remove(self._blob(cid))
                await self._disk.sync_folder(self._shard("blobs", cid))
        return kept

    async def verify(self, what: BlobRef | str) -> BlobStat:
        self._check_open()
        blocks = _Blocks(self, address_of(what))
        read = await read_through(BlobReader(blocks, self._threads, what))
        file_bytes = await self._size(self._blob(address_of(what)))
        if file_bytes not in (None, read.size_bytes):
            raise Corrupt(f"blob {read.cid} in {self.url}", f"its file has {file_bytes:,} bytes, the blob {read.size_bytes:,}", MENDED)
        return attrs.evolve(read, nodes="sound" if blocks.made is None else "damaged" if self._lock is None else "mended")

    async def cids(self, *, after: str | None = None, limit: int = 1_000) -> list[str]:
        self._check_open()
        found: list[str] = []
        with translated(self.url):
            for shard in await self._disk.entries(f"{self._folder}/blobs"):
                if after is None or shard >= after[-2:]:
                    names = await self._disk.entries(f"{self._folder}/blobs/{shard}")
                    found += [name for name in names if (after is None or (shard, name) > (after[-2:], after)) and is_address(name)]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def lost(self) -> list[str]:
        """See `Remembers`: roots of trees that have no blob."""
        self._check_open()
        roots: dict[Cid, None] = {}
        below: set[Cid] = set()
        with translated(self.url):
            trees = f"{self._folder}/trees"
            shards = await self._disk.entries(trees) if await self._disk.exists(trees) else []
            for name in [name for shard in shards for name in await self._disk.entries(f"{trees}/{shard}") if is_address(name)]:
                if (data := await self.node(Cid.parse(name))) is not None:
                    roots[Cid.parse(name)] = None
                    below |= {link.cid for link in _links(data)}
        return [str(cid) for cid in roots if cid not in below and not await self.has(str(cid))]

    async def aclose(self) -> None:
        self._closed = True
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with suppress(OSError):
                await self._disk.remove(f"{self._folder}/incoming/{self._id}.lock")
            lock.release()

    # -- where things are --------------------------------------------------------------------

    def _shard(self, kind: str, cid: Cid) -> str:
        return f"{self._folder}/{kind}/{str(cid)[-2:]}"

    def _blob(self, cid: Cid) -> str:
        return f"{self._shard('blobs', cid)}/{cid}"

    def _tree(self, cid: Cid) -> str:
        return f"{self._shard('trees', cid)}/{cid}"

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the blob store {self.url}")

    # -- writing -----------------------------------------------------------------------------

    @asynccontextmanager
    async def _incoming(self) -> AsyncIterator[str]:
        """A name that nobody has; what is still under it afterwards is removed."""
        path = f"{self._folder}/incoming/{self._id}.{next(self._numbers)}"
        try:
            yield path
        finally:
            with trio.CancelScope(shield=True), suppress(OSError):  # the next opening would do it
                await self._disk.remove(path)

    @asynccontextmanager
    async def _written(self, block: Block) -> AsyncIterator[str]:
        """The name under which a node is, flushed, until it has its own."""
        async with self._incoming() as temporary:
            with translated(self.url):
                file = await self._disk.open(temporary, create=True)
                try:
                    await file.write(0, block.data)
                    await file.flush()
                finally:
                    file.close()
            yield temporary

    async def _name(self, temporary: str, path: str) -> None:
        """Put a flushed file in its place, durably. What has that name has the same bytes, or ought to."""
        shard = path.rpartition("/")[0]
        with translated(self.url), trio.CancelScope(shield=True):  # a blob that is there although its put was cancelled would be no harm, but no answer
            if shard not in self._made:
                await make_folder_durably(self._disk, shard)
                self._made.add(shard)
            await self._disk.rename(temporary, path)
            await self._disk.sync_folder(shard)
            await self._disk.sync_folder(f"{self._folder}/incoming")  # a rename is durable where both folders are

    # -- reading -----------------------------------------------------------------------------

    async def _size(self, path: str) -> int | None:
        with translated(self.url):
            try:
                file = await self._disk.open(path, write=False)
            except FileNotFoundError:
                return None
            try:
                return await file.size()
            finally:
                file.close()

    async def _read(self, path: str, start: int, size_bytes: int) -> bytes | None:
        """Bytes of a file; None: it is not there."""
        with translated(self.url):
            try:
                file = await self._disk.open(path, write=False)
            except FileNotFoundError:
                return None
            try:
                return await file.read(start, size_bytes)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise Corrupt(path, "the disk cannot read it", MENDED) from error
                raise
            finally:
                file.close()

    async def node(self, cid: Cid) -> bytes | None:
        """A node that is stored and sound."""
        data = await self._read(self._tree(cid), 0, BLOCK_BYTES_MAX + 1)
        return data if data is not None and sha256(data).digest() == cid.digest else None

    async def mend(self, cid: Cid) -> dict[Cid, bytes] | None:
        """The nodes of a blob, made again from its bytes, and stored if this user may; None: they are not its bytes."""
        at, made = 0, list[Block]()

        async def read() -> Window:
            nonlocal at
            data = await self._read(self._blob(cid), at, WINDOW_BYTES)
            at += WINDOW_BYTES
            return data or b""

        async def seen(_: Window, __: Sequence[Chunk]) -> None:
            await trio.lowlevel.checkpoint()

        async def keep(block: Block) -> None:
            made.append(block)
            await trio.lowlevel.checkpoint()

        if (await put_tree(read, self._threads, put_window=seen, put_node=keep)).cid != cid:
            return None
        for block in made if self._lock is not None else ():
            async with self._written(block) as temporary:
                await self._name(temporary, self._tree(block.cid))
        return {block.cid: block.data for block in made}

    async def _nodes_below(self, cid: Cid) -> list[Cid]:
        """The nodes of a blob, as far as they are sound."""
        found = [cid] if cid.codec == DAG_PB else []
        for one in found:  # grows while it is walked
            if (data := await self.node(one)) is not None:
                found += [link.cid for link in read_node(data) if link.cid.codec == DAG_PB]
        return found


def _links(data: bytes) -> list[Link]:
    try:
        return read_node(data)
    except ValueError:  # it fits its CID, and is no node: nobody made it
        return []


class _Blocks:
    """See `Blocks`: the blocks of one blob, from its file and its nodes."""

    def __init__(self, store: DirectoryBlobs, root: Cid) -> None:
        self.where = store.url
        self._store = store
        self._root = root
        self.made: dict[Cid, bytes] | None = None
        """Its nodes, where they had to be made again."""

    async def whole(self, cid: Cid) -> bytes | None:
        return await self._store._read(self._store._blob(cid), 0, BLOCK_BYTES_MAX + 1)

    async def node(self, cid: Cid) -> bytes | None:
        if cid == self._root and not await self._store.has(str(cid)):
            return None
        data = await self._store.node(cid)
        if data is None:
            if self.made is None:
                self.made = await self._store.mend(self._root)
            if self.made is None:
                raise Corrupt(f"blob {self._root} in {self.where}", "its bytes are not those of its CID", MENDED)
            data = self.made.get(cid)
        return data

    async def leaves(self, parts: Sequence[Part]) -> list[bytes | None]:
        first = parts[0].start
        data = await self._store._read(self._store._blob(self._root), first, parts[-1].end - first)
        return [None if data is None else data[part.start - first : part.end - first] for part in parts]


# -- opening ---------------------------------------------------------------------------------


async def _enter(environment: Environment, folder: str, *, url: str, create: bool) -> None:
    """Make sure that *folder* is a blob store of a known format."""
    disk, mark = environment.disk, f"{folder}/format"
    try:
        there = await disk.exists(mark)
        if not there and create:
            await make_folder_durably(disk, folder)
            names = await disk.entries(folder)
            if "format" not in names:  # else another process has just made it
                if others := [name for name in names if not name.startswith("format.")]:
                    raise Misuse(f"{url}: the folder holds other things ({others[0]}, ...) and no blob store: name an empty one, or one that is not there")
                await _mark(environment, folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Misuse(f"{url}: there is no folder that it could be in: make it first") from error
    if not await disk.exists(mark):
        raise Misuse(f"{url}: there is no blob store in this folder; the first `perdure blob put`, or open_blobs, makes one")
    await _check_format(disk, mark, url)


async def _mark(environment: Environment, folder: str) -> None:
    disk, temporary = environment.disk, f"{folder}/format.{environment.ids().hex()}"
    file = await disk.open(temporary, create=True)
    try:
        await file.write_flush(0, b'{"format": %d}\n' % FORMAT)
    finally:
        file.close()
    await name_durably(disk, temporary, f"{folder}/format")


async def _check_format(disk: Disk, mark: str, url: str) -> None:
    file = await disk.open(mark, write=False)
    try:
        found = msgspec.json.decode(await file.read(0, 4_096))["format"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise Corrupt(mark, "it does not say the format", f'if {url} is a blob store, write {{"format": {FORMAT}}} into it') from error
    finally:
        file.close()
    if not isinstance(found, int) or found > FORMAT:
        raise TooNew(url, found, FORMAT)


async def _take_part(environment: Environment, folder: str) -> tuple[str, Lock]:
    """Be one of those who write: see `_take`; what those who have ended were putting is removed."""
    for name in _FOLDERS:
        if not await environment.disk.exists(f"{folder}/{name}"):
            await make_folder_durably(environment.disk, f"{folder}/{name}")
    id, lock = await _take(environment, folder)
    try:
        await _sweep(environment.disk, folder, id)
    except BaseException:
        lock.release()
        raise
    return id, lock


async def _take(environment: Environment, folder: str) -> tuple[str, Lock]:
    """An id to put under, and the lock that says that its owner lives."""
    while True:
        id = environment.ids().hex()
        path = f"{folder}/incoming/{id}.lock"
        try:
            lock = await environment.disk.lock(path)
        except Taken:  # who sweeps has it for a moment
            continue
        if await environment.disk.exists(path):  # and removes it
            return id, lock
        lock.release()


async def _sweep(disk: Disk, folder: str, own: str) -> None:
    """Remove what processes that have ended were putting."""
    incoming = f"{folder}/incoming"
    names = await disk.entries(incoming)
    for id in dict.fromkeys(name.partition(".")[0] for name in names):
        path, lock = f"{incoming}/{id}.lock", None
        try:
            lock = await disk.lock(path) if id != own else None
        except Taken:
            continue
        for name in names:
            if name.startswith(f"{id}.") and name != f"{own}.lock" and not name.endswith(".lock"):
                await disk.remove(f"{incoming}/{name}")
        if lock is not None:
            await disk.remove(path)
            lock.release()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """What the system refuses, as our error."""
    try:
        yield
    except OSError as error:
        check_denied(error, where)
        raise BlobsUnavailable(where, error.strerror or str(error), _REMEDIES.get(error.errno or 0, "try again")) from error


_REMEDIES = {
    errno.ENOSPC: "make room on the disk, or delete blobs",
    errno.EDQUOT: "make room on the disk, or delete blobs",
}


_NOTHING: Final = Cid.of(RAW, b"")
