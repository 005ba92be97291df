"""A disk with a memory above it: what is synced is durable, of the rest a power cut leaves what it likes. Pure.

Folders keep the order of their changes, as a journal does; the pages of a file need not. Sectors are written whole or not at all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, Union, get_args

import attrs

PAGE_BYTES, SECTOR_BYTES = 4096, 512

Policy = Literal["lose", "keep", "torn", "pages", "zeros", "stale"]
"""What a cut leaves of what was not synced: nothing; all; the first writes and a part of the next; of each page any of its
versions; the same, and the file is as long as it was, with zeros where nothing came; with other bytes there."""

POLICIES: tuple[Policy, ...] = get_args(Policy)

Image = Mapping[str, Union[bytes, "Image"]]
"""What is on a disk without memory: by name, a file's bytes or a folder."""


@attrs.define(eq=False)
class File:
    """A file; *durable* is what is synced, *pending* what was written since: (offset, bytes) within a page, or (new size, None)."""

    now: bytearray = attrs.field(factory=bytearray)
    durable: bytearray = attrs.field(factory=bytearray)
    pending: list[tuple[int, bytes | None]] = attrs.field(factory=list)

    def write(self, offset: int, data: bytes, *, synced: bool = False) -> None:
        """Write; *synced*: as a descriptor opened with O_DSYNC does."""
        put(self.now, offset, data)
        for at in range(offset - offset % PAGE_BYTES, offset + len(data), PAGE_BYTES):
            begin, end = max(at, offset), min(at + PAGE_BYTES, offset + len(data))
            self.pending.append((begin, data[begin - offset : end - offset]))
            if synced:
                self._sync_page(at)

    def _sync_page(self, at: int) -> None:
        put(self.durable, at, self.now[at : at + PAGE_BYTES])
        self.pending = [(offset, data) for offset, data in self.pending if data is None or offset // PAGE_BYTES != at // PAGE_BYTES]

    def resize(self, size: int) -> None:
        """Cut it off, or let it grow by zeros."""
        resize(self.now, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        """All that was written is durable."""
        self.durable = bytearray(self.now)
        self.pending.clear()

    def after_cut(self, policy: Policy, draw: random.Random) -> bytes:
        """What is there when the power is back."""
        if policy == "keep":
            return bytes(self.now)
        left = bytearray(self.durable)
        if policy == "torn" or (policy != "lose" and any(data is None for _, data in self.pending)):
            self._leave_first(left, draw)
        elif policy != "lose":
            self._leave_pages(left, policy, draw)
        return bytes(left)

    def _leave_first(self, left: bytearray, draw: random.Random) -> None:
        count = draw.randrange(len(self.pending) + 1)
        for offset, data in self.pending[:count]:
            if data is None:
                resize(left, offset)
            else:
                put(left, offset, data)
        if count < len(self.pending):
            offset, data = self.pending[count]
            if data is not None:
                sectors = range(offset // SECTOR_BYTES, (offset + len(data)) // SECTOR_BYTES + 1)
                put(left, offset, data[: max(0, draw.choice(sectors) * SECTOR_BYTES - offset)])

    def _leave_pages(self, left: bytearray, policy: Policy, draw: random.Random) -> None:
        before, versions = len(left), defaultdict[int, list[tuple[int, bytes]]](list)
        for offset, data in self.pending:
            assert data is not None
            versions[offset // PAGE_BYTES].append((offset, data))
        if policy != "pages":
            resize(left, max(before, len(self.now)))
            if policy == "stale":
                left[before:] = draw.randbytes(len(left) - before)
        for page in versions.values():
            for offset, data in page[: draw.randrange(len(page) + 1)]:
                put(left, offset, data)


@attrs.define(eq=False)
class Folder:
    """A folder; *pending* are its changes since it was synced, each a set of names that change at once."""

    now: dict[str, Node] = attrs.field(factory=dict)
    durable: dict[str, Node] = attrs.field(factory=dict)
    pending: list[dict[str, Node | None]] = attrs.field(factory=list)

    def change(self, names: dict[str, Node | None]) -> None:
        """Names that come, or go (None)."""
        _apply(self.now, names)
        self.pending.append(names)

    def sync(self) -> None:
        """All its names are durable."""
        self.durable = dict(self.now)
        self.pending.clear()

    def after_cut(self, policy: Policy, draw: random.Random) -> Image:
        """What is there when the power is back."""
        names = dict(self.durable)
        count = {"lose": 0, "keep": len(self.pending)}.get(policy, draw.randrange(len(self.pending) + 1))
        for change in self.pending[:count]:
            _apply(names, change)
        return {name: node.after_cut(policy, draw) for name, node in names.items()}


Node = File | Folder


def loaded(image: Image) -> Folder:
    """A folder with what is in *image*, all of it durable."""
    folder = Folder()
    for name, found in image.items():
        folder.now[name] = File(bytearray(found), bytearray(found)) if isinstance(found, bytes) else loaded(found)
    folder.sync()
    return folder


def _apply(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def put(into: bytearray, offset: int, data: bytes | bytearray) -> None:
    """Write at *offset*, with zeros before it if it is beyond the end."""
    if data:
        if offset > len(into):
            resize(into, offset)
        into[offset : offset + len(data)] = data


def resize(data: bytearray, size: int) -> None:
    """Cut off, or let grow by zeros."""
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))
