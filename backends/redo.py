"""What a batch of the commit log holds: the rows that a group of commits changed. Pure.

They are decisions, not proposals: read back, they are laid over the tables, whatever version of the engine
reads them, and twice is as good as once. msgpack: `[[table, key, value or nil], ...]`, the table by its
place in `keys.TABLES`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from perdure.backends.errors import Corrupt
from perdure.backends.keys import TABLES
from perdure.backends.layered import Rows

_NUMBERS: Final = {name: number for number, name in enumerate(TABLES)}
_decoder = msgspec.msgpack.Decoder(list[tuple[int, bytes, bytes | None]])
_encoder = msgspec.msgpack.Encoder()


def encode(rows: Rows) -> bytes:
    """The changed rows as bytes."""
    flat: list[tuple[int, bytes, bytes | None]] = []
    for table, changed in rows.items():
        number = _NUMBERS[table]
        flat += [(number, key, value) for key, value in changed.items()]
    return _encoder.encode(flat)


def decode(payload: bytes, where: str) -> Rows:
    """The inverse of `encode`.

    Raises:
      Corrupt: it is not what `encode` makes.
    """
    rows: Rows = {}
    try:
        for number, key, value in _decoder.decode(payload):
            rows.setdefault(TABLES[number], {})[key] = value
    except (msgspec.MsgspecError, IndexError) as error:
        raise Corrupt(where, f"it holds no rows ({error})") from error
    return rows
