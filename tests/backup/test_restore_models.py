"""Models, subscriptions and other checkpoints after a restore: they go on from what stands at the cut."""

from __future__ import annotations

import attrs
import pytest

from copies import DISK, backed_up, restored
from perdure.actors.model import bucket_of
from perdure.backends.commit import CHECKPOINTS, Put
from perdure.backends.event import Position
from perdure.backends.urls import open_backend
from perdure.runtime import App, Event, Keyed, Projection, event, of, open_runtime
from perdure.runtime.restore import restore
from perdure.runtime.rewind import RAISE


@event("backup-paid")
@attrs.frozen
class Paid:
    who: str
    cents: int


@attrs.frozen
class Total:
    cents: int = 0
    events: int = 0


def add(total: Total, event: Event[Paid]) -> Total:
    return Total(total.cents + event.data.cents, total.events + 1)


SUM = Projection("sum", version=1, initial=Total(), step=add, events=of(Paid))
BY_WHO = Keyed("by-who", version=1, initial=Total(), step=add, events=of(Paid), key=lambda event: event.data.who)
APP = App(projections=[SUM, BY_WHO])


async def kept_models(url):
    """20 events; the models are kept at 10 and at 20, and a subscription at 15."""
    for _ in range(2):
        async with open_runtime(url, APP) as rt:
            for number in range(10):
                await rt.append("order-1", [Paid(f"w-{number % 3}", number)])
            await rt.model(SUM).wait_for(await rt.head())
            await rt.model(BY_WHO).wait_for(await rt.head())
    async with open_runtime(url) as rt, rt.subscribe(of(Paid), after=Position(0), name="mails") as events:
        async for one in events:
            if one.position == 16:
                break


async def models_of(url):
    async with open_runtime(url, APP) as rt:
        head = await rt.head()
        await rt.model(SUM).wait_for(head)
        await rt.model(BY_WHO).wait_for(head)
        states = {entry.key: entry.state.cents async for entry in rt.model(BY_WHO).scan()}
        return rt.model(SUM).state, states


@pytest.mark.parametrize(("position", "events"), [(None, 20), (20, 20), (14, 14), (10, 10), (3, 3)])
async def test_models_go_on_from_what_stands_at_the_cut(tmp_path, position, events):
    source, target = f"lmdb:{tmp_path}/s", f"lmdb:{tmp_path}/r"
    await kept_models(source)
    async with open_backend(source) as backend:
        await backed_up(backend, tmp_path / "b")
    async with open_backend(target, loading=True) as backend:
        report = await restore(str(tmp_path / "b"), backend, disk=DISK, position=position)
        mails = await backend.get(CHECKPOINTS, b"subscription mails")

    total, states = await models_of(target)

    assert total == Total(sum((number % 10) for number in range(events)), events)
    assert states == {f"w-{who}": sum(n % 10 for n in range(events) if n % 10 % 3 == who) for who in range(3) if any(n % 10 % 3 == who for n in range(events))}
    assert mails is not None and mails.revision >= RAISE
    moved = {name for name in ("sum", "subscription mails") if name in report.moved}
    assert moved == {None: set(), 20: set(), 14: {"sum", "subscription mails"}, 10: {"sum", "subscription mails"}, 3: {"subscription mails"}}[position]
    assert set(report.rebuilt) == {None: set(), 20: set(), 14: {"by-who"}, 10: {"by-who"}, 3: {"by-who", "sum"}}[position]


async def test_a_subscription_goes_on_at_the_cut_and_not_beyond(tmp_path):
    await kept_models(f"lmdb:{tmp_path}/s")
    async with open_backend(f"lmdb:{tmp_path}/s") as backend:
        await backed_up(backend, tmp_path / "b")
    async with open_backend(f"lmdb:{tmp_path}/r", loading=True) as backend:
        await restore(str(tmp_path / "b"), backend, disk=DISK, position=12)

    async with open_runtime(f"lmdb:{tmp_path}/r") as rt:
        await rt.append("order-2", [Paid("x", 1)])
        async with rt.subscribe(of(Paid), name="mails") as events:
            one = await anext(aiter(events))

    assert (one.stream, one.position) == ("order-2", 13)


async def test_states_of_a_model_that_is_built_anew_are_gone(tmp_path):
    await kept_models(f"lmdb:{tmp_path}/s")
    async with open_backend(f"lmdb:{tmp_path}/s") as backend:
        await backed_up(backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=5)

    assert await backend.scan(bucket_of("by-who"), limit=9) == []
    assert await backend.get(CHECKPOINTS, b"by-who") is None


async def test_a_checkpoint_of_another_store_is_left_as_it_is(desk, tmp_path):
    from perdure.actors.cursor import Checkpoint, pack

    foreign = pack(Checkpoint("f" * 32, 99))
    await desk.done(Put(CHECKPOINTS, b"theirs", foreign))
    await desk.done(Put(CHECKPOINTS, b"nonsense", b"\xc1"))
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=4)

    assert (await backend.get(CHECKPOINTS, b"theirs")).value == foreign
    assert (await backend.get(CHECKPOINTS, b"nonsense")).value == b"\xc1"
