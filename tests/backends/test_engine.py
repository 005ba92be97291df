"""The engine by itself: facts in, decisions out."""

from __future__ import annotations

import pytest

from perdure.backends.commit import (
    ANY,
    EXISTS,
    LEASES,
    Append,
    Appended,
    Check,
    Committed,
    Delete,
    Draft,
    Fence,
    Put,
    SaveSnapshot,
    Stored,
    Unless,
    content_digest,
    key_id,
    propose,
)
from perdure.backends.engine import Change, Facts, Kept, TooBroad, decide, describe, needs
from perdure.backends.errors import ConditionTooBroad, Conflict, KeyReused
from perdure.backends.event import START, Extra, Position, pack_extra
from perdure.backends.selector import EVERYTHING

ID = bytes(range(16))
OTHER = bytes(16)


def commit(*writes, id=ID, at_us=100, key=None):
    return propose(writes, id=id, at_us=at_us, key=key, own=True)


def append(stream, count=1, expected=ANY, type="t"):
    return Append(stream, [Draft(type, 1, b"%d" % number) for number in range(count)], expected)


def facts(head=0, at_us=0, revision=0, **more):
    return Facts(Position(head), at_us, revision, **more)


# -- needs -----------------------------------------------------------------------------------


def test_needs_names_every_fact_once_in_order():
    condition = Unless(EVERYTHING.within(types=["t"]), after=START)
    group = [
        commit(append("b"), Put("k", b"x", b"", 1), condition),
        commit(append("a"), Check(1, stream="c"), Delete("k", b"y", EXISTS), key=b"once"),
        commit(append("b"), Check(0, bucket="k", key=b"x"), condition, Fence("job", 1), SaveSnapshot("s", Position(1), "", b"")),
    ]

    named = needs(group)

    assert named.streams == ["b", "a", "c"]
    assert named.entries == [("k", b"x"), ("k", b"y")]
    assert named.ids == [key_id(b"once")]
    assert named.conditions == [condition]
    assert named.leases == ["job"]


def test_blind_writes_need_no_fact_and_are_seen_by_later_ones():
    group = [commit(Put("k", b"x", b"1")), commit(Delete("k", b"x")), commit(Put("k", b"x", b"2", 0)), commit(Delete("k", b"x", 1))]
    known = facts(entries=dict.fromkeys(needs(group).entries, 0))

    assert needs(group[:2]).entries == []
    assert [type(answer) for answer in decide(group, known).answers] == [Committed, Committed, Committed, Conflict]
    assert decide(group[:1], facts()).answers == [Committed(None, (Stored(1),))]


def test_drawn_ids_are_not_looked_for():
    assert needs([commit(append("a"))]).ids == []


# -- accepting -------------------------------------------------------------------------------


def test_seqs_and_positions_go_on_from_the_facts():
    done = decide([commit(append("a", 2), append("b", 1), at_us=200)], facts(head=10, at_us=150, streams={"a": 5, "b": 0}))

    assert done.answers == [Committed(Position(13), (Appended(6, 7, Position(12)), Appended(1, 1, Position(13))))]
    assert [(piece.stream, piece.first_seq, piece.first_position, piece.commit, piece.first_ordinal) for piece in done.pieces] == [
        ("a", 6, 11, 0, 0),
        ("b", 1, 13, 0, 2),
    ]
    assert (done.follows, done.head, done.at_us, done.commits) == (10, 13, 200, [(ID, 200)])


def test_time_is_the_later_of_the_proposed_and_the_last():
    group = [commit(append("a"), at_us=at_us) for at_us in (50, 300, 200)]

    done = decide(group, facts(at_us=100, streams={"a": 0}))

    assert [at_us for _, at_us in done.commits] == [100, 300, 300]


def test_a_later_commit_sees_the_earlier_ones():
    group = [commit(append("a", 2, 0), Put("k", b"x", b"1", 0)), commit(append("a", 1, 2), Delete("k", b"x", 8)), commit(Put("k", b"x", b"2", 0))]

    done = decide(group, facts(revision=7, streams={"a": 0}, entries={("k", b"x"): 0}))

    assert [type(answer) for answer in done.answers] == [Committed] * 3
    assert done.changes == [Change("k", b"x", 8, b"1"), Change("k", b"x", 9, None), Change("k", b"x", 10, b"2")]
    assert done.revision == 10


def test_every_key_of_a_commit_gets_its_revision():
    done = decide([commit(Put("k", b"x", b""), Delete("j", b"y"))], facts(revision=4, entries={("k", b"x"): 3, ("j", b"y"): 0}))

    assert done.answers == [Committed(None, (Stored(5), Stored(5)))]


