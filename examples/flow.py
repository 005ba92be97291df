"""Long flows that survive their process: what was done is done, what waits goes on waiting, and time-outs come on time.

    python examples/flow.py demo                  a demonstration in memory, with seconds for days
    python examples/flow.py STORE start ORDER     (STORE: lmdb:flows, for example)
    python examples/flow.py STORE work            run the flows until Ctrl-C; kill it as you like and start it again
    python examples/flow.py STORE tell ORDER paid VALUE
    python examples/flow.py STORE show

Which facet: one **stream** for each flow, for its history is its state: a **fold** says which steps are done, with what came of them, and
until when it waits. A flow is an ordinary function; after a crash it runs again from its start, and each step that is done gives what it
gave. Each event is appended with the **expected** seq, so of a signal and a time-out that meet, one comes first and the other sees it.
Which flows are open is **kv**, put and deleted in the same commit as the flow's first and last event: a worker that starts reads those
and no history. A **lease** says which of several workers runs them.

A step whose answer was stored is never done again. One that was under way when the process died is, so it gets a key, by which the other
side can tell that it has done it. Time-outs are kept as moments of wall time (a deadline outlives its machine); `now` is an argument.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import trio

import by_hand
from flow_state import FLOW, HAPPENINGS, Done, Ended, Happening, Started, State, Told, Waiting, after
from names import check_names
from perdure.runtime import (
    App,
    Append,
    Appended,
    Conflict,
    Delete,
    Full,
    InDoubt,
    LeaseLost,
    Misuse,
    PerdureError,
    Put,
    Runtime,
    TooLarge,
    Unavailable,
    of,
    open_runtime,
)

log = logging.getLogger(__name__)
DAY_S = 86_400.0
RETRY_S, RETRY_MAX_S = 1.0, 3_600.0
OPEN = "flows-open"
NAME_BYTES_MAX = 250
"""Of a flow, in the name of its stream."""
VALUE_MAX = 64_000
"""So many characters somebody may tell: it is stored with other things beside it."""
APP = App(events=HAPPENINGS)


async def start(rt: Runtime, id: str, kind: str) -> bool:
    """Begin a flow; False if there is one of that id."""
    check_names(NAME_BYTES_MAX, id=id, kind=kind)
    return not isinstance(await rt.transact(Append(f"flow-{id}", [Started(kind)], 0), Put(OPEN, id, kind)), Conflict)


class NoSuchFlow(ValueError):
    """Nobody has begun it."""


async def tell(rt: Runtime, id: str, signal: str, value: str = "") -> bool:
    """Tell a flow something; False if it has ended, or was told that before.

    Raises:
      BadName: the id or the signal cannot be one.
      TooLarge: the value.
      NoSuchFlow: it was never begun.
    """
    check_names(NAME_BYTES_MAX, id=id, signal=signal)
    if len(value) > VALUE_MAX:
        raise TooLarge("value", f"signal {signal!r}", len(value), VALUE_MAX, "characters")

    def decide(state: State) -> list[Happening]:
        if not state.kind:
            raise NoSuchFlow(f"there is no flow {id!r}: start it first")
        return [Told(signal, value)] if state.outcome is None and signal not in state.told else []

    return (await rt.execute(f"flow-{id}", FLOW, decide, attempts_max=20)).unwrap().position is not None


# -- a flow ----------------------------------------------------------------------------------


class Overtaken(Exception):
    """Another worker has ended this flow."""


class Flow:
    """A flow under way, as its function sees it. The names of its steps are told apart; a function does the same each time it runs."""

    def __init__(self, rt: Runtime, id: str, now: Callable[[], float]) -> None:
        self.id = id
        self.state = State()
        self.heard = trio.Event()
        """Set when somebody told it something."""
        self._rt = rt
        self._now = now
        self._last = 0

    async def step(self, name: str, action: Callable[[str], Awaitable[str]], *, timeout_s: float | None = None) -> str | None:
        """What `action(key)` gives, done once; tried again when it raises; None if its time was over before it was done."""
        value: str | None = None
        if name not in self.state.done and (left_s := await self._left_s(name, timeout_s)) > 0:
            with trio.move_on_after(left_s):
                value = await self._insist(name, action)
        while name not in self.state.done:
            await self._note(Done(name, value))
        return self.state.done[name]

    async def wait(self, name: str, signal: str, *, timeout_s: float) -> str | None:
        """What somebody tells of *signal*; None if nobody does in time."""
        while name not in self.state.done:
            left_s = await self._left_s(name, timeout_s)
            if (value := self.state.told.get(signal)) is not None or left_s <= 0:
                await self._note(Done(name, value))  # a signal that comes first makes this a conflict, and is seen
                continue
            with trio.move_on_after(left_s):
                await self.heard.wait()
            await self.load()
        return self.state.done[name]

    async def end(self, outcome: str) -> None:
        """All is done."""
        while self.state.outcome is None:
            writes = Append(f"flow-{self.id}", [Ended(outcome)], self._last), Delete(OPEN, self.id)
            if not isinstance(await self._rt.transact(*writes), Conflict):
                return
            await self.load()

    async def load(self) -> None:
        """The state as it is stored."""
        self.heard = trio.Event()  # before the read: what is told after it sets the new one
        self.state, self._last = await self._rt.fold(f"flow-{self.id}", FLOW)

    async def _left_s(self, name: str, timeout_s: float | None) -> float:
        """How long the step has; kept when it is asked for first."""
        while timeout_s is not None and name not in self.state.waiting:
            await self._note(Waiting(name, datetime.fromtimestamp(self._now() + timeout_s, UTC)))
        return self.state.waiting[name].timestamp() - self._now() if timeout_s is not None else float("inf")

    async def _insist(self, name: str, action: Callable[[str], Awaitable[str]]) -> str:
        rest_s = RETRY_S
        while True:
            try:
                return await action(f"{self.id}/{name}")
            except Exception as error:
                log.warning("step %s of flow %s is tried again in %g s: %s", name, self.id, rest_s, error)
            await trio.sleep(rest_s)
            rest_s = min(2 * rest_s, RETRY_MAX_S)

    async def _note(self, happening: Happening) -> None:
        """Store it if nothing else happened meanwhile, else find out what did."""
        match await self._rt.append(f"flow-{self.id}", [happening], expected=self._last):
            case Appended(last=last):
                self.state, self._last = after(self.state, happening), last
            case Conflict():
                await self.load()
                if self.state.outcome is not None:
                    raise Overtaken


Kind = Callable[[Flow], Awaitable[str]]


class Worker:
    """Runs all flows that are open, and those to come, by the lease `flows`."""

    def __init__(self, rt: Runtime, kinds: Mapping[str, Kind], now: Callable[[], float] = time.time) -> None:
        self._rt = rt
        self._kinds = kinds
        self._now = now
        self._running: dict[str, Flow] = {}

    async def run(self) -> None:
        """For ever; the store's troubles, and another worker's, are waited out."""
        while True:
            try:
                async with self._rt.lease("flows"):
                    await self._run()
            except* (Unavailable, InDoubt, Full, LeaseLost) as trouble:
                log.warning("the flows begin again where they were: %s", trouble.exceptions)
            await trio.sleep(RETRY_S)

    async def _run(self) -> None:
        happenings = self._rt.subscribe(of(Started, Told))  # from now on, and then what is open: nothing falls between
        async with happenings as news, trio.open_nursery() as nursery:
            for entry in (await self._rt.kv(OPEN, str).scan()).entries:
                self._begin(nursery, entry.key)
            async for one in news:
                id = one.stream.removeprefix("flow-")
                if isinstance(one.data, Started):
                    self._begin(nursery, id)
                elif id in self._running:
                    self._running[id].heard.set()

    def _begin(self, nursery: trio.Nursery, id: str) -> None:
        if id not in self._running:
            self._running[id] = Flow(self._rt, id, self._now)
            nursery.start_soon(self._live, self._running[id])

    async def _live(self, flow: Flow) -> None:
        try:
            await flow.load()
            with suppress(Overtaken):
                if flow.state.outcome is None:
                    await flow.end(await self._kinds[flow.state.kind](flow))
        except Exception as error:
            if isinstance(error, PerdureError) and not isinstance(error, Misuse | TooLarge):
                raise  # the store's trouble; what a step gave that cannot be stored is its own
            log.exception("flow %s stands still until the next worker: its function raises", flow.id)
        finally:
            del self._running[flow.id]


# -- an example of one, by hand --------------------------------------------------------------


def order(act: Callable[[str, str], Awaitable[str]], day_s: float = DAY_S) -> Kind:
    """An order: a week to pay, one reminder, and what was reserved is released if nobody does. *act* does a step, given its name and key."""

    async def run(flow: Flow) -> str:
        await flow.step("reserve", lambda key: act("reserve", key))
        paid = await flow.wait("first days", "paid", timeout_s=5 * day_s)
        if paid is None:
            await flow.step("remind", lambda key: act("remind", key), timeout_s=day_s)
            paid = await flow.wait("last days", "paid", timeout_s=2 * day_s)
        if paid is None:
            await flow.step("release", lambda key: act("release", key))
            return "nobody paid"
        await flow.step("ship", lambda key: act("ship", key))
        return f"shipped for {paid}"

    return run


async def say(name: str, key: str) -> str:
    """A step that only says that it is done."""
    by_hand.say(f"  {name:<8} ({key})")
    return "ok"


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    async with open_runtime(store, APP) as rt:
        match words:
            case ["start", id]:
                return by_hand.answer(await start(rt, id, "order"), "begun", "there is one of that name")
            case ["tell", id, signal, value]:
                return by_hand.answer(await tell(rt, id, signal, value), "told", "too late, or told before")
            case ["work"]:
                await Worker(rt, {"order": order(say, day_s=10)}).run()
            case ["show"]:
                for entry in (await rt.kv(OPEN, str).scan()).entries:
                    state, _ = await rt.fold(f"flow-{entry.key}", FLOW)
                    left = [f"{name} until {until:%Y-%m-%d %H:%M}" for name, until in state.waiting.items() if name not in state.done]
                    print(f"{entry.key}: done {', '.join(state.done) or 'nothing'}; waits for {', '.join(left) or 'nothing'}")
            case ["demo"]:
                await demonstrate(rt)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime) -> None:
    """Two orders; the worker is stopped in between, and another one goes on."""
    kinds = {"order": order(say, day_s=0.2)}
    for id in ("17", "18"):
        await start(rt, id, "order")
    with trio.move_on_after(0.5):
        await Worker(rt, kinds).run()
    print("the worker is gone; order 17 is paid meanwhile")
    await tell(rt, "17", "paid", "42.00")
    with trio.move_on_after(2):
        await Worker(rt, kinds).run()
    for id in ("17", "18"):
        print(f"order {id}: {(await rt.fold(f'flow-{id}', FLOW))[0].outcome}")


if __name__ == "__main__":
    by_hand.run(__doc__, main)
