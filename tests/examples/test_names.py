"""Whatever text the six consumers accept leaves their models running; a name that cannot be kept is refused before anything is stored."""

from __future__ import annotations

import pickle
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import acl
import feed
import flow
import mod_audit
import search_index
from names import BadName, check_names
from perdure.runtime import App, Misuse, Runtime, TooLarge, open_runtime
from sessions import Sessions

NOW = datetime(2023, 1, 1, tzinfo=UTC)
REFUSED = (BadName, Misuse, TooLarge, acl.Refused, feed.Refused, mod_audit.NoSuchDecision, flow.NoSuchFlow)
texts = st.one_of(
    st.sampled_from(["a", "b", "", " ", "$", "a\n", "a\0", "\ud800", "\u200d", "/", "a/b", "%", "-"]),
    st.sampled_from(["ä" * 60, "ä" * 200, "🦊" * 16, "x" * 64, "/" * 120, "x" * 124, "x" * 250, "x" * 256, "x" * 401, "ß" * 32]),
    st.text(max_size=5),
)


def acl_says(rt, a, b, c):
    yield acl.change, rt, a, acl.Joined(b, c)
    yield acl.change, rt, a, acl.Placed(b, c)
    yield acl.change, rt, a, acl.Granted(b, "editor", c)
    yield acl.change, rt, a, acl.Revoked(b, "viewer", c)
    yield acl.change, rt, a, acl.Left(c, b)
    yield acl.check, rt, a, b, "viewer", c, NOW
    yield acl.check_then, rt, a, b, "viewer", c, NOW


def mod_audit_says(rt, a, b, c):
    yield mod_audit.report, rt, a, b, c
    yield mod_audit.decide, rt, a, b, "hide", c
    yield mod_audit.correct, rt, a, 2, b, None, c
    yield mod_audit.case_of, rt, a
    yield mod_audit.known_at, rt, a, NOW
    yield mod_audit.said_by, rt, b


def search_index_says(rt, a, b, c):
    yield search_index.write, rt, a, b, c
    yield search_index.write, rt, a, c, b
    yield search_index.search, rt, a, b, f"{c}*"
    yield search_index.delete, rt, a


def feed_says(rt, a, b, c):
    yield feed.follow, rt, a, b
    yield feed.post, rt, b, c
    yield feed.unfollow, rt, a, c
    yield feed.read_feed, rt, a


def flow_says(rt, a, b, c):
    yield flow.start, rt, a, b
    yield flow.tell, rt, a, b, c


def sessions_say(rt, a, b, c):
    sessions = Sessions(rt)
    yield sessions.open, a, b
    yield sessions.check, a
    yield sessions.check, f"{a}/{b}/{c}"
    yield sessions.of, a
    yield sessions.revoke, a, b
    yield sessions.revoke_all, a


async def still_runs(rt: Runtime, app: App) -> None:
    """All models come to the head; so do the feeds, and a worker is not broken off by a flow."""
    for projection in app.projections:
        with trio.fail_after(60):
            await rt.model(projection).wait_for(await rt.head())
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.keep_feeds, rt)
            nursery.start_soon(flow.Worker(rt, {"a": flow.order(flow.say)}).run)
            async for one in rt.read_all(feed.HAPPENINGS):
                await feed.wait_kept(rt, one.position)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


SAID = [
    (acl.APP, acl_says),
    (mod_audit.APP, mod_audit_says),
    (search_index.APP, search_index_says),
    (feed.APP, feed_says),
    (flow.APP, flow_says),
    (App(), sessions_say),
]


@pytest.mark.parametrize(("app", "says"), [pytest.param(app, says, id=says.__name__) for app, says in SAID])
def test_what_is_accepted_leaves_the_models_running(stores, app, says):
    async def main(store, words):
        async with store.open(app) as rt:
            for word in words:
                for call, *args in says(rt, *word):
                    with suppress(*REFUSED):
                        await call(*args)
            await still_runs(rt, app)

    @settings(max_examples=stores.examples)
    @given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4))
    def holds(words):
        stores.run(lambda store: main(store, words))

    holds()


@pytest.mark.parametrize("name", ["", "a\n", "\ud800", "x" * 256])
@pytest.mark.parametrize(("app", "says"), [pytest.param(app, says, id=says.__name__) for app, says in SAID])
async def test_a_name_that_cannot_be_kept_is_refused_by_all_that_write(autojump_clock, app, says, name):
    """Or is no token: that is an answer."""
    async with open_runtime("memory:", app) as rt:
        for call, *args in says(rt, name, name, name):
            with suppress(BadName):
                assert await call(*args) in (None, [])

        assert await rt.head() == await rt.backend.revision() == 0


@pytest.mark.parametrize(("app", "kind"), [(acl.APP, "acl"), (mod_audit.APP, "mod")])
async def test_a_stream_without_a_name_stops_no_model(autojump_clock, app, kind):
    """A store may hold one from before names were checked."""
    async with open_runtime("memory:", app) as rt:
        await rt.append(f"{kind}-", [acl.Joined("a", "b") if kind == "acl" else mod_audit.Reported("a", "b")])

        await still_runs(rt, app)


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "is empty: give it"), ("a\nb", "leave them out"), ("x" * 11, "has 11 bytes, the limit is 10: use a shorter one"), ("ä" * 6, "has 12 bytes")],
)
def test_the_error_names_what_is_wrong_and_the_remedy(name, said):
    with pytest.raises(BadName, match=said) as raised:
        check_names(10, space="a", who=name)

    assert pickle.loads(pickle.dumps(raised.value)).what == "who"
