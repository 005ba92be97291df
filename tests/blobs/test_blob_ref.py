"""A `BlobRef` is a field like any other, and is found again in what was stored."""

from __future__ import annotations

import pickle

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.blobs.cid import RAW, Cid
from perdure.backends.blobs.ref import BlobRef, refs_in
from perdure.backends.codec import Codec
from perdure.backends.errors import BlobMissing, BlobsUnavailable, Corrupt, Misuse, Unreadable
from perdure.backends.plain import why_not_plain
from perdure.backends.tree import read, write

CID = str(Cid.of(RAW, b"a blob"))
REF = BlobRef(CID, 6, "text/plain")

refs = st.builds(
    BlobRef, st.binary().map(lambda data: str(Cid.of(RAW, data))), st.integers(0, 1 << 50), st.sampled_from(["image/png", "text/plain; charset=utf-8"])
)
plain = st.recursive(
    st.none() | st.integers(0, 9) | st.text(max_size=3), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=9
)


@attrs.frozen
class Photo:
    name: str
    image: BlobRef
    sizes: dict[str, BlobRef] = attrs.field(factory=dict)
    thumbnail: BlobRef | None = None
    more: list[BlobRef | int] = attrs.field(factory=list)


@attrs.frozen
class Album:
    """Not on the closed list: cattrs writes it."""

    photos: set[str]
    cover: BlobRef


def test_msgspec_writes_it_directly():
    assert why_not_plain(Photo) is None
    assert why_not_plain(Album) is not None


@given(refs)
def test_it_comes_back_as_it_went(ref):
    codec = Codec()
    for value in (Photo("a", ref, {"small": ref}, ref, [ref, 7]), Album({"a"}, ref)):
        form = codec.form(type(value))

        assert form.read(form.encode(value)) == value


@given(refs, plain)
def test_it_is_found_in_what_was_stored(ref, other):
    codec = Codec()
    for value, times in ((Photo("a", ref, {"small": ref}, ref, [ref, 7]), 4), (Album({"a"}, ref), 1)):
        stored = read(codec.form(type(value)).encode(value))

        assert list(refs_in([other, {"x": [stored]}])) == [ref] * times


@given(plain)
def test_nothing_else_is_taken_for_one(value):
    assert list(refs_in(value)) == []


@pytest.mark.parametrize(
    "value",
    [
        {"cid": CID, "size_bytes": 6},
        {"cid": CID, "size_bytes": 6, "media_type": "text/plain", "more": 1},
        {"cid": "bafy", "size_bytes": 6, "media_type": "text/plain"},
        {"cid": CID, "size_bytes": -6, "media_type": "text/plain"},
        {"cid": CID, "size_bytes": "6", "media_type": "text/plain"},
        {"cid": CID, "size_bytes": True, "media_type": "text/plain"},
    ],
)
def test_what_only_looks_like_one_is_none(value):
    assert list(refs_in(value)) == []


def test_deep_data_is_looked_through():
    value: object = attrs.asdict(REF)
    for _ in range(50_000):
        value = [value]

    assert list(refs_in(value)) == [REF]


@pytest.mark.parametrize(
    ("cid", "size", "kind"),
    [("bafy", 1, "a/b"), (CID, -1, "a/b"), (CID, True, "a/b"), (CID, 1.0, "a/b"), (CID, 1, "ab"), (CID, 1, ""), (CID, 1, "a/b\n"), (CID, 1, "a/" + "ä" * 200)],
)
def test_one_that_is_wrong_cannot_be_made(cid, size, kind):
    with pytest.raises(Misuse):
        BlobRef(cid, size, kind)


def test_one_that_is_wrong_cannot_be_read():
    raw = write({"cid": "bafy", "size_bytes": 6, "media_type": "text/plain"})

    with pytest.raises(Unreadable):
        Codec().decoder(BlobRef)(raw)


@pytest.mark.parametrize("error", [BlobMissing(CID, "directory:d"), BlobMissing(CID, "d", CID), BlobsUnavailable("w", "y"), Corrupt("w", "y", "z")])
def test_errors_pickle(error):
    again = pickle.loads(pickle.dumps(error))

    assert str(again) == str(error)
    assert type(again) is type(error)
