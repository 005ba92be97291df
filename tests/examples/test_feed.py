# mypy: disable-error-code="arg-type,call-arg,var-annotated,assignment"
# Positions, roles and words are drawn here, and plain ones kept in dictionaries of anything.
"""The feed gives what a plain one in memory gives, whenever it comes to it and whatever is killed."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import feed
from feed import APP, Followed, Posted, follow, post, read_feed, unfollow, wait_kept
from perdure.runtime import Put
from perdure.runtime.testing import simulate

PEOPLE = ("ada", "bob", "a/b", "a")
beside = feed.keep_feeds


class Plain:
    """The same rules, kept in lists."""

    def __init__(self):
        self.posts = {who: [] for who in PEOPLE}
        self.follows = {who: [] for who in PEOPLE}
        self.feeds = {who: [] for who in PEOPLE}
        self.posted = 0

    def post(self, author, text):
        self.posted += 1
        self.posts[author].append((self.posted, author, text))
        for who in PEOPLE:
            if author in self.follows[who]:
                self._give(who, self.posts[author][-1:])

    def follow(self, who, whom):
        if whom not in self.follows[who] and who != whom:
            self.follows[who].append(whom)
            self._give(who, self.posts[whom][-feed.BACKFILL :])

    def unfollow(self, who, whom):
        if whom in self.follows[who]:
            self.follows[who].remove(whom)
            self.feeds[who] = [item for item in self.feeds[who] if item[1] != whom]

    def _give(self, who, items):
        self.feeds[who] = sorted({*self.feeds[who], *items}, reverse=True)[: feed.FEED_MAX]

    def read(self, who):
        return [Posted(author, text) for _, author, text in self.feeds[who]]


people = st.sampled_from(PEOPLE)
doings = st.lists(
    st.one_of(
        st.tuples(st.just("post"), people, st.text("xyz", max_size=3)),
        st.tuples(st.sampled_from(["follow", "follow", "unfollow"]), people, people).filter(lambda doing: doing[1] != doing[2]),
        st.tuples(st.sampled_from(["keep", "restart"]), st.none(), st.none()),
    ),
    max_size=30,
)


@pytest.fixture
def small(monkeypatch):
    """Bounds that are met."""
    for name, value in {"BACKFILL": 2, "FEED_MAX": 4, "FAN_OUT": 2}.items():
        monkeypatch.setattr(feed, name, value)


async def live(store, doings):
    """Do them; the keeper works now and then, and at the end. All feeds."""
    todo, done = list(doings), None
    while True:
        async with store.open(APP) as rt, trio.open_nursery() as nursery:
            while todo:
                what, who, whom = todo.pop(0)
                if what == "keep":
                    nursery.start_soon(feed.keep_feeds, rt)
                    await wait_kept(rt, done)
                    nursery.cancel_scope.cancel()
                    break
                if what == "restart":
                    break
                done = await getattr(feed, what)(rt, who, whom) or done
            else:
                nursery.start_soon(feed.keep_feeds, rt)
                await wait_kept(rt, done)
                feeds = {who: await read_feed(rt, who) for who in PEOPLE}
                nursery.cancel_scope.cancel()
                return feeds


@pytest.mark.usefixtures("small")
def test_it_equals_a_plain_feed(stores):
    @settings(max_examples=stores.examples)
    @given(doings)
    def holds(doings):
        plain = Plain()
        for what, who, whom in doings:
            if what in ("post", "follow", "unfollow"):
                getattr(plain, what)(who, whom)

        feeds = stores.run(lambda store: live(store, doings))

        assert feeds == {who: plain.read(who) for who in PEOPLE}

    holds()


# -- killed ----------------------------------------------------------------------------------


async def work(rt, random: Random):
    """Some posts, follows and unfollows."""
    for _ in range(8):
        who, whom = random.sample(PEOPLE, 2)
        match random.randrange(4):
            case 0 | 1:
                await post(rt, who, f"{random.randrange(1000)}")
            case 2:
                await follow(rt, who, whom)
            case 3:
                await unfollow(rt, who, whom)
        await trio.sleep(random.random() * 0.01)


async def check(rt):
    """The feeds are those of the log."""
    plain, last = Plain(), None
    async for happening in rt.read_all(feed.HAPPENINGS):
        last = happening.position
        match happening.data:
            case Posted(author, text):
                plain.post(author, text)
            case Followed(who, whom):
                plain.follow(who, whom)
            case unfollowed:
                plain.unfollow(unfollowed.who, unfollowed.whom)
    with trio.fail_after(60):
        await wait_kept(rt, last)
    for who in PEOPLE:
        found = await read_feed(rt, who)
        assert found == plain.read(who), f"{who} sees {found}, and should see {plain.read(who)}"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("runtimes", [1, 2])
def test_simulated_crashes_change_no_feed(runtimes):
    report = simulate(APP, work, check=check, beside=beside, seeds=15, runtimes=runtimes)

    assert report.ok, report


@pytest.mark.usefixtures("small")
def test_a_keeper_that_keeps_its_place_before_the_feeds_is_found(monkeypatch):
    """The check can fail: place and feeds in two commits."""

    async def in_two(self, place, *writes):
        await self._rt.transact(Put(feed.PLACE, "place", place))
        if writes:
            await self._rt.transact(*writes)

    monkeypatch.setattr(feed.Keeper, "_commit", in_two)

    report = simulate(APP, work, check=check, beside=beside, seeds=60, shrink_tries=0)

    assert not report.ok
    assert "and should see" in str(report)


def test_killed_processes_change_no_feed(survives):
    survives(__file__)
