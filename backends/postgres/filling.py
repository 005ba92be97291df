"""Loading a store: filling it with what another one held, everything under its own numbers. See `perdure.backends.loading`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from perdure.backends.errors import Corrupt, Misuse
from perdure.backends.event import Position, Record, category_of
from perdure.backends.frame import with_checksum
from perdure.backends.loading import check_order, told
from perdure.backends.postgres import cutting, schema, writing
from perdure.backends.postgres.schema import LOADING
from perdure.backends.postgres.wire import EPOCH_US, Question, Row, Statement, texts
from perdure.backends.protocol import CutBound, StreamInfo

Ask = Callable[..., Awaitable[list[list[Row]]]]

_EMPTY: Final = " AND ".join(f"NOT EXISTS (SELECT FROM perdure.{table})" for table in schema.TABLES if table not in ("writers", "compacted"))
_LAST_SEQS: Final = Statement("SELECT name, last FROM perdure.streams WHERE name = ANY($1)", ("text[]",))
_LAST_COMMIT: Final = Statement("SELECT commit FROM perdure.runs ORDER BY position DESC LIMIT 1")


async def begin(head: Row, ask: Ask, url: str, *, anew: bool) -> None:
    """Say that the store is being loaded; *anew*: with nothing in it.

    Raises:
      Misuse: it holds something that was not loaded.
    """
    _, revision, _, elsewhere, _ = head
    if elsewhere != LOADING:
        ((empty,),) = await ask(f"SELECT {_EMPTY}")
        if not elsewhere and (revision or not empty[0]):
            raise Misuse(f"{url} holds data already: load into a new store")
        await ask("UPDATE perdure.head SET loading = true, moved = '', epoch = epoch + 1")
    if anew:
        cleared = "UPDATE perdure.head SET position = 0, revision = 0, at = 'epoch', at_before = 'epoch', epoch = epoch + 1"
        await ask(*(f"DELETE FROM perdure.{table}" for table in schema.TABLES), cleared)


def check_loading(head: Row, url: str) -> None:
    """Refuse what may be done only while a store is being loaded.

    Raises:
      Misuse: it is not.
    """
    if head[3] != LOADING:
        raise Misuse(f"{url} is not being loaded: call begin_load first")


async def load(head: Row, ask: Ask, url: str, id: str, records: Sequence[Record]) -> None:
    """Store *records*, whole commits in order of position, beyond what is there.

    Raises:
      Misuse: the store is not being loaded; they are out of order, a seq is missing, or a commit is not whole.
      Corrupt: one does not fit its checksum.
    """
    position, revision, at, _, epoch = head
    check_loading(head, url)
    if not records:
        return
    streams = dict.fromkeys(record.stream for record in records)
    last_seqs, last = await ask(Question(_LAST_SEQS, (texts(streams),)), Question(_LAST_COMMIT))
    if last and last[0][0] == records[0].commit:
        raise Misuse(f"{told(records[0])}: its commit has been loaded in part before; load commits whole")
    known: dict[str, int] = dict(last_seqs)
    check_order(records, position, at + EPOCH_US, lambda stream: known.get(stream, 0))
    for record in records:
        if with_checksum(record) != record:
            raise Corrupt(told(record), "its checksum does not fit")
    firsts = {record.stream: record for record in reversed(records) if record.stream not in known}
    beyond = [record for record in firsts.values() if record.seq > 1]
    cut = [StreamInfo(one.stream, one.seq, one.seq - 1, before, before) for one in beyond if (before := Position(one.position - 1))]
    if cut:  # what was before has been cut, wherever that was done
        await cutting.load(ask, cut, [CutBound(category_of(one.name), None, one.cut, one.name) for one in cut])
    new = {name: record.seq for name, record in firsts.items() if record.seq == 1}
    await ask(writing.load(records, new, writing.Place(id, epoch, position, revision)))
