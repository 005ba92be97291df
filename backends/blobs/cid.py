"""The content address of a block: CIDv1 with SHA-256, in base32, as IPFS writes it. Pure.

    b + base32(01  codec: 55 raw bytes, 70 dag-pb  12 20  SHA-256 of the block)

Other forms (CIDv0, other hashes and bases) are other names, which nothing here gives or takes. The rules are those of
multiformats/cid; libraries for them bring tables of all codecs and bases, for the one form that is wanted here.
"""

from __future__ import annotations

import binascii
from base64 import b32decode, b32encode
from hashlib import sha256
from typing import Final, Self

import attrs

from perdure.backends.errors import Misuse

RAW: Final = 0x55
DAG_PB: Final = 0x70
TEXT_CHARS: Final = 59

_SHA_256 = b"\x12\x20"


@attrs.frozen
class Cid:
    """The address of a block: what its bytes are, and their digest."""

    codec: int = attrs.field(validator=attrs.validators.in_((RAW, DAG_PB)))
    digest: bytes = attrs.field(validator=(attrs.validators.min_len(32), attrs.validators.max_len(32)))

    @classmethod
    def of(cls, codec: int, block: bytes | memoryview) -> Self:
        """The address of *block*."""
        return cls(codec, sha256(block).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that *text* says.

        Raises:
          Misuse: it is none, or of a form that is not used here.
        """
        try:
            return cls.from_bytes(_bytes_of(text))
        except ValueError as error:
            raise Misuse(f"{text!r:.80} is no CID of a blob ({error}): it is CIDv1 in base32, as `put` gives it: 59 characters that begin with b") from None

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The address in its binary form.

        Raises:
          ValueError: it is none, or of another form.
        """
        if len(raw) != 36 or raw[0] != 1 or raw[2:4] != _SHA_256 or raw[1] not in (RAW, DAG_PB):
            raise ValueError("not CIDv1 with SHA-256 of raw bytes or dag-pb")
        return cls(raw[1], raw[4:])

    def __bytes__(self) -> bytes:
        return b"\x01" + bytes((self.codec,)) + _SHA_256 + self.digest

    def __str__(self) -> str:
        return "b" + b32encode(bytes(self)).decode().rstrip("=").lower()


def _bytes_of(text: str) -> bytes:
    if not isinstance(text, str) or len(text) != TEXT_CHARS or text[0] != "b" or text != text.lower():
        raise ValueError("not in base32")
    try:
        raw = b32decode(text[1:].upper() + "=" * 6)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if str(Cid.from_bytes(raw)) != text:  # the last character has two bits that mean nothing
        raise ValueError("not in canonical base32")
    return raw
