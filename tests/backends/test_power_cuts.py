"""A power cut leaves what an honest disk may leave: by any operations before it, any policy and any seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backends.cuts import POLICIES, Policy, cut
from perdure.backends.filesystem import FileSystem
from perdure.backends.nodes import FolderNode
from perdure.backends.pages import PAGE, SECTOR, Pages, cut_off

seeds = st.integers(0, 1 << 32)
policies = st.sampled_from(POLICIES)

# -- bytes -----------------------------------------------------------------------------------

writes = st.tuples(
    st.just("write"),
    st.integers(0, 2 * PAGE + 700),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(1, 255), st.sampled_from([1, 20, 300, 513, 4_096, 5_000])),
)
steps = st.lists(writes | writes | st.tuples(st.sampled_from(["flush", "fail", "evict"])), max_size=12)


@attrs.define
class Oracle:
    """What may become of one file, kept in another way: whole images of it, and each page's versions since it was durable."""

    medium: bytes = b""
    cache: bytes = b""
    versions: dict[int, list[bytes]] = attrs.field(factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        cache = self.cache.ljust(offset, b"\0")
        self.cache = cache[:offset] + data + cache[offset + len(data) :]
        for page in range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1):
            self.versions.setdefault(page, []).append(self._page(self.cache, page))

    def flush(self) -> None:
        self.medium = self._flushed()
        self.versions.clear()

    def fail(self) -> None:
        self.versions.clear()

    def evict(self) -> None:
        self.cache = self._flushed()

    def allows(self, left: bytes) -> bool:
        """Whether *left* has a size between the two, and each sector is one that was or, where the file grew, zeros."""
        if not len(self.medium) <= len(left) <= max(len(self.medium), len(self._flushed())):
            return False
        return all(left[at : at + SECTOR] in self._sectors(at, len(left)) for at in range(0, len(left), SECTOR))

    def _sectors(self, at: int, size: int) -> set[bytes]:
        page, inside = at // PAGE, at % PAGE
        found = [self._page(self.medium, page), *self.versions.get(page, [])]
        sectors = {one.ljust(PAGE, b"\0")[inside : inside + SECTOR][: size - at] for one in found}
        kept = self.medium[at : at + SECTOR]
        return sectors | ({one[: len(kept)].ljust(len(one), b"\0") for one in sectors} if len(kept) < SECTOR else set())

    def _flushed(self) -> bytes:
        flushed = self.medium
        for page, (*_, last) in self.versions.items():
            flushed = flushed[: page * PAGE].ljust(page * PAGE, b"\0") + last + flushed[page * PAGE + len(last) :]
        return flushed

    @staticmethod
    def _page(data: bytes, page: int) -> bytes:
        return data[page * PAGE : (page + 1) * PAGE]


def played(steps: Sequence[Sequence[Any]]) -> tuple[FileSystem, Oracle]:
    """A file system with one file, whose name is durable, after *steps*, and what the oracle makes of them."""
    files, oracle = FileSystem(), Oracle()
    node = files.open("a", create=True)
    files.sync(files.root)
    for what, *args in steps:
        match what:
            case "write":
                files.write(node, args[0], args[1], "a")
            case "flush":
                files.flush(node)
            case "fail":
                files.fail_flush(node, lambda _: False)
            case "evict":
                node.pages.evict()
        getattr(oracle, what)(*args)
    return files, oracle


def nothing_beyond_the_end(pages: Pages) -> bool:
    """Whether a file that grows again shows nothing of what it held before."""
    trimmed = pages.live.copy()
    cut_off(trimmed, pages.size)
    return trimmed == pages.live


def content(files: FileSystem, path: str = "a") -> bytes:
    pages = files.file(path).pages
    return pages.read(0, pages.size)


@given(steps)
def test_what_is_read_is_what_was_written(steps):
    files, oracle = played(steps)

    assert content(files) == oracle.cache


@settings(max_examples=300)
@given(steps, policies, seeds)
def test_every_byte_left_is_one_that_was_there_or_zero_where_it_grew(steps, policy, seed):
    files, oracle = played(steps)

    left = cut(files, policy, Random(seed))

    assert oracle.allows(content(left))
    assert nothing_beyond_the_end(left.file("a").pages)


@given(steps)
def test_lose_is_what_the_medium_has_and_keep_what_a_flush_would_give_it(steps):
    files, oracle = played(steps)

    lost, kept = cut(files, "lose", Random(0)), cut(files, "keep", Random(0))

    oracle.flush()
    assert content(kept) == oracle.medium
    files.flush(files.file("a"))
    assert content(kept) == content(cut(files, "lose", Random(0)))
    assert len(content(lost)) <= len(content(kept))


