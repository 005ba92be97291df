"""The few rows that only perdure reads, as msgpack: what is kept of commits, to give their answers again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.backends.engine import Kept

_pack = msgspec.msgpack.Encoder().encode
unpack_kept = msgspec.msgpack.Decoder(Kept).decode
"""The inverse of `pack_kept`."""
unpack_drawn = msgspec.msgpack.Decoder(list[tuple[bytes, Kept]]).decode
"""The inverse of `pack_drawn`."""


def pack_kept(kept: Kept) -> bytes:
    """A row of `commits`."""
    return _pack(kept)


def pack_drawn(drawn: Sequence[tuple[bytes, Kept]]) -> bytes:
    """A row of `writers`."""
    return _pack(drawn)
