"""The stores that the rows are held against: add a line for another one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import lmdb

from perdure.backends.lmdb import shared


@attrs.frozen
class Kind:
    """A kind of store that keeps things in a folder."""

    name: str
    """As the table says it."""
    url: Callable[[Path], str]
    """Of the store in a folder, which need not be there yet."""
    processes: bool = False
    """Whether several processes may write to it at the same time."""
    unsync: Callable[[], None] | None = None
    """Makes a liar of it: in this process it syncs nothing any more."""


def _unsync_lmdb() -> None:
    shared.open_environment = partial(lmdb.open, sync=False, metasync=False)


STORES = (
    Kind("file:", lambda folder: f"file:{folder}?segment=64KiB"),
    Kind("lmdb:", lambda folder: f"lmdb:{folder}", processes=True, unsync=_unsync_lmdb),
    Kind("lmdb:?log=segments", lambda folder: f"lmdb:{folder}?log=segments&segment=64KiB"),
)