@given(steps, policies, seeds)
def test_after_a_flush_of_all_every_cut_leaves_the_same(steps, policy, seed):
    files, _ = played(steps)
    files.flush(files.file("a"))

    assert content(cut(files, policy, Random(seed))) == content(cut(files, "lose", Random(0)))


@given(steps, policies, seeds)
def test_what_is_left_is_durable_and_the_running_system_is_as_it_was(steps, policy, seed):
    files, oracle = played(steps)
    before = files.digest()

    left = cut(files, policy, Random(seed))

    assert cut(left, "lose", Random(0)).digest() == left.digest()
    left.write(left.file("a"), 0, b"written in the image", "a")
    left.flush(left.file("a"))
    assert (files.digest(), content(files)) == (before, oracle.cache)


@given(steps)
def test_many_unflushed_writes_count_as_few_and_lose_nothing(steps):
    files, _ = played(steps)
    node = files.file("a")
    for at in range(3_000):
        files.write(node, at % 300 * 30, bytes([at % 255 + 1]), "a")

    kept = cut(files, "keep", Random(0))

    assert len(node.pages.unflushed) <= 1_025
    node.pages.flush()
    assert content(kept) == content(cut(files, "lose", Random(0)))


# -- names -----------------------------------------------------------------------------------

NAMES = ["one/a", "one/b", "two/a", "two/b"]
names = st.sampled_from(NAMES)
moves = st.tuples(st.just("rename"), names, names) | st.tuples(st.just("sync"), st.sampled_from(["one", "two"]))
changes = st.lists(st.tuples(st.sampled_from(["create", "remove"]), names) | moves, max_size=14)
SYNCS = [("sync", "one"), ("sync", "two")]


def renamed(changes, *, overwrites: bool = True) -> tuple[FileSystem, dict[str, list[bytes | None]]]:
    """Two folders after *changes*; and what each name led to, since its folder was synced: a file's bytes say which it is."""
    files = FileSystem()
    for folder in ("one", "two"):
        files.make_folder(folder)
    files.sync(files.root)
    since: dict[str, list[bytes | None]] = {name: [None] for name in NAMES}
    for number, (what, *args) in enumerate(changes):
        there = [files.exists(path) for path in args]
        match what:
            case "create" if not there[0]:
                node = files.open(args[0], create=True)
                files.write(node, 0, b"%d" % number, args[0])
                files.flush(node)
            case "remove":
                files.remove(args[0])
            case "rename" if there[0] and (overwrites or not there[1]):
                files.rename(*args)
            case "sync":
                files.sync(files.folder(args[0]))
        for name, history in since.items():
            now = content(files, name) if files.exists(name) else None
            if now != history[-1]:
                history.append(now)
    return files, since


@settings(max_examples=300)
@given(changes, policies, seeds)
def test_a_name_leads_to_what_it_led_to_once_or_nowhere(changes, policy, seed):
    files, since = renamed(changes)
    lost = cut(files, "lose", Random(0)).digest()

    left = cut(files, policy, Random(seed))

    assert cut(files, "lose", Random(0)).digest() == lost
    for name, history in since.items():
        assert (content(left, name) if left.exists(name) else None) in history


@settings(max_examples=300)
@given(st.lists(moves, max_size=10), policies, seeds)
def test_a_file_that_is_only_renamed_keeps_exactly_one_name(moves, policy, seed):
    files, _ = renamed([("create", "one/a"), ("create", "one/b"), *SYNCS, *moves], overwrites=False)

    left = cut(files, policy, Random(seed))

    assert sorted(content(left, path) for path, _ in left.files()) == [b"0", b"1"]


@given(changes, policies, seeds)
def test_synced_names_are_kept(changes, policy, seed):
    files, _ = renamed([*changes, *SYNCS])

    assert cut(files, policy, Random(seed)).digest() == files.digest()


# -- what each policy reaches ----------------------------------------------------------------


def images(files: FileSystem, policy: Policy, count: int = 400) -> set[bytes]:
    """The contents of `a` in so many cuts."""
    return {content(cut(files, policy, Random(seed))) for seed in range(count)}


def two_pages() -> FileSystem:
    """A durable file of two pages of `o`, each rewritten once and not flushed."""
    files, _ = played([("write", 0, b"o" * 2 * PAGE), ("flush",), ("write", 0, b"1" * PAGE), ("write", PAGE, b"2" * PAGE)])
    return files


