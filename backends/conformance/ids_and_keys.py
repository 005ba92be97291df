"""Laws of commit ids and idempotency keys."""

from __future__ import annotations

import msgspec

from perdure.backends.commit import ANY, Append, Committed, Delete, Put, Stored, Write, key_id, propose
from perdure.backends.conformance.abilities import MovesClock
from perdure.backends.conformance.law import Desk, Part, Stores, appending, draft, holds, is_a, new_id, new_name, now_us, open_desk, refused, same
from perdure.backends.errors import Conflict, KeyReused, Misuse, TooLarge

PART = Part("ids and keys")
_DAY_S = 86_400


@PART.store("Known with the same content: the first `Committed` again.")
async def a_known_key_gets_the_first_answer(desk: Desk) -> None:
    writes: list[Write] = [appending("a", 2), Put("k", b"x", b"1"), appending("b", 1), Delete("k", b"y")]
    first = await desk.done(*writes, key=b"once")
    await desk.done(appending("a", 1), Put("k", b"x", b"2"))

    again = await desk.done(*writes, key=b"once")

    same(again, first, "the second answer")
    same((len(await desk.stream("a")), len(await desk.log())), (3, 4), "the numbers of events")
    same(await desk.backend.revision(), 2, "the store's revision")


@PART.store("The engine looks for the commit's id first: an expectation that no longer holds does not matter.")
async def the_id_is_looked_for_first(desk: Desk) -> None:
    first = await desk.done(appending("a", 1, 0), Put("k", b"x", b"1", 0), key=b"once")

    same(await desk.ask(appending("a", 1, 0), Put("k", b"x", b"1", 0), key=b"once"), first, "the second answer")


@PART.store("The content is not time, drawn ids or `traceparent`.")
async def what_is_not_content_may_differ(desk: Desk) -> None:
    at_us = now_us()
    first = await desk.done(Append("a", [draft(traceparent="00-1")]), key=b"once", at_us=at_us, id=new_id())

    again = await desk.ask(Append("a", [draft(traceparent="00-2")]), key=b"once", at_us=at_us + 1_000_000, id=new_id())

    same(again, first, "the answer with another time, id and traceparent")
    same([record.at_us for record in await desk.log()], [at_us], "the list of times")


@PART.store("Known with another content (writes, payloads, given meta and ids): `KeyReused`.")
async def a_key_is_not_for_other_content(desk: Desk) -> None:
    meta = msgspec.Raw(msgspec.msgpack.encode({"by": "me"}))
    await desk.done(Append("a", [draft(meta=meta, id="given")], 0), key=b"once")
    others: dict[str, tuple[Write, ...]] = {
        "payload": (Append("a", [draft(b"other", meta=meta, id="given")], 0),),
        "type": (Append("a", [draft(type="other", meta=meta, id="given")], 0),),
        "version": (Append("a", [draft(version=2, meta=meta, id="given")], 0),),
        "meta": (Append("a", [draft(meta=msgspec.Raw(msgspec.msgpack.encode({"by": "you"})), id="given")], 0),),
        "id": (Append("a", [draft(meta=meta, id="other")], 0),),
        "tags": (Append("a", [draft(meta=meta, id="given", tags=["t"])], 0),),
        "stream": (Append("b", [draft(meta=meta, id="given")], 0),),
        "expectation": (Append("a", [draft(meta=meta, id="given")], ANY),),
        "number of events": (Append("a", [draft(meta=meta, id="given")] * 2, 0),),
        "number of writes": (Append("a", [draft(meta=meta, id="given")], 0), Put("k", b"x", b"1")),
        "kind": (Put("k", b"x", b"1"),),
    }

    for what, writes in others.items():
        answer = await desk.ask(*writes, key=b"once")
        holds(isinstance(answer, KeyReused), f"another {what} under the same key is answered {answer!r:.200}")
        same(is_a(answer, KeyReused).key, b"once", "the key in the error")

    same((len(await desk.log()), await desk.backend.revision()), (1, 0), "events and revision")


@PART.store("Conflicts are not kept: asked again, decided anew.")
async def conflicts_are_decided_anew(desk: Desk) -> None:
    is_a(await desk.ask(appending("a", 1, 1), key=b"once"), Conflict)
    same(await desk.backend.answer(key_id(b"once")), None, "what is known of the conflict")
    await desk.append("a")

    answer = is_a(await desk.ask(appending("a", 1, 1), key=b"once"), Committed)

    same(await desk.ask(appending("a", 1, 1), key=b"once"), answer, "the answer after the success")


@PART.store("A key counts within one group too.")
async def a_key_counts_within_a_group(desk: Desk) -> None:
    group = await desk.group([appending("a", 1)], [appending("a", 1)], [appending("a", 2)], keys=[b"once"] * 3)

    same(group.answers[1], group.answers[0], "the second answer")
    is_a(group.answers[2], KeyReused)
    same(len(await desk.stream("a")), 1, "the number of events")


