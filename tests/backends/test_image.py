"""Images: what is written is read, and no flipped, missing or added byte ever gives other data."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends import image, keys
from perdure.backends.disk import TrioDisk
from perdure.backends.errors import Corrupt, PerdureError, TooNew
from perdure.backends.image import Header, Image, Trailer
from perdure.backends.image_file import read_image, write_image

ID = bytes(range(16))

rows = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50)), min_size=1, max_size=5)
slices = st.lists(st.tuples(st.sampled_from(keys.TABLES), rows), max_size=5)


def image_of(slices, number=7, last=9):
    parts = [image.begin(ID, number)]
    for table, found in slices:
        parts.append(image.block(table, found, image.seed_of(parts[-1])))
    parts.append(image.end(len(slices), sum(len(found) for _, found in slices), last, image.seed_of(parts[-1])))
    return b"".join(parts)


SMALL = [("meta", [(b"id", ID)]), ("frames", [(b"\0" * 8, b"frame"), (b"\0" * 7 + b"\1", b"")]), ("kv", [(b"a\0b", b"value")])]


@given(slices)
def test_what_is_written_is_read(given_slices):
    assert list(image.blocks(image_of(given_slices))) == given_slices


@given(slices, st.integers(1, 60))
def test_it_may_come_in_pieces_of_any_size(given_slices, size):
    data, reader = image_of(given_slices), Image()
    found: list[tuple[str, image.Rows]] = []

    for at in range(0, len(data), size):
        found += reader.feed(data[at : at + size])

    assert found == given_slices
    assert reader.header == Header(ID, 7)
    assert reader.finish() == Trailer(len(given_slices), sum(len(part) for _, part in given_slices), 9)


def test_no_flipped_bit_gives_other_data():
    data = image_of(SMALL)

    for place in range(len(data)):
        for bit in range(8):
            damaged = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
            assert_refused(damaged)


def test_no_cut_and_no_addition_passes():
    data = image_of(SMALL)

    for size in range(len(data)):
        assert_refused(data[:size])
    assert_refused(data + b"\0")
    assert_refused(data + data)


def test_blocks_in_another_order_or_missing_are_refused():
    parts = [image.begin(ID, 1)]
    for table, found in SMALL:
        parts.append(image.block(table, found, image.seed_of(parts[-1])))
    parts.append(image.end(3, 4, 1, image.seed_of(parts[-1])))

    assert_refused(b"".join([parts[0], parts[2], parts[1], *parts[3:]]))
    assert_refused(b"".join([parts[0], *parts[2:]]))


def test_a_block_of_another_image_is_refused():
    ours, theirs = image.begin(ID, 1), image.begin(ID, 2)

    mixed = ours + image.block("kv", [(b"k", b"v")], image.seed_of(theirs))

    assert_refused(mixed + image.end(1, 1, 1, image.seed_of(mixed)))


@given(st.integers(0, 2**32), slices)
def test_random_damage_gives_a_prefix_of_the_truth_and_then_an_error(seed, given_slices):
    data, draw = bytearray(image_of(given_slices)), random.Random(seed)
    place = draw.randrange(len(data))
    noise = draw.randbytes(draw.randint(1, 30))
    damaged = bytes(data[:place] + noise + data[place + len(noise) :])

    if damaged != data:
        assert_refused(damaged, given_slices)


def assert_refused(data, truth=SMALL):
    found = []
    with pytest.raises(PerdureError) as caught:
        for one in image.blocks(data, "x.image"):
            found.append(one)  # noqa: PERF402 - what was given before the error counts
    assert found == truth[: len(found)]
    assert isinstance(caught.value, Corrupt)
    assert caught.value.where.startswith("x.image at offset ")


def test_a_newer_format_says_so():
    header = image.HEADER.pack(image.MAGIC, image.FORMAT + 1, 0, ID, 0)

    with pytest.raises(TooNew):
        list(image.blocks(image._sealed(header, 0)))


# -- in files --------------------------------------------------------------------------------


async def given_in_turn(slices):
    for one in slices:
        yield one


async def test_a_file_gives_back_header_rows_and_trailer(tmp_path):
    path = f"{tmp_path}/1.image"
    seen: list[bytes] = []

    written = await write_image(TrioDisk(), path, ID, 3, given_in_turn(SMALL), ended=lambda: 5, seen=seen.append)

    async with read_image(TrioDisk(), path) as reader:
        assert reader.header == Header(ID, 3)
        assert [one async for one in reader] == SMALL
        assert reader.image.trailer == Trailer(3, 4, 5)
    assert b"".join(seen) == (tmp_path / "1.image").read_bytes()
    assert written.size_bytes == (tmp_path / "1.image").stat().st_size


async def test_many_rows_are_read_as_they_were(tmp_path):
    draw, path = random.Random(1), f"{tmp_path}/1.image"
    many = [("frames", [(n.to_bytes(8, "big"), draw.randbytes(draw.randrange(2_000))) for n in range(k, k + 500)]) for k in range(0, 5_000, 500)]

    await write_image(TrioDisk(), path, ID, 0, given_in_turn(many))

    async with read_image(TrioDisk(), path) as reader:
        assert [one async for one in reader] == many


async def test_a_leftover_of_a_longer_image_does_not_matter(tmp_path):
    path = f"{tmp_path}/1.image"
    (tmp_path / "1.image.new").write_bytes(b"x" * 10_000)

    await write_image(TrioDisk(), path, ID, 0, given_in_turn(SMALL))

    async with read_image(TrioDisk(), path) as reader:
        assert [one async for one in reader] == SMALL


async def test_an_image_that_fails_leaves_the_one_before(tmp_path):
    path = f"{tmp_path}/1.image"
    await write_image(TrioDisk(), path, ID, 1, given_in_turn(SMALL))

    async def failing():
        yield SMALL[0]
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        await write_image(TrioDisk(), path, ID, 2, failing())

    async with read_image(TrioDisk(), path) as reader:
        assert reader.header.number == 1


async def test_a_file_that_was_cut_is_corrupt(tmp_path):
    path = tmp_path / "1.image"
    await write_image(TrioDisk(), str(path), ID, 1, given_in_turn(SMALL))
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(Corrupt, match="without its trailer"):
        async with read_image(TrioDisk(), str(path)) as reader:
            async for _ in reader:
                pass


async def test_an_empty_file_is_corrupt(tmp_path):
    (tmp_path / "1.image").touch()

    with pytest.raises(Corrupt):
        async with read_image(TrioDisk(), f"{tmp_path}/1.image"):
            pass
