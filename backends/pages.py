"""A file's bytes as a kernel keeps them: pages in its cache, and what of them the medium has.

A page (4,096 bytes) is in one of three states:

    clean   what is read is what the medium has
    dirty   written since; the next flush that succeeds makes it durable
    lost    a flush failed: it reads well and counts as clean, so no later flush writes it; at the
            next power cut, or when the cache lets go of it, it is what the medium has

A lost page that is written again is dirty, as a whole. The size follows the pages: it is durable once the
page that gave it is. See P. Rebello et al., "Can Applications Recover from fsync Failures?" (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

import attrs

PAGE: Final = 4_096
SECTOR: Final = 512
"""What a medium writes whole or not at all."""
ZEROS: Final = bytes(PAGE)

Table = dict[int, bytes]
"""Pages by number; one of zeros is left out."""

_WRITES_MAX = 1_024
"""So many unflushed writes are told apart; beyond that the older half counts as one."""


@attrs.frozen(eq=False)
class Written:
    """A write that was not flushed: the pages it touched, whole, as the cache had them after it."""

    number: int
    """Its place in the order of all that happened to the file system."""
    offset: int
    end: int
    size: int
    """What the file has to be for these pages."""
    pages: Table
    """Those of zeros included."""


@attrs.define(eq=False)
class Pages:
    """The bytes of one file: *live* is what a read sees, *durable* what the medium has."""

    live: Table = attrs.field(factory=dict)
    size: int = 0
    durable: Table = attrs.field(factory=dict)
    durable_size: int = 0
    unflushed: list[Written] = attrs.field(factory=list)
    """What made pages dirty, in order."""

    def read(self, offset: int, size: int) -> bytes:
        """*size* bytes from *offset*; fewer at the end."""
        return read(self.live, self.size, offset, size)

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Put *data*, which is not empty, at *offset*: into the cache alone."""
        pages = _touched(self.live, offset, data)
        for page, content in pages.items():
            put(self.live, page, content)
        end = offset + len(data)
        self.size = max(self.size, end)
        # a page is written back whole, and may end beyond what was written: where a lost one is written again
        size = min(self.size, -(-end // PAGE) * PAGE)
        self.unflushed.append(Written(number, offset, end, size, pages))
        if len(self.unflushed) > _WRITES_MAX:
            self._gather()

    def flush(self) -> None:
        """Make the dirty pages durable, and the size that they give."""
        for written in self.unflushed:
            for page, content in written.pages.items():
                put(self.durable, page, content)
            self.durable_size = max(self.durable_size, written.size)
        self.unflushed.clear()

    def lose(self, reached: Callable[[int], bool]) -> None:
        """A flush that fails: the dirty pages are lost, but for those that *reached* the medium by their number."""
        dirty = {page: content for written in self.unflushed for page, content in written.pages.items()}
        size = max((written.size for written in self.unflushed), default=0)
        self.unflushed.clear()
        for page in filter(reached, sorted(dirty)):
            put(self.durable, page, dirty[page])
            self.durable_size = max(self.durable_size, min(size, (page + 1) * PAGE))

    def evict(self) -> None:
        """The cache lets go of what it may: lost pages read as the medium has them."""
        self.live, self.size = self.durable.copy(), self.durable_size
        for written in self.unflushed:
            for page, content in written.pages.items():
                put(self.live, page, content)
            self.size = max(self.size, written.size)

    def state(self, page: int) -> Literal["clean", "dirty", "lost"]:
        """What *page* is."""
        if any(page in written.pages for written in self.unflushed):
            return "dirty"
        here = (self.live.get(page), min(self.size, (page + 1) * PAGE))
        return "clean" if here == (self.durable.get(page), min(self.durable_size, (page + 1) * PAGE)) else "lost"

    def _gather(self) -> None:
        """Count the older half as one write."""
        half = len(self.unflushed) // 2
        older = self.unflushed[:half]
        pages: Table = {}
        for written in older:
            pages.update(written.pages)
        ends = [(written.end, written.size) for written in older]
        self.unflushed[:half] = [Written(older[-1].number, min(written.offset for written in older), max(ends)[0], max(ends)[1], pages)]


def read(pages: Table, size: int, offset: int, wanted: int) -> bytes:
    """*wanted* bytes from *offset* of a file of *size* bytes in *pages*; fewer at the end."""
    end = min(offset + wanted, size)
    if end <= offset:
        return b""
    first, last = offset // PAGE, (end - 1) // PAGE
    if first == last:
        return pages.get(first, ZEROS)[offset - first * PAGE : end - first * PAGE]
    whole = b"".join([pages.get(page, ZEROS) for page in range(first, last + 1)])
    return whole[offset - first * PAGE : end - first * PAGE]


def put(pages: Table, page: int, content: bytes) -> None:
    """Let *page* be *content*."""
    if content is ZEROS or content == ZEROS:
        pages.pop(page, None)
    else:
        pages[page] = content


def cut_off(pages: Table, size: int) -> None:
    """Forget what lies beyond *size*."""
    last, rest = divmod(size, PAGE)
    for page in [page for page in pages if page > last or (page == last and not rest)]:
        del pages[page]
    if last in pages:
        put(pages, last, pages[last][:rest].ljust(PAGE, b"\0"))


def pages_of(data: bytes) -> Table:
    """*data* as a file's pages."""
    pages: Table = {}
    for page, content in _touched({}, 0, data).items():
        put(pages, page, content)
    return pages


def _touched(pages: Table, offset: int, data: bytes) -> Table:
    """The pages that *data* at *offset* touches, whole, as they are after it."""
    first, at = divmod(offset, PAGE)
    if at + len(data) <= PAGE:
        old = pages.get(first, ZEROS)
        return {first: b"".join((old[:at], data, old[at + len(data) :]))}
    end = offset + len(data)
    last, rest = divmod(end, PAGE)
    head = pages.get(first, ZEROS)[:at] if at else b""
    tail = pages.get(last, ZEROS)[rest:] if rest else b""
    whole = b"".join((head, data, tail))
    return dict(_split(first, whole))


def _split(first: int, whole: bytes) -> Iterable[tuple[int, bytes]]:
    for at in range(0, len(whole), PAGE):
        content = whole[at : at + PAGE]
        yield first + at // PAGE, ZEROS if content == ZEROS else content
