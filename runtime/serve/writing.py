"""Append and commit over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from perdure.backends import commit as writes
from perdure.backends.commit import ANY, EXISTS
from perdure.backends.errors import Conflict, Misuse
from perdure.backends.event import Position, to_datetime
from perdure.backends.schema import NewEvent
from perdure.backends.selector import Item, Selector
from perdure.runtime.cloudevents import Foreign, foreign_of
from perdure.runtime.encode import AnyWrite, traceparent
from perdure.runtime.serve import shapes
from perdure.runtime.serve.operation import IF_MATCH, IF_NONE_MATCH, KEY, TRACE, Call, Operation, etag, json_answer
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.reading import expected_of, key_of, why_not_json
from perdure.runtime.serve.represent import CLOUDEVENT, names

T = TypeVar("T")

_unpack_meta = msgspec.msgpack.Decoder(dict[str, Any]).decode
_unpack = msgspec.msgpack.Decoder().decode
_from_json = msgspec.json.Decoder().decode
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


async def append(call: Call) -> Response:
    """Append the events of the body to the stream."""
    stream = call.path["stream"]
    events = _events_of(call)
    with traced(call):
        answer = await call.service.rt.append(stream, events, expected=expected_of(call.headers), key=key_of(call.headers))
    if isinstance(answer, Conflict):
        raise answer
    return json_answer(shapes.Appended(stream, answer.first, answer.last, answer.position), etag=etag(answer.last))


def _events_of(call: Call) -> list[NewEvent]:
    if isinstance(call.body, shapes.AppendBody):
        return [new_event(one) for one in call.body.events]
    return [_of_cloudevent(one) for one in _cloudevents(call.body, call.headers.get("content-type", ""))]


def new_event(one: shapes.NewEvent) -> NewEvent:
    """An event of a body as the runtime takes it."""
    return NewEvent(one.data, one.type, tuple(one.tags), one.meta, one.occurred, one.id)


def _cloudevents(raw: bytes, media_type: str) -> list[bytes]:
    """The CloudEvents of a body, each by itself.

    Raises:
      Misuse: it is no JSON, or no list.
    """
    if names(media_type, (CLOUDEVENT,)):
        return [raw]
    try:
        return [bytes(one) for one in _raw_list(raw)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(f"the body is no list of CloudEvents: {why_not_json(raw, error)}") from error


def _of_cloudevent(raw: bytes) -> NewEvent:
    event: Foreign = foreign_of(raw)
    extra = event.extra
    try:
        occurred = None if extra.occurred_us is None else to_datetime(extra.occurred_us)
        return NewEvent(_unpack(event.payload), event.type, extra.tags, _unpack_meta(extra.meta), occurred, extra.id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Misuse(f"a CloudEvent's payload, meta or time is none: {error}") from error


@contextmanager
def traced(call: Call) -> Iterator[None]:
    """The caller's trace context, for the events that are appended in the body."""
    given = call.headers.get("traceparent")
    token = traceparent.set(given if given and len(given) <= 128 and given.isascii() and given.isprintable() else None)
    try:
        yield
    finally:
        traceparent.reset(token)


# -- the whole write verb --------------------------------------------------------------------


async def commit(call: Call) -> Response:
    """Do all that the body says, or nothing."""
    body: shapes.CommitBody = call.body
    _permit(call, body)
    asked = _writes_of(body)
    with traced(call):
        answer = await call.service.rt.transact(*asked, key=key_of(call.headers))
    if isinstance(answer, Conflict):
        raise answer
    appended = iter([part for part in answer.parts if isinstance(part, writes.Appended)])
    stored = [part.revision for part in answer.parts if isinstance(part, writes.Stored)]
    told = [shapes.Appended(write.stream, part.first, part.last, part.position) for write, part in zip(body.appends, appended, strict=True)]
    return json_answer(shapes.Committed(answer.position, told, stored[0] if stored else None))


def _permit(call: Call, body: shapes.CommitBody) -> None:
    """Whether the token permits all of it.

    Raises:
      Refused: not all.
    """
    scopes = call.scopes
    _need(all(scopes.may_append(one.stream) for one in body.appends), "append:CATEGORY of each stream")
    entries: list[Any] = [*body.puts, *body.deletes, *body.check_entries]
    _need(all(scopes.may_use(one.bucket) for one in entries), "kv:BUCKET of each entry")
    believed = all(scopes.may_read() or scopes.may_append(one.stream) for one in body.check_streams)
    _need(believed and (scopes.may_read() or not body.unless), "read, for what is checked")
    _need(scopes.may_operate() or not body.fences, "operate, for a fence")


def _need(has: bool, what: str) -> None:
    if not has:
        raise Refused(403, "forbidden", "the token does not permit this", f"it needs the scope {what}")


def _writes_of(body: shapes.CommitBody) -> list[AnyWrite]:
    return [
        *(writes.Append(one.stream, [new_event(event) for event in one.events], believed(one.expected)) for one in body.appends),
        *(writes.Put(one.bucket, one.key, one.value, believed(one.expected)) for one in body.puts),
        *(writes.Delete(one.bucket, one.key, believed(one.expected)) for one in body.deletes),
        *(writes.Check(believed(one.expected), stream=one.stream) for one in body.check_streams),
        *(writes.Check(believed(one.expected), bucket=one.bucket, key=one.key) for one in body.check_entries),
        *(writes.Unless(selector_of(one.items), after=Position(one.after)) for one in body.unless),
        *(writes.Fence(one.name, one.number) for one in body.fences),
    ]


def believed(said: int | str) -> writes.Expected:
    """An expectation of a body."""
    return said if isinstance(said, int) else EXISTS if said == "exists" else ANY


def selector_of(items: list[shapes.Item]) -> Selector[Any]:
    """The query of a body."""
    return Selector(tuple(Item(one.types, one.streams, one.categories, one.tags) for one in items))


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/streams/{stream:path}",
        name="append",
        summary="Append events to a stream, as one commit. On 200 they are durable.",
        run=append,
        need="append",
        body=shapes.AppendBody,
        cloudevents=True,
        headers=(IF_MATCH, IF_NONE_MATCH, KEY, TRACE),
        answers={200: shapes.Appended},
        problems=(409, 413, 415, 422, 503, 504, 507),
    ),
    Operation(
        method="POST",
        path="/v1/commit",
        name="commit",
        summary="Appends, puts, deletes, checks and conditions, whole or not at all.",
        run=commit,
        need="any",
        body=shapes.CommitBody,
        headers=(KEY, TRACE),
        answers={200: shapes.Committed},
        problems=(409, 413, 415, 422, 503, 504, 507),
    ),
)
