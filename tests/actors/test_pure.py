# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""The pure halves of the actors: groups, rings, ladders, restarts, cursors."""

from __future__ import annotations

from collections import deque

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.actors import batch, snapshots
from perdure.actors.cursor import EXAMINED_MAX, Checkpoint, Progress, pack, unpack
from perdure.actors.restart import FIRST_DELAY_S, GIVE_UP_AFTER, LONGEST_DELAY_S, Cause, Decision, History, Restart, Strategy, delay_s, to_restart
from perdure.actors.ring import EVENT_BYTES, FAR, Ring
from perdure.backends.commit import Commit
from perdure.backends.errors import Corrupt, WrongStore
from perdure.backends.event import Position, Record
from perdure.backends.limits import Limits
from perdure.backends.selector import EVERYTHING

# -- groups ----------------------------------------------------------------------------------


@attrs.define
class Waiting:
    name: int
    commit: Commit
    wanted: bool = True


def waiting(name, size=10, wanted=True):
    return Waiting(name, Commit(bytes(16), 0, (), None, size), wanted)


def form(callers, derived, **limits):
    callers, derived = deque(callers), deque(derived)
    group = batch.next_group(callers, derived, Limits(**limits), lambda request: request.wanted)
    return [request.name for request in group], len(callers), len(derived)


def test_all_that_waits_becomes_one_group_callers_first():
    assert form([waiting(1), waiting(2)], [waiting(3)]) == ([1, 2, 3], 0, 0)


def test_a_group_is_bounded_in_commits():
    assert form([waiting(n) for n in range(5)], [], group_commits=3) == ([0, 1, 2], 2, 0)


def test_a_group_is_bounded_in_bytes_or_is_one_commit():
    assert form([waiting(1, 60), waiting(2, 60)], [], group_bytes=100) == ([1], 1, 0)
    assert form([waiting(1, 600), waiting(2, 60)], [], group_bytes=100) == ([1], 1, 0)


def test_derived_commits_are_bounded_by_themselves_so_callers_never_keep_them_out():
    callers = [waiting(n, 60) for n in range(9)]

    assert form(callers, [waiting(10, 600), waiting(11)], group_bytes=100) == ([0, 10], 8, 1)
    assert form(callers, [waiting(10), waiting(11)], group_commits=1) == ([0, 10], 8, 1)


def test_what_was_withdrawn_is_left_out_and_takes_no_room():
    assert form([waiting(1, 90, wanted=False), waiting(2, 90), waiting(3, 90)], [], group_bytes=100) == ([2], 1, 0)


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans())), st.lists(st.integers(1, 50)))
def test_groups_keep_the_order_and_lose_nothing(callers, derived):
    first = deque(waiting(("c", n), size, wanted) for n, (size, wanted) in enumerate(callers))
    second = deque(waiting(("d", n), size) for n, size in enumerate(derived))
    taken = []
    while first or second:
        taken += [request.name for request in batch.next_group(first, second, Limits(group_bytes=60, group_commits=3), lambda r: r.wanted)]

    assert [name for name in taken if name[0] == "c"] == [("c", n) for n, (_, wanted) in enumerate(callers) if wanted]
    assert [name for name in taken if name[0] == "d"] == [("d", n) for n in range(len(derived))]


# -- the ring --------------------------------------------------------------------------------


def record(position, stream="s-1", type="t"):
    return Record(stream, position, Position(position), type, 1, 0, b"", 0, b"", b"", 0)


def put(ring, follows, last, size=10, **more):
    ring.put(Position(follows), Position(last), size, lambda: [record(at, **more) for at in range(follows + 1, last + 1)])


def positions(taken):
    return None if taken is None else ([found.position for found in taken[0]], taken[1])