def test_a_failed_commit_changes_nothing_for_the_rest():
    group = [commit(append("a", 5), Put("k", b"x", b""), Check(1, stream="b"), at_us=900), commit(append("a", 1, 0), Put("k", b"x", b"", 0), at_us=5)]

    done = decide(group, facts(streams={"a": 0, "b": 0}, entries={("k", b"x"): 0}))

    assert isinstance(done.answers[0], Conflict)
    assert done.answers[1] == Committed(Position(1), (Appended(1, 1, Position(1)), Stored(1)))
    assert done.at_us == 5


def test_what_writes_nothing_leaves_the_head():
    done = decide([commit(Append("a", [])), commit(Check(3, stream="a"))], facts(head=9, streams={"a": 3}))

    assert done.answers == [Committed(None, (Appended(4, 3, None),)), Committed(None, ())]
    assert (done.head, done.pieces, done.commits, done.changes) == (9, [], [], [])


def test_a_snapshot_carries_the_commits_time():
    save = SaveSnapshot("s", Position(3), "f", b"state")

    assert decide([commit(save, at_us=7)], facts(at_us=9)).snapshots == [(save, 9)]


# -- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual", "held"),
    [(ANY, 0, True), (ANY, 5, True), (EXISTS, 0, False), (EXISTS, 1, True), (0, 0, True), (0, 1, False), (3, 3, True), (3, 2, False), (2, 3, False)],
)
@pytest.mark.parametrize("kind", ["append", "check of a stream", "put", "delete", "check of an entry"])
def test_expectations(kind, expected, actual, held):
    write = {
        "append": append("a", 1, expected),
        "check of a stream": Check(expected, stream="a"),
        "put": Put("k", b"x", b"", expected),
        "delete": Delete("k", b"x", expected),
        "check of an entry": Check(expected, bucket="k", key=b"x"),
    }[kind]

    (answer,) = decide([commit(write)], facts(head=9, revision=9, streams={"a": actual}, entries={("k", b"x"): actual})).answers

    assert isinstance(answer, Committed if held else Conflict)
    if isinstance(answer, Conflict):
        what, subject = ("stream", "a") if "a" in needs([commit(write)]).streams else ("entry", "k/x")
        assert answer.facts() == ((what, subject, expected if isinstance(expected, int) else "exists", actual),)


def test_all_failures_are_reported_in_order():
    condition = Unless(EVERYTHING.within(tags=["x"]), after=Position(2))
    write = commit(append("a", 1, 1), Put("k", b"x", b"", 5), condition, Fence("job", 3), Check(0, stream="b"))

    (answer,) = decide([write], facts(streams={"a": 2, "b": 0}, entries={("k", b"x"): 0}, conditions={condition: Position(4)}, leases={"job": 9})).answers

    assert isinstance(answer, Conflict)
    assert answer.facts() == (
        ("stream", "a", 1, 2),
        ("entry", "k/x", 5, 0),
        ("condition", "tags=x", "none after position 2", 4),
        ("fence", "job", 3, 9),
    )


def test_a_condition_that_is_too_broad_is_told_alone():
    condition = Unless(EVERYTHING, after=START)

    done = decide([commit(append("a")), commit(append("a", 1, 7), condition)], facts(streams={"a": 0}, conditions={condition: TooBroad()}))

    assert isinstance(done.answers[0], Committed)
    assert isinstance(done.answers[1], ConditionTooBroad)


def test_a_condition_sees_earlier_commits_of_the_group_but_not_its_own():
    condition = Unless(EVERYTHING.within(types=["wanted"], categories=["a"]), after=Position(10))
    group = [commit(append("a-1", 2, type="wanted"), condition), commit(append("b"), condition)]

    done = decide(group, facts(head=10, streams={"a-1": 0, "b": 0}, conditions={condition: None}))

    assert isinstance(done.answers[0], Committed)
    assert isinstance(done.answers[1], Conflict)
    assert done.answers[1].actual == 11


def test_a_condition_in_the_group_needs_all_tags():
    condition = Unless(EVERYTHING.within(tags=["x", "y"]), after=START)
    tagged = [Append("a", [Draft("t", 1, b"", pack_extra(Extra(tags=tags)), tags)]) for tags in (("x",), ("y", "x"))]

    done = decide([commit(tagged[0]), commit(condition), commit(tagged[1]), commit(condition)], facts(streams={"a": 0}, conditions={condition: None}))

    assert [type(answer) for answer in done.answers] == [Committed, Committed, Committed, Conflict]


