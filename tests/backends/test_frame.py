"""Frames: what is built is read, merges copy, and no flipped byte ever gives other data."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.build import Piece, _assemble, _RunBuilder, build, merge, records_of
from perdure.backends.commit import Draft
from perdure.backends.errors import Corrupt, PerdureError, TooNew
from perdure.backends.event import Extra, pack_extra
from perdure.backends.frame import COMMIT, FORMAT, read_frame, read_head, read_run, run_end, runs_of, type_name
from perdure.backends.selector import EVERYTHING

TYPES = [type_name("happened", 1), type_name("happened", 2), type_name("ünï", 1)]
NUMBERS = {(type.name, type.version): (number, type.crc) for number, type in enumerate(TYPES)}

extras = st.builds(Extra, tags=st.lists(st.sampled_from(["x", "y", "ä"]), max_size=2, unique=True).map(tuple), id=st.none() | st.just("given"))
drafts = st.builds(
    lambda type, payload, extra: Draft(type[0], type[1], payload, pack_extra(extra), extra.tags),
    st.sampled_from(list(NUMBERS)),
    st.binary(max_size=30),
    extras,
)
append = st.tuples(st.sampled_from(["a", "b-1", "ä"]), st.lists(drafts, min_size=1, max_size=4))
appends = st.lists(append, min_size=1, max_size=3, unique_by=lambda one: one[0])
groups = st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(-(2**40), 2**60), appends), min_size=1, max_size=5)


class Log:
    """Seqs and positions over several frames."""

    def __init__(self, position=0):
        self.position = position
        self.seqs = {}

    def build(self, group):
        pieces = []
        for number, (_, _, writes) in enumerate(group):
            ordinal = 0
            for stream, events in writes:
                pieces.append(Piece(stream, self.seqs.get(stream, 0) + 1, self.position + 1, number, ordinal, events))
                self.position += len(events)
                self.seqs[stream] = self.seqs.get(stream, 0) + len(events)
                ordinal += len(events)
        return build([(id, at_us) for id, at_us, _ in group], pieces, NUMBERS)


def expected_of(group, position=0, seqs=None):
    seqs = {} if seqs is None else seqs
    for id, at_us, writes in group:
        ordinal = 0
        for stream, events in writes:
            for draft in events:
                position += 1
                seqs[stream] = seqs.get(stream, 0) + 1
                yield stream, seqs[stream], position, draft.type, draft.version, at_us, id, ordinal, draft.extra, draft.payload
                ordinal += 1


def fields(record):
    return tuple(getattr(record, name) for name in record.__struct_fields__[:-1])


@given(groups, st.integers(0, 2**40))
def test_what_is_built_is_read(group, position):
    built = Log(position).build(group)

    records = read_frame(built.value, TYPES)

    assert [fields(record) for record in records] == list(expected_of(group, position))
    assert (built.first, built.last) == (records[0].position, records[-1].position)
    assert runs_of(built.value, read_head(built.value)) == built.runs


@given(groups)
def test_the_records_of_a_group_are_those_of_its_frame(group):
    pieces, log = [], Log()
    for number, (_, _, writes) in enumerate(group):
        ordinal = 0
        for stream, events in writes:
            pieces.append(Piece(stream, log.seqs.get(stream, 0) + 1, log.position + 1, number, ordinal, events))
            log.position += len(events)
            log.seqs[stream] = log.seqs.get(stream, 0) + len(events)
            ordinal += len(events)
    commits = [(id, at_us) for id, at_us, _ in group]

    assert records_of(commits, pieces) == read_frame(build(commits, pieces, NUMBERS).value, TYPES)


@given(groups, st.data())
def test_a_part_of_a_frame_is_read(group, data):
    built = Log().build(group)
    whole = read_frame(built.value, TYPES)
    first = data.draw(st.integers(0, built.last + 2))
    last = data.draw(st.integers(0, built.last + 2))

    assert read_frame(built.value, TYPES, first=first, last=last) == [record for record in whole if first <= record.position <= last]


@given(groups, st.data())
def test_a_run_is_read_by_its_place(group, data):
    built = Log().build(group)
    whole = read_frame(built.value, TYPES)

    for place in built.runs:
        records = [record for record in whole if record.stream == place.stream]
        skip = data.draw(st.integers(0, place.count))
        count = data.draw(st.none() | st.integers(0, place.count - skip))

        assert read_run(built.value, built.first, place.offset, TYPES, skip=skip, count=count) == records[skip:][: place.count if count is None else count]
        assert run_end(built.value, built.first, place.offset) == records[-1].position


@given(groups)
def test_a_selector_chooses(group):
    value = Log().build(group).value
    whole = read_frame(value, TYPES)
    queries = [
        EVERYTHING.within(streams=["a"]),
        EVERYTHING.within(categories=["b"], types=["happened"]),
        EVERYTHING.within(tags=["x", "y"]),
        EVERYTHING.within(types=["ünï"]) | EVERYTHING.within(tags=["ä"], streams=["ä"]),
    ]

    for query in queries:
        assert read_frame(value, TYPES, where=query.filter()) == [record for record in whole if query.matches(record.stream, record.type, record.tags)]


@given(groups)
def test_the_end_of_a_commit_is_known(group):
    value = Log().build(group).value
    head = read_head(value)
    ends, position = [], 0
    for _, _, writes in group:
        position += sum(len(events) for _, events in writes)
        ends.append(position)

    assert [head.commit_end(position) for position in range(1, position + 1)] == [next(end for end in ends if end >= at) for at in range(1, position + 1)]


# -- merging ---------------------------------------------------------------------------------


@given(st.lists(groups, min_size=1, max_size=4), st.integers(0, 2**40))
def test_a_merge_reads_as_its_parts_did(several, position):
    """Checksums and all: `Record` compares its crc too."""
    log = Log(position)
    values = [log.build(group).value for group in several]
    before = [record for value in values for record in read_frame(value, TYPES)]

    merged = merge(values)

    assert read_frame(merged.value, TYPES) == before
    assert (merged.first, merged.last) == (before[0].position, before[-1].position)
    assert read_head(merged.value).records == len(before)
    for place in merged.runs:
        assert read_run(merged.value, merged.first, place.offset, TYPES) == [record for record in before if record.stream == place.stream]


@given(st.lists(groups, min_size=2, max_size=4))
def test_merging_in_steps_is_merging_at_once(several):
    log = Log()
    first, *rest = [log.build(group).value for group in several]
    value = first
    for more in rest:
        value = merge([value, more]).value

    assert value == merge([first, *rest]).value


def test_a_merge_keeps_the_ends_of_commits():
    log = Log()
    group = [(bytes(16), 1, [("a", [Draft("happened", 1, b"")] * 3)]), (bytes(16), 2, [("b-1", [Draft("happened", 1, b"")] * 2)])]
    values = [log.build(group).value for _ in range(2)]

    head = read_head(merge(values).value)

    assert [head.commit_end(position) for position in range(1, 11)] == [3, 3, 3, 5, 5, 8, 8, 8, 10, 10]


def test_a_merge_of_what_does_not_follow_is_refused():
    group = [(bytes(16), 1, [("a", [Draft("happened", 1, b"x")])])]
    log = Log()
    first, _, third = (log.build(group).value for _ in range(3))

    with pytest.raises(Corrupt):
        merge([first, third])


# -- damage ----------------------------------------------------------------------------------


def small(payload=b"x", **extra):
    return Draft("happened", 1, payload, pack_extra(Extra(**extra)), extra.get("tags", ()))


DAMAGED = [
    [(bytes(range(16)), 7, [("a", [small()])])],
    [(bytes(range(16)), 7, [("a", [small(), small(b"yy", tags=("x",), id="given")]), ("b-1", [small(b"")])]), (bytes(16), 9, [("a", [small(tags=("y",))])])],
    [(bytes([number] * 16), number, [("ä", [Draft("ünï", 1, b"z")]), ("a", [small(tags=("x", "y"))])]) for number in range(3)],
    [(bytes(range(16)), 7, [("a", [small(b"%d" % number) for number in range(20)]), ("b", [small(b"")])])],
]
"""Small frames, of which every byte is flipped."""
QUERIES = [EVERYTHING.within(streams=["a"]), EVERYTHING.within(types=["ünï"]), EVERYTHING.within(tags=["x"]), EVERYTHING.within(types=["happened"], tags=["y"])]


def flipped(value):
    """The value with each of its bytes changed, in four ways."""
    for place in range(len(value)):
        for mask in (1, 2, 128, 255):
            damaged = bytearray(value)
            damaged[place] ^= mask
            yield bytes(damaged)


@pytest.mark.parametrize("group", DAMAGED)
def test_a_flipped_byte_is_corrupt_or_gives_the_same(group):
    built = Log(300).build(group)
    whole = read_frame(built.value, TYPES)
    found = 0

    for damaged in flipped(built.value):
        try:
            assert read_frame(damaged, TYPES) == whole
        except PerdureError:
            found += 1

    assert found > 3 * len(built.value)


@pytest.mark.parametrize("group", DAMAGED)
@pytest.mark.parametrize("query", QUERIES)
def test_a_flipped_byte_hides_no_record_from_a_selector(group, query):
    """What a filter leaves out it left out for what was written, not for what a flipped byte says."""
    value = Log(300).build(group).value
    whole = read_frame(value, TYPES, where=query.filter())

    for damaged in flipped(value):
        with suppress(PerdureError):
            assert read_frame(damaged, TYPES, where=query.filter()) == whole


@pytest.mark.parametrize("group", DAMAGED)
def test_a_flipped_byte_in_a_run_never_gives_other_records(group):
    """A stream is read run by run, without the frame's header: what comes is right, or the error is typed."""
    built = Log(300).build(group)

    for run in built.runs:
        whole = read_run(built.value, built.first, run.offset, TYPES)
        for damaged in flipped(built.value):
            with suppress(PerdureError):
                assert read_run(damaged, built.first, run.offset, TYPES, count=run.count) == whole
            with suppress(PerdureError):
                assert read_run(damaged, built.first, run.offset, TYPES, skip=run.count - 1, count=1) == whole[-1:]


