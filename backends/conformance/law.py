"""A law: one sentence of the design, and the check that a backend keeps it.

A law's function gets either the author's `Stores`, or (with `Part.store`) the `Desk` of one fresh store.
What it finds wrong is `Broken`. No law takes longer than `LAW_S`, or what the stores say.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import attrs
import trio

from perdure.backends.commit import ANY, Answer, Append, Appended, Committed, Draft, Expected, Group, Stored, Write, propose
from perdure.backends.event import START, Extra, Position, Record, pack_extra
from perdure.backends.protocol import Backend
from perdure.backends.selector import EVERYTHING, Selector

A = TypeVar("A")

LAW_S = 30.0
"""No law takes longer, unless the stores say otherwise: what does has failed."""


class Stores(Protocol):
    """What the author of a backend provides.

    A name opened again is the same store, as far as `durable` is declared; a new name is a new, empty
    store, also while it is being loaded. Where `shared_writes` is declared, a name opened twice at once gives two handles that stand for
    two processes: what one remembers, the other does not know.

    Some methods more are optional, and laws that need them are left out without them: those of the classes in
    `perdure.backends.conformance.abilities`.

    `law_s`, where it has one, goes before `LAW_S`: for what is far away.
    """

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]: ...


class Broken(AssertionError):
    """A backend does not keep *law*; *what* says how that showed."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(law, what)
        self.law = law
        self.what = what

    def __str__(self) -> str:
        return f"{self.law}: {self.what}" if self.law else self.what


S = TypeVar("S", bound=Stores)
Check = Callable[[Stores], Awaitable[None]]


@attrs.frozen
class Law:
    """One *sentence* of the design, of the *part* it is shown under; *needs* names optional methods of `Stores`."""

    name: str
    part: str
    sentence: str
    check: Check = attrs.field(repr=False)
    needs: tuple[str, ...] = ()


class Part:
    """The laws of one part, in the order in which they are written down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.laws: list[Law] = []

    def law(self, sentence: str, *, needs: Sequence[str] = ()) -> Callable[[Callable[[S], Awaitable[None]]], Callable[[S], Awaitable[None]]]:
        """Mark a function as the check of *sentence*; its name becomes the law's. It gets stores that have what it *needs*."""

        def mark(function: Callable[[S], Awaitable[None]]) -> Callable[[S], Awaitable[None]]:
            name = function.__name__.replace("_", "-")
            self.laws.append(Law(name, self.name, sentence, _bounded(name, function), tuple(needs)))
            return function

        return mark

    def store(self, sentence: str, *, needs: Sequence[str] = ()) -> Callable[[Callable[[Desk], Awaitable[None]]], Check]:
        """The same for a function of one fresh store's `Desk`."""

        def mark(function: Callable[[Desk], Awaitable[None]]) -> Check:
            async def check(stores: Stores) -> None:
                async with open_desk(stores) as desk:
                    await function(desk)

            check.__name__ = function.__name__
            return self.law(sentence, needs=needs)(check)

        return mark


def _bounded(name: str, function: Callable[[Any], Awaitable[None]]) -> Check:
    async def check(stores: Stores) -> None:
        within_s = getattr(stores, "law_s", LAW_S)
        try:
            with trio.fail_after(within_s):
                await function(stores)
        except trio.TooSlowError as error:
            raise Broken(name, f"not done within {within_s:g} s") from error
        except Broken as broken:
            raise Broken(name, broken.what) from broken.__cause__
        except BaseExceptionGroup as group:
            broken_ones, rest = group.split(Broken)
            if broken_ones is None or rest is not None:
                raise
            raise Broken(name, str(leaf_of(broken_ones))) from group

    return check


