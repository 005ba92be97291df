"""A blocking connection for SQL read models: whole transactions with time-outs, what a handler may do in one, and errors that are ours.

A handler asks and waits, statement by statement, in a thread; so this is psycopg's own connection, not the loop's `wire`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from perdure.backends.errors import Corrupt, Full, Misuse, PerdureError, Unavailable
from perdure.backends.postgres.session import CONNECT_S, IDLE_S, read_url, refused_connection
from perdure.backends.postgres.wire import Lost
from perdure.backends.sql import Work

LOCK_S: Final = 2.0
"""So long somebody else's transaction is waited for, before it is tried again later."""
STATEMENT_S: Final = 60.0
ANSWER_S: Final = STATEMENT_S + 10.0
"""A server that says nothing for so long is given up."""

_TIMEOUTS: Final = {
    "lock_timeout": f"{LOCK_S:g}s",
    "statement_timeout": f"{STATEMENT_S:g}s",
    "idle_in_transaction_session_timeout": f"{IDLE_S:g}s",
}
_PASSING: Final = ("08", "40", "53", "57", "58", "25006", "25P03", "25P04", "55P03", "55006")
"""Classes and codes that are no fault of the statement: connections, deadlocks, resources, an operator, time-outs, a replica."""
_OURS: Final = frozenset(("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"))
_FIRST_WORD: Final = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*([a-z]+|\()(?:\s+([a-z]+))?", re.IGNORECASE | re.DOTALL)

Rows = list[tuple[Any, ...]]


class Connection:
    """One at a time uses it, from any thread."""

    def __init__(self, url: str) -> None:
        conninfo, self.where = read_url(url)
        try:
            self._raw = _Bounded.connect(conninfo.decode(), autocommit=True, connect_timeout=int(CONNECT_S), prepare_threshold=2)
        except psycopg.Error as error:
            raise refused_connection(Lost(str(error)), self.where) from error
        self.version = self._raw.info.server_version
        self.pid = self._raw.info.backend_pid
        """Of the process that serves us, as it said."""

    def forget_statements(self) -> None:
        """Prepare nothing: behind a pooler the next transaction is another session's."""
        self._raw.prepare_threshold = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run one statement of ours."""
        with self._translated():
            return _fetch(self._raw.execute(sql.encode(), parameters or None))

    @contextmanager
    def whole(self, first: str, parameters: Sequence[Any] = (), **settings: str) -> Iterator[Rows]:
        """One transaction, with *settings* of its own; the rows that *first* gives. Nothing is done if the body raises."""
        try:
            yield self._begin(first, parameters, {**_TIMEOUTS, **settings})
            with self._translated():
                done = self._raw.execute("COMMIT", prepare=False).statusmessage  # one message, so that a late one commits or does not
            if done != "COMMIT":
                raise Misuse(f"{self.where}: a statement of the handler has failed, and it went on: PostgreSQL gives the whole transaction up then, so raise")
        except BaseException:
            with suppress(psycopg.Error):
                if self._raw.info.transaction_status is not TransactionStatus.IDLE:
                    self._raw.execute("ROLLBACK", prepare=False)
            raise

    def _begin(self, first: str, parameters: Sequence[Any], settings: Mapping[str, str]) -> Rows:
        setting, values = _setting(settings)
        with self._translated():
            # In one round trip, by the simple protocol: see `_settle` for why not by a pipeline.
            cursor = psycopg.ClientCursor(self._raw)
            cursor.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {setting}; {first}".encode(), [*values, *parameters])
            while cursor.nextset():
                pass
            return _fetch(cursor)

    def configure(self, **settings: str) -> None:
        """For the rest of the transaction."""
        self.execute(*_setting(settings))

    def let(self, work: Work) -> None:
        """Let a handler work in the transaction. Trouble with the database is raised as such, whatever the handler made of it."""
        transaction = _Transaction(self._raw, self.where)
        try:
            work(transaction)
        except Exception:
            if transaction.trouble is None:
                raise
        finally:
            transaction.open = False
        if transaction.trouble is not None:
            raise transaction.trouble
        if self._raw.info.transaction_status is not TransactionStatus.INTRANS:
            raise Misuse(
                f"{self.where}: a statement of the handler has failed, and it went on, though PostgreSQL has rolled the whole transaction back: let it raise"
            )

    def close(self) -> None:
        """What is under way and not committed will not be. Idempotent."""
        self._raw.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise Misuse(f"the role lacks a right in {self.where} ({_said(error)}): GRANT it") from error
        except psycopg.Error as error:
            if (trouble := trouble_of(error, self.where)) is None:
                raise
            raise trouble from error


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """Does not wait for ever: behind a proxy that swallows everything no keep-alive finds that the server is gone."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **more: Any) -> Any:
        """See `psycopg.Connection.wait`."""
        return super().wait(self._until(gen, time.monotonic() + ANSWER_S), *args, **more)

    def _until(self, gen: Generator[Any, Any, Any], deadline_s: float) -> Generator[Any, Any, Any]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline_s:
                    self.close()
                    raise psycopg.OperationalError(f"the server did not answer within {ANSWER_S:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


class _Transaction:
    """What a handler gets; over when it has returned."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]], where: str) -> None:
        self._raw = raw
        self._cursor = raw.cursor()
        self._where = where
        self.open = True
        self.trouble: PerdureError | None = None
        """With the database, and no fault of the handler."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """See `Transaction`."""
        self._check(sql)
        try:
            if parameters:
                self._cursor.execute(sql.encode(), parameters)
            else:
                with self._raw.pipeline():  # which takes one statement at a time: no second one hides behind it
                    self._cursor.execute(sql.encode())
                self._settle()
            return _fetch(self._cursor)
        except psycopg.Error as error:
            self._note(error)
            raise

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See `Transaction`."""
        self._check(sql)
        try:
            self._cursor.executemany(sql.encode(), rows)
            self._settle()
        except psycopg.Error as error:
            self._note(error)
            raise

    def _settle(self) -> None:
        """Ask nothing. A pipeline of psycopg ends with a flush, and who is frozen behind that the server never takes for idle (measured)."""
        self._raw.execute(b"", prepare=False)

    def _check(self, sql: str) -> None:
        if not self.open:
            raise Misuse("this transaction is over: use it only in the handler that got it")
        if self.trouble is not None:
            raise self.trouble
        found = _FIRST_WORD.match(sql)
        word = found[1].upper() if found else ""
        if word in _OURS or not word or (word == "PREPARE" and found and (found[2] or "").upper() == "TRANSACTION"):
            raise Misuse(f"{word or sql!r} is no statement for a handler: the transaction is perdure's")

    def _note(self, error: psycopg.Error) -> None:
        self.trouble = self.trouble or trouble_of(error, self._where)


def trouble_of(error: psycopg.Error, where: str) -> PerdureError | None:
    """What an error of PostgreSQL is to us; None if a wrong statement is to blame."""
    state = error.sqlstate
    if state == "53100":
        return Full(where, 0, 0)
    if state is None:
        return Unavailable(f"{where}: {_said(error)}") if isinstance(error, psycopg.OperationalError) else None
    if state.startswith("XX00"):
        return Corrupt(where, _said(error)) if state != "XX000" else None
    return Unavailable(f"{where}: {_said(error)} ({state})") if state.startswith(_PASSING) else None


def _said(error: psycopg.Error) -> str:
    return str(error.diag.message_primary or error).strip().replace("\n", " ")


def _setting(values: Mapping[str, str]) -> tuple[str, list[str]]:
    return "SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(values)), [text for pair in values.items() for text in pair]


def _fetch(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Rows:
    return cursor.fetchall() if cursor.description is not None else []
