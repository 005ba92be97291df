"""`append`, `read`, `tail`, `streams`: the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from perdure.actors.follower import Follower
from perdure.actors.pace import Pace
from perdure.actors.ring import Ring
from perdure.backends.codec import Codec
from perdure.backends.commit import Append, check_stream
from perdure.backends.errors import Conflict, Rewound, Truncated
from perdure.backends.event import Event, Position
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import StreamInfo
from perdure.backends.schema import NewEvent
from perdure.backends.selector import EVERYTHING, Selector
from perdure.runtime.archives import archived
from perdure.runtime.cli import out
from perdure.runtime.cli.blobstores import archive_store
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Believed, Json, Limit, Prefix, Stream, Url, WithArchive, at_least_0, check_limit, expected_of
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import check_writes, given_json, reading, writing
from perdure.runtime.cli.values import as_json, conflict_document, data_of, event_document
from perdure.runtime.log import StreamReader

BATCH = 500
"""Rows printed at once."""


def append(
    url: Url,
    stream: Stream,
    type: Annotated[str, Parameter(help="The event's type.")],
    data: Json,
    /,
    *,
    expected: Believed = None,
    key: Annotated[str | None, Parameter(help="An idempotency key: the same append under it is stored once.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="A tag; repeat it for more.")] = (),
    json: AsJson = False,
) -> int:
    """Append one event to a stream.

    The store is made if there is none.

    For example:

        perdure append lmdb:shop order-1 placed '{"cents": 5}' --expected 0

    JSON: stream, first, last, position; or conflict (what, subject, expected, actual).
    """
    event = NewEvent(given_json(data, "the event's data"), type=type, tags=tag)
    believed, key_bytes = expected_of(expected), None if key is None else key.encode(errors="surrogateescape")
    check_writes(Append(stream, [event], believed), key=key_bytes)

    async def command() -> int:
        async with writing(url, create=True) as rt:
            answer = await rt.append(stream, [event], expected=believed, key=key_bytes)
        if isinstance(answer, Conflict):
            return conflicted(answer, json)
        document = {"stream": stream, "first": answer.first, "last": answer.last, "position": answer.position}
        if json:
            out.document(document)
        else:
            out.line(f"first {answer.first}, last {answer.last}, position {answer.position}")
        return Exit.DONE

    return run_async(command)


def conflicted(answer: Conflict, json: bool) -> int:
    """Tell a conflict: its facts are data, its text is for people."""
    if json:
        out.document(conflict_document(answer))
    out.note(str(answer))
    return Exit.NO


def read(
    url: Url,
    stream: Stream,
    /,
    *,
    after: Annotated[int, Parameter(help="Only events beyond this seq; with --backward only those below it (0: from the end).")] = 0,
    limit: Limit = None,
    backward: Annotated[bool, Parameter(negative=(), show_default=False, help="Newest first.")] = False,
    with_archive: WithArchive = None,
    json: AsJson = False,
) -> int:
    """Print the events of a stream.

    For example:

        perdure read lmdb:shop order-1 --after 17 --limit 100

    JSON: stream, seq, position, type, version, at, occurred, id, tags, meta, data.
    """
    check_stream(stream, LIMITS, own=True)
    at_least_0("--after", after)
    check_limit(limit)

    async def command() -> int:
        async with reading(url) as store, archive_store(with_archive) as blobs:
            backend = archived(store, blobs)
            if (info := await backend.stream(stream)) is None:
                out.note(f"there is no stream {stream!r}: `perdure streams {url}` lists those there are")
                return Exit.NO
            printer = EventPrinter("seq>", "position>", "at", "type", "data", json=json)
            try:
                async for event in StreamReader(backend, Codec(), Pace(LIMITS), stream, after=after, limit=limit, backward=backward):
                    printer.add(event)
            except Truncated as error:
                printer.flush()
                error.remedy = _down_to(error, info, after) if backward else f"--after {error.first - 1} reads on from there"
                if error.archive is not None and with_archive is None:
                    error.remedy += f", --with-archive BLOBS what has been cut, too (the newest archive of the stream is {error.archive})"
                raise
            printer.flush()
        return Exit.DONE

    return run_async(command)


def _down_to(error: Truncated, info: StreamInfo, after: int) -> str:
    """What helps who reads backward from *after*."""
    left = min(after - 1 if after else info.last, info.last) - error.first + 1
    return f"--limit {left} reads down to there" if left > 0 else f"nothing is left below seq {after}"


def tail(
    url: Url,
    /,
    *streams: Annotated[str, Parameter(help="Only these streams.")],
    type: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="Only this type; repeat it for more.")] = (),
    category: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="Only streams of this category; repeat it for more.")] = (),
    tag: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="Only events with this tag; repeated: with all of them.")] = (),
    after: Annotated[int | None, Parameter(help="Begin beyond this position, 0 with the first event; without it with what comes now.")] = None,
    limit: Annotated[int | None, Parameter(help="End after so many events.")] = None,
    json: AsJson = False,
) -> int:
    """Print events as they are appended.

    Also those of other processes, in the order of the log, until Ctrl-C.

    For example:

        perdure tail lmdb:shop --category order --after 0 --json

    JSON: stream, seq, position, type, version, at, occurred, id, tags, meta, data.
    """
    events: Selector[Any] = EVERYTHING.within(streams=streams, categories=category, types=type, tags=tag)
    at_least_0("--after", after)
    check_limit(limit)

    async def command() -> int:
        async with reading(url) as backend:
            head = await backend.head()
            start = head if after is None else Position(after)
            if start > head:
                raise Rewound(head)
            out.hint(f"following {url} from position {start}; Ctrl-C ends")
            follower = Follower(backend, Ring(1), events, start, Pace(LIMITS))
            try:
                await _follow(follower, EventPrinter("position>", "stream", "seq>", "at", "type", "data", json=json), limit)
            except Truncated as error:
                error.remedy = f"--after {error.position} begins beyond the cut; `perdure export {url} --over-cuts` prints what is left of before"
                raise
        return Exit.DONE

    return run_async(command)


async def _follow(follower: Follower, printer: EventPrinter, limit: int | None) -> None:
    codec, left = Codec(), limit
    while left is None or left > 0:
        records = (await follower.page())[:left]
        for event in codec.events(records):
            printer.add(event)
        printer.flush()
        out.flush()
        left = None if left is None else left - len(records)


class EventPrinter:
    """Prints events, as documents or as a table of the columns named."""

    def __init__(self, *headings: str, json: bool) -> None:
        self._names = [heading.removesuffix(">") for heading in headings]
        self._columns = out.Columns(*headings)
        self._json = json
        self._rows: list[Sequence[object]] = []

    def add(self, event: Event[Any]) -> None:
        """One more event."""
        if self._json:
            out.document(event_document(event))
            return
        self._rows.append([self._cell(event, name) for name in self._names])
        if len(self._rows) >= BATCH:
            self.flush()

    def _cell(self, event: Event[Any], name: str) -> object:
        match name:
            case "data":
                return as_json(data_of(event))
            case "at":
                return event.at.isoformat(sep=" ", timespec="microseconds").replace("+00:00", "Z")
            case _:
                return getattr(event, name)

    def flush(self) -> None:
        """Print what waits."""
        self._columns.print(self._rows)
        self._rows.clear()


def streams(
    url: Url,
    /,
    *,
    prefix: Prefix = "",
    after: Annotated[str | None, Parameter(help="Only names beyond this one.")] = None,
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """List the streams.

    In order of their names, each with the seq of its first and last event and the position of the last.

    For example:

        perdure streams lmdb:shop --prefix order-

    JSON: stream, first, last, position.
    """
    check_limit(limit)

    async def command() -> int:
        columns, cursor, left = out.Columns("stream", "first>", "last>", "position>"), after, limit
        async with reading(url) as backend:
            while left is None or left > 0:
                asked = min(BATCH, left or BATCH)
                page = await backend.streams(prefix=prefix, after=cursor, limit=asked)
                if json:
                    for info in page:
                        out.document({"stream": info.name, "first": info.first, "last": info.last, "position": info.position})
                else:
                    columns.print([(info.name, info.first, info.last, info.position) for info in page])
                if len(page) < asked:
                    break
                cursor, left = page[-1].name, None if left is None else left - len(page)
        return Exit.DONE

    return run_async(command)