def leaf_of(error: BaseException) -> BaseException:
    """The first error in a group that is no group itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# -- finding fault ---------------------------------------------------------------------------


def holds(condition: object, what: str) -> None:
    """Find the law broken unless *condition* is true."""
    if not condition:
        raise Broken("", what)


def same(actual: object, expected: object, what: str) -> None:
    """Find the law broken unless both are equal; *what* names the first."""
    if actual != expected:
        raise Broken("", f"{what} is {actual!r:.300}, not {expected!r:.300}")


def is_a(answer: object, kind: type[A]) -> A:
    """*answer*, which must be of that class."""
    if not isinstance(answer, kind):
        raise Broken("", f"the answer is {answer!r:.300}, not a {kind.__name__}")
    return answer


async def fails(kind: type[A], awaitable: Awaitable[object], what: str) -> A:
    """The error that *awaitable* must raise."""
    try:
        result = await awaitable
    except Exception as error:
        if isinstance(error, kind):
            return error
        raise Broken("", f"{what} raises {error!r:.300}, not {kind.__name__}") from error
    raise Broken("", f"{what} gives {result!r:.300} and raises no {kind.__name__}")


def refused(kind: type[A], function: Callable[[], object], what: str) -> A:
    """The error that a plain *function* must raise."""
    try:
        result = function()
    except Exception as error:
        if isinstance(error, kind):
            return error
        raise Broken("", f"{what} raises {error!r:.300}, not {kind.__name__}") from error
    raise Broken("", f"{what} gives {result!r:.300} and raises no {kind.__name__}")


# -- doing -----------------------------------------------------------------------------------


def draft(payload: bytes = b"payload", *, type: str = "happened", version: int = 1, tags: Sequence[str] = (), **extra: Any) -> Draft:
    """An event to append."""
    packed = pack_extra(Extra(tags=tuple(tags), **extra)) if tags or extra else b""
    return Draft(type, version, payload, packed, tuple(tags))


def drafts(count: int, **more: Any) -> list[Draft]:
    """*count* events to append, told apart by their payloads."""
    return [draft(b"%d" % number, **more) for number in range(1, count + 1)]


def new_id() -> bytes:
    """A commit's id."""
    return os.urandom(16)


def now_us() -> int:
    """The time to propose."""
    return time.time_ns() // 1000


def appending(stream: str, count: int = 1, expected: Expected = ANY, **more: Any) -> Append[Draft]:
    """A write of *count* events."""
    return Append(stream, drafts(count, **more), expected)


MANY = 1 << 30
"""A limit that limits nothing."""


@attrs.define
class Desk:
    """A backend, and the shortest ways to ask it. A time that is not given is the store's own."""

    backend: Backend

    async def ask(self, *writes: Write, key: bytes | None = None, at_us: int | None = None, id: bytes | None = None) -> Answer:
        """The answer to one commit of *writes*."""
        group = await self.group(list(writes), keys=[key], at_us=at_us, ids=None if id is None else [id])
        return group.answers[0]

    async def group(
        self, *commits: Sequence[Write], keys: Sequence[bytes | None] | None = None, at_us: int | None = None, ids: Sequence[bytes] | None = None
    ) -> Group:
        """One group of several commits."""
        at = await self.backend.now_us() if at_us is None else at_us
        keys = keys or [None] * len(commits)
        ids = ids or [new_id() for _ in commits]
        group = await self.backend.commit(
            [propose(list(writes), id=id, at_us=at, key=key, own=True) for writes, key, id in zip(commits, keys, ids, strict=True)]
        )
        same(len(group.answers), len(commits), "the number of answers")
        return group

    async def done(self, *writes: Write, key: bytes | None = None, at_us: int | None = None, id: bytes | None = None) -> Committed:
        """The same, which must succeed."""
        return is_a(await self.ask(*writes, key=key, at_us=at_us, id=id), Committed)

    async def append(self, stream: str, count: int = 1, expected: Expected = ANY, **more: Any) -> Appended:
        """Append *count* events, which must succeed."""
        return is_a((await self.done(appending(stream, count, expected, **more))).parts[0], Appended)

    async def store(self, write: Write) -> int:
        """The revision of one put or delete, which must succeed."""
        return is_a((await self.done(write)).parts[0], Stored).revision

    async def stream(self, name: str, *, after: int = 0, limit: int = MANY, bytes_max: int = MANY, backward: bool = False) -> list[Record]:
        """Records of a stream, all unless limited."""
        return await self.backend.read_stream(name, after=after, limit=limit, bytes_max=bytes_max, backward=backward)

    async def log(self, *, where: Selector[Any] = EVERYTHING, after: Position = START, limit: int = 1_000, bytes_max: int = MANY) -> list[Record]:
        """All records of the log that are selected, read page by page to the head."""
        records: list[Record] = []
        while True:
            page = await self.backend.read_log(after=after, limit=limit, bytes_max=bytes_max, where=where)
            records += page.records
            if page.examined >= page.head:
                return records
            holds(page.examined > after, f"the page after {after} examined nothing, though the head is {page.head}")
            after = page.examined

    async def payloads(self, name: str) -> list[bytes]:
        """What a stream holds."""
        return [record.payload for record in await self.stream(name)]


@asynccontextmanager
async def open_desk(stores: Stores, name: str | None = None) -> AsyncIterator[Desk]:
    """The desk of a store: a fresh one unless named."""
    async with stores.open(name or new_name()) as backend:
        yield Desk(backend)


def new_name() -> str:
    """A name for a store that nothing else has."""
    return f"store-{os.urandom(6).hex()}"


async def settle() -> None:
    """Let every other task run until it waits."""
    for _ in range(40):
        await trio.lowlevel.checkpoint()