@given(groups, st.data())
def test_what_is_cut_off_is_corrupt(group, data):
    value = Log().build(group).value
    size = data.draw(st.integers(0, len(value) - 1))

    with pytest.raises(PerdureError):
        read_frame(value[:size], TYPES)


def test_a_record_is_not_taken_for_another():
    """A frame in the place of another of the same size: its header says so, and positions are in the checksums."""
    moved = bytearray(Log(100).build(DAMAGED[1]).value)
    moved[8:16] = (200).to_bytes(8, "little")

    with pytest.raises(Corrupt):
        read_frame(bytes(moved), TYPES)


def test_types_in_another_order_are_noticed():
    value = Log().build([(bytes(16), 1, [("a", [Draft("happened", 1, b"x")])])]).value

    with pytest.raises(Corrupt):
        read_frame(value, TYPES[::-1])


def test_a_newer_format_is_too_new():
    value = bytearray(Log().build([(bytes(16), 1, [("a", [Draft("happened", 1, b"x")])])]).value)
    value[4:6] = (FORMAT + 1).to_bytes(2, "little")

    with pytest.raises(TooNew) as caught:
        read_head(bytes(value))

    assert (caught.value.format, caught.value.known) == (FORMAT + 1, FORMAT)


@given(st.binary(max_size=40), st.booleans())
def test_a_lone_event_makes_the_bytes_of_any_other_frame(payload: bytes, tagged: bool) -> None:
    """The short way for a group of one event gives what the long way gives."""
    extra = pack_extra(Extra(tags=("a", "b"))) if tagged else b""
    lone = Piece("order-1", 7, 9, 0, 3, [Draft("placed", 1, payload, extra)])
    commit = (b"c" * 16, 1_700_000_000_000_000)

    short = build([commit], [lone], {("placed", 1): (0, 5)})

    run = _RunBuilder(b"order-1", 7)
    run.add(lone, commit, 9, {("placed", 1): (0, 5)})
    assert short == _assemble(9, 9, [COMMIT.pack(*commit, 0)], {"order-1": run})


def test_merging_does_not_make_a_damaged_run_sound():
    """A merged frame gets new checksums for its runs' indexes: what it copies is checked first."""
    one = build([(b"c" * 16, 5)], [Piece("a", 1, 1, 0, 0, [Draft("happened", 1, b"x")])], NUMBERS)
    two = build([(b"d" * 16, 6)], [Piece("a", 2, 2, 0, 0, [Draft("happened", 1, b"y")])], NUMBERS)
    damaged = bytearray(two.value)
    damaged[two.runs[0].offset + 18 + 1 + 16] ^= 1  # the number of its type

    with pytest.raises(Corrupt):
        merge([one.value, bytes(damaged)])
