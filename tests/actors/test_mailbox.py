"""Mailboxes: bounded, answered once, never waited for in vain."""

from __future__ import annotations

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from perdure.actors.mailbox import Mailbox, Slot, Stage, current_actor
from perdure.backends.errors import AskTimeout, Closed, Misuse


def mailbox(size=2):
    return Mailbox("actor x", size=size, ask_s=5, wake=lambda: None)


async def test_an_ask_is_answered():
    box = mailbox()

    async def actor():
        question = await box.receive.receive()
        assert question.slot.take()
        question.slot.answer(outcome.Value(question.what * 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor)
        assert await box.ask(21) == 42


async def test_an_actor_that_asks_itself_is_told_at_once():
    current_actor.set("actor x")

    with pytest.raises(Misuse, match="asks itself"):
        await mailbox().ask("anything")


async def test_an_ask_has_a_deadline_and_its_error_names_actor_and_depth(autojump_clock):
    box, began = mailbox(), trio.current_time()

    with pytest.raises(AskTimeout) as caught:
        await box.ask("anybody there?")

    assert (caught.value.actor, caught.value.depth, trio.current_time() - began) == ("actor x", 1, 5)
    assert list(box.waiting()) == []  # it was withdrawn


async def test_the_deadline_holds_for_an_actor_that_took_the_question_and_says_nothing(autojump_clock):
    box = mailbox()

    async def mute():
        question = await box.receive.receive()
        question.slot.take()
        await trio.sleep(60)
        question.slot.answer(outcome.Value(1))  # too late: dropped

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mute)
        with pytest.raises(AskTimeout):
            await box.ask("x")


async def test_a_full_mailbox_holds_the_asker_back_within_the_deadline(autojump_clock):
    box = mailbox(size=1)

    async def ask():
        with pytest.raises(AskTimeout):
            await box.ask(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert box.depth == 1


async def test_an_actor_that_ended_refuses_what_waits():
    box = mailbox()

    async def ask():
        with pytest.raises(Closed):
            await box.ask(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        box.refuse()


# -- slots -----------------------------------------------------------------------------------


async def test_a_request_not_taken_is_withdrawn_by_cancellation():
    slot: Slot[int] = Slot()

    with trio.CancelScope() as scope:
        scope.cancel()
        await slot.wait()

    assert scope.cancelled_caught and slot.stage is Stage.WITHDRAWN and not slot.take()


async def test_a_request_that_was_taken_is_answered_despite_cancellation():
    slot: Slot[int] = Slot()
    answers = []

    async def ask():
        with trio.CancelScope() as scope:
            scope.cancel()
            answers.append(await slot.wait())

    assert slot.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        slot.answer(outcome.Value(1))
        slot.answer(outcome.Value(2))
    assert answers == [1]
