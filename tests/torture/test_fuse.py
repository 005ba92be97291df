"""The disk that can lose its power loses what it should; and the row that uses it catches a store that does not sync."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from torment.faults import fuse as power
from torment.power.client import Power, why_not
from torment.power.disk import PAGE_BYTES, POLICIES, SECTOR_BYTES, File, Folder, Image, Policy, loaded
from torment.row import Tally
from torment.stores import STORES, Kind

DRAW = random.Random(7)
PAGE = PAGE_BYTES


def written(*pages: bytes) -> File:
    """A file of such pages, synced."""
    file = File()
    for number, page in enumerate(pages):
        file.write(number * PAGE, page * PAGE)
    file.sync()
    return file


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_synced_stays(policy: Policy) -> None:
    file = written(b"a", b"b")

    assert file.after_cut(policy, DRAW) == b"a" * PAGE + b"b" * PAGE


def test_what_is_not_synced_is_lost_or_kept() -> None:
    file = written(b"a")
    file.write(0, b"new")
    file.write(PAGE, b"more")

    assert file.after_cut("lose", DRAW) == b"a" * PAGE
    assert file.after_cut("keep", DRAW) == b"new" + b"a" * (PAGE - 3) + b"more"


def test_a_synced_write_syncs_its_pages_only() -> None:
    file = written(b"a", b"b")
    file.write(0, b"first")
    file.write(PAGE, b"page")
    file.write(PAGE + 10, b"synced", synced=True)

    left = file.after_cut("lose", DRAW)
    assert left == b"a" * PAGE + b"page" + b"b" * 6 + b"synced" + b"b" * (PAGE - 16)


def test_torn_writes_are_torn_at_sectors_and_come_in_order() -> None:
    file = written(b"a", b"a")
    file.write(0, b"b" * PAGE)
    file.write(PAGE, b"c" * PAGE)

    left = {file.after_cut("torn", random.Random(seed)) for seed in range(200)}

    assert len(left) > 10
    for one in left:
        changed = len(one.rstrip(b"a"))
        assert changed % SECTOR_BYTES == 0
        assert one == (b"b" * PAGE + b"c" * PAGE)[:changed] + b"a" * (2 * PAGE - changed)


@pytest.mark.parametrize(("policy", "filled"), [("pages", {b"b", b"a"}), ("zeros", {b"b", b"a"})])
def test_pages_come_in_any_order(policy: Policy, filled: set[bytes]) -> None:
    file = written(b"a", b"a", b"a")
    for page in range(3):
        file.write(page * PAGE, b"b" * PAGE)

    left = {file.after_cut(policy, random.Random(seed)) for seed in range(200)}

    assert len(left) == 8
    assert {one[at : at + 1] for one in left for at in range(0, len(one), PAGE)} == filled


@pytest.mark.parametrize(("policy", "size"), [("pages", 0), ("zeros", 2), ("stale", 2)])
def test_a_file_may_have_grown_without_its_pages(policy: Policy, size: int) -> None:
    file = written(b"a")
    file.write(PAGE, b"b" * PAGE)
    file.write(2 * PAGE, b"c" * PAGE)

    left = [file.after_cut(policy, random.Random(seed)) for seed in range(50)]

    assert {len(one) // PAGE - 1 for one in left} == ({size} if size else {0, 1, 2})
    assert (b"\0" * PAGE in {one[PAGE : 2 * PAGE] for one in left}) == (policy != "stale")


def test_names_are_durable_by_their_folder() -> None:
    root = Folder()
    root.change({"a": written(b"a"), "b": written(b"b")})
    assert root.after_cut("lose", DRAW) == {}
    root.sync()

    root.change({"a": None, "c": root.now["a"]})
    root.change({"b": None})

    assert set(root.after_cut("lose", DRAW)) == {"a", "b"}
    assert set(root.after_cut("keep", DRAW)) == {"c"}
    assert {tuple(root.after_cut("torn", random.Random(seed))) for seed in range(50)} == {("a", "b"), ("b", "c"), ("c",)}


def test_what_is_loaded_is_durable() -> None:
    image: Image = {"folder": {"file": b"bytes"}, "empty": b""}

    assert loaded(image).after_cut("lose", DRAW) == image


needs_power = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_power
def test_the_file_system_forgets_what_was_not_synced(tmp_path: Path) -> None:
    with Power(tmp_path) as fs:
        folder = fs.make("one")
        (folder / "f").write_bytes(b"not synced")

        fs.cut("one", "keep", 0, tmp_path / "kept", "two")
        fs.cut("two", "lose", 0, tmp_path / "durable", "three")
        (fs.mount / "three" / "f").write_bytes(b"changed")
        fs.cut("three", "lose", 0, tmp_path / "lost", "four")

    assert [(tmp_path / name / "f").read_bytes() for name in ("kept", "durable", "lost")] == [b"not synced"] * 3


@needs_power
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in STORES if kind.unsync], ids=lambda kind: kind.name)
def test_a_store_that_does_not_sync_is_caught(kind: Kind, tmp_path: Path) -> None:
    tally = Tally(20, 7, tmp_path)

    power.run(kind, tally, unsynced=True)

    assert tally.violations
