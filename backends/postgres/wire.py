"""One connection to a PostgreSQL server, driven by the loop: statements go out, results come in, many in one round trip.

It is libpq, through psycopg's wrapper, without a thread: a worker thread beside a busy loop waits for the
interpreter lock, and would do so with the store's lock in hand. Values travel in the binary form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.numeric import Int8BinaryLoader

from perdure.backends.environment import Threads

DRAIN_S = 0.1
"""Who is cancelled amid a round trip waits so long for its end, so that the connection can go on being used."""

OIDS: Final = {"bytea": 17, "int8": 20, "int4": 23, "text": 25, "jsonb": 3802, "timestamptz": 1184}
OIDS_OF_ARRAYS: Final = {"bytea": 1001, "int8": 1016, "int4": 1007, "text": 1009, "jsonb": 3807, "timestamptz": 1185}
EPOCH_US: Final = 946_684_800_000_000
"""Of PostgreSQL's times: 2000-01-01, in microseconds since 1970."""


class Lost(Exception):
    """The connection is gone, could not be made, or gave no answer in time: what was under way may have happened."""


class Refused(Exception):
    """The server said no: *state* is its five letters for why. The transaction is over, or failed."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(state, message)
        self.state = state
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.state})"


Value = bytes | None
Row = tuple[Any, ...]


@attrs.frozen
class Statement:
    """What is asked, with the types of its parameters (`int8`, `text[]`), prepared once for each connection.

    In its text `perdure.` stands for the schema of the store. *commits*: it is a transaction of its own that writes, so its name
    begins with `commit-`.
    """

    sql: str
    types: tuple[str, ...] = ()
    commits: bool = False
    name: bytes = attrs.field(init=False)
    oids: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        lead = b"commit-" if self.commits or self.sql == "COMMIT" else b"p"
        object.__setattr__(self, "name", lead + blake2b(repr((self.sql, self.types)).encode(), digest_size=12).hexdigest().encode())
        object.__setattr__(self, "oids", tuple(OIDS_OF_ARRAYS[t[:-2]] if t.endswith("[]") else OIDS[t] for t in self.types))


@attrs.frozen
class Question:
    """A statement with its values."""

    statement: Statement
    values: Sequence[Value] = ()


def question(sql: str, **values: tuple[str, Value]) -> Question:
    """Values by name, each with its type: `:name` in the text stands for it."""
    names = list(values)
    for number, name in sorted(enumerate(names, 1), key=lambda item: -len(item[1])):
        sql = sql.replace(f":{name}", f"${number}")
    return Question(Statement(sql, tuple(values[name][0] for name in names)), [values[name][1] for name in names])


# -- values ----------------------------------------------------------------------------------

_INT8, _INT4 = struct.Struct(">q"), struct.Struct(">i")
_ARRAY = struct.Struct(">iiiii")
_NULL = _INT4.pack(-1)


def int8(value: int) -> bytes:
    """A number."""
    return _INT8.pack(value)


def int8s(values: Sequence[int], type: str = "int8") -> bytes:
    """An array of numbers, none of them null."""
    count = len(values)
    flat = [8] * (2 * count)
    flat[1::2] = values
    return _ARRAY.pack(1, 0, OIDS[type], count, 1) + struct.pack(">" + "iq" * count, *flat) if count else _empty(type)


def times(values_us: Iterable[int]) -> bytes:
    """An array of times, given in microseconds since 1970."""
    return int8s([value - EPOCH_US for value in values_us], "timestamptz")


def bodies(values: Sequence[bytes | None], type: str = "bytea") -> bytes:
    """An array of bytes, or of what has a binary form of its own: JSON's begins with a 1."""
    if not values:
        return _empty(type)
    pack = _INT4.pack
    parts = [_ARRAY.pack(1, int(None in values), OIDS[type], len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (pack(len(value)), value)
    return b"".join(parts)


def texts(values: Iterable[str | None]) -> bytes:
    """An array of texts."""
    return bodies([None if value is None else value.encode() for value in values], "text")


def _empty(type: str) -> bytes:
    return struct.pack(">iii", 0, 0, OIDS[type])


def uint4s(values: Iterable[int], count: int) -> bytes:
    """Numbers as bytes that only we read."""
    return struct.pack(f">{count}I", *values)


def read_uint4s(raw: bytes) -> tuple[int, ...]:
    """The inverse of `uint4s`."""
    return struct.unpack(f">{len(raw) // 4}I", raw)


class _Context:
    """How results are read: times as whole numbers, nothing lost."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        self.adapters.register_loader("timestamptz", Int8BinaryLoader)


_context: AdaptContext = _Context()


# -- the connection --------------------------------------------------------------------------


class Wire:
    """See the module. One round trip at a time: its user sees to that."""

    def __init__(self, conn: pq.abc.PGconn, schema: str) -> None:
        self._conn = conn
        self._schema = f"{schema}."
        self._known: set[bytes] = set()
        self._owed: tuple[Sequence[Question], Sequence[bytes | None]] | None = None
        self._behind = 0
        """So many round trips that nobody waits for have been begun and are not over."""
        self.keeps_statements = True
        """Whether what was prepared is still there in the next transaction: not behind every pooler."""
        self.lost = False
        self.pid = conn.backend_pid
        """Of the process that serves us, as it said."""
        self.version = conn.server_version
        """The server's, as 180004."""

    @classmethod
    async def connect(cls, conninfo: bytes, threads: Threads, *, schema: str, within_s: float) -> Wire:
        """A new connection, to the store in *schema*.

        Raises:
          Lost: there is none; the message is the server's, or libpq's.
        """
        conn, made = None, False
        try:
            with trio.move_on_after(within_s):
                conn = await threads.run_sync(pq.PGconn.connect_start, conninfo)  # it may look up a name
                await cls._greet(conn)
                conn.nonblocking = 1
                conn.enter_pipeline_mode()
                made = True
                return cls(conn, schema)
        except (psycopg.Error, OSError) as error:
            raise Lost(str(error).strip()) from error
        finally:
            if conn is not None and not made:
                conn.finish()
        raise Lost(f"the server did not answer within {within_s:g} s")

    @staticmethod
    async def _greet(conn: pq.abc.PGconn) -> None:
        while True:
            if conn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError(conn.get_error_message())
            match conn.connect_poll():
                case pq.PollingStatus.OK:
                    return
                case pq.PollingStatus.READING:
                    await trio.lowlevel.wait_readable(conn.socket)
                case pq.PollingStatus.WRITING:
                    await trio.lowlevel.wait_writable(conn.socket)
                case _:
                    raise psycopg.OperationalError(conn.get_error_message())

    async def ask(self, *questions: Question | str, within_s: float) -> list[list[Row]]:
        """The rows of each, all in one round trip. After a refusal the rest of it has not been done.

        If cancelled, what was asked may have been done.

        Raises:
          Refused: the first that the server refused.
          Lost: the connection is of no use any more.
        """
        self.disown()
        return await self._ask([Question(Statement(one)) if isinstance(one, str) else one for one in questions], None, within_s)

    async def _ask(self, sent: Sequence[Question], expected: Sequence[bytes | None] | None, within_s: float) -> list[list[Row]]:
        """The rows of each; *expected*: what is to come, where it was sent before."""
        results = None
        try:
            with trio.move_on_after(within_s):
                results = await self._exchange(sent, expected)
        except (psycopg.Error, OSError, trio.ClosedResourceError) as error:
            raise self._gone(str(error).strip()) from error
        except trio.Cancelled:
            raise
        except BaseException:
            self.close()
            raise
        if results is None:
            raise self._gone(f"the server did not answer within {within_s:g} s")
        for one, result in zip(sent, results, strict=False):
            if one.statement.sql == "COMMIT" and result.command_status == b"ROLLBACK":
                raise Refused("25P02", "the transaction had failed")
        return [self._rows(result) for result in results]

    def send_nowait(self, *questions: Question) -> bool:
        """Ask, for `owed` to wait for the answers; whether that could be sent."""
        if self.lost:
            return False
        try:
            self._owed = questions, self._send(questions)
            self._conn.flush()
        except (psycopg.Error, OSError) as error:
            self._gone(str(error).strip())
        return not self.lost

    async def owed(self, *, within_s: float) -> list[list[Row]]:
        """The answers to what was sent with `send_nowait`; see `ask`."""
        assert self._owed is not None
        (sent, expected), self._owed = self._owed, None
        return await self._ask(sent, expected, within_s)

    def disown(self) -> None:
        """Nobody waits for what was sent with `send_nowait`: it is dropped with the next round trip."""
        if self._owed is not None:
            self._known.update(filter(None, self._owed[1]))
            self._behind += 1
            self._owed = None

    def tell_nowait(self, question: Question) -> None:
        """Ask what needs no answer, and do not wait for one: whatever comes is dropped with the next round trip."""
        if self.lost:
            return
        try:
            name = question.statement.name if self.keeps_statements else b""
            if not name or name not in self._known:
                self._send_prepare(question.statement, name)
                self._known.add(name)
            self._conn.send_query_prepared(name, question.values, [1] * len(question.values), result_format=1)
            self._conn.pipeline_sync()
            self._behind += 1
            self._conn.flush()
        except (psycopg.Error, OSError) as error:
            self._gone(str(error).strip())

    async def settle(self, within_s: float) -> None:
        """Wait for what nobody has waited for; not interrupted."""
        if self._behind and not self.lost:
            with suppress(Lost, Refused), trio.CancelScope(shield=True):
                await self.ask(within_s=within_s)

    @property
    def alive(self) -> bool:
        """Whether nothing says yet that the connection is gone: without a round trip."""
        if not self.lost:
            try:
                self._conn.consume_input()
                if self._conn.status != pq.ConnStatus.OK:
                    self._gone("the server has ended it")
            except (psycopg.Error, OSError) as error:
                self._gone(str(error).strip())
        return not self.lost

    async def _exchange(self, questions: Sequence[Question], sent: Sequence[bytes | None] | None) -> list[pq.abc.PGresult]:
        if sent is None:
            await trio.lowlevel.checkpoint_if_cancelled()
        expected = self._send(questions) if sent is None else sent
        try:
            return await self._receive(expected)
        except trio.Cancelled:
            with trio.move_on_after(DRAIN_S, shield=True) as scope:
                await self._receive(expected)
            if scope.cancelled_caught:
                self.close()
            raise

    def _send(self, questions: Sequence[Question]) -> list[bytes | None]:
        """Hand all to libpq; of each result that will come, the name of what it prepares, or None: it is an answer."""
        conn, expected = self._conn, list[bytes | None]()
        for one in questions:
            statement = one.statement
            name = statement.name if self.keeps_statements else b""
            if not (name and (name in self._known or name in expected)):
                self._send_prepare(statement, name)
                expected.append(name)
            conn.send_query_prepared(name, one.values, [1] * len(one.values), result_format=1)
            expected.append(None)
        conn.pipeline_sync()
        self._results: list[pq.abc.PGresult] = []
        self._last: pq.abc.PGresult | None = None
        return expected

    def _send_prepare(self, statement: Statement, name: bytes) -> None:
        self._conn.send_prepare(name, statement.sql.replace("perdure.", self._schema).encode(), statement.oids)

    async def _receive(self, expected: Sequence[bytes | None]) -> list[pq.abc.PGresult]:
        """The answers; it goes on where it was cancelled."""
        conn = self._conn
        while conn.flush():
            await _wait_either(conn.socket)
            conn.consume_input()
        while not self._take_results():
            await trio.lowlevel.wait_readable(conn.socket)
            conn.consume_input()
        answers = []
        for result, name in zip(self._results, expected, strict=True):
            if name is None or _failed(result):
                answers.append(result)
            elif name:
                self._known.add(name)
        return answers

    def _take_results(self) -> bool:
        """Take what has come; whether all has."""
        conn = self._conn
        while not conn.is_busy():
            result = conn.get_result()
            if result is None:
                if self._last is None:
                    return False
                self._results.append(self._last)
                self._last = None
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                if not self._behind:
                    return True
                self._behind -= 1
                self._results.clear()
            else:
                self._last = result
        return False

    def _rows(self, result: pq.abc.PGresult) -> list[Row]:
        status = result.status
        if status == pq.ExecStatus.TUPLES_OK:
            count = result.ntuples
            if not count:
                return []
            transformer = Transformer(_context)
            transformer.set_pgresult(result)
            return transformer.load_rows(0, count, tuple)
        if status == pq.ExecStatus.COMMAND_OK:
            return []
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message().encode()).decode(errors="replace")
        if (result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b"") in (b"FATAL", b"PANIC") or not state:
            raise self._gone(message)
        raise Refused(state, message)

    # -- what the server says unasked --------------------------------------------------------

    async def wait_told(self, within_s: float) -> list[str]:
        """What was notified, as soon as something was, or nothing after a while. Cancelled, nothing is lost.

        Raises:
          Lost: the connection is gone.
        """
        conn, found = self._conn, list[str]()
        with trio.move_on_after(within_s):
            try:
                while not found:
                    found = self._take_told()
                    if not found:
                        await trio.lowlevel.wait_readable(conn.socket)
                        conn.consume_input()
            except (psycopg.Error, OSError, trio.ClosedResourceError) as error:
                raise self._gone(str(error).strip()) from error
        return found

    def _take_told(self) -> list[str]:
        found = []
        while (told := self._conn.notifies()) is not None:
            found.append(told.extra.decode())
        return found

    # -- its end -----------------------------------------------------------------------------

    def _gone(self, why: str) -> Lost:
        self.close()
        return Lost(why)

    def close(self) -> None:
        """Be done with it: what is under way and not committed will not be. Idempotent."""
        if not self.lost:
            self.lost = True
            if self._conn.status == pq.ConnStatus.OK:
                trio.lowlevel.notify_closing(self._conn.socket)
            self._conn.finish()


def _failed(result: pq.abc.PGresult) -> bool:
    return result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


async def _wait_either(socket: int) -> None:
    """Until there is room to send or something to read: who only sends while the server only sends waits for ever."""
    async with trio.open_nursery() as nursery:

        async def wait(ready: Callable[[int], Any]) -> None:
            await ready(socket)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, trio.lowlevel.wait_readable)
        nursery.start_soon(wait, trio.lowlevel.wait_writable)
