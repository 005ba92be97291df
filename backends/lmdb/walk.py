"""Walks LMDB's pages without handing the file to LMDB: what that would crash on is found here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from lmdb import verify as lmdb_verify

from perdure.backends.errors import Corrupt

_META: Final = struct.Struct("<16xII8x8xI92xQQ")
"""A meta page as far as it matters: magic, version, page size; at 136 the last page, the number of the transaction."""
_MAGIC: Final = 0xBEEFC0DE


def check_pages(data: Path) -> None:
    """Walk the page tree; every page that it leads to is in the file.

    Raises:
      Corrupt: naming the first problem.
    """
    try:
        with data.open("rb") as file:
            size = data.stat().st_size
            walk: Any = lmdb_verify._Verifier(file, size)
            problems = [*walk.verify()]
            if not problems and (missing := _end_of_used(walk) - size) > 0:
                problems = [f"it is {missing:,} bytes shorter than the pages in use"]  # of a value over several pages only the first is read
    except lmdb_verify.VerifyError as error:
        raise Corrupt(str(data), str(error)) from error
    if problems:
        raise Corrupt(str(data), f"{problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def _end_of_used(walk: Any) -> int:
    return len(walk.live.rstrip(b"\0")) * int(walk.psize)


def is_short(data: Path) -> bool:
    """Whether the file ends before the last page that its newest transaction speaks of: seldom so in a sound one, always in one that was cut."""
    with data.open("rb") as file:
        metas = [file.read(_META.size)]
        if len(metas[0]) < _META.size:
            return True
        file.seek(_META.unpack(metas[0])[2])
        metas.append(file.read(_META.size))
    known = [_META.unpack(meta) for meta in metas if len(meta) == _META.size]
    sound = [(number, last, page) for magic, _, page, last, number in known if magic == _MAGIC]
    if len(sound) < 2:
        return True
    _, last, page = max(sound)
    return bool(data.stat().st_size < (last + 1) * page)
