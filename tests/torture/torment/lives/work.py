"""A life: several tasks that write without a pause, and tell each acknowledgement before they go on.

    run STREAM SEQ          a batch was appended, expecting the seq before it
    keyed STREAM SEQ        one event, with an idempotency key made of its number
    pair BY NUMBER          an event and an entry in one commit
    value KEY NUMBER        its numberth change
    shared SEQ BY NUMBER    an event to the stream that all lives append to
    done POSITION           the named subscription is about to be told that all up to there is done
    open · closed · refused TASK CLASS TEXT
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import attrs
import trio

from perdure.backends.errors import PerdureError
from perdure.runtime import START, Append, Conflict, Delete, Put, Runtime, of, open_runtime
from torment.lives.domain import APP, BATCH_MAX, COUNT, DELETED_EVERY, PAIRS, SHARED, SUBSCRIPTION, VALUES, Counted, batch

Tell = Callable[..., None]


@attrs.frozen
class Life:
    """What a child is told: the store's *url*, who it is (*by*), and the *seed* of what it draws."""

    url: str
    by: str
    seed: int
    close_after_s: float = 0.0
    """It closes the store by itself after so long; 0: never."""
    subscribes: bool = True
    """Only one life at a time may use the named subscription."""
    projects: bool = True
    pace_s: float = 0.0
    """The pause between two writes of a task."""
    boot: str = ""
    """Pretend that the machine was started anew under this name."""
    lies: bool = False
    """It tells what it is about to append as acknowledged: to show that the checks can fail."""
    unsynced: str = ""
    """The kind of store that it lets forget to sync, likewise."""


@attrs.frozen
class Task:
    """What each task of a life has."""

    rt: Runtime
    name: str
    draw: random.Random
    tell: Tell
    pause_s: float
    lies: bool

    async def pause(self) -> None:
        """Between two writes."""
        if self.pause_s:
            await trio.sleep(self.draw.expovariate(1 / self.pause_s))


async def live(life: Life, tell: Tell) -> None:
    """Open the store, work, and close it where the life says so."""
    draw = random.Random(life.seed)
    async with open_runtime(life.url, APP if life.projects else None) as rt:
        tell("open")
        with trio.move_on_after(life.close_after_s or float("inf")):
            async with trio.open_nursery() as nursery:
                for number, work in enumerate((run, run, run, value, value, pairs, keyed, shared)):
                    task = Task(rt, f"{life.by}{number}", random.Random(draw.random()), tell, life.pace_s, life.lies)
                    nursery.start_soon(again_and_again, work, task)
                if life.subscribes:
                    nursery.start_soon(follow, rt, tell)
    tell("closed")


async def again_and_again(work: Callable[[Task], Awaitable[None]], task: Task) -> None:
    """Begin from what is stored, and again after each refusal, which is told."""
    while True:
        try:
            await work(task)
        except PerdureError as error:
            task.tell("refused", work.__name__, type(error).__name__, str(error).replace(" ", "_"))
            await trio.sleep(0.005)


async def run(task: Task) -> None:
    """Batches to a stream of its own."""
    stream = f"run-{task.name}"
    _, seq = await task.rt.fold(stream, COUNT)
    while True:
        events = batch(task.name, seq + 1, task.draw.randint(1, BATCH_MAX))
        if task.lies:
            task.tell("run", stream, seq + len(events))
        answer = await task.rt.append(stream, events, expected=seq)
        seq = answer.unwrap().last
        task.tell("run", stream, seq)
        await task.pause()


async def keyed(task: Task) -> None:
    """Each event once, though some are asked for twice."""
    stream = f"keyed-{task.name}"
    _, seq = await task.rt.fold(stream, COUNT)
    while True:
        seq += 1
        for _ in range(task.draw.choice((1, 1, 2))):
            answer = await task.rt.append(stream, batch(task.name, seq, 1), key=f"{stream} {seq}".encode())
            if answer.last != seq:
                task.tell("refused", "keyed", "Twice", f"{stream}_{seq}_is_at_{answer.last}")
        task.tell("keyed", stream, seq)
        await task.pause()


async def pairs(task: Task) -> None:
    """An event and entries in one commit: never one without the other."""
    task.rt.kv(PAIRS, int)
    stream = f"pair-{task.name}"
    _, seq = await task.rt.fold(stream, COUNT)
    while True:
        seq += 1
        entries: tuple[Put[int], Put[int]] = Put(PAIRS, task.name, seq), Put(PAIRS, f"{task.name} {seq % 7}", seq)
        (await task.rt.transact(Append(stream, batch(task.name, seq, 1), seq - 1), *entries)).unwrap()
        task.tell("pair", task.name, seq)
        await task.pause()


async def value(task: Task) -> None:
    """A key of its own, put again and again, at times deleted; its number goes on in a key beside it."""
    bucket = task.rt.kv(VALUES, int)
    kept = await bucket.get(f"{task.name} number")
    number = 0 if kept is None else kept.value
    while True:
        number += 1
        change: Put[int] | Delete = Delete(VALUES, task.name) if number % DELETED_EVERY == 0 else Put(VALUES, task.name, number)
        (await task.rt.transact(change, Put(VALUES, f"{task.name} number", number))).unwrap()
        task.tell("value", task.name, number)
        await task.pause()


async def shared(task: Task) -> None:
    """To the stream that all lives append to, expecting its end."""
    _, seq = await task.rt.fold(SHARED, COUNT)
    number = task.draw.randrange(1 << 40)
    while True:
        number += 1
        answer = await task.rt.append(SHARED, [Counted(task.name, number)], expected=seq)
        if isinstance(answer, Conflict):
            assert isinstance(answer.actual, int)
            seq = answer.actual
        else:
            seq = answer.last
            task.tell("shared", seq, task.name, number)
        await task.pause()


async def follow(rt: Runtime, tell: Tell) -> None:
    """Say of each event that it is done."""
    async with rt.subscribe(of(Counted), after=START, name=SUBSCRIPTION) as events:
        async for event in events:
            tell("done", event.position)
