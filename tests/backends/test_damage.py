"""Damage to files: the same on a real one and a simulated one, and nothing else is touched."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.damage import DAMAGES, Damage, damage_file, draw_damage
from perdure.backends.pages import PAGE, SECTOR
from perdure.backends.simulated_disk import SimulatedDisk

DATA = bytes(range(1, 251)) * 50


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (Damage("bit", 1, value=7), b"a\xe2c"),
        (Damage("byte", 1, value=0xFF), b"a\x9dc"),
        (Damage("zeros", 1, 1), b"a\0c"),
        (Damage("zeros", 1, SECTOR), b"a\0\0"),
        (Damage("stale", 1, 1), b"aBc"),
        (Damage("stale", 2, PAGE), b"ab\0"),
        (Damage("truncate", 1), b"a"),
        (Damage("append", garbage=b"xyz"), b"abcxyz"),
        (Damage("bit", 3), b"abc"),
        (Damage("zeros", 3, SECTOR), b"abc"),
        (Damage("stale", 7), b"abc"),
        (Damage("truncate", 7), b"abc"),
    ],
    ids=str,
)
def test_it_does_what_it_says(damage, damaged):
    assert damage.done_to(b"abc", before=b"AB") == damaged


@given(st.integers(0, 1 << 32), st.sampled_from(DAMAGES))
def test_drawn_damage_changes_the_bytes(seed, kind):
    damage = draw_damage(Random(seed), len(DATA), [kind])

    assert damage.kind == kind
    assert damage.done_to(DATA, before=bytes(len(DATA))) != DATA
    assert damage == draw_damage(Random(seed), len(DATA), [kind])


@pytest.mark.parametrize("kind", DAMAGES)
def test_an_empty_file_can_be_asked_for_damage(kind):
    assert isinstance(draw_damage(Random(1), 0, [kind]).done_to(b""), bytes)


@given(st.integers(0, 1 << 32))
def test_real_and_simulated_files_are_damaged_alike(tmp_path_factory, seed):
    damage, before = draw_damage(Random(seed), len(DATA)), DATA[::-1]
    real = tmp_path_factory.getbasetemp() / "damaged"
    real.write_bytes(DATA)
    disk = SimulatedDisk()
    disk.write_file("a", DATA)

    damage_file(str(real), damage, before)
    disk.damage("a", damage, before)

    assert disk.read_file("a") == real.read_bytes()


async def test_damage_is_read_at_once_and_after_the_cut():
    disk = SimulatedDisk()
    disk.write_file("a", b"old")
    file = await disk.process().open("a")
    await file.write(1, b"e")

    disk.damage("a", Damage("bit", 0, value=1))

    assert await file.read(0, 3) == b"med"
    assert disk.image("lose").read_file("a") == b"med"
