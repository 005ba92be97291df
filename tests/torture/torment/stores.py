"""The stores that the rows are held against: add a line for another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs


@attrs.frozen
class Kind:
    """A kind of store that keeps things in a folder."""

    name: str
    """As the table says it."""
    url: Callable[[Path], str]
    """Of the store in a folder, which need not be there yet."""
    processes: bool = False
    """Whether several processes may write to it at the same time."""
    unsynced: Callable[[Path], str] | None = None
    """The URL of a liar of that kind, one that does not sync; None if it has none."""


STORES = (
    Kind("file:", lambda folder: f"file:{folder}?segment=64KiB"),
    Kind("lmdb:", lambda folder: f"lmdb:{folder}", processes=True),
    Kind("lmdb:?log=segments", lambda folder: f"lmdb:{folder}?log=segments&segment=64KiB"),
)
