# mypy: disable-error-code="arg-type,call-arg,var-annotated,assignment"
# Positions, roles and words are drawn here, and plain ones kept in dictionaries of anything.
"""Sessions are those of a plain dictionary with times, whoever asks at the same moment and whatever is killed."""

from __future__ import annotations

from random import Random
from urllib.parse import unquote

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import sessions as module
from perdure.runtime import ANY, App
from perdure.runtime.testing import simulate
from sessions import IDLE_S, LIFE_S, RENEW_SHARE, Sessions

APP = App()
USERS = ("a", "a/b", "ab", " ")


class Plain:
    """The same rules over a dictionary: token -> [user, opened, ends]."""

    def __init__(self):
        self.sessions = {}

    def check(self, token, now):
        session = self.sessions.get(token)
        if session is None or now >= session[2]:
            return None
        if session[2] - now <= IDLE_S * (1 - RENEW_SHARE):
            session[2] = max(session[2], min(now + IDLE_S, session[1] + LIFE_S))
        return (session[0], session[1], session[2])

    def of(self, user, now):
        return sorted(token.split("/")[1] for token, (owner, _, ends) in self.sessions.items() if owner == user and now < ends)

    def revoke(self, token):
        self.sessions.pop(token, None)

    def revoke_all(self, user):
        self.sessions = {token: session for token, session in self.sessions.items() if session[0] != user}

    def sweep(self, now):
        self.sessions = {token: session for token, session in self.sessions.items() if now < session[2]}


users, numbers = st.sampled_from(USERS), st.integers(0, 9)
minutes = st.sampled_from([0, 1, 10, 16, 29, 30, 31, 60 * 24 * 29, 60 * 24 * 30])
doings = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["open", "revoke_all", "of"]), users),
        st.tuples(st.sampled_from(["check", "check", "revoke"]), numbers),
        st.tuples(st.just("pass"), minutes),
        st.tuples(st.sampled_from(["sweep", "restart"]), st.none()),
    ),
    max_size=30,
)


def shown(session):
    return session and (session.user, session.opened, session.ends)


