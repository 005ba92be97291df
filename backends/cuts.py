"""What a power cut leaves of a file system: one of the many images that an honest disk allows, by a policy.

    lose     all that was not flushed or synced is lost
    keep     all of it is kept, except what a failed flush lost
    prefix   it is kept in order up to one write, which may be torn where a sector or page begins
    random   each page, sector, size and change of entries is kept or not by itself, at any of its
             unflushed versions: writes arrive in any order
    zeros    all is kept, but from some point on what a file grew by is zeros

Whatever was flushed is in each of them. (Models: redb's `tests/crash_consistency.rs`; T. Pillai et al.,
"All File Systems Are Not Created Equal", 2014.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, get_args

from perdure.backends.filesystem import FileSystem
from perdure.backends.nodes import Change, FileNode, FolderNode, Node, apply, select
from perdure.backends.pages import PAGE, SECTOR, ZEROS, Pages, Table, Written, cut_off, put

if TYPE_CHECKING:
    from random import Random

Policy = Literal["lose", "keep", "prefix", "random", "zeros"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)

_Left = tuple[Table, int]
"""Pages and size of a file after the cut."""


def cut(files: FileSystem, policy: Policy, draw: Random) -> FileSystem:
    """What is left of *files*, all of it durable; *files* are as they were."""
    match policy:
        case "lose":
            return _rebuilt(files, lambda _: False, _lose)
        case "keep":
            return _rebuilt(files, lambda _: True, _keep)
        case "prefix":
            return _cut_prefix(files, draw)
        case "random":
            share = draw.random()
            return _rebuilt(files, lambda _: draw.random() < share, lambda pages: _keep_some(pages, draw))
        case "zeros":
            return _rebuilt(files, lambda _: True, lambda pages: _keep_zeros(pages, draw))
    raise ValueError(f"no policy is called {policy!r}: {', '.join(POLICIES)}")


def _rebuilt(files: FileSystem, keeps: Callable[[Change], bool], left: Callable[[Pages], _Left]) -> FileSystem:
    """A new file system of the entries that *keeps* chooses, with the bytes that are *left* of each file."""
    chosen: dict[FolderNode, dict[str, Node]] = {}

    def entries_of(folder: FolderNode) -> dict[str, Node]:
        if folder not in chosen:
            chosen[folder] = folder.durable.copy()
        return chosen[folder]

    for change in select(files.changes, keeps)[1]:
        apply(change, entries_of)

    made = FileSystem(capacity_bytes=files.capacity_bytes, digests=files.digests)

    def rebuild(folder: FolderNode) -> FolderNode:
        entries: dict[str, Node] = {}
        for name, node in sorted(chosen.get(folder, folder.durable).items()):
            entries[name] = rebuild(node) if isinstance(node, FolderNode) else made.placed(*left(node.pages))
        return FolderNode(entries, entries.copy())

    made.root = rebuild(files.root)
    return made


# -- of one file -----------------------------------------------------------------------------


def _lose(pages: Pages) -> _Left:
    return pages.durable.copy(), pages.durable_size


def _keep(pages: Pages) -> _Left:
    table, size = _lose(pages)
    for written in pages.unflushed:
        size = _put_all(table, size, written)
    return table, size


def _put_all(table: Table, size: int, written: Written) -> int:
    for page, content in written.pages.items():
        put(table, page, content)
    return max(size, written.size)


def _keep_some(pages: Pages, draw: Random) -> _Left:
    """Each dirty page at one of its versions, some torn between sectors; the size is the old, the new, or what was kept of it."""
    table, size = _lose(pages)
    versions: dict[int, list[bytes]] = {}
    for written in pages.unflushed:
        for page, content in written.pages.items():
            versions.setdefault(page, [table.get(page, ZEROS)]).append(content)
    share, torn = draw.random(), draw.choice((0.0, 0.1, 0.5))
    full = reached = size
    for page, (old, *new) in versions.items():
        end = min((page + 1) * PAGE, pages.size)
        full = max(full, end)
        if draw.random() < torn:
            put(table, page, b"".join(draw.choice((old, *new))[at : at + SECTOR] for at in range(0, PAGE, SECTOR)))
            reached = max(reached, end)
        elif draw.random() < share:
            put(table, page, draw.choice(new))
            reached = max(reached, end)
    if full > size:
        size = draw.choice((size, reached, reached, full))
        cut_off(table, size)
    return table, size


def _keep_zeros(pages: Pages, draw: Random) -> _Left:
    """All that was written; of what the file grew by, zeros from some sector on, or altogether."""
    table, size = _keep(pages)
    old = pages.durable_size
    if size > old:
        somewhere = draw.randrange(old // SECTOR, -(-size // SECTOR)) * SECTOR
        cut_off(table, max(old, draw.choice((old, somewhere))))
    return table, size


# -- in order --------------------------------------------------------------------------------


def _cut_prefix(files: FileSystem, draw: Random) -> FileSystem:
    numbers = sorted({change.number for change in files.changes} | {written.number for node in _nodes(files) for written in node.pages.unflushed})
    at = draw.randint(0, len(numbers))
    limit = numbers[at] if at < len(numbers) else files.number + 1
    torn, unit, place = draw.random() < 0.7, draw.choice((SECTOR, PAGE)), draw.random()

    def left(pages: Pages) -> _Left:
        table, size = _lose(pages)
        for written in pages.unflushed:
            if written.number < limit:
                size = _put_all(table, size, written)
            elif written.number == limit and torn:
                size = _put_torn(table, size, written, unit, place)
        return table, size

    return _rebuilt(files, lambda change: change.number < limit, left)


def _put_torn(table: Table, size: int, written: Written, unit: int, place: float) -> int:
    """Put the part of *written* before one of the boundaries inside it, if there are any."""
    boundaries = range((written.offset // unit + 1) * unit, written.end, unit)
    if not boundaries:
        return size
    end = boundaries[int(place * len(boundaries))]
    last, rest = divmod(end, PAGE)
    for page, content in written.pages.items():
        if page < last:
            put(table, page, content)
        elif page == last and rest:
            put(table, page, content[:rest] + table.get(page, ZEROS)[rest:])
    return max(size, end)


def _nodes(files: FileSystem) -> Iterator[FileNode]:
    """Every file that a cut may show."""
    seen: set[Node] = set()
    left: list[Node] = [files.root, *(node for change in files.changes for node in change.slots.values() if node is not None)]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, FolderNode):
            left += [*node.entries.values(), *node.durable.values()]
        else:
            yield node
