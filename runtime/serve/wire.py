"""What a `Backend` over HTTP asks: whole commits with their ids, reads as records, views, and where the store is.

The daemon decides. It checks all that comes in as if it came from nobody in particular: names and sizes, what a token
permits, that payloads can be read (by the app's class, where it has one for the type), and the time that is proposed.
Each commit also checks that its writer is not barred: see `perdure.backends.http.backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import trio
from starlette.responses import Response

from perdure.backends.answers import committed_of
from perdure.backends.commit import ANY, BEATS, CHECKPOINTS, LEASES, MODELS, Appended, Check, Commit, Committed, Stored, Unbarred, key_id, propose
from perdure.backends.errors import AskTimeout, Closed, Misuse, PerdureError, TooLarge
from perdure.backends.event import Position, Record
from perdure.backends.http import wire
from perdure.backends.limits import CLOCK_AHEAD_S, PAGE_EXAMINED, Limits
from perdure.backends.protocol import Backend, Reads
from perdure.backends.tables import bytes_of
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.live import HEADERS, Live
from perdure.runtime.serve.operation import Call, Operation
from perdure.runtime.serve.problems import Refused, answer_of
from perdure.runtime.serve.service import Service

ENTRIES: Final = 64
"""So many entries are read at a time: each may be as large as a value may be."""
PAGE_BYTES: Final = 4 << 20
HASTEN_S: Final = 3.0
_OWN: Final = Limits(commit_bytes=256 << 20, value_bytes=64 << 20)


class Target:
    """The runtime that a call is about: the daemon's, or one over a store of the client's own, where everything is permitted."""

    def __init__(self, call: Call, rt: Runtime, *, own: bool) -> None:
        self.rt = rt
        self.backend: Backend = rt.backend
        self.own = own
        self.app = call.service.app
        self.scopes = call.scopes
        self.codec = call.service.codec


async def _target(call: Call) -> Target:
    name = call.headers.get(wire.SCRATCH)
    if name is None:
        return Target(call, call.service.rt, own=False)
    _need(call.scopes.may_scratch(), "scratch")
    return Target(call, await call.service.scratch.runtime(name), own=True)


def _need(has: bool, what: str) -> None:
    if not has:
        raise Refused(403, "forbidden", "the token does not permit this", f"it needs the scope {what}")


def _answer(said: Any) -> Response:
    return Response(wire.to_bytes(said), 200, media_type=wire.MEDIA_TYPE)


async def hello(call: Call) -> Response:
    """What a client has to know first."""
    target, service = await _target(call), call.service
    backend = target.backend
    capabilities, config = backend.capabilities, service.config
    numbers = (await backend.head(), await backend.revision(), await backend.now_us())
    return _answer(wire.Hello(wire.VERSION, backend.id, capabilities.durable, capabilities.writes, service.wire_bytes, config.alive_s, *numbers))


# -- commits ---------------------------------------------------------------------------------


async def commit(call: Call) -> Response:
    """Decide commits, in order. After they were asked nothing may wait: who is cut off then would be told that nothing was stored."""
    target = await _target(call)
    said: wire.Proposals = wire.from_bytes(call.body, wire.Proposals)
    limits = target.rt.limits
    if len(said.writer) != wire.ID_BYTES or not 0 < len(said.commits) <= limits.group_commits:
        raise Misuse(f"a writer has {wire.ID_BYTES} bytes, and asks for 1 to {limits.group_commits:,} commits at a time")
    now_us = await target.backend.now_us()
    answers: list[Committed | PerdureError] = []
    asked: list[Commit] = []
    places: list[int] = []
    for number, one in enumerate(said.commits):
        if number % 64 == 63:
            await trio.lowlevel.checkpoint()
        try:
            asked.append(_commit_of(target, one, said.writer, now_us))
            places.append(number)
        except TooLarge as error:
            answers.append(error)
            continue
        answers.append(Misuse("not asked"))
    for place, answer in zip(places, await target.rt.commit_group(asked) if asked else (), strict=True):
        answers[place] = answer
    return _answer(wire.Answers([wire.told(one) for one in answers], *_reached(answers)))


def _commit_of(target: Target, said: wire.Proposal, writer: bytes, now_us: int) -> Commit:
    """The commit that was proposed, checked. Where its client's clock is far ahead of ours, ours counts.

    Raises:
      Refused: the token does not permit a part of it.
      Misuse, TooLarge: it is not a commit that may be.
    """
    if len(said.id) != wire.ID_BYTES or (said.key is not None and key_id(said.key) != said.id) or not 0 <= said.at_us <= wire.MOST:
        raise Misuse("a commit has an id of 16 bytes, which is the digest of its key if it has one, and a time from 0")
    if not target.own:
        for one in said.writes:
            _permit(target, one)
            _check_readable(target, one)
    own = any(_is_own(one) for one in said.writes)
    limits = _OWN if own else target.rt.limits
    at_us = said.at_us if said.at_us <= now_us + CLOCK_AHEAD_S * 1_000_000 else now_us
    barred = Unbarred(key_id(_bar_key(writer)))
    proposed = propose([*map(wire.write_of, said.writes), barred], id=said.id, at_us=at_us, key=said.key, limits=limits, own=True)
    return msgspec.structs.replace(proposed, key=said.id) if said.kept and said.key is None else proposed


def _bar_key(writer: bytes) -> bytes:
    """The idempotency key of the commit that bars *writer*; it is kept for as long as any key."""
    return b"writer " + writer


def _is_own(said: wire.AnyWrite) -> bool:
    """Whether it is what a runtime keeps for itself."""
    match said:
        case wire.PutAllWrite() | wire.SnapshotWrite():
            return True
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket):
            return bucket.startswith("$")
        case _:
            return False


def _permit(target: Target, said: wire.AnyWrite) -> None:
    """Whether the token permits it. Beside what a runtime keeps, nothing of perdure's own can be written through here.

    Raises:
      Refused: it does not.
    """
    scopes = target.scopes
    match said:
        case wire.AppendWrite(stream):
            _need(not stream.startswith("$") and scopes.may_append(stream), "append:CATEGORY of each stream")
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket) | wire.PutAllWrite(bucket) if bucket.startswith("$"):
            _need(_is_kept(bucket) and scopes.may_run(), "run, for what a runtime keeps")
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket):
            _need(scopes.may_use(bucket), "kv:BUCKET of each entry")
        case wire.CheckEntry(bucket):
            _need(_may_look(target, bucket), "kv:BUCKET of each entry")
        case wire.CheckStream(stream):
            _need(scopes.may_append(stream) or scopes.may_read(), "read, for what is checked")
        case wire.UnlessWrite():
            _need(scopes.may_read(), "read, for what is checked")
        case wire.SnapshotWrite() | wire.FenceWrite() | wire.PutAllWrite():
            _need(scopes.may_run(), "run, for what a runtime keeps")


def _is_kept(bucket: str) -> bool:
    return bucket in (CHECKPOINTS, LEASES, BEATS) or bucket.startswith(MODELS)


def _may_look(target: Target, bucket: str) -> bool:
    if target.own:
        return True
    if bucket.startswith("$"):
        return _is_kept(bucket) and (target.scopes.may_read() or target.scopes.may_run())
    return target.scopes.may_use(bucket)


def _check_readable(target: Target, said: wire.AnyWrite) -> None:
    """Whether what is to be stored can be read again, as what the app says it is.

    Raises:
      Misuse: it cannot.
    """
    match said:
        case wire.AppendWrite(stream, _, events):
            for type, version, payload, _ in events:
                try:
                    target.codec.decoder_of(type, version)(payload)
                except Exception as error:
                    raise Misuse(f"an event {type!r} version {version} for stream {stream!r} does not fit what the daemon's app knows of it") from error
        case wire.PutWrite(bucket, _, value) if not bucket.startswith("$"):
            try:
                msgspec.msgpack.decode(value)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Misuse(f"a value for bucket {bucket!r} is not msgpack") from error


def _reached(answers: Sequence[Committed | PerdureError]) -> tuple[int, int]:
    """How far the store is at least, head and revision."""
    head = revision = 0
    for answer in answers:
        for part in answer.parts if isinstance(answer, Committed) else ():
            match part:
                case Appended(position=int() as position):
                    head = max(head, position)
                case Stored(stored):
                    revision = max(revision, stored)
    return head, revision


async def resolve(call: Call) -> Response:
    """Bar a writer for good, and say what became of its commits."""
    target = await _target(call)
    said: wire.Resolve = wire.from_bytes(call.body, wire.Resolve)
    if len(said.writer) != wire.ID_BYTES or len(said.ids) > target.rt.limits.group_commits:
        raise Misuse("there are no such commits")
    nothing = Check(ANY, stream="$writers")
    bar = propose([nothing], id=b"", at_us=await target.backend.now_us(), key=_bar_key(said.writer), own=True)
    (barred,) = await target.rt.commit_group([bar])
    if isinstance(barred, PerdureError):
        raise barred
    found = await _answers(target.backend, said.ids, Position(said.after))
    return _answer([None if (one := found.get(id)) is None else wire.told(one) for id in said.ids])


async def _answers(backend: Backend, ids: Sequence[bytes], after: Position) -> dict[bytes, Committed]:
    """What is known of commits of which none has events at or before *after*: by what is kept of them, else by their events."""
    found = {id: answer for id in ids if (answer := await backend.answer(id)) is not None}
    left = set(ids) - found.keys()
    own: dict[bytes, list[Record]] = {}
    while left:
        page = await backend.read_log(after=after, limit=1_000, bytes_max=1 << 20)
        for record in page.records:
            if record.commit in left:
                own.setdefault(record.commit, []).append(record)
        after = page.examined
        if after >= page.head:
            break
        await trio.lowlevel.checkpoint()
    return found | {id: committed_of(records) for id, records in own.items()}


# -- reads -----------------------------------------------------------------------------------


async def read(call: Call) -> Response:
    """Answer a question, of the store as it is or of a view."""
    target = await _target(call)
    question: wire.Question = wire.from_bytes(call.body, wire.Question)
    work = partial(_read, target, question)
    name = call.headers.get(wire.VIEW)
    return _answer(await (work(target.backend) if name is None else call.service.views.ask(name, work)))


async def _read(target: Target, question: wire.Question, reads: Reads) -> Any:
    scopes = target.scopes
    if not target.own:
        _permit_read(target, question)
    match question:
        case wire.ReadStream(stream, after, limit, bytes_max, backward):
            most, room = min(limit, PAGE_EXAMINED), min(bytes_max, PAGE_BYTES)
            records = await reads.read_stream(stream, after=after, limit=most, bytes_max=room, backward=backward)
            cut = len(records) >= most < limit or bytes_of(records) >= room < bytes_max
            return wire.Records(wire.rows_of(records), bool(records) and cut)
        case wire.ReadLog(after, limit, bytes_max, items):
            most, room = min(limit, PAGE_EXAMINED), min(bytes_max, PAGE_BYTES)
            page = await reads.read_log(after=Position(after), limit=most, bytes_max=room, where=wire.selector_of(items))
            shown = [record for record in page.records if target.own or record.stream[0] != "$" or scopes.may_operate()]
            return wire.LogPage(wire.rows_of(shown), page.examined, page.head)
        case wire.Where():
            return (await reads.head(), await reads.revision())
        case wire.AnswerTo(id):
            answer = await reads.answer(id)
            return None if answer is None else wire.told(answer)
        case wire.Get(bucket, key):
            entry = await reads.get(bucket, key)
            return None if entry is None else (entry.key, entry.value, entry.revision)
        case wire.Scan():
            return await _scan(question, reads)
        case wire.ReadChanges(bucket, after, limit):
            changes = await reads.read_changes(bucket, after=after, limit=min(limit, ENTRIES))
            return wire.ChangedEntries([(one.key, one.revision, one.value) for one in changes.changes], changes.examined)
        case wire.ReadSnapshot(name, at_most):
            kept = await reads.read_snapshot(name, at_most=None if at_most is None else Position(at_most))
            return None if kept is None else wire.KeptSnapshot(kept.name, kept.position, kept.fingerprint, kept.state, kept.at_us)
        case wire.ListSnapshots(name):
            return await reads.snapshots(name)
        case wire.OneStream(name):
            info = await reads.stream(name)
            return None if info is None else (info.name, info.first, info.last, info.position)
        case wire.ListStreams():
            return await _streams(target, question, reads)
        case wire.AskStatus():
            return msgspec.to_builtins(await target.backend.store_status(), enc_hook=str)
        case wire.Verify():
            return await target.backend.verify()
        case wire.Hasten(name, position):
            return not target.own and await _hasten(target, name, Position(position))


async def _hasten(target: Target, name: str, position: Position) -> bool:
    """Let a projection that runs here keep what it has."""
    for projection in (*target.app.projections, *target.app.sql):
        model: Any = target.rt.model(projection)
        if projection.name == name and model.running:
            with trio.move_on_after(HASTEN_S):
                await model.wait_for(position)
            with suppress(Misuse, AskTimeout, Closed):  # it has just ended, or is busy: what is kept counts
                await model.save()
            return True
    return False


def _permit_read(target: Target, question: wire.Question) -> None:
    """Whether the token permits it.

    Raises:
      Refused: it does not.
    """
    scopes = target.scopes
    match question:
        case wire.ReadStream(name) | wire.OneStream(name) if name.startswith("$"):
            _need(scopes.may_operate(), "operate, for perdure's own streams")
        case wire.Get(bucket) | wire.Scan(bucket) | wire.ReadChanges(bucket):
            _need(_may_look(target, bucket), f"kv:{bucket}")
        case wire.Where() | wire.AnswerTo():
            pass
        case wire.Verify():
            _need(scopes.may_operate(), "operate")
        case _:
            _need(scopes.may_read(), "read")


async def _scan(asked: wire.Scan, reads: Reads) -> wire.Entries:
    found: list[tuple[bytes, bytes, int]] = []
    after, left, size = asked.after, asked.limit, 0
    while left > 0:
        most = min(left, ENTRIES)
        page = await reads.scan(asked.bucket, prefix=asked.prefix, after=after, limit=most)
        found += [(entry.key, entry.value, entry.revision) for entry in page]
        left, size = left - len(page), size + sum(len(entry.key) + len(entry.value) for entry in page)
        if len(page) < most:
            break
        after = page[-1].key
        if left > 0 and size >= PAGE_BYTES:
            return wire.Entries(found, True)
    return wire.Entries(found, False)


async def _streams(target: Target, asked: wire.ListStreams, reads: Reads) -> wire.Streams:
    after, most = asked.after, min(asked.limit, target.rt.limits.page_records)
    while True:
        page = await reads.streams(prefix=asked.prefix, after=after, limit=most)
        shown: list[tuple[str, int, int, int]] = [(one.name, one.first, one.last, one.position) for one in page if target.own or one.name[0] != "$" or target.scopes.may_operate()]
        if shown or len(page) < most or not page:
            return wire.Streams(shown, bool(shown) and len(page) == most < asked.limit)
        after = page[-1].name


# -- what lasts ------------------------------------------------------------------------------


async def news(call: Call) -> Response:
    """Where the store is, whenever it moves: server-sent events."""
    backend, service = (await _target(call)).backend, call.service
    told = (-1, -1)

    async def piece() -> bytes:
        nonlocal told
        now = (await backend.head(), await backend.revision())
        if now == told:
            with trio.move_on_after(service.config.alive_s):
                await _moved(backend, *now)
            now = (await backend.head(), await backend.revision())
        if now == told:
            return b": alive\n\n"
        told = now
        return b"data: %d %d\n\n" % now

    return Live(call, piece)


async def _moved(backend: Backend, head: Position, revision: int) -> None:
    """Return when the log or kv is beyond."""
    async with trio.open_nursery() as nursery:

        async def log() -> None:
            await backend.wait_beyond(head)
            nursery.cancel_scope.cancel()

        async def kv() -> None:
            await backend.wait_changed(revision)
            nursery.cancel_scope.cancel()

        nursery.start_soon(log)
        nursery.start_soon(kv)


class _Held(Response):
    """A view, for as long as its client listens: its name, and then nothing."""

    def __init__(self, service: Service, backend: Backend) -> None:
        super().__init__(headers={**HEADERS, "content-type": "text/plain"})
        del self.headers["content-length"]
        service.check_followers()
        service.views.check_room()
        self._service = service
        self._backend = backend

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def told(name: str) -> None:
            nonlocal begun
            begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": name.encode() + b"\n", "more_body": True})

        try:
            with self._service.follower():
                async with self._backend.view() as view:
                    await self._service.views.hold(view, told)
        except PerdureError as error:  # most often its time is over
            if not begun:
                await answer_of(error)(scope, receive, send)
                return
        if begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def view(call: Call) -> Response:
    """A view; questions about it name it. It ends with the connection, or after `limits.view_s`."""
    return _Held(call.service, (await _target(call)).backend)


_SCRATCH = "Perdure-Scratch names a store of the client's own, for trying things out (scope scratch)."
OPERATIONS = (
    Operation(
        method="GET",
        path=wire.PATH,
        name="wire_hello",
        summary="What a client's backend has to know first. " + _SCRATCH,
        run=hello,
        need="any",
        wire=True,
        answers={200: wire.Hello},
        problems=(503,),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/commit",
        name="wire_commit",
        summary="Whole commits with their ids, decided in their order, each answered by itself.",
        run=commit,
        need="any",
        wire=True,
        body=wire.Proposals,
        answers={200: wire.Answers},
        problems=(503,),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/resolve",
        name="wire_resolve",
        summary="Bar a writer whose connection was lost, for good, and learn what became of its commits: null is not stored, and never will be.",
        run=resolve,
        need="any",
        wire=True,
        body=wire.Resolve,
        answers={200: list[wire.Done | None]},
        problems=(416, 503, 504, 507),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/read",
        name="wire_read",
        summary="A question about the store, or about the view that Perdure-View names.",
        run=read,
        need="any",
        wire=True,
        body=wire.Question,  # type: ignore[arg-type]  # one of several
        answers={200: Any},
        problems=(409, 410, 416, 422, 503),
    ),
    Operation(
        method="GET",
        path=f"{wire.PATH}/news",
        name="wire_news",
        summary="Head and revision, whenever one of them moves: server-sent events.",
        run=news,
        need="any",
        live=True,
        problems=(503,),
    ),
    Operation(
        method="GET",
        path=f"{wire.PATH}/view",
        name="wire_view",
        summary="Hold a view open: the answer is its name, and ends with it.",
        run=view,
        need="any",
        answers={200: str},
        problems=(503,),
    ),
)
