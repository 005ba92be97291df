"""Laws of the right to write, which one process has at a time: who waits for it, and who cannot get it."""

from __future__ import annotations

import os
import time

import trio

from perdure.backends.commit import Committed, Put
from perdure.backends.conformance.abilities import HoldsTurn
from perdure.backends.conformance.law import Desk, Part, appending, fails, holds, is_a, new_id, new_name, now_us, open_desk, same, settle
from perdure.backends.conformance.waiting import ends
from perdure.backends.errors import Unavailable

PART = Part("turns")
LONG_S = 12.0
"""Who waits for the right to write has been told by then, with a limit of 5 s."""
_BEAT_S = 0.01


@PART.law("Who cannot get the right to write gets `Unavailable` within its limit, naming the process that has it.", needs=["hold_turn"])
async def who_cannot_write_is_told(stores: HoldsTurn) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        await desk.append("a")
        with stores.hold_turn(name):
            began = trio.current_time()
            error = await fails(Unavailable, _ask(desk), "a commit while a frozen process has the right to write")
            holds(trio.current_time() - began <= LONG_S, f"it was told after {trio.current_time() - began:.1f} s")
        holds(str(os.getpid()) in str(error), f"the process {os.getpid()} is not named: {error}")
        await desk.append("a", 1, 1)


@PART.law("`Unavailable` means: not begun, nothing will happen later.", needs=["hold_turn"])
async def unavailable_never_happens(stores: HoldsTurn) -> None:
    name, ids = new_name(), [new_id() for _ in range(3)]
    async with open_desk(stores, name) as one, open_desk(stores, name) as other:
        if not one.backend.capabilities.shared_writes:
            return
        await one.append("a")
        with stores.hold_turn(name):
            async with trio.open_nursery() as nursery:
                for desk, id in ((one, ids[0]), (one, ids[1]), (other, ids[2])):
                    nursery.start_soon(fails, Unavailable, _ask(desk, id), "a commit while a frozen process has the right to write")
        for _ in range(3):
            await settle()
            await trio.sleep(0.05)
            await one.append("a")
            await other.append("a")
        same(await one.payloads("never"), [], "what became of it")
        same([await desk.backend.answer(id) for desk in (one, other) for id in ids], [None] * 6, "what is known of it")
        same((len(await one.log()), await one.backend.revision()), (7, 0), "the numbers of events and of changes")


@PART.law("A frozen process never stops our loop: tasks run on, and reads are answered meanwhile.", needs=["hold_turn"])
async def the_loop_keeps_turning(stores: HoldsTurn) -> None:
    name, beats = new_name(), 0

    async def beat(desk: Desk) -> None:
        nonlocal beats
        while True:
            await trio.sleep(_BEAT_S)
            same((await desk.backend.head(), len(await desk.log())), (1, 1), "what is read meanwhile")
            beats += 1

    async with open_desk(stores, name) as desk:
        await desk.append("a")
        with stores.hold_turn(name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat, desk)
                began, began_real = trio.current_time(), time.monotonic()
                await fails(Unavailable, _ask(desk), "a commit while a frozen process has the right to write")
                took = max(trio.current_time() - began, time.monotonic() - began_real)  # the clock of the loop may be a virtual one
                nursery.cancel_scope.cancel()
        holds(beats >= min(10, took / _BEAT_S / 20), f"while a commit waited for {took:.1f} s other tasks had {beats} turns")


@PART.law("Who waits for the right to write can be cancelled: nothing was stored, and nobody stands in the way.", needs=["hold_turn"])
async def a_cancelled_wait_is_out_of_the_way(stores: HoldsTurn) -> None:
    name, id = new_name(), new_id()
    async with open_desk(stores, name) as one, open_desk(stores, name) as other:
        await one.append("a")
        with stores.hold_turn(name):
            for steps in range(12):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_ask, one, id)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            with trio.move_on_after(0.05) as scope:
                await _ask(one, id)
            holds(scope.cancelled_caught, "a commit that waits for the right to write is not cancelled")
        for desk in (one, other) if other.backend.id == one.backend.id else (one,):
            await ends(desk.append("a"), "a commit after another's wait was cancelled")
        same((await one.payloads("never"), await one.backend.answer(id)), ([], None), "what became of the cancelled commits")


@PART.law("Who waits for the right to write gets it when it is given back, all of them.", needs=["hold_turn"])
async def waiting_for_a_turn_ends(stores: HoldsTurn) -> None:
    name, answers = new_name(), list[object]()

    async def write(desk: Desk, stream: str) -> None:
        answers.append(await desk.ask(appending(stream), at_us=now_us()))

    async with open_desk(stores, name) as one, open_desk(stores, name) as other:
        desks = (one, other) if other.backend.id == one.backend.id else (one, one)
        await one.append("a")
        async with trio.open_nursery() as nursery:
            with stores.hold_turn(name):
                for number in range(6):
                    nursery.start_soon(write, desks[number % 2], f"s-{number}")
                await trio.sleep(0.1)
                same(answers, [], "the list of answers while a frozen process has the right to write")
        for answer in answers:
            is_a(answer, Committed)
        same((len(answers), await one.backend.head()), (6, 7), "the number of answers, and the head")


async def _ask(desk: Desk, id: bytes | None = None) -> object:
    answer = await desk.ask(appending("never"), Put("k", b"never", b""), at_us=now_us(), id=id)
    if isinstance(answer, Exception):
        raise answer
    return answer
