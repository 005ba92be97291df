"""`BlobRef`: what an event or an entry keeps of a large object. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from perdure.backends.blobs.cid import Cid
from perdure.backends.errors import Misuse

OCTETS: Final = "application/octet-stream"
_FIELDS = {"cid", "size_bytes", "media_type"}


def _cid(_: object, __: object, cid: str) -> None:
    Cid.parse(cid)


def _size(_: object, __: object, size_bytes: int) -> None:
    if type(size_bytes) is not int or size_bytes < 0:
        raise Misuse(f"a blob's size_bytes is a number from 0, not {size_bytes!r}")


def _media_type(_: object, __: object, media_type: str) -> None:
    kind, slash, rest = media_type.partition("/") if isinstance(media_type, str) else ("", "", "")
    if not (kind and slash and rest and media_type.isprintable()) or len(media_type.encode()) > 255:
        raise Misuse(f"a blob's media type is text like image/png, of at most 255 bytes, not {media_type!r:.80}")


@attrs.frozen
class BlobRef:
    """A large object by its content: a field of events, values and states. Its bytes are in a blob store.

    It is stored as a map of these three fields, and known again by them (`refs_in`).

    Raises:
      Misuse: the CID is none, the size is negative, or the media type is no such text.
    """

    cid: str = attrs.field(validator=_cid)
    size_bytes: int = attrs.field(validator=_size)
    media_type: str = attrs.field(default=OCTETS, validator=_media_type)


@attrs.frozen
class BlobStat:
    """What a blob store says of a blob."""

    cid: str
    size_bytes: int
    nodes: Literal["sound", "mended", "damaged"] = "sound"
    """Of what says how to check its chunks, where that is kept apart. Damaged or missing, it is made again from the bytes, if it may be written."""


def refs_in(value: Any) -> Iterator[BlobRef]:
    """Every `BlobRef` in plain data as it is stored, whatever class it was a field of."""
    waiting = [value]  # no recursion: what was stored by others may be nested deeply
    while waiting:
        match waiting.pop():
            case {"cid": str(), "size_bytes": int(), "media_type": str()} as found if found.keys() == _FIELDS and (ref := _ref(found)):
                yield ref
            case Mapping() as parts:
                waiting += parts.values()
            case list() | tuple() as items:
                waiting += items


def _ref(found: Mapping[str, Any]) -> BlobRef | None:
    try:
        return BlobRef(**found)
    except Misuse:  # three fields that happen to be named so
        return None


def address_of(what: BlobRef | str) -> Cid:
    """The address that a caller names a blob by.

    Raises:
      Misuse: it is none.
    """
    return Cid.parse(what.cid if isinstance(what, BlobRef) else what)


def is_address(text: str) -> bool:
    """Whether *text* names a blob."""
    try:
        Cid.parse(text)
    except Misuse:
        return False
    return True