def test_a_ring_serves_from_its_floor_on():
    ring = Ring(10_000)
    put(ring, 4, 6)
    put(ring, 6, 7)

    assert (ring.floor, ring.last, ring.bytes) == (4, 7, 20 + 3 * EVENT_BYTES)
    assert positions(ring.take(Position(3), 10, None)) is None
    assert positions(ring.take(Position(4), 10, None)) == ([5, 6, 7], 7)
    assert positions(ring.take(Position(5), 10, None)) == ([6, 7], 7)
    assert positions(ring.take(Position(7), 10, None)) is None


def test_a_group_that_does_not_follow_clears_the_ring():
    ring = Ring(10_000)
    put(ring, 0, 2)
    put(ring, 5, 6)

    assert ring.floor == 5
    assert positions(ring.take(Position(2), 10, None)) is None


def test_a_ring_forgets_the_oldest_beyond_its_bytes():
    ring = Ring(25 + 2 * EVENT_BYTES)
    for at in range(4):
        put(ring, at, at + 1)
    assert (ring.floor, ring.bytes) == (2, 20 + 2 * EVENT_BYTES)

    put(ring, 4, 5, size=1_000)
    assert (ring.floor, ring.last, ring.bytes) == (None, None, 0)


def test_a_ring_leaves_a_follower_far_behind_to_the_log():
    ring = Ring(10_000_000)
    for at in range(FAR + 1):
        put(ring, at, at + 1)

    assert ring.take(Position(0), 10, None) is None
    assert positions(ring.take(Position(FAR), 10, None)) == ([FAR + 1], FAR + 1)


def test_a_ring_gives_whole_groups_soft_by_one():
    ring = Ring(10_000)
    put(ring, 0, 3)
    put(ring, 3, 6)

    assert positions(ring.take(Position(0), 1, None)) == ([1, 2, 3], 3)
    assert positions(ring.take(Position(0), 4, None)) == ([1, 2, 3, 4, 5, 6], 6)


def test_a_ring_says_how_far_it_looked_when_nothing_was_wanted():
    ring = Ring(10_000)
    put(ring, 0, 3)

    assert positions(ring.take(Position(0), 10, EVERYTHING.within(types=["other"]))) == ([], 3)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=30), st.integers(0, 80), st.integers(1, 8))
def test_what_a_ring_gives_is_the_log(groups, after, limit):
    """Whoever wrote in between: what is taken is exactly the log from `after` to where it looked."""
    ring, head = Ring(60), 0
    for ours, count in groups:
        if ours:
            put(ring, head, head + count, size=10 * count)
        head += count

    taken = ring.take(Position(after), limit, None)

    if taken is not None:
        assert [found.position for found in taken[0]] == list(range(after + 1, taken[1] + 1))
        assert after < taken[1] <= head


# -- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_is_due_after_events_and_bytes():
    due = snapshots.due
    assert not due(events=snapshots.EVENTS - 1, folded_bytes=10**9, last_bytes=0)
    assert due(events=snapshots.EVENTS, folded_bytes=500, last_bytes=500)
    assert not due(events=10**9, folded_bytes=499, last_bytes=500)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=120))
def test_the_ladder_keeps_the_last_two_and_one_per_rung(steps):
    kept: list[Position] = []
    position = 0
    for step in steps:
        position += step
        dropped = snapshots.to_drop(kept, Position(position))
        assert set(dropped) <= set(kept)
        before = kept[-1:]
        kept = [*(one for one in kept if one not in dropped), Position(position)]

        assert kept[-2:] == [*before, position][-2:]
        rungs = [(position - one).bit_length() for one in kept[:-2]]
        assert len(rungs) == len(set(rungs))
    assert len(kept) <= 2 + position.bit_length()


