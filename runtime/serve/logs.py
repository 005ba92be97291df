"""Streams and the log over HTTP: pages, and live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import attrs
import trio
from msgspec import Meta
from starlette.responses import Response

from perdure.backends.commit import check_stream
from perdure.backends.errors import Rewound
from perdure.backends.event import Position, Record
from perdure.backends.selector import EVERYTHING, Selector
from perdure.runtime.serve import shapes
from perdure.runtime.serve.live import Live, event, mark
from perdure.runtime.serve.operation import LAST_ID, Call, Operation, etag, json_answer
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.reading import digits_of
from perdure.runtime.serve.represent import Form, as_json, form_of
from perdure.runtime.serve.service import SLICE
from perdure.runtime.serve.shapes import Place

Limit = Annotated[int, Meta(ge=1, le=1_000_000, description="At most so many; the daemon has a bound of its own (page_max).")]
TYPES = Annotated[list[str], Meta(description="Only these types; repeat it for more.", max_length=50)]
STREAMS = Annotated[list[str], Meta(description="Only these streams; repeat it for more.", max_length=50)]
CATEGORIES = Annotated[list[str], Meta(description="Only streams of these categories; repeat it for more.", max_length=50)]
TAGS = Annotated[list[str], Meta(description="Only events with this tag; repeated: with all of them.", max_length=8)]


@attrs.frozen
class StreamQuery:
    """Which part of a stream."""

    after: Annotated[Place, Meta(description="Only events beyond this seq; backward: below it (0: from the end).")] = 0
    limit: Limit = 100
    backward: Annotated[bool, Meta(description="Newest first.")] = False


@attrs.frozen
class StreamsQuery:
    """Which streams."""

    prefix: Annotated[str, Meta(description="Only names that begin so.", max_length=255)] = ""
    after: Annotated[str, Meta(description="Only names beyond this one.", max_length=255)] | None = None
    limit: Limit = 100


@attrs.frozen
class LogQuery:
    """Which events of the log."""

    after: Annotated[Place, Meta(description="Only events beyond this position.")] = 0
    limit: Limit = 100
    type: TYPES = attrs.field(factory=list)
    stream: STREAMS = attrs.field(factory=list)
    category: CATEGORIES = attrs.field(factory=list)
    tag: TAGS = attrs.field(factory=list)


@attrs.frozen
class FollowQuery:
    """Which events, and from where on."""

    after: Annotated[Place, Meta(description="Begin beyond this position, 0 with the first event; without it with what comes now.")] | None = None
    type: TYPES = attrs.field(factory=list)
    stream: STREAMS = attrs.field(factory=list)
    category: CATEGORIES = attrs.field(factory=list)
    tag: TAGS = attrs.field(factory=list)


# -- pages -----------------------------------------------------------------------------------


async def read_stream(call: Call) -> Response:
    """A page of a stream."""
    stream, asked = call.path["stream"], call.query
    service = call.service
    check_stream(stream, service.rt.limits, own=True)
    if stream[0] == "$" and not call.scopes.may_operate():
        raise Refused(403, "forbidden", "the token does not permit this", "perdure's own streams need the scope operate")
    limit, form = most(call), form_of(call.headers.get("accept", ""))
    async with service.turns:
        records = await service.rt.backend.read_stream(
            stream, after=asked.after, limit=limit, bytes_max=service.rt.limits.page_bytes, backward=asked.backward
        )
        lines = await _lines(records, form.line)
    if not records and await service.rt.backend.stream(stream) is None:
        raise Refused(404, "not-found", "there is no such stream", "GET /v1/streams lists those there are")
    last = records[-1].seq if records else None
    ended = last is None or (asked.backward and last == 1)
    headers = {} if asked.backward else {"etag": etag(asked.after if last is None else last)}
    return _page(lines, form, {"next": None if ended else last}, headers)


async def read_log(call: Call) -> Response:
    """A page of the log."""
    service, form = call.service, form_of(call.headers.get("accept", ""))
    async with service.turns:
        page = await service.rt.backend.read_log(
            after=Position(call.query.after), limit=most(call), bytes_max=service.rt.limits.page_bytes, where=selector_of(call.query)
        )
        lines = await _lines([record for record in page.records if may_see(call, record)], form.line)
    return _page(lines, form, {"examined": page.examined, "head": page.head}, {})


async def _lines(records: Sequence[Record], line: Callable[[Record], bytes]) -> list[bytes]:
    """Records written out, in slices."""
    lines: list[bytes] = []
    for begin in range(0, len(records), SLICE):
        if begin:
            await trio.lowlevel.checkpoint()
        lines += [line(record) for record in records[begin : begin + SLICE]]
    return lines


def _page(lines: list[bytes], form: Form, rest: dict[str, Any], headers: dict[str, str]) -> Response:
    marks = {f"perdure-{name}": str(value) for name, value in rest.items() if value is not None}
    return Response(form.page(lines, as_json(rest)) + b"\n", 200, {**headers, **marks}, form.media_type)


def most(call: Call) -> int:
    """How many a page may have."""
    return int(min(call.query.limit, call.service.config.page_max))


def may_see(call: Call, record: Record) -> bool:
    """Whether an event is for who asks: perdure's own are for operators."""
    return record.stream[0] != "$" or call.scopes.may_operate()


