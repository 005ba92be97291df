"""A blob as blocks: chunks of raw bytes, and above them nodes of UnixFS in dag-pb, so that any IPFS node understands them. Pure.

One blob has one CID, because nothing in it is a choice: chunks of 1 MiB, 1,024 links in a node, leaves raw, the tree balanced
(all leaves at one depth), the CID of a single chunk that of the chunk itself. It is the profile `unixfs-v1-2025` of IPIP-499, so
implementations that follow it give the same CID.

    PBNode  { Links = 2, repeated, first; Data = 1 }      PBLink { Hash = 1, Name = 2 (empty), Tsize = 3 }
    Data    { Type = 1: File (2); filesize = 3; blocksizes = 4, repeated }

dag-pb has the links before the data, against the order of their numbers, which no protobuf library writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from perdure.backends.blobs.cid import DAG_PB, RAW, Cid

CHUNK_BYTES: Final = 1 << 20
LINKS_MAX: Final = 1024
BLOCK_BYTES_MAX: Final = 2 << 20
"""The largest block that IPFS nodes hand to each other; nothing larger is read."""
DEPTH_MAX: Final = 6
"""Nodes above a leaf: 1,024 to the sixth chunks are enough for anybody."""

_FILE = 2


@attrs.frozen
class Link:
    """A part of a blob: its block, how many of the blob's bytes are in and below it, and of all blocks' bytes."""

    cid: Cid
    size_bytes: int
    total_bytes: int


@attrs.frozen
class Block:
    """Bytes under their address."""

    cid: Cid
    data: bytes


def leaf(digest: bytes, size_bytes: int) -> Link:
    """The link to a chunk."""
    return Link(Cid(RAW, digest), size_bytes, size_bytes)


# -- from chunks to a root -------------------------------------------------------------------


class Builder:
    """Grows the tree over chunks as they come; it holds at most one node of links for each level."""

    def __init__(self, links_max: int = LINKS_MAX) -> None:
        self._links_max = links_max
        self._levels: list[list[Link]] = [[]]

    def add(self, link: Link) -> Iterator[Block]:
        """Take the next chunk; the nodes that are complete by it."""
        level = 0
        while True:
            if level == len(self._levels):
                self._levels.append([])
            links = self._levels[level]
            links.append(link)
            if len(links) < self._links_max:
                return
            link, block = _made(links)
            links.clear()
            yield block
            level += 1

    def finish(self) -> tuple[Link, list[Block]]:
        """The root, and the nodes that were still open. There was at least one chunk."""
        blocks: list[Block] = []
        for level, links in enumerate(self._levels):
            above = self._levels[level + 1 :]
            if not any(above) and len(links) == 1:
                return links[0], blocks
            if links:
                link, block = _made(links)
                blocks.append(block)
                if not above:
                    return link, blocks
                above[0].append(link)
        raise AssertionError("a blob has at least one chunk")


def _made(links: Sequence[Link]) -> tuple[Link, Block]:
    data = pack_node(links)
    cid = Cid.of(DAG_PB, data)
    return Link(cid, sum(link.size_bytes for link in links), len(data) + sum(link.total_bytes for link in links)), Block(cid, data)


def pack_node(links: Sequence[Link]) -> bytes:
    """A node over *links*."""
    parts = [b"\x12" + _sized(b"\x0a" + _sized(bytes(link.cid)) + b"\x12\x00\x18" + _varint(link.total_bytes)) for link in links]
    sizes = b"".join(b"\x20" + _varint(link.size_bytes) for link in links)
    file = b"\x08" + _varint(_FILE) + b"\x18" + _varint(sum(link.size_bytes for link in links)) + sizes
    return b"".join((*parts, b"\x0a", _sized(file)))


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# -- from a node to its links ----------------------------------------------------------------


def read_node(data: bytes) -> list[Link]:
    """The links of a node, which may have been made by another implementation.

    Raises:
      ValueError: it is no node of a file whose bytes are all in raw leaves.
    """
    hashes: list[tuple[Cid, int]] = []
    file = b""
    for field, value in _fields(data):
        if field == 2:
            hashes.append(_link(_bytes(value)))
        elif field == 1:
            file = _bytes(value)
    size, sizes = _file(file)
    if not hashes or len(hashes) != len(sizes) or sum(sizes) != size:
        raise ValueError("its sizes do not fit its links")
    return [Link(cid, size_bytes, total) for (cid, total), size_bytes in zip(hashes, sizes, strict=True)]


def _link(data: bytes) -> tuple[Cid, int]:
    fields = dict(_fields(data))
    return Cid.from_bytes(_bytes(fields.get(1, b""))), _number(fields.get(3, 0))


def _file(data: bytes) -> tuple[int, list[int]]:
    kind, size, sizes = -1, 0, []
    for field, value in _fields(data):
        match field:
            case 1:
                kind = _number(value)
            case 2 if value:
                raise ValueError("it has bytes of the file inside (it was added without raw leaves)")
            case 3:
                size = _number(value)
            case 4:
                sizes += [_number(value)] if isinstance(value, int) else _packed(value)
    if kind != _FILE:
        raise ValueError("it is no file (a directory, a link, or other data)")
    return size, sizes


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        number, at = _take(data, at)
        found.append(number)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _take(data, at)
        match key & 7:
            case 0:
                value, at = _take(data, at)
                yield key >> 3, value
            case 2:
                size, at = _take(data, at)
                if at + size > len(data):
                    raise ValueError("it ends within a field")
                yield key >> 3, data[at : at + size]
                at += size
            case _:
                raise ValueError("it is no dag-pb")


def _take(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has more than 64 bits")


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number in place of bytes")
    return value


# -- walking a tree --------------------------------------------------------------------------


@attrs.frozen
class Part:
    """A block on the way, and where in the blob its bytes begin."""

    link: Link
    start: int
    depth: int

    @property
    def end(self) -> int:
        return self.start + self.link.size_bytes


class Walk:
    """Which blocks come next for the bytes from *start* to *end* (None: to the end of what there is)."""

    def __init__(self, root: Link, start: int, end: int | None) -> None:
        self._start = start
        self._end = root.size_bytes if end is None else min(end, root.size_bytes)
        self._stack = [Part(root, 0, 0)]

    def node(self) -> Part | None:
        """The node that has to be read before leaves can be given; None: there is none."""
        self._drop()
        return self._stack[-1] if self._stack and self._stack[-1].link.cid.codec == DAG_PB else None

    def opened(self, links: Iterable[Link]) -> None:
        """The node has these links.

        Raises:
          ValueError: they do not add up, or go too deep.
        """
        part = self._stack.pop()
        found, at = [], part.start
        for link in links:
            found.append(Part(link, at, part.depth + 1))
            at += link.size_bytes
        if at != part.end:
            raise ValueError("its size is not what the node above says")
        if part.depth >= DEPTH_MAX:
            raise ValueError("the tree is too deep")
        self._stack += reversed(found)

    def leaves(self, count: int) -> list[Part]:
        """The next leaves, at most *count*, as far as no node stands before them."""
        found: list[Part] = []
        while len(found) < count:
            self._drop()
            if not self._stack or self._stack[-1].link.cid.codec != RAW:
                break
            found.append(self._stack.pop())
        return found

    def wanted(self, part: Part, data: bytes) -> bytes:
        """What of a leaf's bytes was asked for."""
        before, beyond = max(0, self._start - part.start), min(part.link.size_bytes, self._end - part.start)
        return data if before == 0 and beyond == len(data) else data[before:beyond]

    def _drop(self) -> None:
        """Leave out what nobody asked for."""
        while self._stack and (self._stack[-1].end <= self._start or self._stack[-1].start >= self._end):
            self._stack.pop()
