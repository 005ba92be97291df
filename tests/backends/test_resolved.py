"""What is kept of doubts that were resolved."""

from __future__ import annotations

from perdure.backends.commit import Commit, Committed, Put
from perdure.backends.resolved import KEPT_MAX, Resolved


def commit(id: bytes) -> Commit:
    return Commit(id, 0, (Put("k", b"x", b""),))


def numbered(number: int) -> bytes:
    return number.to_bytes(16, "big")


FOUND = Committed(None, ())


def test_what_was_in_doubt_is_there_or_not():
    resolved = Resolved()
    resolved.note([b"there", b"lost"], {b"there": FOUND})

    assert b"never" not in resolved
    assert (resolved[b"there"], resolved[b"lost"]) == (FOUND, None)


def test_a_later_doubt_leaves_the_answers_of_the_one_before():
    resolved = Resolved()
    resolved.note([b"first"], {b"first": FOUND})
    resolved.note([b"second"], {})

    assert (resolved[b"first"], resolved[b"second"]) == (FOUND, None)


def test_what_is_committed_again_is_asked_for_anew():
    resolved = Resolved()
    resolved.note([b"a", b"b"], {})

    resolved.forget([commit(b"a")])

    assert b"a" not in resolved
    assert b"b" in resolved


def test_the_oldest_answers_are_let_go_of_and_one_told_again_is_new():
    resolved = Resolved()
    resolved.note(map(numbered, range(KEPT_MAX)), {})

    resolved.note([numbered(0)], {})
    resolved.note([numbered(KEPT_MAX)], {})

    assert numbered(0) in resolved
    assert numbered(1) not in resolved
    assert numbered(2) in resolved
