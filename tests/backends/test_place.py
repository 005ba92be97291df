"""Where a flush takes place: the rule, without a disk."""

from __future__ import annotations

import pytest

from perdure.backends.place import LAST_FEW, LONGEST, SHORTEST, SLOW_S, Place


def sentence(place: Place) -> int:
    """How many flushes go to the thread from now."""
    count = 0
    while place.in_thread:
        place.note(0.0)
        count += 1
    return count


def slow_down(place: Place) -> None:
    """Flushes in the loop until one goes to the thread."""
    while not place.in_thread:
        place.note(2 * SLOW_S)


@pytest.mark.parametrize("flush_s", [SLOW_S * LAST_FEW, 3.0])
def test_one_slow_flush_changes_nothing(flush_s):
    place = Place()
    for _ in range(100):
        place.note(SLOW_S / 10)

    place.note(flush_s)

    assert not place.in_thread


def test_a_slow_disk_sends_the_next_ones_to_a_thread_ever_longer():
    place, sentences = Place(), []

    for _ in range(7):
        slow_down(place)
        sentences.append(sentence(place))

    assert sentences == [SHORTEST, 128, 256, 512, LONGEST, LONGEST, LONGEST]


def test_what_was_measured_in_the_thread_counts_for_nothing():
    place = Place()
    slow_down(place)
    for _ in range(SHORTEST):
        assert place.in_thread
        place.note(60.0)

    assert not place.in_thread


def test_a_disk_that_is_quick_again_is_forgiven():
    place = Place()
    slow_down(place)
    assert sentence(place) == SHORTEST
    for _ in range(100):
        place.note(SLOW_S / 10)
        sentence(place)
    slow_down(place)

    assert sentence(place) == SHORTEST


@pytest.mark.parametrize(("how", "in_thread"), [("inline", False), ("thread", True)])
def test_whoever_chose_is_obeyed(how, in_thread):
    place = Place(how)
    for _ in range(20):
        place.note(1.0)

    assert place.in_thread is in_thread
