"""Laws of states: stable, durable, and equal to the fold of the log."""

from __future__ import annotations

import logging

import attrs
import trio

from perdure.actors.fold import Keyed, Projection
from perdure.backends.codec import Codec, check_stable
from perdure.backends.conformance.law import Stores, holds, new_name, refused, same
from perdure.backends.errors import UnstableState
from perdure.backends.event import Event, Position
from perdure.backends.selector import of
from perdure.runtime.app import App
from perdure.runtime.conformance.kit import Happened, Other, RuntimePart, listed, runtime_on
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime
from perdure.runtime.testing import crash, fold

PART = RuntimePart("states")


def _add(state: int, event: Event[Happened]) -> int:
    return state + event.data.number


TOTAL = Projection("kit-total", version=1, initial=0, step=_add, events=of(Happened))
BY = Keyed("kit-by", version=1, initial=0, step=_add, events=of(Happened), key=lambda event: event.data.tag or None)
APP = App(projections=[TOTAL, BY])


@attrs.frozen
class _Sum:
    total: float = 0.0


async def check_models(rt: Runtime) -> None:
    """The models of `APP` equal the fold of the log."""
    events = await listed(rt.read_all())
    for model in (rt.model(TOTAL), rt.model(BY)):
        await model.wait_for(await rt.head())
    same(rt.model(TOTAL).state, fold(TOTAL, events), "the state")
    same({entry.key: entry.state async for entry in rt.model(BY).scan()}, fold(BY, events), "the states by key")


async def _write(rt: Runtime, count: int) -> None:
    for number in range(count):
        await rt.append(f"a-{number % 3}", [Happened(number, tag="xyz"[number % 3]), Other(), Happened(1)])


@PART.runtime("A state must be stable: `UnstableState(name, path)` names the field.")
async def states_are_stable(rt: Runtime) -> None:
    holds(check_stable(Codec(), _Sum, _Sum(), name="p"), "a stable state")
    error = refused(UnstableState, lambda: check_stable(Codec(), _Sum, _Sum(0), name="p"), "total=0 in a float field")
    same((error.name, "total" in error.path), ("p", True), "the error")
    holds(check_stable(Codec(), _Sum, _Sum(float("nan")), name="p"), "NaN aside")
    same(await rt.head(), 0, "the head")


@PART.runtime("A model equals the fold of the log up to its position.", app=APP)
async def models_equal_the_fold(rt: Runtime) -> None:
    await _write(rt, 20)
    await check_models(rt)


@PART.runtime("A projection restarts from its last snapshot plus the tail; who waits for it goes on waiting.", app=APP)
async def a_crash_changes_no_model(rt: Runtime) -> None:
    logger = logging.getLogger("perdure.supervisor")
    before, logger.disabled = logger.disabled, True  # what is told to fail need not be logged
    try:
        for projection in (TOTAL, BY):
            await _write(rt, 5)
            crash(rt, projection)
            await _write(rt, 5)
            await check_models(rt)
    finally:
        logger.disabled = before


@PART.law("What was kept is found again, in the next run too.")
async def models_last(stores: Stores) -> None:
    async with stores.open(new_name()) as backend:
        for _ in range(3):
            async with open_runtime(backend, APP) as rt:
                await _write(rt, 4)
                await check_models(rt)
        async with open_runtime(backend) as rt:
            model = await rt.model(TOTAL).refresh()
            same((model.state, model.position), (fold(TOTAL, await listed(rt.read_all())), await rt.head()), "the model that nobody runs")


@PART.runtime("`as_of(position=)` and `as_of(time=)` give the state as it was.", app=APP)
async def as_of_any_position(rt: Runtime) -> None:
    await _write(rt, 6)
    events = await listed(rt.read_all())
    for position in range(19):
        before = [event for event in events if event.position <= position]
        same(await rt.model(TOTAL).as_of(position=Position(position)), fold(TOTAL, before), f"the state as of {position}")
        same((await rt.model(BY).as_of("x", position=Position(position))).state, fold(BY, before).get("x"), f"key x as of {position}")
    for event in events:
        same(await rt.model(TOTAL).as_of(time=event.at), fold(TOTAL, [one for one in events if one.at <= event.at]), f"the state as of {event.at}")


@PART.law("Of two that run the same projection on one store one keeps it; the other shows what that one keeps.")
async def two_runtimes_do_not_fight(stores: Stores) -> None:
    async with runtime_on(stores, app=APP) as one, open_runtime(one.backend, APP) as other:
        await _write(one, 5)
        for rt in (one, other):
            with trio.fail_after(20):
                await check_models(rt)
            holds(all((found := rt.status().find(name)) and not found.restarts for name in ("kit-total", "kit-by")), "one was restarted into a fight")
