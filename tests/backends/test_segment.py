"""The file of a commit log: what is read is what was written, or it is found out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.errors import Corrupt, PerdureError, TooNew
from perdure.backends.segment import END_BYTES, HEADER_BYTES, Header, encode_batch, end_mark, read_header, scan

HEADER = Header(store=b"s" * 16, number=3, epoch=2, first=7, previous=99, size_bytes=3 * HEADER_BYTES)


def written(payloads, header=HEADER):
    """A segment with these batches, and zeros to its end."""
    parts, crc = [header.encode()], header.previous
    for place, payload in enumerate(payloads):
        batch, crc = encode_batch(payload, header.first + place, crc, header.seed)
        parts.append(batch[:-END_BYTES])
    parts.append(end_mark(header.first + len(payloads) - 1, crc, header.seed))
    return b"".join(parts).ljust(header.size_bytes, b"\0")


def payloads_of(data, header=HEADER):
    return [data[found.offset : found.offset + found.size_bytes] for found in scan(data, header).batches]


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_what_is_read_is_what_was_written(payloads):
    data = written(payloads)

    assert read_header(data, "here") == HEADER
    assert payloads_of(data) == payloads
    assert scan(data, HEADER).clean


def test_every_changed_byte_is_found_or_matters_to_nobody():
    payloads = [b"one", b"", b"three" * 20, b"four"]
    whole = written(payloads)
    used = len(whole.rstrip(b"\0"))

    for at in range(used):
        data = bytearray(whole)
        data[at] ^= 0x5A
        try:
            header = read_header(bytes(data), "here")
        except PerdureError:
            continue
        found = scan(bytes(data), header)
        read = payloads_of(bytes(data), header)
        assert read == payloads[: len(read)]
        padding = read == payloads and found.clean
        assert padding or not found.clean or found.later is not None, at


def test_a_broken_batch_before_a_whole_one_is_told_from_one_at_the_end():
    data = bytearray(written([b"one", b"two", b"three"]))
    data[data.index(b"two")] ^= 1

    found = scan(bytes(data), HEADER)

    assert [batch.number for batch in found.batches] == [7]
    assert found.later is not None


def test_what_an_earlier_life_of_the_file_left_behind_does_not_fit():
    old = written([b"old %d" % number for number in range(30)], Header(b"s" * 16, 2, 2, 1, 0, HEADER.size_bytes))
    data = written([b"new"])
    data = data[: len(data.rstrip(b"\0"))] + old[len(data.rstrip(b"\0")) :]

    found = scan(data, HEADER)

    assert (payloads_of(data), found.clean, found.later) == ([b"new"], True, None)


def test_another_stores_batches_do_not_fit():
    other = Header(b"t" * 16, 3, 2, 7, 99, HEADER.size_bytes)

    assert scan(written([b"theirs"], other), HEADER).batches == []


def test_a_batch_inside_a_batch_is_no_batch():
    inner, _ = encode_batch(b"inner", 8, 0, HEADER.seed)
    torn = bytearray(written([b"x" * 4 + inner]))
    torn[HEADER_BYTES] ^= 1

    assert scan(bytes(torn), HEADER).batches == []


@pytest.mark.parametrize("size", [0, 10, HEADER_BYTES - 1])
def test_a_header_that_was_cut_off_is_corrupt(size):
    with pytest.raises(Corrupt, match="header"):
        read_header(written([])[:size], "here")


def test_a_newer_format_is_told():
    from zlib import crc32

    data = bytearray(HEADER.encode())
    data[4] = 9
    data[60:64] = crc32(bytes(data[:60])).to_bytes(4, "little")

    with pytest.raises(TooNew):
        read_header(bytes(data), "here")


@given(st.integers(0, 1 << 30))
def test_a_torn_batch_is_never_read(seed):
    draw = random.Random(seed)
    payloads = [draw.randbytes(draw.randrange(2_000)) for _ in range(3)]
    before, after = written(payloads[:2]), written(payloads)
    torn = bytearray(before)
    for sector in range(0, len(after), 512):
        if draw.random() < 0.5:
            torn[sector : sector + 512] = after[sector : sector + 512]

    read = payloads_of(bytes(torn))

    assert read in (payloads[:2], payloads)
    assert read == payloads or bytes(torn) != after
