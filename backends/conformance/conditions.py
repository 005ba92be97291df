"""Laws of the append condition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perdure.backends.commit import Answer, Append, Check, Committed, Put, Unless
from perdure.backends.conformance.law import Desk, Part, appending, draft, drafts, holds, is_a, same
from perdure.backends.errors import ConditionTooBroad, Conflict
from perdure.backends.event import START, Position
from perdure.backends.selector import EVERYTHING, Selector

PART = Part("conditions")


def _unless(after: int = 0, /, **what: Iterable[str]) -> Unless:
    return Unless(EVERYTHING.within(**what), after=Position(after))


def _found(answer: Answer) -> object:
    conflict = is_a(answer, Conflict)
    same(conflict.what, "condition", "what failed")
    return conflict.actual


async def _some(desk: Desk) -> None:
    """Positions 1 to 4."""
    await desk.done(Append("room-1", [draft(type="booked", tags=["guest:a", "day:1"])]))
    await desk.done(Append("room-2", [draft(type="booked", tags=["guest:b", "day:1"]), draft(type="left", tags=["guest:b"])]))
    await desk.done(Append("lobby", [draft(type="cleaned")]))


@PART.store("Conflict, naming the first, if an event that matches the query exists after a position.")
async def a_match_is_a_conflict(desk: Desk) -> None:
    await _some(desk)

    same(_found(await desk.ask(_unless(tags=["day:1"]), appending("new"))), 1, "the first match")
    same(_found(await desk.ask(_unless(1, tags=["day:1"]), appending("new"))), 2, "the first match after position 1")
    same(_found(await desk.ask(_unless(), appending("new"))), 1, "the first event")
    same(await desk.backend.stream("new"), None, "the stream of the failed commits")


@PART.store("An append condition holds if no event after the position matches.")
async def no_match_is_no_conflict(desk: Desk) -> None:
    await _some(desk)

    await desk.done(_unless(2, tags=["day:1"]), appending("new"))
    await desk.done(_unless(tags=["day:2"]), appending("new"))
    await desk.done(_unless(5 + 1), appending("new"))
    same(len(await desk.stream("new")), 3, "the number of events")


@PART.store("An item matches an event of any of its types, streams and categories, and all of its tags.")
async def an_item_matches_all_it_says(desk: Desk) -> None:
    await _some(desk)
    queries: list[tuple[dict[str, list[str]], int | None]] = [
        ({"types": ["left"]}, 3),
        ({"types": ["gone", "cleaned"]}, 4),
        ({"streams": ["room-2"]}, 2),
        ({"categories": ["lobby"]}, 4),
        ({"categories": ["room"]}, 1),
        ({"tags": ["day:1", "guest:b"]}, 2),
        ({"tags": ["guest:b"], "types": ["left"]}, 3),
        ({"tags": ["guest:a"], "types": ["left"]}, None),
        ({"tags": ["day:1"], "streams": ["room-2"]}, 2),
        ({"tags": ["day:1"], "categories": ["lobby"]}, None),
        ({"tags": ["guest:a", "guest:b"]}, None),
        ({"tags": ["guest"]}, None),
    ]

    for query, first in queries:
        answer = await desk.ask(_unless(0, **query))
        found = answer.actual if isinstance(answer, Conflict) else None
        same(found, first, f"the first match of {query}")


@PART.store("A query of several items conflicts if any of them matches, naming the first event.")
async def any_item_may_match(desk: Desk) -> None:
    await _some(desk)
    late: Selector[Any] = EVERYTHING.within(types=["cleaned"])
    early: Selector[Any] = EVERYTHING.within(tags=["guest:b"])
    none: Selector[Any] = EVERYTHING.within(tags=["guest:z"], types=["booked"])

    same(_found(await desk.ask(Unless(none | late | early, after=START))), 2, "the first match of three items")
    same(_found(await desk.ask(Unless(none | late | early, after=Position(3)))), 4, "the first match after position 3")
    await desk.done(Unless(none | late | early, after=Position(4)))


@PART.store("A condition sees the events of earlier commits of its group.")
async def a_condition_sees_its_group(desk: Desk) -> None:
    def book() -> list[Append[Any] | Unless]:
        return [Append("room-1", [draft(type="booked", tags=["day:1"])]), _unless(tags=["day:1"])]

    group = await desk.group(book(), book(), [_unless(types=["booked"])], [_unless(categories=["room"], tags=["day:2"])])

    same([type(answer) for answer in group.answers], [Committed, Conflict, Conflict, Committed], "the kinds of the answers")
    same((_found(group.answers[1]), _found(group.answers[2])), (1, 1), "the matches")


@PART.store("A condition is judged against the state before the commit: its own events do not count.")
async def a_condition_does_not_see_its_own_events(desk: Desk) -> None:
    for number in range(3):
        await desk.done(Append("a", [draft(tags=["t"])]), _unless(number, tags=["t"]))

    same(_found(await desk.ask(Append("a", [draft(tags=["t"])]), _unless(2, tags=["t"]))), 3, "the match")


@PART.store("At most 10,000 records are examined, beyond that `ConditionTooBroad`.")
async def a_condition_examines_so_many_records(desk: Desk) -> None:
    for _ in range(2):
        await desk.append("a", 5_000)

    await desk.done(_unless(types=["none"]))
    await desk.append("a", 1)
    broad = is_a(await desk.ask(_unless(types=["none"])), ConditionTooBroad)
    same(broad.limit, 10_000, "the number in the error")
    await desk.done(_unless(1, types=["none"]))
    same(_found(await desk.ask(_unless())), 1, "a match at the beginning of a long log")


@PART.store("At most 10,000 rows of the rarest tag are examined, beyond that `ConditionTooBroad`.")
async def a_condition_examines_so_many_rows(desk: Desk) -> None:
    for _ in range(2):
        await desk.append("a", 5_000, tags=["common"])
    await desk.append("a", 5_000)

    await desk.done(_unless(types=["none"], tags=["common"]))
    await desk.append("a", 1, tags=["common", "rare"])
    is_a(await desk.ask(_unless(types=["none"], tags=["common"])), ConditionTooBroad)
    await desk.done(_unless(types=["none"], tags=["common", "rare"]))
    await desk.done(_unless(tags=["common", "never"]))
    same(_found(await desk.ask(_unless(tags=["common", "rare"]))), 15_001, "the event with both tags")


@PART.store("`ConditionTooBroad` is told to its commit alone; nothing of it is stored.")
async def a_broad_condition_fails_alone(desk: Desk) -> None:
    await desk.append("a", 10_000)
    await desk.append("a", 1)

    group = await desk.group([appending("b")], [_unless(types=["none"]), appending("c"), Put("k", b"x", b"1")], [appending("d")])

    same([type(answer) for answer in group.answers], [Committed, ConditionTooBroad, Committed], "the kinds of the answers")
    same((await desk.backend.stream("c"), await desk.backend.revision()), (None, 0), "stream and revision of the refused commit")


@PART.store("A failed condition is reported beside the other failures.")
async def a_condition_is_reported_beside_others(desk: Desk) -> None:
    await _some(desk)

    conflict = is_a(await desk.ask(_unless(tags=["day:1"]), appending("lobby", 1, 7), Check(9, stream="room-1"), _unless(types=["left"])), Conflict)

    same([(what, actual) for what, _, _, actual in conflict.facts()], [("condition", 1), ("stream", 1), ("stream", 1), ("condition", 3)], "the failures")
    holds("day:1" in conflict.subject, f"the conflict does not name its query: {conflict}")


@PART.store("Events of one commit are found one by one: the first that matches, not the commit's first.")
async def a_match_may_be_inside_a_commit(desk: Desk) -> None:
    await desk.done(Append("a", [*drafts(5), draft(type="special", tags=["x"]), *drafts(4)]), appending("b", 3))

    same(_found(await desk.ask(_unless(types=["special"]))), 6, "the match by type")
    same(_found(await desk.ask(_unless(tags=["x"]))), 6, "the match by tag")
    same(_found(await desk.ask(_unless(streams=["b"]))), 11, "the match by stream")
    same(_found(await desk.ask(_unless(6, types=["happened"]))), 7, "the match after a position inside a commit")
