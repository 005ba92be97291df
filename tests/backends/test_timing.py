"""Times in buckets, and who reads an LMDB file: both without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.lmdb.readers import Oldest, Readers, parse
from perdure.backends.timing import Timings

TABLE = """    pid     thread     txnid
   4242 7f2ccefc37e0 17
   4242 7f2ccefc37e1 -
   7 7f2ccefc37e2 12
"""


@given(st.lists(st.floats(2e-6, 100), min_size=1, max_size=300), st.floats(0.01, 1))
def test_a_quantile_is_right_within_a_bucket(times, share):
    timings = Timings()
    for time in times:
        timings.note(time)

    exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert exact * 0.999 <= timings.quantile_s(share) <= exact * 2**0.25 * 1.001
    assert (timings.count, timings.max_s) == (len(times), max(times))


def test_of_nothing_there_is_no_time():
    assert (Timings().quantile_s(0.5), Timings().mean_s) == (0.0, 0.0)


@pytest.mark.parametrize("time", [0.0, -1.0, 1e-9, 1e9])
def test_a_clock_that_jumps_breaks_nothing(time):
    timings = Timings()
    timings.note(time)

    assert timings.count == 1


def test_only_those_in_a_transaction_count():
    assert parse(TABLE) == [(4242, "7f2ccefc37e0", 17), (7, "7f2ccefc37e2", 12)]
    assert parse("(no active readers)\n") == []


def test_the_oldest_reader_has_an_age_from_when_it_was_first_seen_there():
    readers = Readers()

    assert readers.look(TABLE, 20, 100.0) == Oldest(7, 0.0, 8)
    assert readers.look(TABLE, 25, 103.5) == Oldest(7, 3.5, 13)
    assert readers.look(TABLE.replace("12\n", "25\n"), 25, 104.0) == Oldest(4242, 4.0, 8)
    assert readers.look("(no active readers)\n", 25, 105.0) is None
