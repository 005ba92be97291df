# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""The testing kit: what it gives, and what it finds."""

from __future__ import annotations

import attrs
import pytest

from perdure.runtime import Fold, Keyed, Misuse, NewEvent, Projection, UnstableState, event, of, open_runtime
from perdure.runtime.testing import GIVEN_AT, Crash, Differs, check_projection, crash, fold, given


@event("kit-sold", tags=lambda sold: [f"who:{sold.who}"])
@attrs.frozen
class Sold:
    who: str
    cents: int


@event("kit-noted")
@attrs.frozen
class Noted:
    text: str


@attrs.frozen
class Sum:
    cents: int = 0
    who: tuple[str, ...] = ()


def add(state, event):
    return attrs.evolve(state, cents=state.cents + event.data.cents, who=(*state.who, event.data.who))


def add_in_order_of_a_set(state, event):
    return attrs.evolve(state, who=tuple({*state.who, event.data.who}))


TOTAL = Projection("kit-total", version=1, initial=Sum(), step=add, events=of(Sold))
BY_WHO = Keyed("kit-by-who", version=1, initial=Sum(), step=add, events=of(Sold), key=lambda event: event.data.who)
SEEDED = Projection("kit-seeded", version=1, initial=Sum(), step=add_in_order_of_a_set, events=of(Sold))


def some(count=12):
    return given(*(Sold(f"customer {number % 5}", number) for number in range(count)), stream="sale-1")


def test_given_events_grow():
    first = given(Sold("a", 1), NewEvent(Sold("b", 2), meta={"x": 1}), stream="sale-1")
    second = given(Noted("n"), stream="note-1", after=first)
    third = given(Sold("c", 3), stream="sale-1", after=[*first, *second])

    events = [*first, *second, *third]
    assert [(e.stream, e.seq, e.position) for e in events] == [("sale-1", 1, 1), ("sale-1", 2, 2), ("note-1", 1, 3), ("sale-1", 3, 4)]
    assert [(e.at - GIVEN_AT).total_seconds() for e in events] == [0, 1, 2, 3]
    assert (first[1].data, first[1].tags, first[1].meta) == (Sold("b", 2), ("who:b",), {"x": 1})


def test_given_refuses_what_cannot_be_stored():
    with pytest.raises(Misuse):
        given("text")


def test_a_fold_folds_all_and_a_projection_what_it_selects():
    sold = given(Sold("a", 1), Sold("b", 2), stream="sale-1")
    events = [*sold, *given(Noted("n"), stream="note-1", after=sold)]

    assert fold(Fold(Sum(), add), sold) == fold(TOTAL, events) == Sum(3, ("a", "b"))
    assert fold(BY_WHO, events) == {"a": Sum(1, ("a",)), "b": Sum(2, ("b",))}


@pytest.mark.parametrize("projection", [TOTAL, BY_WHO], ids=["single", "keyed"])
async def test_a_sound_projection_passes(projection):
    checked = await check_projection(projection, some())

    assert (checked.events, checked.skipped) == (12, ())


async def test_the_order_of_a_set_is_found():
    with pytest.raises(Differs, match="PYTHONHASHSEED"):
        await check_projection(SEEDED, some())


async def test_a_step_that_changes_its_state_is_found():
    def step(state: list[int], event):
        state.append(event.data.cents)
        return state

    with pytest.raises(Differs, match="changes the state that it got, at the 'kit-sold' at position 1"):
        await check_projection(Projection("p", version=1, initial=[0], step=step, events=of(Sold), type=list[int]), some())


async def test_a_step_that_depends_on_more_is_found():
    calls = []

    def step(state, event):
        calls.append(event)
        return Sum(len(calls))

    with pytest.raises(Differs, match="another state when asked again"):
        await check_projection(Projection("p", version=1, initial=Sum(), step=step, events=of(Sold)), some())


async def test_an_unstable_state_is_found():
    @attrs.frozen
    class Mean:
        value: float = 0.0

    with pytest.raises(UnstableState) as caught:
        await check_projection(Projection("p", version=1, initial=Mean(), step=lambda s, e: Mean(e.data.cents), events=of(Sold)), some())
    assert "value" in caught.value.path


async def test_a_projection_inside_a_function_skips_the_seeds_and_says_so():
    local = Projection("local", version=1, initial=Sum(), step=add, events=of(Sold))

    checked = await check_projection(local, some(3))

    assert len(checked.skipped) == 1 and "not at the top of a module" in checked.skipped[0]


async def test_crash_fails_the_actor_and_the_supervisor_starts_it_again(autojump_clock):
    from perdure.runtime import App

    async with open_runtime("memory:", App(projections=[TOTAL])) as rt:
        crash(rt, TOTAL)
        await rt.append("sale-1", [Sold("a", 1)])
        await rt.model(TOTAL).wait_for(await rt.head())

        found = rt.status().find("kit-total")
        assert found is not None
        assert (found.restarts, found.position) == (1, 1) and "told to fail" in (found.last_error or "")
        with pytest.raises(Misuse):
            crash(rt, BY_WHO)
    assert issubclass(Crash, Exception)
