"""Laws of reading the log: whole commits, soft limits, nothing missed, nothing twice."""

from __future__ import annotations

from typing import Any

import trio

from perdure.backends.commit import Append, Put
from perdure.backends.conformance.law import MANY, Desk, Part, appending, draft, drafts, fails, holds, is_a, same
from perdure.backends.errors import Conflict, Rewound
from perdure.backends.event import START, Position, Record
from perdure.backends.protocol import Page
from perdure.backends.selector import EVERYTHING, Selector

PART = Part("pages")


async def _page(desk: Desk, after: int = 0, limit: int = MANY, bytes_max: int = MANY, where: Selector[Any] = EVERYTHING) -> Page:
    return await desk.backend.read_log(after=Position(after), limit=limit, bytes_max=bytes_max, where=where)


def _positions(records: list[Record]) -> list[int]:
    return [record.position for record in records]


@PART.store("A page holds whole commits; `limit` is soft by one commit.")
async def a_page_holds_whole_commits(desk: Desk) -> None:
    ends = []
    for count in (3, 1, 4, 2, 5):
        await desk.done(appending("a", count - count // 2), appending("b", count // 2))
        ends.append(await desk.backend.head())
    await desk.group([appending("c", 2), appending("a", 1)], [appending("b", 2)])
    ends += [Position(18), Position(20)]

    for start in [0, *ends]:
        for limit in range(1, 22):
            page = await _page(desk, start, limit)
            wanted = next((end for end in ends if end >= start + limit), 20)
            same(_positions(page.records), list(range(start + 1, wanted + 1)), f"the page after {start}, limit {limit},")
            same(page.examined, wanted, f"examined by the page after {start}, limit {limit}")


@PART.store("`bytes_max` is soft by one commit too.")
async def a_page_is_bounded_in_bytes(desk: Desk) -> None:
    for _ in range(6):
        await desk.done(Append("a", [draft(b"x" * 10_000), draft(b"y" * 10_000)]), Append("b", [draft(b"z" * 10_000)]))

    page = await _page(desk, bytes_max=1)
    same(_positions(page.records), [1, 2, 3], "the page of one byte")
    page = await _page(desk, bytes_max=40_000)
    same((_positions(page.records), page.examined), (list(range(1, 7)), 6), "the page of 40,000 bytes")
    same(len((await _page(desk)).records), 18, "the number of records without a bound")


@PART.store("Reading page by page gives every event in order, without a gap, once, whatever the size of the pages.")
async def pages_give_everything_once(desk: Desk) -> None:
    for number in range(40):
        await desk.done(appending(f"s-{number % 5}", 1 + number % 4))

    whole = await desk.log(limit=MANY)
    same(_positions(whole), sorted(set(_positions(whole))), "the list of positions")
    same(len(whole), 100, "the number of events")
    for limit in (1, 2, 3, 7, 50, 99, 100, 101):
        holds(await desk.log(limit=limit) == whole, f"pages of {limit} give something else")
    holds(await desk.log(bytes_max=300) == whole, "pages of 300 bytes give something else")


@PART.store("A page ends also after 10,000 examined records.")
async def a_page_ends_after_so_many_examined(desk: Desk) -> None:
    for _ in range(5):
        await desk.append("a", 5_000)
    await desk.append("b", 1)

    page = await _page(desk, where=EVERYTHING.within(streams=["b"]))
    same((page.records, page.examined, page.head), ([], 10_000, 25_001), "the page of an event far away")
    page = await _page(desk)
    same((len(page.records), page.examined), (10_000, 10_000), "the number of records in a page without limit")
    same(_positions(await desk.log(where=EVERYTHING.within(types=["happened"], streams=["b"]))), [25_001], "the event far away")


@PART.store("`Page(records, examined, head)`: the follower's cursor becomes `examined`, and it waits only when `examined >= head`.")
async def a_page_says_how_far_it_looked(desk: Desk) -> None:
    empty = await _page(desk)
    same((empty.records, empty.examined, empty.head), ([], 0, 0), "the page of an empty log")
    await desk.append("a", 3)
    await desk.append("b", 4)

    page = await _page(desk, limit=1)
    same((page.examined, page.head), (3, 7), "examined and head of the first page")
    page = await _page(desk, page.examined)
    same((page.examined, page.head), (7, 7), "examined and head of the last page")
    page = await _page(desk, 7)
    same((page.records, page.examined, page.head), ([], 7, 7), "the page at the head")


@PART.store("What is not wanted is examined all the same: the cursor moves over it.")
async def the_cursor_moves_over_the_unwanted(desk: Desk) -> None:
    await desk.append("a", 5)
    await desk.append("b", 2)
    await desk.append("a", 5)

    page = await _page(desk, where=EVERYTHING.within(streams=["b"]))
    same((_positions(page.records), page.examined, page.head), ([6, 7], 12, 12), "the page of the wanted stream")
    page = await _page(desk, where=EVERYTHING.within(types=["none"]))
    same((page.records, page.examined), ([], 12), "the page of nothing")


@PART.store("No event becomes visible later below a position already examined.")
async def nothing_appears_below_the_cursor(desk: Desk) -> None:
    every, one = list[Record](), list[Record]()

    async def follow(found: list[Record], where: Selector[Any]) -> None:
        cursor = START
        while cursor < 120:
            page = await desk.backend.read_log(after=cursor, limit=3, bytes_max=MANY, where=where)
            found.extend(page.records)
            cursor = page.examined
            if cursor >= page.head and cursor < 120:
                await desk.backend.wait_beyond(cursor)

    async def write(number: int) -> None:
        for _ in range(10):
            await desk.done(appending(f"s-{number}", 3))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, every, EVERYTHING)
        nursery.start_soon(follow, one, EVERYTHING.within(streams=["s-1"]))
        for number in range(4):
            nursery.start_soon(write, number)

    log = await desk.log()
    holds(every == log, "the follower of everything saw something else than the log")
    holds(one == [record for record in log if record.stream == "s-1"], "the follower of a stream saw something else")


@PART.store("A selector matches an event if any of its items does: of any of the item's types, streams and categories, and all of its tags.")
async def a_selector_selects(desk: Desk) -> None:
    await desk.done(
        Append("order-1", [draft(type="placed", tags=["c:1", "vip"]), draft(type="paid", tags=["c:1"])]),
        Append("order-2", [draft(type="placed", tags=["c:2"])]),
    )
    await desk.done(Append("orderly", [draft(type="paid")]), Append("order", [draft(type="placed", tags=["vip"])]), Append("stock-1", drafts(2)))
    items: Selector[Any] = EVERYTHING
    queries: list[tuple[Selector[Any], list[int]]] = [
        (items.within(types=["placed"]), [1, 3, 5]),
        (items.within(types=["placed", "paid"]), [1, 2, 3, 4, 5]),
        (items.within(streams=["order-2", "stock-1"]), [3, 6, 7]),
        (items.within(categories=["order"]), [1, 2, 3, 5]),
        (items.within(categories=["orderly", "stock"]), [4, 6, 7]),
        (items.within(tags=["c:1"]), [1, 2]),
        (items.within(tags=["c:1", "vip"]), [1]),
        (items.within(tags=["c:1", "c:2"]), []),
        (items.within(types=["placed"], categories=["order"], tags=["vip"]), [1, 5]),
        (items.within(types=["paid"]) | items.within(tags=["c:2"]), [2, 3, 4]),
        (items.within(streams=["order-1"], types=["paid"]) | items.within(streams=["order-1"], tags=["vip"]), [1, 2]),
        (items.within(streams=["nowhere"]) | items.within(types=["happened"], tags=["c:1"]), []),
        (items.within(types=["paid"]) | items, [1, 2, 3, 4, 5, 6, 7]),
    ]

    for query, positions in queries:
        for limit in (1, 2, 100):
            same(_positions(await desk.log(where=query, limit=limit)), positions, f"what {query.items} selects by {limit}")


@PART.store("A stream's category is the part before the first `-`; a name without `-` is its own.")
async def a_category_is_the_first_part(desk: Desk) -> None:
    for name in ("order-1-2", "order", "-order", "order-", "order_1"):
        await desk.append(name)

    same(_positions(await desk.log(where=EVERYTHING.within(categories=["order"]))), [1, 2, 4], "the category order")
    same(_positions(await desk.log(where=EVERYTHING.within(categories=["order_1"]))), [5], "the category order_1")
    same(_positions(await desk.log(where=EVERYTHING.within(categories=["order-1"]))), [], "the category order-1")


@PART.store("`Rewound` is for a follower that knows a head beyond that of the same store.")
async def beyond_the_head_is_rewound(desk: Desk) -> None:
    error = await fails(Rewound, _page(desk, 1), "a page beyond the head of an empty log")
    same(error.head, 0, "the head in the error")
    await desk.append("a", 3)

    same((await _page(desk, 3)).records, [], "the page at the head")
    error = await fails(Rewound, _page(desk, 4), "a page beyond the head")
    same(error.head, 3, "the head in the error")


@PART.store("A page that begins inside a commit has the rest of it.")
async def a_page_may_begin_inside_a_commit(desk: Desk) -> None:
    await desk.done(appending("a", 3), appending("b", 3))
    await desk.append("c", 2)

    for after in range(9):
        page = await _page(desk, after, 1)
        end = after if after == 8 else 6 if after < 6 else 8
        same((_positions(page.records), page.examined), (list(range(after + 1, end + 1)), end), f"the page after {after}")


@PART.store("Pages show what was committed, and nothing of what was refused.")
async def pages_show_what_was_committed(desk: Desk) -> None:
    await desk.group([appending("a", 2)], [appending("a", 2, 0)], [Put("k", b"x", b"1")], [appending("b", 1)])
    is_a(await desk.ask(appending("c", 1, 4)), Conflict)

    page = await _page(desk)
    same([(record.stream, record.seq) for record in page.records], [("a", 1), ("a", 2), ("b", 1)], "the page")
