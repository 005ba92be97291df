"""Questions of a client about the store, or about a view that it holds: answered as records, within what its token permits."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import trio
from starlette.responses import Response

from perdure.backends.errors import AskTimeout, Closed, Misuse
from perdure.backends.event import Position
from perdure.backends.http import wire
from perdure.backends.limits import PAGE_EXAMINED
from perdure.backends.protocol import Reads, StreamInfo
from perdure.backends.tables import bytes_of
from perdure.runtime.serve.operation import Call
from perdure.runtime.serve.target import Target, need, need_look, target_of, wire_answer

ENTRIES: Final = 64
"""So many entries are read at a time: each may be as large as a value may be."""
PAGE_BYTES: Final = 4 << 20
HASTEN_S: Final = 3.0


async def read(call: Call) -> Response:
    """Answer a question, of the store as it is or of a view."""
    target = await target_of(call)
    question: wire.Question = wire.from_bytes(call.body, wire.Question)
    work = partial(_read, target, question)
    name = call.headers.get(wire.VIEW)
    return wire_answer(await (work(target.backend) if name is None else call.service.views.ask(name, work)))


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
        case wire.ReadLog(after, limit, bytes_max, items, over_cuts):
            most, room = min(limit, PAGE_EXAMINED), min(bytes_max, PAGE_BYTES)
            page = await reads.read_log(after=Position(after), limit=most, bytes_max=room, where=wire.selector_of(items), over_cuts=over_cuts)
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
            return None if info is None else _row(info)
        case wire.ListCuts():
            cuts = await reads.cuts()
            shown_cuts = [one for one in cuts if target.own or one.category[0] != "$" or scopes.may_operate()]
            return [(one.category, one.type, one.position, one.stream, one.times) for one in shown_cuts]
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
      Forbidden: it does not.
    """
    scopes = target.scopes
    match question:
        case wire.ReadStream(name) | wire.OneStream(name) if name.startswith("$"):
            need(scopes.may_operate(), "operate, for perdure's own streams")
        case wire.Get(bucket) | wire.Scan(bucket) | wire.ReadChanges(bucket):
            need_look(target, bucket)
        case wire.Where() | wire.AnswerTo():
            pass
        case wire.Verify():
            need(scopes.may_operate(), "operate")
        case _:
            need(scopes.may_read(), "read")


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


def _row(info: StreamInfo) -> wire.StreamRow:
    return info.name, info.first, info.last, int(info.position), int(info.cut), info.archive


async def _streams(target: Target, asked: wire.ListStreams, reads: Reads) -> wire.Streams:
    after, most = asked.after, min(asked.limit, target.rt.limits.page_records)
    while True:
        page = await reads.streams(prefix=asked.prefix, after=after, limit=most)
        shown = [_row(one) for one in page if target.own or one.name[0] != "$" or target.scopes.may_operate()]
        if shown or len(page) < most or not page:
            return wire.Streams(shown, bool(shown) and len(page) == most < asked.limit)
        after = page[-1].name
