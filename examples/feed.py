"""An activity feed: what those whom I follow have posted, newest first.

    python examples/feed.py demo                        a demonstration in memory
    python examples/feed.py STORE post WHO TEXT         on a store that stays (lmdb:feed, for example)
    python examples/feed.py STORE follow|unfollow WHO WHOM
    python examples/feed.py STORE show WHO

Which facet: **streams** for what people did, because who gets a post is told by the order of posts and follows; **kv** for the feeds,
because a page is shown a thousand times for each time that it changes; and between them a **subscription** of our own. It is no `Keyed`
projection: there the event alone says which keys it touches, here that is up to who follows its author by then. So `keep_feeds` puts
what it made of an event and its place in the log into one commit: each event counts once, whatever is killed.

The rules: a post goes to those who follow its author when it is stored. Who begins to follow gets the author's last `BACKFILL` posts.
Who unfollows loses that author's posts, and what they had pushed out does not come back. A feed holds the newest `FEED_MAX`.
A post with many readers is handed out over several commits, `FAN_OUT` readers in each, and goes on in the midst after a crash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, unquote

import attrs
import trio

import by_hand
from names import check_names
from perdure.runtime import App, Conflict, Delete, Event, Fold, Full, InDoubt, Lease, LeaseLost, Position, Put, Runtime, Unavailable, event, of, open_runtime

BACKFILL = 3
FEED_MAX = 20
FAN_OUT = 100
NAME_BYTES_MAX = 64  # two of them, quoted, are a key
FEEDS, FOLLOWERS, PLACE = "feeds", "feed-followers", "feed-place"
"""The buckets."""


# -- what happens ----------------------------------------------------------------------------


@event("feed-posted")
@attrs.frozen
class Posted:
    """In the stream `posts-AUTHOR`."""

    author: str
    text: str


@event("feed-followed")
@attrs.frozen
class Followed:
    """In the stream `follows-WHO`."""

    who: str
    whom: str


@event("feed-unfollowed")
@attrs.frozen
class Unfollowed:
    """The opposite."""

    who: str
    whom: str


Happening = Posted | Followed | Unfollowed
HAPPENINGS = of(Posted, Followed, Unfollowed)
APP = App(events=HAPPENINGS)


def followed(whom: tuple[str, ...], event: Event[Followed | Unfollowed]) -> tuple[str, ...]:
    """Whom somebody follows."""
    rest = tuple(one for one in whom if one != event.data.whom)
    return (*rest, event.data.whom) if isinstance(event.data, Followed) else rest


FOLLOWS: Fold[tuple[str, ...], Followed | Unfollowed] = Fold(initial=(), step=followed)


class Refused(ValueError):
    """Nobody follows himself."""


async def post(rt: Runtime, author: str, text: str) -> Position | None:
    """Post *text*; its place in the log."""
    check_names(NAME_BYTES_MAX, author=author)
    return (await rt.append(f"posts-{author}", [Posted(author, text)])).position


async def follow(rt: Runtime, who: str, whom: str) -> Position | None:
    """From now on *who* gets what *whom* posts; None: that was so already.

    Raises:
      Refused: they are the same.
    """
    check_names(NAME_BYTES_MAX, who=who, whom=whom)
    if who == whom:
        raise Refused(f"{who!r} cannot follow {who!r}: name somebody else")
    answer = await rt.execute(f"follows-{who}", FOLLOWS, lambda known: [] if whom in known else [Followed(who, whom)])
    return answer.unwrap().position


async def unfollow(rt: Runtime, who: str, whom: str) -> Position | None:
    """Not any more; None: that was so already."""
    check_names(NAME_BYTES_MAX, who=who, whom=whom)
    answer = await rt.execute(f"follows-{who}", FOLLOWS, lambda known: [Unfollowed(who, whom)] if whom in known else [])
    return answer.unwrap().position


# -- what is kept of it ----------------------------------------------------------------------


@attrs.frozen
class Item:
    """A post in a feed, by reference: its text stands in the log, once."""

    position: int
    author: str
    seq: int


@attrs.frozen
class Feed:
    """The newest posts that somebody got, newest first."""

    items: tuple[Item, ...] = ()

    def with_(self, more: list[Item]) -> Feed:
        """With *more*, in the order of the log, within the bound."""
        merged = {item.position: item for item in (*self.items, *more)}
        return Feed(tuple(merged[position] for position in sorted(merged, reverse=True)[:FEED_MAX]))

    def without(self, author: str) -> Feed:
        """Without what *author* posted."""
        return Feed(tuple(item for item in self.items if item.author != author))


@attrs.frozen
class Place:
    """How far the feeds are: all up to *done*, and of the post *at* all readers up to *reached*."""

    done: int = 0
    at: int = 0
    reached: str = ""


class Keeper:
    """Carries the feeds on, event by event, by the right of *lease*."""

    def __init__(self, rt: Runtime, lease: Lease) -> None:
        self._rt = rt
        self._lease = lease
        self._feeds = rt.kv(FEEDS, Feed)
        self._followers = rt.kv(FOLLOWERS, int)
        self._places = rt.kv(PLACE, Place)

    async def run(self) -> None:
        """Go on from the kept place, for ever."""
        kept = await self._places.get("place")
        place = Place() if kept is None else kept.value
        async with self._rt.subscribe(HAPPENINGS, after=Position(place.done)) as happenings:
            async for happening in happenings:
                match happening.data:
                    case Posted(author=author):
                        await self._hand_out(Item(happening.position, author, happening.seq), place)
                    case Followed(who=who, whom=whom):
                        feed = (await self._feed(who)).with_(await self._last_posts(whom, happening.position))
                        await self._commit(Place(happening.position), Put(FOLLOWERS, _edge(whom, who), int(happening.position)), Put(FEEDS, who, feed))
                    case Unfollowed(who=who, whom=whom):
                        feed = (await self._feed(who)).without(whom)
                        await self._commit(Place(happening.position), Delete(FOLLOWERS, _edge(whom, who)), Put(FEEDS, who, feed))
                place = Place(happening.position)

    async def _hand_out(self, item: Item, place: Place) -> None:
        """To each follower; the place goes with them."""
        reached, more = place.reached if place.at == item.position else "", True
        while more:
            page = (await self._followers.scan(_edge(item.author), after=reached or None, limit=FAN_OUT)).entries
            more = len(page) == FAN_OUT
            reached = page[-1].key if page else ""
            readers = [_reader(entry.key) for entry in page]
            puts: list[Put[Feed]] = [Put(FEEDS, reader, (await self._feed(reader)).with_([item])) for reader in readers]
            await self._commit(Place(place.done, item.position, reached) if more else Place(item.position), *puts)

    async def _commit(self, place: Place, *writes: Put[Feed] | Put[int] | Delete) -> None:
        """All of it or nothing; a `Conflict` leaves if another process carries on the feeds by now."""
        (await self._rt.transact(*writes, Put(PLACE, "place", place), self._lease.fence)).unwrap()

    async def _feed(self, reader: str) -> Feed:
        entry = await self._feeds.get(reader)
        return Feed() if entry is None else entry.value

    async def _last_posts(self, author: str, before: Position) -> list[Item]:
        """What a new follower gets: it may be that more was posted since."""
        found: list[Item] = []
        async for posted in self._rt.read(f"posts-{author}", backward=True):
            if posted.position < before:
                found.append(Item(posted.position, author, posted.seq))
            if len(found) == BACKFILL:
                break
        return found


def _edge(author: str, reader: str = "") -> str:
    """The key that says that *reader* follows; with names quoted no name can look like the beginning of another."""
    return f"{quote(author, safe='')}/{quote(reader, safe='')}"


def _reader(edge: str) -> str:
    return unquote(edge.partition("/")[2])


async def keep_feeds(rt: Runtime) -> None:
    """Carry on the feeds, for ever: of several processes one, the others stand by."""
    while True:
        try:
            async with rt.lease("feeds") as lease:
                await Keeper(rt, lease).run()
        except (Conflict, LeaseLost, Unavailable, InDoubt, Full):
            await trio.sleep(1)  # and begin again from the place that is kept


async def wait_kept(rt: Runtime, position: Position | None) -> None:
    """Return when the feeds know what is at *position* (None: nothing happened)."""
    if position is None:
        return
    places = rt.kv(PLACE, Place)
    async for change in places.watch():
        if change.entry is not None and change.entry.value.done >= position:
            return


async def read_feed(rt: Runtime, reader: str, limit: int = FEED_MAX) -> list[Posted]:
    """What *reader* sees, newest first."""
    check_names(NAME_BYTES_MAX, reader=reader)
    entry = await rt.kv(FEEDS, Feed).get(reader)
    page: list[Posted] = []
    for item in entry.value.items[:limit] if entry is not None else ():
        async for posted in rt.read(f"posts-{item.author}", after=item.seq - 1, limit=1):
            assert isinstance(posted.data, Posted)
            page.append(posted.data)
    return page


# -- by hand ---------------------------------------------------------------------------------


@asynccontextmanager
async def kept(store: str) -> AsyncIterator[Runtime]:
    """A runtime that keeps the feeds meanwhile."""
    async with open_runtime(store, APP) as rt, trio.open_nursery() as nursery:
        nursery.start_soon(keep_feeds, rt)
        yield rt
        nursery.cancel_scope.cancel()


async def show(rt: Runtime, reader: str) -> None:
    """Print a feed."""
    print(f"{reader} sees")
    for posted in await read_feed(rt, reader):
        print(f"  {posted.author}: {posted.text}")


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    async with kept(store) as rt:
        match words:
            case ["post", author, text]:
                await wait_kept(rt, await post(rt, author, text))
            case ["follow", who, whom]:
                await wait_kept(rt, await follow(rt, who, whom))
            case ["unfollow", who, whom]:
                await wait_kept(rt, await unfollow(rt, who, whom))
            case ["show", who]:
                await show(rt, who)
            case ["demo"]:
                await demonstrate(rt)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime) -> None:
    """A reader who comes late, and goes."""
    for text in ("first", "second", "third", "fourth"):
        await post(rt, "ada", text)
    await post(rt, "bob", "hello")
    for whom in ("ada", "bob"):
        await follow(rt, "cleo", whom)
    await wait_kept(rt, await post(rt, "ada", "fifth"))
    await show(rt, "cleo")
    await wait_kept(rt, await unfollow(rt, "cleo", "ada"))
    await show(rt, "cleo")


if __name__ == "__main__":
    by_hand.run(__doc__, main)
