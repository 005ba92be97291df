"""Files and folders of a file system, and the changes of entries that a power cut may lose.

A change (a file made, renamed or removed) is in the cache until the folders it touches are synced, all of
them; until then a power cut keeps it or loses it, whole. A change that is made durable carries along those
made before at the same names: of each name the history is kept up to some point.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from perdure.backends.pages import Pages


@attrs.define(eq=False)
class FileNode:
    """A file, by whatever names."""

    pages: Pages = attrs.field(factory=Pages)
    links: int = 0
    """Names that lead here now."""
    handles: int = 0
    """How often it is open."""
    holder: object | None = None
    """Who has locked it."""


@attrs.define(eq=False)
class FolderNode:
    """A folder: *entries* is what is seen, *durable* what the medium has."""

    entries: dict[str, Node] = attrs.field(factory=dict)
    durable: dict[str, Node] = attrs.field(factory=dict)


Node = FileNode | FolderNode
Slot = tuple[FolderNode, str]


@attrs.frozen(eq=False)
class Change:
    """A change of entries that is not durable: what each name led to after it."""

    number: int
    slots: dict[Slot, Node | None]
    waits: list[FolderNode]
    """Folders that must be synced yet."""

    def synced(self, folder: FolderNode) -> bool:
        """Note that *folder* was synced; whether it waits for no other."""
        if folder in self.waits:
            self.waits.remove(folder)
        return not self.waits


def apply(change: Change, entries_of: Callable[[FolderNode], dict[str, Node]]) -> None:
    """Let the names of *change* lead where it says."""
    for (folder, name), node in change.slots.items():
        lead(entries_of(folder), name, node)


def lead(entries: dict[str, Node], name: str, node: Node | None) -> None:
    """Let *name* lead to *node*, or nowhere."""
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def select(changes: list[Change], chosen: Callable[[Change], bool]) -> tuple[list[Change], list[Change]]:
    """Those of *changes* that are left, and those *chosen*, each with all before it at its names."""
    kept, taken = [], []
    names: set[Slot] = set()
    for change in reversed(changes):
        if chosen(change) or not names.isdisjoint(change.slots):
            names.update(change.slots)
            taken.append(change)
        else:
            kept.append(change)
    return kept[::-1], taken[::-1]
