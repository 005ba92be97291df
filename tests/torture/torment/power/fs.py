"""A `disk.Folder` as a file system, by FUSE. The kernel keeps pages to read from and to map; each write comes here at once (no writeback cache).

Maps that are written to (LMDB's file of readers) come when the kernel pleases: nobody promises that they are durable.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from torment.power.disk import File, Folder, Node

_CACHED_S = 300.0
_FREE_BYTES = 1 << 40


class Operations(pyfuse3.Operations):
    """The file system. At operation *stops_at* it stops, as when the power fails just before; who waits then gets an error when it is let go."""

    def __init__(self, root: Folder) -> None:
        super().__init__()
        self.done = 0
        """Operations that change something or make it durable."""
        self.stops_at = -1
        self.stopped = trio.Event()
        self._let_go = trio.Event()
        self._nodes: dict[int, Node] = {pyfuse3.ROOT_INODE: root}
        self._inodes: dict[Node, int] = {root: pyfuse3.ROOT_INODE}
        self._next = int(pyfuse3.ROOT_INODE)
        self._synced: dict[int, bool] = {}
        """By handle: whether it was opened with O_DSYNC."""
        self._of_handle: dict[int, int] = {}
        self._handles = 0

    # -- stopping ----------------------------------------------------------------------------

    def stop_at(self, operations: int) -> None:
        """Stop before so many operations from now are done; 0: before the next."""
        self.stops_at = self.done + operations

    def let_go(self) -> None:
        """Whoever waits gets an error; from now on operations are done again."""
        self.stops_at = -1
        self._let_go.set()
        self._let_go = trio.Event()
        self.stopped = trio.Event()

    async def _step(self) -> None:
        """Before each operation that counts."""
        if 0 <= self.stops_at <= self.done:
            self.stopped.set()
            await self._let_go.wait()
            raise FUSEError(errno.EIO)
        self.done += 1

    # -- files -------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return self._opened(inode, flags)

    def _opened(self, inode: int, flags: int) -> FileInfo:
        self._handles += 1
        self._of_handle[self._handles] = inode
        self._synced[self._handles] = bool(flags & os.O_DSYNC)
        return FileInfo(fh=self._handles, keep_cache=True)

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext) -> tuple[FileInfo, EntryAttributes]:
        await self._step()
        node = File()
        self._folder(parent_inode).change({os.fsdecode(name): node})
        return self._opened(self._inode(node), flags), self._attributes(node)

    async def release(self, fh: int) -> None:
        del self._of_handle[fh], self._synced[fh]

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self._file(fh).now[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        await self._step()
        self._file(fh).write(off, buf, synced=self._synced[fh])
        return len(buf)

    async def flush(self, fh: int) -> None:
        """Closing a descriptor makes nothing durable."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._step()
        self._file(fh).sync()

    async def setattr(self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext) -> EntryAttributes:
        node = self._nodes[inode]
        if fields.update_size and isinstance(node, File):
            await self._step()
            node.resize(attr.st_size)
        return self._attributes(node)

    # -- folders -----------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._folder(parent_inode).now.get(os.fsdecode(name))
        if node is None:
            raise FUSEError(errno.ENOENT)
        return self._attributes(node)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        await self._step()
        node = Folder()
        self._folder(parent_inode).change({os.fsdecode(name): node})
        return self._attributes(node)

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._step()
        folder, text = self._folder(parent_inode), os.fsdecode(name)
        if text not in folder.now:
            raise FUSEError(errno.ENOENT)
        folder.change({text: None})

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self.unlink(parent_inode, name, ctx)

    async def rename(self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: RequestContext) -> None:
        await self._step()
        folder, old = self._folder(parent_inode_old), os.fsdecode(name_old)
        if flags or parent_inode_new != parent_inode_old or old not in folder.now:
            raise FUSEError(errno.EINVAL if old in folder.now else errno.ENOENT)
        folder.change({old: None, os.fsdecode(name_new): folder.now[old]})

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        for number, (name, node) in enumerate(list(self._folder(fh).now.items()), 1):
            if number > start_id and not pyfuse3.readdir_reply(token, os.fsencode(name), self._attributes(node), number):
                return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._step()
        self._folder(fh).sync()

    # -- the rest ----------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: RequestContext | None = None) -> EntryAttributes:
        return self._attributes(self._nodes[inode])

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nodes are kept: there are few, and their numbers are not given again."""

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = found.f_bfree = found.f_bavail = _FREE_BYTES // 4096
        found.f_files = found.f_ffree = found.f_favail = 1 << 20
        found.f_namemax = 255
        return found

    def _folder(self, inode: int) -> Folder:
        node = self._nodes[inode]
        if not isinstance(node, Folder):
            raise FUSEError(errno.ENOTDIR)
        return node

    def _file(self, fh: int) -> File:
        node = self._nodes[self._of_handle[fh]]
        assert isinstance(node, File)
        return node

    def _inode(self, node: Node) -> int:
        if node not in self._inodes:
            self._next += 1
            self._inodes[node] = self._next
            self._nodes[self._next] = node
        return self._inodes[node]

    def _attributes(self, node: Node) -> EntryAttributes:
        found = EntryAttributes()
        found.st_ino = self._inode(node)
        found.st_mode = stat.S_IFDIR | 0o755 if isinstance(node, Folder) else stat.S_IFREG | 0o644
        found.st_nlink = 1
        found.st_uid, found.st_gid = os.getuid(), os.getgid()
        found.st_size = len(node.now)
        found.st_blksize, found.st_blocks = 4096, (found.st_size + 511) // 512
        found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = time.time_ns()
        found.entry_timeout = found.attr_timeout = _CACHED_S
        return found