@PART.law("A caller's key has 1 to 255 bytes; its scope is the store.")
async def a_key_is_of_its_store(stores: Stores) -> None:
    refused(Misuse, lambda: propose([appending("a")], id=new_id(), at_us=1, key=b""), "an empty key")
    error = refused(TooLarge, lambda: propose([appending("a")], id=new_id(), at_us=1, key=b"x" * 256), "a key of 256 bytes")
    same((error.size, error.limit), (256, 255), "the numbers in the error")
    async with open_desk(stores) as one, open_desk(stores) as other:
        for key in (b"\0", b"x" * 255, b"x" * 254, bytes(range(256))[1:]):
            await one.done(appending("a", 1), key=key)
            await other.done(appending("a", 2), key=key)

        same((len(await one.stream("a")), len(await other.stream("a"))), (4, 8), "the numbers of events")


@PART.law("A caller's key has a durable row.")
async def a_key_survives_reopening(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        events = await desk.done(appending("a", 1), key=b"events")
        entries = await desk.done(Put("k", b"x", b"1"), key=b"entries")
    async with open_desk(stores, name) as desk:
        same(await desk.ask(appending("a", 1), key=b"events"), events, "the answer to the commit with events")
        same(await desk.ask(Put("k", b"x", b"1"), key=b"entries"), entries, "the answer to the commit without")
        is_a(await desk.ask(Put("k", b"x", b"2"), key=b"entries"), KeyReused)


@PART.law("A key is kept for 7 days, then forgotten.", needs=["advance"])
async def a_key_is_kept_for_days(stores: MovesClock) -> None:
    async with open_desk(stores) as desk:
        first = await desk.done(appending("a", 1), key=b"once")
        stores.advance(6 * _DAY_S)
        while await desk.backend.maintain():
            pass
        same(await desk.ask(appending("a", 1), key=b"once"), first, "the answer after 6 days")

        stores.advance(2 * _DAY_S)
        while await desk.backend.maintain():
            pass
        await desk.done(appending("a", 1), key=b"once")
        same(len(await desk.stream("a")), 2, "the number of events")


@PART.store("`answer` gives what was answered to a known commit: by its key's id, with or without events.")
async def a_keyed_commit_is_known(desk: Desk) -> None:
    events = await desk.done(appending("a", 2), Put("k", b"x", b"1"), key=b"events")
    entries = await desk.done(Put("k", b"x", b"2"), key=b"entries")

    same(await desk.backend.answer(key_id(b"events")), events, "the answer to the commit with events")
    same(await desk.backend.answer(key_id(b"entries")), entries, "the answer to the commit without")
    same(await desk.backend.answer(key_id(b"unknown")), None, "the answer to an unknown commit")


@PART.store("Ids drawn for the caller are in the frames: they serve to resolve doubt.")
async def a_drawn_id_is_known(desk: Desk) -> None:
    ids = [new_id() for _ in range(3)]
    group = await desk.group([appending("a", 2)], [appending("b", 1), appending("a", 1)], [appending("a", 1, 9)], ids=ids)
    for _ in range(5):
        await desk.append("c")
    while await desk.backend.maintain():
        pass

    known = [await desk.backend.answer(id) for id in ids]

    same(known, [*group.answers[:2], None], "the list of what is known")


@PART.store("Ids drawn for commits without events are kept for each process those of its last group.")
async def a_drawn_id_without_events_is_known(desk: Desk) -> None:
    id, mixed = new_id(), new_id()

    answer = await desk.done(Put("k", b"x", b"1"), Delete("k", b"y"), id=id)
    same(await desk.backend.answer(id), answer, "what is known of a commit without events")
    both = await desk.done(Put("k", b"x", b"2"), appending("a", 1), id=mixed)
    same(await desk.backend.answer(mixed), both, "what is known of a commit with events and entries")


@PART.store("Every commit has a 16-byte id, drawn for it, or the digest of the caller's key; its events carry it.")
async def events_carry_their_commits_id(desk: Desk) -> None:
    id = new_id()
    await desk.done(appending("a", 2), id=id)
    await desk.done(appending("a", 1), id=id, key=b"once")

    same([record.commit for record in await desk.log()], [id, id, key_id(b"once")], "the list of ids")
    same(len(key_id(b"once")), 16, "the size of an id")


@PART.store("A keyed commit is stored once, however often and in whatever company it is asked again.")
async def a_key_is_stored_once(desk: Desk) -> None:
    for _ in range(5):
        await desk.group([Put("k", b"x", b"1")], [appending("a", 1)], [appending("b", 1)], keys=[b"entry", b"event", None])

    same((len(await desk.stream("a")), len(await desk.stream("b"))), (1, 5), "the numbers of events")
    same((await desk.done(Put("k", b"y", b"1"))).parts, (Stored(2),), "the next revision")
