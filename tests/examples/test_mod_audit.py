# mypy: disable-error-code="arg-type,call-arg,var-annotated,assignment"
# Positions, roles and words are drawn here, and plain ones kept in dictionaries of anything.
"""The audit answers of every moment what a plain list of all that was said answers, and nothing that was said ever changes."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import mod_audit
from mod_audit import APP, CASES, SEAL, Corrected, Decided, NoSuchDecision, NotYet, Reported
from perdure.backends.codec import Codec
from perdure.runtime import LIMITS, Position, TooLarge, open_runtime
from perdure.runtime.testing import check_projection, simulate
from perdure.runtime.testing import given as events_of

ITEMS, MODERATORS = ("x", "y"), ("mia", "noor")


class Plain:
    """All that was said, in a list; each question reads it from the start."""

    def __init__(self):
        self.said = []

    def of(self, item, until=None):
        return [(seq, at, what) for seq, (at, what) in enumerate(((at, what) for at, one, what in self.said if one == item), 1) if until is None or at <= until]

    def standing(self, item, known, stood=None):
        """What stood at *stood*, as it is known at *known*."""
        standing = "keep"
        heard = self.of(item, known)
        for seq, at, what in heard:
            if isinstance(what, Decided) and (stood is None or at <= stood):
                action = [what.action, *(other.action for _, _, other in heard if isinstance(other, Corrected) and other.of == seq)][-1]
                standing = action or standing
        return standing


items, moderators = st.sampled_from(ITEMS), st.sampled_from(MODERATORS)
actions = st.sampled_from(mod_audit.ACTIONS)
doings = st.lists(
    st.one_of(
        st.tuples(st.just("report"), items, st.text(max_size=3)),
        st.tuples(st.just("decide"), items, moderators, actions),
        st.tuples(st.just("correct"), items, st.integers(1, 8), moderators, st.one_of(st.none(), actions)),
        st.tuples(st.just("restart")),
    ),
    max_size=15,
)


async def read(rt):
    return [(one.position, one.stream, one.seq, one.at, one.data) async for one in rt.read_all(mod_audit.SAID)]


async def play(store, doings):
    plain, todo, seals, heard = Plain(), list(doings), {}, []
    while True:
        async with store.open(APP) as rt:
            while todo:
                doing = todo.pop(0)
                if doing == ("restart",):
                    break
                store.let_pass(7)
                await _do(rt, plain, doing)
                found = await read(rt)
                assert found[: len(heard)] == heard, "something that was said has changed"
                heard = found
                seals[await rt.head()] = await mod_audit.seal_at(rt, await rt.head())
            else:
                await _judge(rt, plain, seals)
                return


async def _do(rt, plain, doing):
    item = doing[1]
    match doing:
        case ("report", _, why):
            await mod_audit.report(rt, item, "bob", why)
            plain.said.append((await _newest(rt, item), item, Reported("bob", why)))
        case ("decide", _, moderator, action):
            await mod_audit.decide(rt, item, moderator, action, "why")
            plain.said.append((await _newest(rt, item), item, Decided(moderator, action, "why")))
        case (_, _, seq, moderator, action):
            if not any(one == seq and isinstance(said, Decided) for one, _, said in plain.of(item)):
                with pytest.raises(NoSuchDecision):
                    await mod_audit.correct(rt, item, seq, moderator, action, "why")
                return
            await mod_audit.correct(rt, item, seq, moderator, action, "why")
            plain.said.append((await _newest(rt, item), item, Corrected(seq, moderator, action, "why")))


async def _newest(rt, item):
    """When the newest thing was said of it."""
    return (await anext(rt.read(f"mod-{item}", backward=True, limit=1))).at


async def _judge(rt, plain, seals):
    now = datetime.max.replace(tzinfo=UTC)
    for item in ITEMS:
        assert (await mod_audit.case_of(rt, item)).standing() == plain.standing(item, now)
        for at, _, _ in plain.said:
            assert await mod_audit.known_at(rt, item, at) == plain.standing(item, at)
            assert await mod_audit.stood_at(rt, item, at) == plain.standing(item, now, at)
    for moderator in MODERATORS:
        found = [one.data for one in await mod_audit.said_by(rt, moderator)]
        assert found == [what for _, _, what in plain.said if getattr(what, "moderator", "") == moderator]
    for position, seal in seals.items():
        assert await mod_audit.seal_at(rt, Position(position)) == seal


def test_it_equals_a_plain_list(stores):
    @settings(max_examples=stores.examples)
    @given(doings)
    def holds(doings):
        stores.run(lambda store: play(store, doings))

    holds()


@pytest.mark.parametrize("projection", [CASES, SEAL])
async def test_the_projections_are_what_they_must_be(projection):
    events = events_of(Reported("bob", "rude"), Decided("mia", "hide", ""), Corrected(2, "noor", None, ""), Decided("mia", "keep", ""), stream="mod-x")

    assert (await check_projection(projection, events)).events == 4


def test_the_seal_tells_of_every_change():
    """Of a word, a time, a place; of an event that is missing, or two that are exchanged."""
    events = events_of(Reported("bob", "rude"), Decided("mia", "hide", ""), Reported("bob", "rude"), stream="mod-x")

    def sealed(events):
        seal = SEAL.initial
        for one in events:
            seal = mod_audit.seal_step(seal, one)
        return seal.digest

    first = events[0]
    forged = [replace(first, data=Reported("bob", "nice")), replace(first, record=replace(first.record, at_us=1))]
    others = [events[1:], events[:-1], [events[1], events[0], events[2]], *([one, *events[1:]] for one in forged)]
    assert len({sealed(events), *map(sealed, others)}) == len(others) + 1


async def test_there_is_no_seal_of_what_has_not_been_said(autojump_clock):
    async with open_runtime("memory:", APP) as rt:
        await mod_audit.report(rt, "x", "bob", "rude")

        with pytest.raises(NotYet, match="the log ends at 1"):
            await mod_audit.seal_at(rt, Position(2))


async def test_an_item_takes_no_decision_that_its_state_cannot_hold(autojump_clock, monkeypatch):
    made = [mod_audit.Decision(seq, datetime.now(UTC), "m" * mod_audit.NAME_BYTES_MAX, "remove", 1 << 40) for seq in range(mod_audit.DECISIONS_MAX)]
    assert len(Codec().encoder(mod_audit.Case)(mod_audit.Case(1 << 40, tuple(made)))) < LIMITS.state_bytes
    monkeypatch.setattr(mod_audit, "DECISIONS_MAX", 1)
    async with open_runtime("memory:", APP) as rt:
        await mod_audit.decide(rt, "x", "mia", "hide", "rude")

        with pytest.raises(TooLarge, match="has 2 decisions, the limit is 1: correct the last one"):
            await mod_audit.decide(rt, "x", "mia", "keep", "not rude")


# -- killed ----------------------------------------------------------------------------------


async def work(rt, random: Random):
    """Reports, decisions, corrections; a seal that was seen is noted, as if it were published."""
    notes = rt.kv("published", str)
    for _ in range(3):
        item = random.choice(ITEMS)
        await mod_audit.report(rt, item, "bob", f"{random.random()}")
        seq = await mod_audit.decide(rt, item, random.choice(MODERATORS), random.choice(mod_audit.ACTIONS), "why")
        if random.random() < 0.7:
            await mod_audit.correct(rt, item, seq, random.choice(MODERATORS), random.choice((None, *mod_audit.ACTIONS)), "why")
        head = await rt.head()
        await notes.put(str(head), (await mod_audit.seal_at(rt, head)).digest)


async def check(rt):
    """Every seal that was published is the seal of its position, and what is known is what was said."""
    plain = Plain()
    async for one in rt.read_all(mod_audit.SAID):
        plain.said.append((one.at, one.stream.removeprefix("mod-"), one.data))
    for note in (await rt.kv("published", str).scan()).entries:
        assert (await mod_audit.seal_at(rt, Position(int(note.key)))).digest == note.value, f"the seal of {note.key} is another one"
    for item in ITEMS:
        case = await rt.model(CASES).get(item) or mod_audit.Case()
        assert case.standing() == plain.standing(item, datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize("url", ["file:", "segments:"])
def test_simulated_crashes_change_no_answer(url):
    report = simulate(APP, work, check=check, seeds=10, url=url)

    assert report.ok, report


def test_a_seal_that_leaves_something_out_is_found(monkeypatch):
    """The check can fail: as if the store had given other events later than before."""
    given = mod_audit.seal_at

    async def another(rt, position):
        return attrs.evolve(await given(rt, position), digest=f"{trio.current_time()}")

    monkeypatch.setattr(mod_audit, "seal_at", another)

    assert "is another one" in str(simulate(APP, work, check=check, seeds=2, shrink_tries=0))


def test_killed_processes_change_no_answer(survives):
    survives(__file__)
