"""How names and numbers become ordered keys, and the fixed rows behind some of them.

Every key sorts as its parts do: numbers big end first, names followed by a zero byte (no name holds
one). No key exceeds 511 bytes. Drawn in ARCHITECTURE.md.
"""

from __future__ import annotations

import struct
from typing import Final

TABLES: Final = ("meta", "frames", "runs", "streams", "types", "tags", "kv", "changes", "keys", "ages", "snapshots")
"""All tables of a store. An image names them by their place: new ones go to the end."""

_U64 = struct.Struct(">Q")
_U64x2 = struct.Struct(">QQ")
_RUN_ROW = struct.Struct("<QII")
_STREAM_ROW = struct.Struct("<QQ")

number = _U64.pack
"""A number as a key."""


def read_number(key: bytes | memoryview) -> int:
    """The inverse of `number`."""
    return int(_U64.unpack_from(key)[0])


def run(stream_number: int, first_seq: int) -> bytes:
    """Key in `runs`: which stream, from which seq on."""
    return _U64x2.pack(stream_number, first_seq)


def read_run(key: bytes | memoryview) -> tuple[int, int]:
    """Stream number and first seq of a key in `runs`."""
    stream, seq = _U64x2.unpack(key)
    return stream, seq


def run_row(frame: int, offset: int, count: int) -> bytes:
    """Value in `runs`: the frame's first position, the run's offset in it, its events."""
    return _RUN_ROW.pack(frame, offset, count)


def read_run_row(value: bytes | memoryview) -> tuple[int, int, int]:
    """The inverse of `run_row`."""
    frame, offset, count = _RUN_ROW.unpack(value)
    return frame, offset, count


def stream_row(stream_number: int, first: int) -> bytes:
    """Value in `streams`, of a stream of which nothing was cut: the stream's number, and its first seq. See `stream_row.StreamRow`."""
    return _STREAM_ROW.pack(stream_number, first)


def read_stream_row(value: bytes | memoryview) -> tuple[int, int]:
    """Number and first seq of any stream's row."""
    stream_number, first = _STREAM_ROW.unpack_from(value)
    return stream_number, first


def named(name: str) -> bytes:
    """A name that something follows."""
    return name.encode() + b"\0"


def entry(bucket: str, key: bytes) -> bytes:
    """Key in `kv`."""
    return named(bucket) + key


def change(bucket: str, revision: int, key: bytes) -> bytes:
    """Key in `changes`: in order of revision within a bucket."""
    return named(bucket) + _U64.pack(revision) + key


def read_change(bucket: str, key: bytes | memoryview) -> tuple[int, bytes]:
    """Revision and key of a key in `changes`."""
    start = len(bucket.encode()) + 1
    return int(_U64.unpack_from(key, start)[0]), bytes(key[start + 8 :])


def tag(name: str, position: int) -> bytes:
    """Key in `tags`: in order of position within a tag."""
    return named(name) + _U64.pack(position)


def snapshot(name: str, position: int) -> bytes:
    """Key in `snapshots`: in order of position within a projection."""
    return named(name) + _U64.pack(position)


def last_number(key: bytes | memoryview) -> int:
    """The number that a key ends with."""
    return int(_U64.unpack_from(key, len(key) - 8)[0])


_KINDS = {"key": b"K", "tombstone": b"T"}


def aged(at_us: int, kind: str, name: bytes) -> bytes:
    """Key in `ages`: what is to be forgotten one day, in order of its time."""
    return _U64.pack(at_us) + _KINDS[kind] + name


def read_aged(key: bytes) -> tuple[int, str, bytes]:
    """The inverse of `aged`."""
    return read_number(key), "key" if key[8:9] == b"K" else "tombstone", key[9:]


def after_prefix(prefix: bytes) -> bytes | None:
    """The least key that is greater than every key with *prefix*; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
