"""A file system as a value: folders of entries and files of pages, each with what the medium has of it.

What a call does wrong is an OSError with the errno that Linux gives.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from perdure.backends.nodes import Change, FileNode, FolderNode, Node, Slot, apply, lead, select
from perdure.backends.pages import PAGE, Pages, Table

_SAYS: Final = {
    errno.EBADF: "Bad file descriptor",
    errno.EINVAL: "Invalid argument",
    errno.EISDIR: "Is a directory",
    errno.ENOENT: "No such file or directory",
    errno.ENOSPC: "No space left on device",
    errno.ENOTDIR: "Not a directory",
    errno.ENOTEMPTY: "Directory not empty",
    errno.EIO: "Input/output error",
}
_DIGESTS_MAX = 1 << 17
_CHANGES_MAX = 1_024
"""So many changes of entries wait for a sync; beyond that the older half is written back."""
_UNLIMITED = 1 << 40
"""What a disk without a capacity says is free."""


def refusal(number: int, path: str) -> OSError:
    """The error that Linux gives for *number*."""
    return OSError(number, _SAYS.get(number, errno.errorcode.get(number, "Unknown error")), path)


class FileSystem:
    """A root folder, all below it, and the changes that are not durable."""

    def __init__(self, *, capacity_bytes: int | None = None, digests: dict[bytes, bytes] | None = None) -> None:
        self.root = FolderNode()
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        """Whole pages of the files that have a name or are open; holes count."""
        self.number = 0
        """How many changes there were, of bytes and entries."""
        self.changes: list[Change] = []
        self.digests = {} if digests is None else digests
        """Of pages, for all images of a run."""

    # -- paths -------------------------------------------------------------------------------

    def find(self, path: str) -> Node:
        """What is at *path*."""
        node: Node = self.root
        for name in _parts(path):
            if not isinstance(node, FolderNode):
                raise refusal(errno.ENOTDIR, path)
            found = node.entries.get(name)
            if found is None:
                raise refusal(errno.ENOENT, path)
            node = found
        return node

    def file(self, path: str) -> FileNode:
        """The file at *path*."""
        node = self.find(path)
        if isinstance(node, FolderNode):
            raise refusal(errno.EISDIR, path)
        return node

    def folder(self, path: str) -> FolderNode:
        """The folder at *path*."""
        node = self.find(path)
        if not isinstance(node, FolderNode):
            raise refusal(errno.ENOTDIR, path)
        return node

    def slot(self, path: str) -> Slot:
        """The folder that *path* is in, and its name there, whether it exists or not."""
        parts = _parts(path)
        if not parts:
            raise refusal(errno.EISDIR, path)
        *above, name = parts
        node: Node = self.root
        for part in above:
            found = node.entries.get(part) if isinstance(node, FolderNode) else None
            if found is None:
                raise refusal(errno.ENOENT if isinstance(node, FolderNode) else errno.ENOTDIR, path)
            node = found
        if not isinstance(node, FolderNode):
            raise refusal(errno.ENOTDIR, path)
        return node, name

    def exists(self, path: str) -> bool:
        """Whether anything is at *path*."""
        try:
            self.find(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def files(self) -> Iterator[tuple[str, FileNode]]:
        """Every file with its path, in order."""
        return ((path, node) for path, node in _walk(self.root, "") if isinstance(node, FileNode))

    # -- entries -----------------------------------------------------------------------------

    def open(self, path: str, *, create: bool) -> FileNode:
        """The file at *path*, made if *create*."""
        slot = self.slot(path)
        node = _at(slot)
        if isinstance(node, FolderNode):
            raise refusal(errno.EISDIR, path)
        if node is None:
            if not create:
                raise refusal(errno.ENOENT, path)
            node = FileNode()
            self._change({slot: node})
        return node

    def make_folder(self, path: str) -> None:
        """Make a folder, unless something is there."""
        if not _parts(path):
            return
        folder, name = self.slot(path)
        if name not in folder.entries:
            self._change({(folder, name): FolderNode()})

    def rename(self, old: str, new: str) -> None:
        """Let *new* lead where *old* did."""
        source, target = self.slot(old), self.slot(new)
        moved = _at(source)
        if moved is None:
            raise refusal(errno.ENOENT, old)
        if isinstance(moved, FolderNode) and (target[0] is moved or _leads_to(moved, target[0])):
            raise refusal(errno.EINVAL, new)
        there = _at(target)
        if there is moved:
            return
        if isinstance(there, FolderNode) and not isinstance(moved, FolderNode):
            raise refusal(errno.EISDIR, new)
        if there is not None and not isinstance(there, FolderNode) and isinstance(moved, FolderNode):
            raise refusal(errno.ENOTDIR, new)
        if isinstance(there, FolderNode) and there.entries:
            raise refusal(errno.ENOTEMPTY, new)
        self._change({source: None, target: moved})

    def remove(self, path: str) -> None:
        """Take the name *path* from a file, if there is one."""
        try:
            slot = self.slot(path)
        except FileNotFoundError:
            return
        if isinstance(_at(slot), FolderNode):
            raise refusal(errno.EISDIR, path)
        if _at(slot) is not None:
            self._change({slot: None})

    def remove_folder(self, path: str) -> None:
        """Take the name *path* from an empty folder."""
        folder = self.folder(path)
        if folder.entries:
            raise refusal(errno.ENOTEMPTY, path)
        self._change({self.slot(path): None})

    def sync(self, folder: FolderNode) -> None:
        """Make the entries of *folder* durable."""
        for change in self._take(lambda change: change.synced(folder)):
            apply(change, lambda folder: folder.durable)

    def lose(self, folder: FolderNode) -> None:
        """A sync that fails: the changes in *folder* are seen, and gone at the next power cut."""
        self._take(lambda change: folder in change.waits)

    def _take(self, chosen: Callable[[Change], bool]) -> list[Change]:
        """The *chosen* changes, out of the list."""
        self.changes, taken = select(self.changes, chosen)
        self.number += bool(taken)
        return taken

    def _change(self, slots: dict[Slot, Node | None]) -> None:
        self.number += 1
        before = [_at(slot) for slot in slots]
        for (folder, name), node in slots.items():
            lead(folder.entries, name, node)
        for node in slots.values():
            if isinstance(node, FileNode):
                node.links += 1
        for node in before:
            if isinstance(node, FileNode):
                node.links -= 1
                self._drop(node)
        self.changes.append(Change(self.number, slots, list(dict.fromkeys(folder for folder, _ in slots))))
        if len(self.changes) > _CHANGES_MAX:
            self._write_back(_CHANGES_MAX // 2)

    def _write_back(self, count: int) -> None:
        """Make the oldest *count* changes durable, as kernels do after a while."""
        for change in self.changes[:count]:
            apply(change, lambda folder: folder.durable)
        del self.changes[:count]

    # -- bytes -------------------------------------------------------------------------------

    def write(self, node: FileNode, offset: int, data: bytes, path: str) -> None:
        """Put *data* at *offset*; where the disk is full, as much of it as there is room for."""
        fits = self._room(node, offset, len(data))
        if fits:
            before = _rounded(node.pages.size)
            self.number += 1
            node.pages.write(self.number, offset, data[:fits])
            self.used_bytes += _rounded(node.pages.size) - before
        if fits < len(data):
            raise refusal(errno.ENOSPC, path)

    def placed(self, pages: Table, size: int) -> FileNode:
        """A file with these bytes, durable, that has a name."""
        self.used_bytes += _rounded(size)
        return FileNode(Pages(pages, size, pages.copy(), size), links=1)

    def replace(self, node: FileNode, pages: Table, size: int) -> None:
        """Give the file other bytes, durable."""
        self.number += 1
        self.used_bytes += _rounded(size) - _rounded(node.pages.size)
        node.pages = Pages(pages, size, pages.copy(), size)

    def flush(self, node: FileNode) -> None:
        """Make the bytes of *node* durable."""
        if node.pages.unflushed:
            self.number += 1
            node.pages.flush()

    def fail_flush(self, node: FileNode, reached: Callable[[int], bool]) -> None:
        """A flush that fails: dirty pages are lost, but for those that *reached* the medium."""
        if node.pages.unflushed:
            self.number += 1
            node.pages.lose(reached)

    def close(self, node: FileNode) -> None:
        """One handle less."""
        node.handles -= 1
        self._drop(node)

    def free_bytes(self, folder: str) -> int:
        """Room that is left; *folder* must be there."""
        self.find(folder)
        return _UNLIMITED if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes)

    def _room(self, node: FileNode, offset: int, size: int) -> int:
        """How many of *size* bytes at *offset* fit."""
        if self.capacity_bytes is None:
            return size
        free = max(0, self.capacity_bytes - self.used_bytes) // PAGE * PAGE
        return max(0, min(size, _rounded(node.pages.size) + free - offset))

    def _drop(self, node: FileNode) -> None:
        """Give the room of *node* back if nobody can reach it."""
        if not node.links and not node.handles:
            self.used_bytes -= _rounded(node.pages.size)

    # -- what it is --------------------------------------------------------------------------

    def digest(self) -> bytes:
        """16 bytes that are the same for the same folders, names and bytes, in every run."""
        found = []
        for path, node in _walk(self.root, ""):
            if isinstance(node, FolderNode):
                found.append(b"%b/" % path.encode())
            else:
                found += [b"%b\0%d\0" % (path.encode(), node.pages.size), *self._marks(node.pages.live)]
        return hashlib.blake2b(b"\n".join(found), digest_size=16).digest()

    def _marks(self, pages: Table) -> Iterator[bytes]:
        if len(self.digests) > _DIGESTS_MAX:
            self.digests.clear()
        for page in sorted(pages):
            mark = self.digests.get(pages[page])
            if mark is None:
                mark = self.digests[pages[page]] = hashlib.blake2b(pages[page], digest_size=16).digest()
            yield b"%d:%b" % (page, mark)


def _at(slot: Slot) -> Node | None:
    return slot[0].entries.get(slot[1])


def _leads_to(folder: FolderNode, other: FolderNode) -> bool:
    return any(node is other or (isinstance(node, FolderNode) and _leads_to(node, other)) for node in folder.entries.values())


def _walk(folder: FolderNode, above: str) -> Iterator[tuple[str, Node]]:
    for name in sorted(folder.entries):
        node, path = folder.entries[name], f"{above}/{name}"
        yield path, node
        if isinstance(node, FolderNode):
            yield from _walk(node, path)


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refusal(errno.EINVAL, path)
    return parts


def _rounded(size: int) -> int:
    return -(-size // PAGE) * PAGE
