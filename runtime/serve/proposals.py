"""Commits that a client proposes: checked as if they came from nobody in particular, decided here, and told apart after a lost connection.

Names and sizes, what the token permits, that payloads can be read (by the app's class, where it has one for the type), and the time that is
proposed. Each commit also checks that its writer is not barred: see `perdure.backends.http.backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio
from starlette.responses import Response

from perdure.backends.answers import committed_of
from perdure.backends.commit import ANY, Appended, Check, Commit, Committed, Stored, Unbarred, key_id, propose
from perdure.backends.errors import Misuse, PerdureError
from perdure.backends.event import Position, Record, category_of
from perdure.backends.http import wire
from perdure.backends.limits import CLOCK_AHEAD_S, Limits
from perdure.backends.protocol import Backend
from perdure.runtime.serve.operation import Call
from perdure.runtime.serve.target import Target, is_kept, need, need_look, own, target_of, wire_answer

_OWN: Final = Limits(commit_bytes=256 << 20, value_bytes=64 << 20)


async def commit(call: Call) -> Response:
    """Decide commits, in order. After they were asked nothing may wait: who is cut off then would be told that nothing was stored."""
    target = await target_of(call)
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
        except PerdureError as error:  # its own: others of the group have other callers
            answers.append(error)
            continue
        answers.append(Misuse("not asked"))
    for place, answer in zip(places, await target.rt.commit_group(asked) if asked else (), strict=True):
        answers[place] = answer
    return wire_answer(wire.Answers([wire.told(one) for one in answers], *_reached(answers)))


def _commit_of(target: Target, said: wire.Proposal, writer: bytes, now_us: int) -> Commit:
    """The commit that was proposed, checked. Where its client's clock is far ahead of ours, ours counts.

    Raises:
      Forbidden: the token does not permit a part of it.
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
      Forbidden: it does not.
    """
    scopes = target.scopes
    match said:
        case wire.AppendWrite(stream) if stream.startswith("$"):
            raise own(stream)
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket) | wire.PutAllWrite(bucket) if bucket.startswith("$") and not is_kept(bucket):
            raise own(bucket)
        case wire.AppendWrite(stream):
            need(scopes.may_append(stream), f"append:{category_of(stream)}")
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket) | wire.PutAllWrite(bucket) if bucket.startswith("$"):
            need(scopes.may_run(), "run, for what a runtime keeps")
        case wire.PutWrite(bucket) | wire.DeleteWrite(bucket):
            need(scopes.may_use(bucket), f"kv:{bucket}")
        case wire.CheckEntry(bucket):
            need_look(target, bucket)
        case wire.CheckStream(stream):
            need(scopes.may_append(stream) or scopes.may_read(), "read, for what is checked")
        case wire.UnlessWrite():
            need(scopes.may_read(), "read, for what is checked")
        case wire.SnapshotWrite() | wire.FenceWrite() | wire.PutAllWrite():
            need(scopes.may_run(), "run, for what a runtime keeps")


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


# -- after a lost connection ------------------------------------------------------------------


def _bar_key(writer: bytes) -> bytes:
    """The idempotency key of the commit that bars *writer*; it is kept for as long as any key."""
    return b"writer " + writer


async def resolve(call: Call) -> Response:
    """Bar a writer for good, and say what became of its commits."""
    target = await target_of(call)
    said: wire.Resolve = wire.from_bytes(call.body, wire.Resolve)
    if len(said.writer) != wire.ID_BYTES or len(said.ids) > target.rt.limits.group_commits:
        raise Misuse("there are no such commits")
    nothing = Check(ANY, stream="$writers")
    bar = propose([nothing], id=b"", at_us=await target.backend.now_us(), key=_bar_key(said.writer), own=True)
    (barred,) = await target.rt.commit_group([bar])
    if isinstance(barred, PerdureError):
        raise barred
    found = await _answers(target.backend, said.ids, Position(said.after))
    return wire_answer([None if (one := found.get(id)) is None else wire.told(one) for id in said.ids])


async def _answers(backend: Backend, ids: Sequence[bytes], after: Position) -> dict[bytes, Committed]:
    """What is known of commits of which none has events at or before *after*: by what is kept of them, else by their events."""
    found = {id: answer for id in ids if (answer := await backend.answer(id)) is not None}
    left = set(ids) - found.keys()
    own: dict[bytes, list[Record]] = {}
    while left:
        page = await backend.read_log(after=after, limit=1_000, bytes_max=1 << 20, over_cuts=True)
        for record in page.records:
            if record.commit in left:
                own.setdefault(record.commit, []).append(record)
        after = page.examined
        if after >= page.head:
            break
        await trio.lowlevel.checkpoint()
    return found | {id: committed_of(records) for id, records in own.items()}
