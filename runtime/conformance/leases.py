"""Laws of what runs in one process at a time, for what declares `shared_writes`: two runtimes over two handles of one store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from perdure.backends.commit import Append, Commit, Committed, Fence, Group
from perdure.backends.conformance.law import Check, Part, Stores, holds, is_a, new_name, same
from perdure.backends.errors import Conflict, LeaseLost
from perdure.backends.event import START
from perdure.backends.faulty import FaultyBackend
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend
from perdure.backends.selector import of
from perdure.runtime.app import App
from perdure.runtime.conformance.kit import Happened, listed
from perdure.runtime.conformance.states import APP, TOTAL, check_models
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = Part("leases")
LEASE_S: Final = 1.0
_LIMITS: Final = Limits(lease_s=LEASE_S)
_SOON_S: Final = LEASE_S / 3
"""A hand-over that waits for nobody's silence takes less."""
_MORE_S: Final = 2.0
"""One that does takes so much more than the lease time at most."""
_NAMES: Final = ("kit-total", "kit-by")


class _Freezes(FaultyBackend):
    """A store as a process has it that can be frozen: what it commits then is committed when it goes on."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.goes_on = trio.Event()
        self.goes_on.set()

    async def commit(self, commits: Sequence[Commit]) -> Group:
        await self.goes_on.wait()
        return await super().commit(commits)


@attrs.define
class _Two:
    """Two processes; the first one can be frozen and closed."""

    backend: _Freezes
    one: Runtime = attrs.field(init=False)
    other: Runtime = attrs.field(init=False)
    _opened: trio.Event = attrs.field(factory=trio.Event, init=False)
    _closed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def run(self, app: App) -> None:
        """The first one, until closed."""
        with self._scope:
            async with open_runtime(self.backend, app, limits=_LIMITS) as self.one:
                self._opened.set()
                await trio.sleep_forever()
        self._closed.set()

    async def wait_opened(self) -> None:
        """Return when it is open."""
        await self._opened.wait()

    def freeze(self) -> None:
        """The first one gets nothing into the store from now on."""
        self.backend.goes_on = trio.Event()

    def thaw(self) -> None:
        """It goes on."""
        self.backend.goes_on.set()

    async def close(self) -> None:
        """The first one ends in order."""
        self._scope.cancel()
        await self._closed.wait()


@asynccontextmanager
async def _opened(stores: Stores, app: App) -> AsyncIterator[_Two | None]:
    name = new_name()
    async with stores.open(name) as first:
        if not first.capabilities.shared_writes:
            yield None
            return
        two = _Two(_Freezes(first))
        async with stores.open(name) as second, trio.open_nursery() as nursery:
            nursery.start_soon(two.run, app)
            await two.wait_opened()
            async with open_runtime(second, app, limits=_LIMITS) as two.other:
                try:
                    yield two
                finally:
                    two.thaw()
                await two.close()


def _two(sentence: str, app: App = APP) -> Callable[[Callable[[_Two], Awaitable[None]]], Check]:
    """Mark a function of two runtimes as a check; who does not declare `shared_writes` keeps it."""

    def mark(function: Callable[[_Two], Awaitable[None]]) -> Check:
        async def check(stores: Stores) -> None:
            async with _opened(stores, app) as two:
                if two is not None:
                    await function(two)

        check.__name__ = function.__name__
        return PART.law(sentence)(check)

    return mark


def _states(rt: Runtime) -> list[str]:
    found = [rt.status().find(name) for name in _NAMES]
    return [one.state for one in found if one is not None]


async def _write(rt: Runtime, count: int) -> None:
    for number in range(count):
        await rt.append(f"a-{number % 3}", [Happened(number, tag="xyz"[number % 3])])


async def _taken_over(rt: Runtime, within_s: float) -> None:
    """*rt* must run both projections soon."""
    began = trio.current_time()
    while _states(rt) != ["running", "running"]:
        holds(trio.current_time() - began <= within_s, f"after {within_s:g} s the other one does not run both: {_states(rt)}")
        await trio.sleep(0.01)


# -- projections -----------------------------------------------------------------------------


@_two("A projection runs in one process; another that has it in its app stands by and follows what that one keeps.")
async def one_process_runs_each(two: _Two) -> None:
    for _ in range(3):
        await _write(two.other, 4)
        await trio.sleep(LEASE_S * 1.5)
        same((_states(two.one), _states(two.other)), (["running"] * 2, ["standing by"] * 2), "who runs both")
    with trio.fail_after(20):
        await check_models(two.one)
        await check_models(two.other)
    seen = [[(one.owner, one.restarts) for name in _NAMES if (one := rt.status().find(name))] for rt in (two.one, two.other)]
    same(seen[1], seen[0], "the owner, as told by both")
    holds(all(owner and not restarts for owner, restarts in seen[0]), f"the status tells no owner, or of restarts: {seen}")


@_two("A runtime that closes gives back what it holds: the other one takes over at once.")
async def closing_hands_over(two: _Two) -> None:
    await _write(two.one, 5)
    await two.close()
    await _taken_over(two.other, _SOON_S)
    await _write(two.other, 5)
    await check_models(two.other)


@_two("An owner that gives no sign of life for the lease time is replaced; what it still commits afterwards is not stored.")
async def a_silent_owner_is_replaced(two: _Two) -> None:
    await _write(two.one, 5)
    await two.one.model(TOTAL).wait_for(await two.one.head())
    two.freeze()
    await _write(two.other, 5)
    await _taken_over(two.other, LEASE_S + _MORE_S)
    await _write(two.other, 5)
    await check_models(two.other)
    position = await two.other.model(TOTAL).save()
    two.thaw()
    await trio.sleep(LEASE_S)
    same((_states(two.one), _states(two.other)), (["standing by"] * 2, ["running"] * 2), "who runs both when the old owner has come back")
    holds(two.one.model(TOTAL).position >= position, "the old owner does not show what the new one keeps")
    for rt in (two.one, two.other):
        await check_models(rt)


# -- named subscriptions ---------------------------------------------------------------------


@_two("Of two that subscribe under one name one gets the events; the other goes on from the kept place when that one ends.", App())
async def a_named_subscription_has_one_owner(two: _Two) -> None:
    got: dict[str, list[int]] = {"one": [], "other": []}

    async def follow(rt: Runtime, who: str, many: int) -> None:
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            while len(got[who]) < many:
                got[who].append((await anext(events)).data.number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, two.one, "one", 6)
        await trio.sleep(_SOON_S)
        nursery.start_soon(follow, two.other, "other", 6)
        await trio.sleep(_SOON_S)
        for number in range(11):
            await two.other.append("a-1", [Happened(number)])
            await trio.sleep(0.01)
    same(got, {"one": list(range(6)), "other": list(range(5, 11))}, "what each got: the last event of the first one was not done")


@_two("A named subscription whose owner falls silent goes on elsewhere, without a gap; the owner hands on nothing more when it comes back.", App())
async def a_silent_subscriber_is_replaced(two: _Two) -> None:
    got: dict[str, list[int]] = {"one": [], "other": []}

    async def follow(rt: Runtime, who: str) -> None:
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            async for event in events:
                got[who].append(event.data.number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, two.one, "one")
        await trio.sleep(_SOON_S)
        nursery.start_soon(follow, two.other, "other")
        for number in range(4):
            await two.other.append("a-1", [Happened(number)])
        await trio.sleep(_SOON_S)
        same(got, {"one": [0, 1, 2, 3], "other": []}, "what each got before")
        two.freeze()
        await trio.sleep(LEASE_S + _SOON_S)
        for number in range(4, 8):
            await two.other.append("a-1", [Happened(number)])
        await trio.sleep(_MORE_S)
        two.thaw()
        await trio.sleep(LEASE_S)
        nursery.cancel_scope.cancel()
    same((got["one"], got["other"][-4:]), ([0, 1, 2, 3], [4, 5, 6, 7]), "what the old owner got, and the last that the new one got")
    same(got["other"], list(range(got["other"][0], 8)), "what the new owner got")


# -- a program's own -------------------------------------------------------------------------


@_two("A lease is held by one at a time, of whatever runtime; each next holder has a larger fence.", App())
async def one_holds_a_lease(two: _Two) -> None:
    inside, fences = 0, []

    async def work(rt: Runtime) -> None:
        nonlocal inside
        async with rt.lease("job") as lease:
            inside += 1
            same(inside, 1, "how many hold the lease")
            fences.append(lease.fence.number)
            is_a(await rt.transact(Append("a-1", [Happened(len(fences))]), lease.fence), Committed)
            await trio.sleep(0.02)
            inside -= 1

    with trio.fail_after(LEASE_S * 10):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, (two.one, two.other)[number % 2])
    same(fences, sorted(set(fences)), "the fences")
    same([event.data.number for event in await listed(two.other.read("a-1"))], list(range(1, 9)), "what the holders wrote")


@_two("Who loses a lease is told: the body is cancelled, `LeaseLost`; and a commit with its fence is a conflict that stores nothing.", App())
async def a_lost_lease_is_told(two: _Two) -> None:
    fence: list[Fence] = []
    told: list[str] = []

    async def hold() -> None:
        try:
            async with two.one.lease("job") as held:
                fence.append(held.fence)
                try:
                    await trio.sleep_forever()
                finally:
                    told.append("cancelled")
        except LeaseLost:
            told.append("LeaseLost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        while not fence:  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.01)
        two.freeze()
        began = trio.current_time()
        async with two.other.lease("job") as lease:
            took = trio.current_time() - began
            same(told, ["cancelled"], "what the first holder was told when another one has the lease")
            holds(took <= LEASE_S + _MORE_S, f"it took {took:.1f} s to get the lease of a holder that is silent")
            two.thaw()
            lost = is_a(await two.one.transact(Append("a-1", [Happened(1)]), fence[0]), Conflict)
            same((lost.what, lost.expected, lost.actual), ("fence", fence[0].number, lease.fence.number), "the conflict of the old holder")
            is_a(await two.other.transact(Append("a-1", [Happened(2)]), lease.fence), Committed)
    same(told, ["cancelled", "LeaseLost"], "what the first holder was told in the end")
    same([event.data.number for event in await listed(two.other.read("a-1"))], [2], "what is stored")
