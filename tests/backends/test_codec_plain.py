"""Plain data: what goes in comes out, in bytes that depend on no seed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse, Unreadable
from perdure.backends.tree import difference, normal
from stored import Line, Loose, ints, moments, pack, texts

plain = st.recursive(
    st.none() | st.booleans() | ints | st.floats() | texts | st.binary(max_size=5) | moments,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | ints, inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_plain_data_round_trips(value):
    codec = Codec()

    back = codec.decode_plain(codec.encode_plain(value))

    assert difference(value, back) is None


@given(plain)
def test_plain_data_without_sets_is_written_as_it_is(value):
    assert pack(normal(value)) == pack(value)


@pytest.mark.parametrize("value", [object(), Line("a", 1), {"a": [datetime(2020, 1, 1)]}, 2**64, "\ud800", {frozenset({object()}): 1}, 1j])
def test_what_is_not_plain_is_misuse(value):
    with pytest.raises(Misuse):
        Codec().encode_plain(value)


def test_sets_in_plain_data_are_sorted_by_their_bytes():
    codec = Codec()

    assert codec.decode_plain(codec.encode_plain({"s": {"b", "a", frozenset({2, 1})}})) == {"s": [[1, 2], "a", "b"]}
    assert codec.encode_plain({3, 1, 2}) == pack([1, 2, 3])


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91", b"\x01\x02"])
def test_broken_bytes_are_unreadable(raw):
    codec = Codec()

    for decode in (codec.decode_plain, codec.decoder(Line), codec.decoder(Loose)):
        with pytest.raises(Unreadable):
            decode(raw)


SEEDED = """
import sys
from perdure.backends.codec import Codec
from perdure.backends.shape import shape_of
words = [str(n) for n in range(50)]
codec = Codec()
print(codec.encode_plain({"s": set(words), "n": {frozenset(words[:3]), frozenset(words[5:9])}}).hex())
print(codec.encoder(set[frozenset[str]])({frozenset(words[:9]), frozenset(words[7:30])}).hex())
print(codec.encoder(dict[str, set[str]])({"a": set(words)}).hex())
print(shape_of(dict[str, int | None | str | set[bytes]]))
"""


def test_bytes_and_shapes_do_not_depend_on_the_hash_seed():
    def run(seed: str) -> str:
        env = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-P", "-c", SEEDED], env=env, capture_output=True, text=True, check=True).stdout

    assert len({run(seed) for seed in ("0", "1", "2")}) == 1
