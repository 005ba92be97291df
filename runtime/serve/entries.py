"""kv over HTTP: entries with their revisions as ETags."""

from __future__ import annotations

from typing import Annotated

import attrs
import trio
from msgspec import Meta
from starlette.responses import Response

from perdure.backends.commit import Committed, Delete, Put, Stored, check_entry
from perdure.backends.errors import Conflict
from perdure.runtime.encode import to_key
from perdure.runtime.serve import shapes
from perdure.runtime.serve.live import Live, event, mark
from perdure.runtime.serve.logs import Limit, most
from perdure.runtime.serve.operation import IF_CHANGED, IF_MATCH, IF_NONE_MATCH, KEY, LAST_ID, Call, Operation, etag, json_answer
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.reading import digits_of, expected_of, key_of
from perdure.runtime.serve.represent import as_json, plain_data
from perdure.runtime.serve.shapes import Place

ANY_KEY = b"k"


@attrs.frozen
class EntriesQuery:
    """Which entries."""

    prefix: Annotated[str, Meta(description="Only keys that begin so.", max_length=400)] = ""
    after: Annotated[str, Meta(description="Only keys beyond this one.", max_length=400)] | None = None
    limit: Limit = 100


@attrs.frozen
class WatchQuery:
    """Which changes, and from where on."""

    prefix: Annotated[str, Meta(description="Only keys that begin so.", max_length=400)] = ""
    after: Annotated[Place, Meta(description="Begin beyond this revision; without it with what comes now.")] | None = None


def _entry(call: Call) -> tuple[str, bytes]:
    """The bucket and the key of the path, checked."""
    bucket, key = call.path["bucket"], to_key(call.path["key"])
    check_entry(bucket, key, call.service.rt.limits)
    return bucket, key


def _bucket(call: Call) -> str:
    bucket = call.path["bucket"]
    check_entry(bucket, ANY_KEY, call.service.rt.limits)
    return bucket


async def get(call: Call) -> Response:
    """One entry."""
    bucket, key = _entry(call)
    entry = await call.service.rt.backend.get(bucket, key)
    if entry is None:
        raise Refused(404, "not-found", "there is no such entry", "GET /v1/kv/BUCKET lists those there are")
    tag = etag(entry.revision)
    known = call.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers={"etag": tag})
    return json_answer(shapes.Entry(call.path["key"], plain_data(entry.value), entry.revision), etag=tag)


async def put(call: Call) -> Response:
    """Store the body as the entry's value."""
    bucket, _ = _entry(call)
    return await _write(call, Put(bucket, call.path["key"], call.body, expected_of(call.headers)))


async def delete(call: Call) -> Response:
    """End the entry."""
    bucket, _ = _entry(call)
    return await _write(call, Delete(bucket, call.path["key"], expected_of(call.headers)))


async def _write(call: Call, write: Put[object] | Delete) -> Response:
    answer: Committed | Conflict = await call.service.rt.transact(write, key=key_of(call.headers))
    if isinstance(answer, Conflict):
        raise answer
    part = answer.parts[0]
    assert isinstance(part, Stored)
    return json_answer(shapes.Stored(part.revision), etag=etag(part.revision))


async def scan(call: Call) -> Response:
    """Entries in order."""
    bucket, limit, backend = _bucket(call), most(call), call.service.rt.backend
    after = None if call.query.after is None else to_key(call.query.after)
    async with backend.view() as view:
        found = await view.scan(bucket, prefix=call.query.prefix.encode(), after=after, limit=limit)
        revision = await view.revision()
    entries = [shapes.Entry(one.key.decode(), plain_data(one.value), one.revision) for one in found]
    return json_answer(shapes.Entries(entries, revision, entries[-1].key if len(entries) == limit else None))


async def follow(call: Call) -> Response:
    """Changes of a bucket as they come."""
    bucket, prefix = _bucket(call), call.query.prefix.encode()
    service, backend = call.service, call.service.rt.backend
    start = call.query.after
    if (last := call.headers.get("last-event-id")) is not None:
        start = digits_of(last, "Last-Event-ID")
    revision = await backend.revision() if start is None else start
    await backend.read_changes(bucket, after=revision, limit=1)  # what has been forgotten is said now, with a status

    async def piece() -> bytes:
        nonlocal revision
        found = await backend.read_changes(bucket, after=revision, limit=service.config.page_max)
        if found.examined <= revision:
            with trio.move_on_after(service.config.alive_s):
                await backend.wait_changed(revision)
            found = await backend.read_changes(bucket, after=revision, limit=service.config.page_max)
        revision = max(revision, found.examined)
        told = [
            event(one.revision, as_json(shapes.Change(one.key.decode(), one.revision, one.value is None, None if one.value is None else plain_data(one.value))))
            for one in found.changes
            if one.key.startswith(prefix)
        ]
        return b"".join(told) + mark(revision)

    return Live(call, piece)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/kv/{bucket}",
        name="scan",
        summary="Entries of a bucket in order of their keys, all of one moment.",
        run=scan,
        need="kv",
        query=EntriesQuery,
        answers={200: shapes.Entries},
        problems=(413, 503),
    ),
    Operation(
        method="GET",
        path="/v1/kv/{bucket}/{key:path}",
        name="get",
        summary="An entry. Its ETag is its revision.",
        run=get,
        need="kv",
        headers=(IF_CHANGED,),
        answers={200: shapes.Entry, 304: None},
        problems=(404, 413, 503),
    ),
    Operation(
        method="PUT",
        path="/v1/kv/{bucket}/{key:path}",
        name="put",
        summary="Store a value: any JSON.",
        run=put,
        need="kv",
        any_body=True,
        headers=(IF_MATCH, IF_NONE_MATCH, KEY),
        answers={200: shapes.Stored},
        problems=(409, 413, 415, 422, 503, 504, 507),
    ),
    Operation(
        method="DELETE",
        path="/v1/kv/{bucket}/{key:path}",
        name="delete",
        summary="End an entry; of an absent one too it is a change, with a revision.",
        run=delete,
        need="kv",
        headers=(IF_MATCH, KEY),
        answers={200: shapes.Stored},
        problems=(409, 413, 422, 503, 504, 507),
    ),
    Operation(
        method="GET",
        path="/v1/follow/kv/{bucket}",
        name="follow_kv",
        summary="Changes of a bucket as server-sent events whose ids are revisions; of several changes of a key at least the last.",
        run=follow,
        need="kv",
        query=WatchQuery,
        live=True,
        headers=(LAST_ID,),
        problems=(410, 413, 503),
    ),
)
