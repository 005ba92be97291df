"""When a lease may be taken: the rules, without a store."""

from __future__ import annotations

from perdure.actors.claim import Beat, Lease, Sightings, beat, plan, release, take
from perdure.backends.commit import BEATS, EXISTS, LEASES, NEW_FENCE, Check, Delete, Fence, Put

LEASE_S = 10.0


def lease(name, owner, revision=5):
    return Lease(name, revision, owner, revision)


def seen(*beats, at=0.0):
    sightings = Sightings()
    sightings.note(beats, at)
    return sightings


def planned(wanted, leases=(), beats=(), *, sightings=None, now_s=0.0, gone=lambda process: False):
    return plan(
        wanted,
        {one.name: one for one in leases},
        {one.owner: one for one in beats},
        me="me",
        sightings=sightings or seen(*beats),
        now_s=now_s,
        gone=gone,
    )


def test_what_nobody_holds_is_taken():
    assert planned(["a", "b"]).take == ("a", "b")


def test_what_an_owner_holds_that_was_seen_alive_is_not():
    found = planned(["a"], [lease("a", "x")], [Beat("x", 7, "there", LEASE_S)], now_s=LEASE_S - 0.01)

    assert (found.take, found.over) == ((), ())
    assert 0 < found.look_s <= 0.011


def test_an_owner_that_was_silent_for_the_lease_time_is_over():
    beats = [Beat("x", 7, "there", LEASE_S), Beat("y", 8, "there", LEASE_S)]

    found = planned(["a", "b"], [lease("a", "x"), lease("b", "y")], beats, now_s=LEASE_S)

    assert found.take == ("a", "b")
    assert {one.owner for one in found.over} == {"x", "y"}


def test_the_next_look_moves_the_clock():
    """What is left may be so little that adding it to the time gives the same time: a virtual clock would stand still."""
    at_s = 54.141
    now_s = at_s + LEASE_S

    found = planned(["a"], [lease("a", "x")], [Beat("x", 7, "", LEASE_S)], sightings=seen(Beat("x", 7, "", LEASE_S), at=at_s), now_s=now_s)

    assert found.take == ()
    assert now_s + found.look_s > now_s


def test_a_beat_that_moved_begins_the_time_anew():
    sightings = seen(Beat("x", 7, "", LEASE_S))
    sightings.note([Beat("x", 8, "", LEASE_S)], 9.0)

    assert sightings.left_s(Beat("x", 8, "", LEASE_S), 12.0) == LEASE_S - 3.0


def test_an_owner_that_is_known_to_be_dead_is_over_at_once():
    found = planned(["a"], [lease("a", "x")], [Beat("x", 7, "there", LEASE_S)], gone=lambda process: process == "there")

    assert [one.owner for one in found.over] == ["x"]


def test_an_owner_without_a_beat_has_nothing():
    assert planned(["a"], [lease("a", "x")]).take == ("a",)


def test_ones_own_lease_of_before_is_taken_anew():
    assert planned(["a"], [lease("a", "me")]).take == ("a",)


def test_taking_is_one_commit_that_throws_the_owner_out():
    leases = [lease("a", "x", 5), lease("b", "gone", 6)]
    found = planned(["a", "b", "c"], leases, [Beat("x", 7, "", LEASE_S)], now_s=LEASE_S)

    writes = take(found, {one.name: one for one in leases}, [leases[0], lease("d", "x", 9)], me="me", process="here", lease_s=0.258, beating=False)

    assert writes == [
        Put(BEATS, b"me", b"\0\0\0\0\0\0\1\2here", 0),
        Delete(BEATS, b"x", 7),
        Check(0, bucket=BEATS, key=b"gone"),
        Put(LEASES, b"a", NEW_FENCE + b"me", 5),
        Put(LEASES, b"b", NEW_FENCE + b"me", 6),
        Put(LEASES, b"c", NEW_FENCE + b"me", 0),
        Delete(LEASES, b"d", 9),
    ]


def test_a_beat_is_of_who_was_not_thrown_out():
    assert beat("me", "here", 0.258, beating=True) == Put(BEATS, b"me", b"\0\0\0\0\0\0\1\2here", EXISTS)


def test_giving_back_is_fenced():
    assert release("a", 5) == [Fence("a", 5), Delete(LEASES, b"a")]