def test_a_fence_sees_a_lease_that_its_group_takes():
    group = [
        commit(Fence("job", 1)),
        commit(Put(LEASES, b"job", (5).to_bytes(8, "big") + b"who")),
        commit(Fence("job", 1)),
        commit(Fence("job", 5)),
        commit(Delete(LEASES, b"job")),
        commit(Fence("job", 5)),
    ]

    done = decide(group, facts(entries={(LEASES, b"job"): 0}, leases={"job": 1}))

    assert [type(answer) for answer in done.answers] == [Committed, Committed, Conflict, Committed, Committed, Conflict]


# -- keys ------------------------------------------------------------------------------------


def test_a_known_key_is_answered_without_judging():
    write = append("a", 1, 0)
    first = Committed(Position(3), (Appended(1, 1, Position(3)), Stored(2)))
    kept = Kept.of(content_digest([write]), 50, first)

    done = decide([commit(write, key=b"once")], facts(head=9, streams={"a": 4}, ids={key_id(b"once"): kept}))

    assert done.answers == [first]
    assert (done.pieces, done.kept) == ([], [])


def test_a_known_key_with_other_content_is_reused():
    kept = Kept.of(content_digest([append("a", 1)]), 50, Committed(None, ()))

    (answer,) = decide([commit(append("a", 2), key=b"once")], facts(streams={"a": 0}, ids={key_id(b"once"): kept})).answers

    assert isinstance(answer, KeyReused)
    assert answer.key == b"once"


def test_only_success_is_kept_and_counts_within_the_group():
    group = [commit(append("a", 1, 1), key=b"once"), commit(append("b"), at_us=7, key=b"once"), commit(append("b"), key=b"once"), commit(append("c"), id=OTHER)]

    done = decide(group, facts(streams={"a": 0, "b": 0, "c": 0}))

    assert isinstance(done.answers[0], Conflict)
    assert done.answers[2] == done.answers[1]
    assert [(id, kept.at_us) for id, kept in done.kept] == [(key_id(b"once"), 7)]


def test_the_content_leaves_out_what_is_drawn():
    def one(**extra):
        return [Append("a", [Draft("t", 1, b"x", pack_extra(Extra(**extra)))])]

    assert content_digest(one()) == content_digest(one(traceparent="00-1"))
    assert content_digest(one()) != content_digest(one(id="given"))
    assert content_digest(one()) != content_digest(one(occurred_us=1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Put("k", b"x", b"1"), Put("k", b"x", b"2")),
        (Put("k", b"x", b"1"), Put("k", b"x1", b"")),
        (Put("k", b"x", b"1"), Put("k", b"x", b"1", 0)),
        (Delete("k", b"x"), Put("k", b"x", b"")),
        (Check(0, stream="a"), Append("a", [], 0)),
        (Check(1, stream="a"), Check(1, bucket="a", key=b"a")),
        (Unless(EVERYTHING, after=START), Unless(EVERYTHING, after=Position(1))),
        (Unless(EVERYTHING.within(types=["a"]), after=START), Unless(EVERYTHING.within(tags=["a"]), after=START)),
        (Fence("a", 1), Fence("a", 2)),
        (Append("a", [], ANY), Append("a", [], EXISTS)),
    ],
)
def test_other_writes_are_other_content(one, other):
    assert content_digest([one]) != content_digest([other])
    assert content_digest([one, other]) != content_digest([other, one])
    assert content_digest([one]) == content_digest([one])


def test_kept_gives_the_answer_again():
    answer = Committed(Position(9), (Appended(1, 2, Position(8)), Stored(4), Appended(3, 2, None), Appended(1, 1, Position(9))))

    assert Kept.of(b"", 1, answer).answer() == answer


def test_a_condition_describes_its_query():
    query = EVERYTHING.within(types=["a", "b"], tags=["c"]) | EVERYTHING.within(categories=["d"]) | EVERYTHING

    assert describe(Unless(query, after=START)) == "types=a,b tags=c | categories=d | any event"


def test_deciding_does_not_depend_on_how_the_group_is_cut():
    """One group, or each commit in a group of its own: the same answers."""
    group = [
        commit(append("a", 2, 0)),
        commit(append("a", 1, 0)),
        commit(Put("k", b"x", b"1", 0), append("b")),
        commit(append("a", 1, 2), Check(3, bucket="k", key=b"x")),
        commit(append("a", 1, 2), Check(1, bucket="k", key=b"x"), at_us=5),
    ]
    known = facts(streams={"a": 0, "b": 0}, entries={("k", b"x"): 0})
    one_by_one = [decide([one], known).answers[0] for one in group]  # the facts become the state after each

    together = decide(group, facts(streams={"a": 0, "b": 0}, entries={("k", b"x"): 0})).answers

    assert list(map(told, together)) == list(map(told, one_by_one))


def told(answer):
    return answer.facts() if isinstance(answer, Conflict) else answer