def selector_of(query: Any) -> Selector[Any]:
    """The selector of a query."""
    if not (query.type or query.stream or query.category or query.tag):
        return EVERYTHING
    return EVERYTHING.within(types=query.type, streams=query.stream, categories=query.category, tags=query.tag)


async def list_streams(call: Call) -> Response:
    """Names of streams."""
    limit = most(call)
    found = await call.service.rt.backend.streams(prefix=call.query.prefix, after=call.query.after or None, limit=limit)
    shown = [shapes.Stream(one.name, one.first, one.last, one.position) for one in found if one.name[0] != "$" or call.scopes.may_operate()]
    return json_answer(shapes.Streams(shown, found[-1].name if len(found) == limit else None))


async def head(call: Call) -> Response:
    """Where the log ends."""
    backend = call.service.rt.backend
    return json_answer(shapes.Head(backend.id, await backend.head(), await backend.revision()))


# -- live ------------------------------------------------------------------------------------


async def follow(call: Call) -> Response:
    """Events as they are appended."""
    service = call.service
    now = await service.rt.backend.head()
    start = call.query.after
    if (last := call.headers.get("last-event-id")) is not None:
        start = digits_of(last, "Last-Event-ID")
    if start is not None and start > now:
        raise Rewound(now)
    follower = service.rt.follower(selector_of(call.query), now if start is None else Position(start))
    form, lines, told_s = form_of(call.headers.get("accept", "")), service.lines, 0.0

    async def piece() -> bytes:
        """A page as events. Behind its last event stands how far the log was looked through: a commit is never left half-way."""
        nonlocal told_s
        records: list[Record] = []
        await trio.sleep_until(told_s + service.rest_s)
        with trio.move_on_after(service.config.alive_s):
            records = await follower.page()
        shown = [record for record in records if may_see(call, record)]
        async with service.turns:
            told = b"".join(await _lines(shown, lambda record: event(record.position, lines.of(record, form))))
        told_s = trio.current_time()
        behind = not records or not may_see(call, records[-1]) or records[-1].position < follower.cursor
        return told + mark(follower.cursor) if behind else told

    return Live(call, piece)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/streams",
        name="list_streams",
        summary="Streams in order of their names.",
        run=list_streams,
        need="read",
        query=StreamsQuery,
        answers={200: shapes.Streams},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/v1/streams/{stream:path}",
        name="read_stream",
        summary="A page of a stream's events. Its ETag is the seq that was read up to: give it as If-Match when you append what you decided from them.",
        run=read_stream,
        need="read",
        query=StreamQuery,
        cloudevents=True,
        answers={200: shapes.StreamPage},
        problems=(404, 410, 413, 503),
    ),
    Operation(
        method="GET",
        path="/v1/log",
        name="read_log",
        summary="A page of the log.",
        run=read_log,
        need="read",
        query=LogQuery,
        cloudevents=True,
        answers={200: shapes.LogPage},
        problems=(413, 416, 503),
    ),
    Operation(
        method="GET",
        path="/v1/head",
        name="head",
        summary="Where the log ends.",
        run=head,
        need="read",
        answers={200: shapes.Head},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/v1/follow/log",
        name="follow_log",
        summary="Events as they are appended: server-sent events whose ids are positions. Come back with Last-Event-ID: none is missed, none comes twice.",
        run=follow,
        need="read",
        query=FollowQuery,
        cloudevents=True,
        live=True,
        headers=(LAST_ID,),
        problems=(413, 416, 503),
    ),
)
