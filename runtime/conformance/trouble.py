"""Laws of what a runtime gets over: others who write to its store, a frozen one among them, and flushes that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from perdure.actors.status import What
from perdure.backends.commit import Appended, Stored
from perdure.backends.conformance.abilities import FailsFlush, HoldsTurn
from perdure.backends.conformance.law import Check, Part, Stores, fails, holds, is_a, new_name, same, settle
from perdure.backends.errors import Unavailable
from perdure.backends.event import START
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, State
from perdure.backends.selector import of
from perdure.runtime.conformance.kit import COUNT, Happened, Other, listed, runtime_on
from perdure.runtime.conformance.states import APP, check_models
from perdure.runtime.lifecycle import lifecycle
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = Part("trouble")
_WRITERS = 8


# -- others ----------------------------------------------------------------------------------


def _two(sentence: str) -> Callable[[Callable[[Runtime, Runtime], Awaitable[None]]], Check]:
    """Mark a function of two runtimes, over two handles of one store, as a check; who does not declare `shared_writes` keeps it."""

    def mark(function: Callable[[Runtime, Runtime], Awaitable[None]]) -> Check:
        async def check(stores: Stores) -> None:
            name = new_name()
            async with runtime_on(stores, name, limits=Limits(page_records=16)) as one:
                if one.backend.capabilities.shared_writes:
                    async with runtime_on(stores, name, limits=Limits(page_records=16)) as other:
                        await function(one, other)

        check.__name__ = function.__name__
        return PART.law(sentence)(check)

    return mark


@_two("The ring is a chain over processes: what another one wrote in between is seen once and in order, all the time.")
async def others_write_in_between(one: Runtime, other: Runtime) -> None:
    total = 120
    got: list[list[tuple[str, int]]] = [[] for _ in range(4)]

    async def follow(rt: Runtime, found: list[tuple[str, int]], pause: int) -> None:
        async with rt.subscribe(of(Happened), after=START) as events:
            while len(found) < total:
                event = await anext(events)
                found.append((event.stream, event.seq))
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()

    async def write(rt: Runtime, stream: str) -> None:
        for number in range(total // 2):
            await rt.append(stream, [Happened(number)])
            for _ in range(number % 5):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number, found in enumerate(got):
            nursery.start_soon(follow, (one, other)[number % 2], found, 5 * (number // 2))
        nursery.start_soon(write, one, "a-1")
        nursery.start_soon(write, other, "b-1")
    log = [(event.stream, event.seq) for event in await listed(one.read_all())]
    for number, found in enumerate(got):
        same(found, log, f"what follower {number} got, beside another process that writes,")


@_two("`watch` goes on over what another process changes: in revision order, at least the last of each key, deletes included.")
async def others_changes_are_watched(one: Runtime, other: Runtime) -> None:
    ours, theirs = one.kv("k", int), other.kv("k", int)
    seen: list[tuple[str, int, int | None]] = []

    async def watch() -> None:
        async for change in ours.watch():
            seen.append((change.key, change.revision, None if change.entry is None else change.entry.value))
            if change.key == "end":
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for number in range(30):
            bucket = theirs if number % 3 else ours
            await bucket.put(f"key-{number % 4}", number)
            await trio.lowlevel.checkpoint()
        await theirs.delete("key-0")
        await settle()  # so that it waits when the last change comes
        await theirs.put("end", 0)
    revisions = [revision for _, revision, _ in seen]
    same(revisions, sorted(set(revisions)), "the revisions in the order in which they were seen")
    same({key: value for key, _, value in seen}, {"key-0": None, "key-1": 29, "key-2": 26, "key-3": 27, "end": 0}, "the last of each key")


@_two("`execute` decides again when another process has written in between.")
async def decisions_are_made_on_what_others_wrote(one: Runtime, other: Runtime) -> None:
    async def count(rt: Runtime) -> None:
        for _ in range(10):
            is_a(await rt.execute("a-1", COUNT, lambda state: [Happened(state)], attempts_max=50), Appended)

    async with trio.open_nursery() as nursery:
        for rt in (one, other, one, other):
            nursery.start_soon(count, rt)
    same([event.data.number for event in await listed(one.read("a-1"))], list(range(40)), "what was decided")


@PART.law("A process that is frozen costs a caller its limit, no more: `Unavailable`, nothing was stored, and nothing is restarted.", needs=["hold_turn"])
async def a_frozen_process_costs_its_limit(stores: HoldsTurn) -> None:
    name = new_name()
    async with runtime_on(stores, name, app=APP) as rt:
        await rt.append("a-1", [Happened(1, tag="x")])
        await check_models(rt)
        with stores.hold_turn(name):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(fails, Unavailable, rt.append("a-1", [Happened(9)]), "an append while a frozen process may write")
        await rt.append("a-1", [Happened(2, tag="y")])
        same([event.data.number for event in await listed(rt.read("a-1"))], [1, 2], "what is stored")
        await check_models(rt)
        same(_restarts(rt), {"kit-total": 0, "kit-by": 0}, "the numbers of restarts")


# -- flushes that fail -----------------------------------------------------------------------


@attrs.define
class _Troubled:
    """A runtime whose flushes fail from time to time, and what its callers were answered."""

    rt: Runtime
    backend: Backend
    stores: FailsFlush
    answers: dict[str, list[Appended]] = attrs.field(factory=dict)
    revisions: list[int] = attrs.field(factory=list)
    _over: bool = False

    async def go(self) -> None:
        """Callers append, put and await their answers while six flushes fail, every other one with what it wrote being there."""
        async with trio.open_nursery() as nursery:
            for number in range(_WRITERS):
                nursery.start_soon(self._append, f"s-{number}")
            nursery.start_soon(self._put)
            for number in range(6):
                doubts = self._doubts
                self.stores.fail_flush(self.backend, stored=number % 2 == 0)
                while self._doubts == doubts or self.backend.state is not State.OPEN:  # noqa: ASYNC110 - nobody is told
                    await trio.sleep(0.0031)  # in step with nothing that commits, so that callers' flushes fail
            self._over = True
        same(self._doubts, 6, "the number of flushes that failed")

    @property
    def _doubts(self) -> int:
        return self.rt.status().journal.doubts

    async def _append(self, stream: str) -> None:
        answers = self.answers[stream] = []
        while not self._over or len(answers) < 5:
            answer = await self.rt.append(stream, [Happened(len(answers), tag=stream), Other()], expected=2 * len(answers))
            answers.append(is_a(answer, Appended))
            await trio.sleep(0.002)

    async def _put(self) -> None:
        bucket, revision = self.rt.kv("k", int), 0
        while not self._over:
            revision = is_a(await bucket.put("x", len(self.revisions), expected=revision), Stored).revision
            self.revisions.append(revision)
            await trio.sleep(0.002)


@asynccontextmanager
async def _troubled(stores: FailsFlush, name: str | None = None) -> AsyncIterator[_Troubled]:
    async with stores.open(name or new_name()) as backend, open_runtime(backend, APP) as rt:
        yield _Troubled(rt, backend, stores)


@PART.law("A runtime gets over a failed flush: every caller gets the true answer, and no commit is there twice.", needs=["fail_flush"])
async def every_caller_gets_the_true_answer(stores: FailsFlush) -> None:
    name = new_name()
    async with _troubled(stores, name) as troubled:
        await troubled.go()
        rt, durable = troubled.rt, troubled.backend.capabilities.durable
        log = [(event.stream, event.seq, event.position) for event in await listed(rt.read_all())]
        for stream, answers in troubled.answers.items():
            same([answer.last for answer in answers], [2 * n for n in range(1, len(answers) + 1)], f"what was answered of {stream}")
            same([position for one, seq, position in log if one == stream and not seq % 2], [a.position for a in answers], f"the positions of {stream}")
        same(len(log), sum(2 * len(answers) for answers in troubled.answers.values()), "the number of events")
        entry = await rt.kv("k", int).get("x")
        same((entry and entry.value, entry and entry.revision), (len(troubled.revisions) - 1, troubled.revisions[-1]), "the entry")
        same(await troubled.backend.verify(), [], "the list of problems")
    if durable:
        async with runtime_on(stores, name) as rt:
            same([(event.stream, event.seq, event.position) for event in await listed(rt.read_all())], log, "the log when the store was opened again")


@PART.law("A runtime gets over a failed flush: its models equal the fold, no restart is counted, and nobody else is said to run them.", needs=["fail_flush"])
async def models_get_over_a_failed_flush(stores: FailsFlush) -> None:
    async with _troubled(stores) as troubled, lifecycle(troubled.rt) as happenings, trio.open_nursery() as nursery:

        async def listen() -> None:
            async for happened in happenings:
                holds(happened.what is not What.STANDING_BY, f"{happened.actor} is said to be run by another process: {happened.error}")

        nursery.start_soon(listen)
        await troubled.go()
        await check_models(troubled.rt)
        nursery.cancel_scope.cancel()
        same(_restarts(troubled.rt), {"kit-total": 0, "kit-by": 0}, "the numbers of restarts")


@PART.law("A runtime gets over a failed flush: subscriptions see everything once and in order, a watch the last of each key.", needs=["fail_flush"])
async def followers_get_over_a_failed_flush(stores: FailsFlush) -> None:
    found: list[tuple[str, int]] = []
    values: list[int] = []
    async with _troubled(stores) as troubled:
        rt = troubled.rt

        async def follow() -> None:
            async with rt.subscribe(of(Happened), after=START) as events:
                while True:
                    event = await anext(events)
                    found.append((event.stream, event.seq))

        async def watch() -> None:
            changes = rt.kv("k", int).watch()
            while True:
                change = await anext(changes)
                values.append(-1 if change.entry is None else change.entry.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(watch)
            await troubled.go()
            wanted = [(event.stream, event.seq) for event in await listed(rt.read_all(of(Happened)))]
            with trio.move_on_after(5):
                while len(found) < len(wanted) or values[-1:] != [len(troubled.revisions) - 1]:  # noqa: ASYNC110 - they only read on
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        same(found, wanted, "what a subscription got")
        same(values, sorted(set(values)), "the values that a watch gave")
        same(values[-1:], [len(troubled.revisions) - 1], "the last value that a watch gave")


def _restarts(rt: Runtime) -> dict[str, int]:
    status = rt.status()
    found = {projection.name: status.find(projection.name) for projection in APP.projections}
    holds(all(found.values()), f"the status does not show all projections: {found}")
    return {name: one.restarts for name, one in found.items() if one is not None}