def test_a_prefix_keeps_writes_in_order():
    left = images(two_pages(), "prefix")

    assert all(b"1" * PAGE in one or b"2" not in one for one in left)
    assert {b"o" * 2 * PAGE, b"1" * PAGE + b"o" * PAGE, b"1" * PAGE + b"2" * PAGE} <= left


def test_a_torn_write_ends_where_a_sector_or_page_begins():
    files, _ = played([("write", 0, b"o" * 3 * PAGE), ("flush",), ("write", 100, b"n" * 2 * PAGE)])

    left = images(files, "prefix")

    lengths = {one.count(b"n") for one in left}
    assert all(one == (b"o" * 100 + b"n" * one.count(b"n")).ljust(3 * PAGE, b"o") for one in left)
    assert {(length + 100) % SECTOR for length in lengths - {0, 2 * PAGE}} == {0}
    assert {PAGE - 100, 2 * PAGE - 100, SECTOR - 100} <= lengths


def test_random_keeps_the_later_write_without_the_earlier():
    left = images(two_pages(), "random")

    assert {b"o" * PAGE + b"2" * PAGE, b"1" * PAGE + b"o" * PAGE, b"o" * 2 * PAGE, b"1" * PAGE + b"2" * PAGE} <= left
    assert any(len(set(one[:PAGE])) == 2 for one in left), "no page was torn"


def test_random_leaves_a_page_at_any_version():
    files, _ = played([("write", 0, b"%d" % version) for version in range(4)])

    assert {b"0", b"1", b"2", b"3"} <= images(files, "random")


def test_random_leaves_a_size_that_was_not_yet_written_to():
    files, _ = played([("write", 0, b"x" * 2 * PAGE)])

    sizes = {len(one) for one in images(files, "random")}

    assert {0, PAGE, 2 * PAGE} <= sizes
    assert bytes(2 * PAGE) in images(files, "random")


def test_zeros_stand_where_the_file_grew_and_nowhere_else():
    files, _ = played([("write", 0, b"o" * 700), ("flush",), ("write", 700, b"n" * 2_000)])

    left = images(files, "zeros")

    assert {(len(one), one[:700]) for one in left} == {(2_700, b"o" * 700)}
    assert b"o" * 700 + bytes(2_000) in left
    assert b"o" * 700 + b"n" * (2 * SECTOR - 700) + bytes(2_700 - 2 * SECTOR) in left


def test_a_prefix_keeps_changes_of_names_in_order_with_the_writes():
    files = FileSystem()
    for number, name in enumerate(["a", "b"]):
        files.write(files.open(name, create=True), 0, b"%d" % number, name)

    left = {tuple((path, content(image, path)) for path, _ in image.files()) for image in (cut(files, "prefix", Random(seed)) for seed in range(100))}

    assert left == {(), (("/a", b""),), (("/a", b"0"),), (("/a", b"0"), ("/b", b"")), (("/a", b"0"), ("/b", b"1"))}


def test_of_a_flush_that_fails_some_pages_may_have_reached_the_medium():
    files, _ = played([("write", 0, b"x" * (3 * PAGE + 10))])

    files.fail_flush(files.file("a"), lambda page: page == 1)

    assert content(files) == b"x" * (3 * PAGE + 10)
    assert content(cut(files, "keep", Random(0))) == bytes(PAGE) + b"x" * PAGE


def test_a_page_is_clean_dirty_or_lost():
    pages = Pages()
    pages.write(1, 0, b"x" * PAGE)
    states = [pages.state(0)]
    pages.flush()
    states.append(pages.state(0))
    pages.write(2, 10, b"y")
    pages.lose(lambda _: False)
    states.append(pages.state(0))
    pages.write(3, 20, b"z")
    states.append(pages.state(0))

    assert states == ["dirty", "clean", "lost", "dirty"]
    pages.flush()
    assert pages.durable[0] == b"x" * 10 + b"y" + b"x" * 9 + b"z" + b"x" * (PAGE - 21)


def test_a_new_folder_and_all_in_it_hangs_on_the_name_above():
    files = FileSystem()
    files.make_folder("d")
    files.flush(files.open("d/a", create=True))
    files.sync(files.folder("d"))

    assert cut(files, "lose", Random(0)).root.entries == {}
    files.sync(files.root)
    below = cut(files, "lose", Random(0)).root.entries["d"]
    assert isinstance(below, FolderNode)
    assert list(below.entries) == ["a"]


def test_of_many_changes_of_names_the_older_are_written_back():
    files = FileSystem()
    for number in range(3_000):
        files.open(f"{number}", create=True)

    left = cut(files, "lose", Random(0))

    assert len(files.changes) <= 1_024
    assert sorted(map(int, left.root.entries)) == list(range(3_000 - len(files.changes)))
