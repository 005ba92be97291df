"""Events go out as CloudEvents and come back as they were, whatever is in them; bad lines are named, and what was cut off goes on."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.backends.codec import Codec
from perdure.backends.commit import Append
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.conformance.loading import moved
from perdure.backends.environment import Environment, InlineThreads, random_id
from perdure.backends.errors import Misuse, Rewound, Unavailable
from perdure.backends.event import Extra, Position, pack_extra, unpack_extra
from perdure.backends.faulty import FaultyBackend
from perdure.backends.limits import Limits
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.selector import EVERYTHING
from perdure.runtime import NewEvent, cloudevents
from perdure.runtime.exchange import BadLine, export, import_append, import_new

CODEC = Codec()


class Given:
    """Lines, so many at a time."""

    def __init__(self, lines, size=7):
        self.lines, self.size = list(lines), size

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.lines:
            raise StopAsyncIteration
        some, self.lines = self.lines[: self.size], self.lines[self.size :]
        return some


def new_store():
    return open_memory(environment=Environment(threads=InlineThreads()))


async def exported(backend, **more):
    lines: list[bytes] = []
    await export(backend, lines.append, **more)
    return lines


async def imported(lines, **more):
    backend = new_store()
    return backend, await import_new(backend, Given(lines), **more)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
printable = st.text("abz09-_.~ äß€日😀/%?#:@!$&'()*+,;=[]\"\\<>", min_size=1, max_size=10).map(lambda name: name.lstrip("$") or "x")
times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(max_size=9) | times
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | st.integers(-9, 9), inner, max_size=3), max_leaves=9)
metas = st.dictionaries(text, st.none() | text | st.integers(-9, 9) | st.floats() | st.lists(text, max_size=2) | st.binary(max_size=3), max_size=2)
items = st.builds(
    NewEvent,
    plain,
    type=printable,
    tags=st.lists(printable, max_size=3, unique=True),
    meta=st.none() | metas,
    occurred=st.none() | times,
    id=st.none() | printable,
)
groups = st.lists(st.dictionaries(printable, st.lists(items, min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=5)


@given(groups, st.sampled_from([1, 7]), st.sampled_from([None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_goes_out_comes_back(autojump_clock, given_groups, factor, traceparent):
    """Every record the same, positions and ids too, and the second export byte for byte the first."""
    source = Desk(new_store())
    for group in given_groups:
        await source.done(*(Append(stream, [CODEC.draft(item, traceparent=traceparent) for item in events]) for stream, events in group.items()))
    records = [moved(record, position=record.position * factor) for record in await source.log()]
    first = new_store()
    await first.begin_load()
    await first.load(records)
    await first.end_load()

    lines = await exported(first)
    second, done = await imported(lines)

    assert await Desk(second).log() == records
    assert await exported(second) == lines
    assert (done.events, done.known, done.head) == (len(records), 0, records[-1].position)
    assert await second.verify() == []


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_bytes_that_are_no_msgpack_come_back(payload, extra):
    record = moved(draft_record(), payload=payload, extra=pack_extra(Extra(id="x")) if extra else b"")

    assert cloudevents.from_line(cloudevents.to_line(record)) == record


def draft_record(**more):
    from perdure.backends.event import Record

    return moved(Record("order-1", 1, Position(1), "placed", 1, 1_700_000_000_000_001, b"c" * 16, 0, b"", CODEC.encode_plain({"a": 1}), 0), **more)


@pytest.mark.parametrize(
    ("value", "in_json"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, True),
        ({"n": Decimal("1.50")}, True),
        (-0.0, True),
        (2**64 - 1, True),
        (b"bytes", False),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, False),
        (float("nan"), False),
        ({1: "one"}, False),
    ],
)
def test_json_is_used_where_it_gives_the_same_bytes_back(value, in_json):
    line = json.loads(cloudevents.to_line(draft_record(payload=CODEC.encode_plain(value))))

    assert ("data" in line, "data_base64" in line) == (in_json, not in_json)
    assert line["datacontenttype"] == ("application/json" if in_json else "application/msgpack")
    if not in_json:
        assert base64.b64decode(line["data_base64"]) == CODEC.encode_plain(value)


def test_a_line_is_a_cloudevent():
    extra = Extra(tags=("vip", "a,b"), occurred_us=1_600_000_000_000_000, id="given", meta=msgspec.Raw(b"\x81\xa1u\x01"), traceparent="00-x")
    record = draft_record(stream="order-1/ü?", extra=pack_extra(extra))

    line = json.loads(cloudevents.to_line(record))

    assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in line if name != "data_base64")
    assert all(isinstance(value, str | bool | int) and (type(value) is not int or -(2**31) <= value < 2**31) for name, value in line.items() if name != "data")
    assert line == {
        "specversion": "1.0",
        "id": "given",
        "source": "/order-1%2F%C3%BC%3F",
        "type": "placed",
        "time": "2020-09-13T12:26:40.000000Z",
        "recordedtime": "2023-11-14T22:13:20.000001Z",
        "position": "1",
        "seq": "1",
        "version": 1,
        "commit": "63" * 16,
        "ordinal": 0,
        "tags": '["vip", "a,b"]',
        "meta": '{"u": 1}',
        "traceparent": "00-x",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }


async def test_an_export_may_be_a_part():
    desk = Desk(new_store())
    for number in range(1, 5):
        await desk.append(f"s-{number}", number, type=f"type-{number % 2}")

    tail = await exported(desk.backend, after=Position(3))
    odd = await exported(desk.backend, where=EVERYTHING.within(types=["type-1"]))

    assert [json.loads(line)["position"] for line in tail] == [str(position) for position in range(4, 11)]
    assert [json.loads(line)["type"] for line in odd] == ["type-1"] * 4
    with pytest.raises(Rewound):
        await exported(desk.backend, after=Position(11))


async def test_an_export_ends_where_the_log_ended():
    desk = Desk(new_store())
    await desk.append("a", 1_500)
    begun, lines = trio.Event(), list[bytes]()

    async def grow():
        await begun.wait()
        for number in range(10):
            await desk.append("b", 10, 10 * number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow)
        count = await export(desk.backend, lines.append, limits=Limits(page_records=100), progress=lambda _: begun.set())

    assert count == len(lines) == 1_500
    assert len(await exported(desk.backend)) == 1_600


# -- into a new store ------------------------------------------------------------------------


@pytest.fixture
async def lines():
    """An export of 12 events: of commits of 1, 2, 3 events, twice."""
    desk = Desk(new_store())
    for count in (1, 2, 3, 1, 2, 3):
        await desk.append(f"s-{count}", count, tags=["t"])
    return await exported(desk.backend)


BAD = [
    (b"{", "it is not JSON"),
    (b"\xff", "it is not JSON"),
    (b"[]", "not a JSON object"),
    (b"{}", "not a CloudEvent of version 1.0"),
    ({"specversion": "0.3"}, "its specversion is '0.3'"),
    ({"position": None}, "'position' is a text"),
    ({"position": "0"}, "a number from 1 as text"),
    ({"position": "x"}, "a number from 1 as text"),
    ({"seq": 7}, "'seq' is a text"),
    ({"version": "1"}, "'version' is a number"),
    ({"ordinal": 65536}, "'ordinal' is a number"),
    ({"commit": "abc"}, "32 hexadecimal digits"),
    ({"recordedtime": "yesterday"}, "is a time"),
    ({"recordedtime": "2026-01-01T00:00:00"}, "no time zone"),
    ({"time": "2026-13-01"}, "is a time"),
    ({"tags": "t"}, "'tags' is not JSON"),
    ({"tags": "[1]"}, "'tags' are texts"),
    ({"meta": "[]"}, "'meta' holds a dict"),
    ({"extra": "%"}, "'extra' is not base64"),
    ({"data_base64": "AA=="}, "'data' and 'data_base64'"),
    ({"type": ""}, "'type' is a text"),
    ({"source": "/%ff"}, "not a stream's name"),
    ({"subject": "x"}, "an attribute 'subject' that perdure does not export"),
    ({"source": "/s\n"}, "no control characters"),
    ({"seq": "3"}, "it follows seq"),
    ({"position": "1"}, "it follows position"),
    ({"recordedtime": "2020-01-01T00:00:00Z", "time": "2020-01-01T00:00:00Z"}, "time"),
]


@pytest.mark.parametrize(("bad", "text"), BAD, ids=[text for _, text in BAD])
async def test_a_bad_line_is_named_and_the_import_goes_on_when_it_is_mended(lines, bad, text):
    broken = bad if isinstance(bad, bytes) else json.dumps({**json.loads(lines[8]), **bad}).encode()
    backend = new_store()

    with pytest.raises(BadLine, match=r"lines? \d+") as caught:
        await import_new(backend, Given([*lines[:8], broken, *lines[9:]]))

    assert text in str(caught.value)
    assert backend.state is State.LOADING
    assert await backend.head() in (0, 6, 7)  # whole commits
    with pytest.raises(Unavailable):
        await Desk(backend).ask(appending("a"))
    done = await import_new(backend, Given(lines))
    assert (done.events + done.known, done.head) == (12, 12)
    assert await exported(backend) == lines


async def test_a_commit_that_is_cut_off_is_not_loaded_in_part(lines):
    """Lines 4 to 6 are one commit."""
    backend = new_store()

    with pytest.raises(BadLine, match="line 6"):
        await import_new(backend, Given([*lines[:5], b"{"], size=2))

    assert await backend.head() == 3


async def test_an_import_that_was_cut_off_goes_on(lines, monkeypatch):
    monkeypatch.setattr("perdure.runtime.exchange.LOAD_EVENTS", 1)
    backend = FaultyBackend(new_store())
    backend.fail("load", Unavailable("a test"), nth=4)
    with pytest.raises(Unavailable):
        await import_new(backend, Given(lines))
    assert await backend.head() == 6

    done = await import_new(backend, Given(lines))

    assert (done.events, done.known) == (6, 6)
    assert await exported(backend) == lines


async def test_an_import_of_other_lines_does_not_go_on(lines, monkeypatch):
    monkeypatch.setattr("perdure.runtime.exchange.LOAD_EVENTS", 1)
    other = Desk(new_store())
    for number in range(12):
        await other.append("other", 1, number)
    others = await exported(other.backend)
    backend = FaultyBackend(new_store())
    backend.fail("load", Unavailable("a test"), nth=3)
    with pytest.raises(Unavailable):
        await import_new(backend, Given(lines))

    empty: list[bytes] = []
    for wrong in (others, lines[4:], empty):
        with pytest.raises(BadLine, match="before"):
            await import_new(backend, Given(wrong))
    assert await backend.head() == 3
    done = await import_new(backend, Given(others), anew=True)

    assert (done.events, done.known) == (12, 0)
    assert await exported(backend) == others


async def test_a_store_with_events_is_not_loaded(lines):
    desk = Desk(new_store())
    await desk.append("a")

    with pytest.raises(Misuse, match="holds data already"):
        await import_new(desk.backend, Given(lines))

    assert (await desk.backend.head(), desk.backend.state) == (1, State.OPEN)


async def test_a_part_of_a_log_is_loaded_if_its_streams_are_whole(lines):
    """A part with events left out in the middle of a stream is not."""
    backend, done = await imported(lines[6:])
    assert (done.head, (await backend.streams(limit=9))[0].first) == (12, 2)

    with pytest.raises(BadLine, match="load every event of a stream"):
        await imported([*lines[:4], *lines[5:]])


async def test_empty_lines_are_nothing(lines):
    backend, done = await imported([b"\n", *lines[:3], b"  \n", *lines[3:], b""])

    assert done.events == 12
    assert await exported(backend) == lines


# -- as new events ---------------------------------------------------------------------------


async def test_events_are_appended_under_new_numbers_with_their_ids_and_times(lines):
    desk = Desk(new_store())
    await desk.append("s-1", 5)
    source, _ = await imported(lines)

    done = await import_append(desk.backend, Given(lines), ids=random_id)

    assert (done.events, done.known, done.head) == (12, 0, 17)
    for record, old in zip((await desk.log())[5:], await Desk(source).log(), strict=True):
        extra = unpack_extra(record.extra)
        assert (record.stream, record.type, record.payload, record.tags) == (old.stream, old.type, old.payload, old.tags)
        assert extra.id == f"{old.commit.hex()}-{old.ordinal}"
        assert extra.occurred_us == old.at_us
    assert [record.seq for record in await desk.stream("s-1")] == [1, 2, 3, 4, 5, 6, 7]


async def test_appending_again_appends_nothing(lines):
    desk = Desk(new_store())
    await import_append(desk.backend, Given(lines[:6]), ids=random_id)

    done = await import_append(desk.backend, Given(lines), ids=random_id)
    again = await import_append(desk.backend, Given(lines), ids=random_id)

    assert (done.events, done.known, done.head) == (6, 6, 12)
    assert (again.events, again.known, again.head) == (0, 12, 12)


async def test_commits_stay_commits(lines):
    desk = Desk(new_store())

    await import_append(desk.backend, Given(lines), ids=random_id)

    commits = [record.commit for record in await desk.log()]
    assert [commits.count(commit) for commit in dict.fromkeys(commits)] == [1, 2, 3, 1, 2, 3]


async def test_events_of_others_are_appended():
    desk = Desk(new_store())
    foreign = [
        {"specversion": "1.0", "id": "7", "source": "https://example.com/orders", "type": "com.example.placed", "subject": "order 7", "data": {"a": 1}},
        {"specversion": "1.0", "id": "8", "source": "https://example.com/orders", "type": "com.example.placed", "time": "2026-01-01T00:00:00+01:00"},
        {"specversion": "1.0", "id": "9", "source": "/x", "type": "image", "datacontenttype": "image/png", "data_base64": "AAEC"},
    ]

    for _ in range(2):
        await import_append(desk.backend, Given([json.dumps(one).encode() for one in foreign]), ids=random_id)

    events = [CODEC.event(record) for record in await desk.log()]
    assert [(event.stream, event.type, event.id, event.data.value) for event in events] == [
        ("https://example.com/orders", "com.example.placed", "7", {"a": 1}),
        ("https://example.com/orders", "com.example.placed", "8", None),
        ("x", "image", "9", b"\0\1\2"),
    ]
    assert [event.meta for event in events] == [{"subject": "order 7"}, {}, {"datacontenttype": "image/png"}]
    assert events[1].occurred == datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=1)


async def test_a_bad_line_among_new_events_is_named_and_what_was_before_is_stored(lines, monkeypatch):
    monkeypatch.setattr("perdure.runtime.exchange.GROUP_COMMITS", 2)
    desk = Desk(new_store())
    reserved = json.dumps({**json.loads(lines[6]), "source": "/$own"}).encode()

    with pytest.raises(BadLine, match="line 7: names beginning with"):
        await import_append(desk.backend, Given([*lines[:6], reserved, *lines[7:]]), ids=random_id)
    assert await desk.backend.head() == 6
    with pytest.raises(BadLine, match="line 9"):
        await import_append(desk.backend, Given([*lines[:8], b"x"]), ids=random_id)
    assert await desk.backend.head() == 7  # the commit of line 8 may go on
    done = await import_append(desk.backend, Given(lines), ids=random_id)

    assert (done.events, done.known) == (5, 7)


async def test_a_commit_that_was_changed_since_is_refused(lines):
    desk = Desk(new_store())
    await import_append(desk.backend, Given(lines), ids=random_id)
    changed = json.dumps({**json.loads(lines[0]), "data": {"other": 1}, "data_base64": None})
    without = {name: value for name, value in json.loads(changed).items() if value is not None}

    with pytest.raises(BadLine, match="line 1: idempotency key"):
        await import_append(desk.backend, Given([json.dumps(without).encode()]), ids=random_id)


async def test_times_that_cloudevents_cannot_say_are_refused():
    desk = Desk(new_store())
    await desk.done(Append("a", [draft(b"x", occurred_us=2**62)]))

    with pytest.raises(Misuse, match="microseconds from 1970"):
        await exported(desk.backend)