async def play(store, doings):
    """Do them to the store and to the plain ones; all answers are equal."""
    plain, tokens, todo, clock = Plain(), [], list(doings), [1e9]
    while todo:
        async with store.open(APP) as rt:
            sessions = Sessions(rt, now=lambda: clock[0])
            while todo:
                match todo.pop(0):
                    case ("open", user):
                        tokens.append(await sessions.open(user))
                        plain.sessions[tokens[-1]] = [user, clock[0], clock[0] + IDLE_S]
                    case ("check", number) if tokens:
                        token = tokens[number % len(tokens)]
                        assert shown(await sessions.check(token)) == plain.check(token, clock[0])
                        assert await sessions.check(token[:-1] + "z") is None
                    case ("revoke", number) if tokens:
                        token = tokens[number % len(tokens)]
                        await sessions.revoke(unquote(token.split("/")[0]), token.split("/")[1])
                        plain.revoke(token)
                    case ("revoke_all", user):
                        await sessions.revoke_all(user)
                        plain.revoke_all(user)
                    case ("of", user):
                        assert sorted(id for id, _ in await sessions.of(user)) == plain.of(user, clock[0])
                    case ("pass", minutes):
                        clock[0] += minutes * 60.0
                    case ("sweep", _):
                        before = len(plain.sessions)
                        plain.sweep(clock[0])
                        assert await sessions.sweep() == before - len(plain.sessions)
                    case ("restart", _):
                        break


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Bounds that are met."""
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "REVOKED_MAX", 2)


def test_they_equal_plain_ones(stores):
    @settings(max_examples=stores.examples)
    @given(doings)
    def holds(doings):
        stores.run(lambda store: play(store, doings))

    holds()


def test_the_secret_is_nowhere_kept(stores):
    async def main(store):
        async with store.open(APP) as rt:
            sessions = Sessions(rt)
            secret = (await sessions.open("ada")).rpartition("/")[2]
            return secret, [attrs.astuple(entry.value) for entry in (await sessions.bucket.scan()).entries]

    secret, kept = stores.run(main)

    assert secret.encode() not in repr(kept).encode() and bytes.fromhex(secret) not in [part for one in kept for part in one]


# -- at the same time ------------------------------------------------------------------------


class SlowReads:
    """A bucket whose answers are on the way for a while, as those of a server far away."""

    def __init__(self, bucket, draw, expectations=True):
        self._bucket = bucket
        self._draw = draw
        self._expectations = expectations

    def __getattr__(self, name):
        return getattr(self._bucket, name)

    async def get(self, key):
        found = await self._bucket.get(key)
        for _ in range(self._draw.randrange(6)):
            await trio.lowlevel.checkpoint()
        return found

    async def put(self, key, value, *, expected=ANY):
        return await self._bucket.put(key, value, expected=expected if self._expectations else ANY)


async def race(store, seed, expectations=True):
    """Requests that renew, and one that revokes; the tokens that are still good when it is over."""
    draw, clock = Random(seed), [1e9]
    async with store.open(APP) as rt:
        sessions = Sessions(rt, now=lambda: clock[0])
        sessions.bucket = SlowReads(sessions.bucket, draw, expectations)
        tokens = [await sessions.open("ada") for _ in range(3)]
        clock[0] += IDLE_S * 0.9

        async def sign_out():
            for _ in range(draw.randrange(6)):
                await trio.lowlevel.checkpoint()
            await sessions.revoke_all("ada")

        async with trio.open_nursery() as nursery:
            for token in [*tokens, *tokens]:
                nursery.start_soon(sessions.check, token)
            nursery.start_soon(sign_out)
        return [token for token in tokens if await sessions.check(token)]


def test_a_renewal_brings_nothing_back(stores):
    for seed in range(stores.examples):
        assert stores.run(lambda store, seed=seed: race(store, seed)) == []


def test_a_renewal_without_an_expectation_brings_one_back(stores):
    """The race can be lost; on a server its moments are not drawn alone."""
    assert any(stores.run(lambda store, seed=seed: race(store, seed, expectations=False)) for seed in range(200))


# -- killed ----------------------------------------------------------------------------------


async def work(rt, random: Random):
    """Sessions opened, used, revoked; what was begun and what was answered is noted beside them."""
    notes = rt.kv("notes", str)
    sessions = Sessions(rt, now=lambda: 1e9 + random.choice((0.0, IDLE_S * 0.6)), draw=random.randbytes)
    for _ in range(3):
        user = f"{random.choice(USERS)}{random.randrange(1 << 30)}"
        tokens = [await sessions.open(user) for _ in range(random.randint(1, 3))]
        for token in tokens:
            await notes.put(token, "opened")
        await sessions.check(random.choice(tokens))
        if random.random() < 0.6:
            for token in tokens:
                await notes.put(token, "revoking")
            await sessions.revoke_all(user)
            for token in tokens:
                await notes.put(token, "revoked")


async def check(rt):
    """What was said to be opened is there, what was said to be revoked is not."""
    sessions, counts = Sessions(rt, now=lambda: 1e9 + IDLE_S * 0.6), {}
    for note in (await rt.kv("notes", str).scan()).entries:
        found = await sessions.check(note.key)
        counts[note.value] = counts.get(note.value, 0) + 1
        if note.value != "revoking":
            assert (found is None) == (note.value == "revoked"), f"{note.key} was {note.value}, and is {found}"


@pytest.mark.parametrize("url", ["file:", "segments:", "lmdb:"])
def test_simulated_crashes_keep_what_was_said(url):
    report = simulate(APP, work, check=check, seeds=10, url=url)

    assert report.ok, report


def test_a_revocation_that_is_not_awaited_is_found(monkeypatch):
    """The check can fail."""

    async def later(self, user):
        return 0

    monkeypatch.setattr(Sessions, "revoke_all", later)

    report = simulate(APP, work, check=check, seeds=5, shrink_tries=0)

    assert "was revoked, and is" in str(report)


def test_killed_processes_keep_what_was_said(survives):
    survives(__file__)
