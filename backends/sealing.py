"""A row's value with a checksum of its key and itself. Pure."""

from __future__ import annotations

from zlib import crc32

from perdure.backends.errors import Corrupt


def sealed(key: bytes, body: bytes) -> bytes:
    """A row's value with the checksum of its key and itself before it."""
    return crc32(body, crc32(key)).to_bytes(4, "big") + body


def unseal(what: str, key: bytes, raw: bytes | memoryview) -> bytes:
    """The body of a sealed row.

    Raises:
      Corrupt: it is not as it was written; *what* says whose it is.
    """
    body = bytes(raw[4:])
    if crc32(body, crc32(key)) != int.from_bytes(raw[:4], "big"):
        raise Corrupt(what, "its checksum does not fit")
    return body