@given(st.integers(20, 300))
def test_the_ladder_holds_something_for_every_distance(count):
    """For any position back there is a snapshot at most twice as far back, as far as there were any."""
    kept: list[Position] = []
    for position in range(1, count + 1):
        kept = [*(one for one in kept if one not in snapshots.to_drop(kept, Position(position))), Position(position)]

    for back in range(1, count // 2):
        assert any(back <= count - one < 4 * back + 2 for one in kept), (back, kept)


def test_snapshots_beyond_the_newest_go():
    assert snapshots.to_drop([Position(5), Position(90)], Position(10)) == (90,)


# -- restarts --------------------------------------------------------------------------------


def note(history, cause=Cause.FAILED, restart=Restart.PERMANENT, ran_s=0.0, progressed=False, jitter=0.5):
    return history.note(cause, restart, ran_s=ran_s, progressed=progressed, jitter=jitter)


def test_delays_double_up_to_30_s():
    assert [round(delay_s(failures, 0.5), 3) for failures in range(11)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_delays_vary_by_a_fifth(failures, jitter):
    plain = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures, 100))
    assert 0.8 * plain <= delay_s(failures, jitter) <= 1.2 * plain


def test_after_five_restarts_in_a_row_it_gives_up():
    history = History()
    assert [note(history)[0] for _ in range(GIVE_UP_AFTER + 1)] == [Decision.RESTART] * 5 + [Decision.GIVE_UP]


def test_progress_is_forgiveness():
    history = History()
    for _ in range(50):
        assert note(history, progressed=True) == (Decision.RESTART, pytest.approx(0.1))


def test_running_ten_times_its_last_delay_is_forgiveness():
    history = History()
    for _ in range(4):
        note(history)
    assert history.last_delay_s == pytest.approx(0.8)

    assert note(history, ran_s=7.9)[1] == pytest.approx(1.6)
    assert note(history, ran_s=16)[1] == pytest.approx(0.1)


def test_the_stores_troubles_never_count_and_are_waited_out_ever_longer():
    history = History()
    note(history)
    delays = [note(history, Cause.STORE) for _ in range(20)]

    assert {decision for decision, _ in delays} == {Decision.RESTART}
    assert (delays[0][1], delays[-1][1]) == (pytest.approx(0.1), pytest.approx(30))
    assert history.failures == 1


@pytest.mark.parametrize(
    ("cause", "restart", "decision"),
    [
        (Cause.DONE, Restart.PERMANENT, Decision.RESTART),
        (Cause.DONE, Restart.TRANSIENT, Decision.LEAVE),
        (Cause.DONE, Restart.TEMPORARY, Decision.LEAVE),
        (Cause.FAILED, Restart.TRANSIENT, Decision.RESTART),
        (Cause.FAILED, Restart.TEMPORARY, Decision.LEAVE),
        (Cause.FINAL, Restart.PERMANENT, Decision.LEAVE),
    ],
)
def test_permanent_transient_temporary(cause, restart, decision):
    assert note(History(), cause, restart)[0] is decision


def test_who_is_restarted_with_whom():
    names = ["a", "b", "c"]
    assert to_restart(names, "b", Strategy.ONE_FOR_ONE) == ("b",)
    assert to_restart(names, "b", Strategy.ONE_FOR_ALL) == ("a", "b", "c")
    assert to_restart(names, "b", Strategy.REST_FOR_ONE) == ("b", "c")


# -- cursors ---------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_and_is_of_one_store():
    checkpoint = Checkpoint("store", 7, "finger", "step", "fault", 5)

    assert unpack("p", pack(checkpoint), "store") == checkpoint
    with pytest.raises(WrongStore):
        unpack("p", pack(checkpoint), "another")
    with pytest.raises(Corrupt):
        unpack("p", b"\xc1", "store")


def test_a_cursor_moved_by_what_was_not_wanted_is_worth_writing_after_100_000():
    progress = Progress(Position(0), Position(0))
    progress.looked(Position(EXAMINED_MAX - 1), 0, 0)
    assert not progress.worth_writing

    progress.looked(Position(EXAMINED_MAX), 0, 0)
    assert progress.worth_writing
    progress.wrote()
    assert (progress.written, progress.worth_writing) == (EXAMINED_MAX, False)
