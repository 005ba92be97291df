# mypy: disable-error-code="arg-type,call-arg,var-annotated,assignment"
# Positions, roles and words are drawn here, and plain ones kept in dictionaries of anything.
"""Checks answer as a plain list of grants does that is searched from end to end, now, later and in the past, whatever is killed."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import acl
from acl import APP, ROLES, SPACES, Granted, Joined, Left, Placed, Refused, Revoked, Space
from perdure.backends.codec import Codec
from perdure.runtime import LIMITS, ModelFaulted
from perdure.runtime.testing import check_projection, simulate
from perdure.runtime.testing import given as events_of

NAMES, RESOURCES = ("ada", "bob", "crew", "staff"), ("root", "a", "a/b", "c")
T0 = datetime(2023, 1, 1, tzinfo=UTC)


class Plain:
    """Every change in a list; a check looks for a way from the person to the resource."""

    def __init__(self):
        self.members, self.parents, self.grants = {}, {}, {}

    def change(self, what):
        match what:
            case Joined(member, group, until):
                if self._reaches(self.members, group, member):
                    return False
                self.members[member, group] = until
            case Left(member, group):
                self.members.pop((member, group), None)
            case Placed(resource, parent):
                if self._reaches(dict.fromkeys(self.parents.items()), parent, resource):
                    return False
                self.parents[resource] = parent
            case Granted(who, role, resource, until):
                self.grants[who, role, resource] = until
            case Revoked(who, role, resource):
                self.grants.pop((who, role, resource), None)
        return True

    def allows(self, who, role, resource, at):
        members = {edge: until for edge, until in self.members.items() if until is None or until > at}
        return any(
            (until is None or until > at)
            and ROLES.index(one) >= ROLES.index(role)
            and self._reaches(members, who, subject)
            and self._reaches(dict.fromkeys(self.parents.items()), resource, place)
            for (subject, one, place), until in self.grants.items()
        )

    def _reaches(self, edges, start, end):
        """By as many steps as there are edges: no cleverness."""
        reached = {start}
        for _ in edges:
            reached |= {to for from_, to in edges if from_ in reached}
        return end in reached


names, resources, roles = st.sampled_from(NAMES), st.sampled_from(RESOURCES), st.sampled_from(ROLES)
untils = st.one_of(st.none(), st.integers(0, 30).map(lambda days: T0 + timedelta(days=days)))
changes = st.one_of(
    st.builds(Joined, names, names, untils),
    st.builds(Left, names, names),
    st.builds(Placed, resources, resources),
    st.builds(Granted, names, roles, resources, untils),
    st.builds(Granted, names, roles, resources, untils),
    st.builds(Revoked, names, roles, resources),
)
questions = st.tuples(names, roles, resources, st.integers(-1, 31).map(lambda days: T0 + timedelta(days=days)))


async def do(rt, space, what):
    """Whether it was not refused."""
    try:
        await acl.change(rt, space, what)
    except Refused:
        return False
    return True


async def play(store, history, asked):
    plain, said = Plain(), []
    async with store.open(APP) as rt:
        for what in history:
            assert await do(rt, "s", what) == plain.change(what)
            assert [await acl.check(rt, "s", *question) for question in asked] == [plain.allows(*question) for question in asked]
            now = datetime.fromtimestamp(store.now(), UTC)
            said.append((now, [plain.allows(*question[:3], now) for question in asked]))
            store.let_pass(5)
    async with store.open(APP) as rt:  # what was said then is said of then
        for then, answers in said:
            assert [await acl.check_then(rt, "s", *question[:3], then) for question in asked] == answers


def test_it_equals_a_plain_search(stores):
    @settings(max_examples=stores.examples)
    @given(st.lists(changes, max_size=12), st.lists(questions, min_size=1, max_size=4))
    def holds(history, asked):
        stores.run(lambda store: play(store, history, asked))

    holds()


@settings(max_examples=2)
@given(st.lists(changes, max_size=12))
def test_the_projection_is_what_one_must_be(history):
    space, done = Space(), []
    for what in history:
        try:
            acl.decide(space, what)
        except Refused:
            continue
        space, done = acl.changed(space, what), [*done, what]

    assert trio.run(check_projection, SPACES, events_of(*done, stream="acl-s")).events == len(done)


def test_two_administrators_make_no_circle_together(stores):
    async def main(store):
        refused = []
        async with store.open(APP) as rt:

            async def join(member, group):
                if not await do(rt, "s", Joined(member, group)):
                    refused.append(member)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(join, "crew", "staff")
                nursery.start_soon(join, "staff", "crew")
        return len(refused)

    assert stores.run(main) == 1


def test_a_space_that_is_full_takes_no_more_and_its_state_is_within_the_bound():
    """With the longest names, each of them new."""
    space, rooms = Space(), acl.ENTRIES_MAX
    name = iter(f"{number:0{acl.NAME_BYTES_MAX}}" for number in range(3 * rooms))
    for _ in range(rooms):
        space.grants[next(name)] = {next(name): {"editor": T0 + timedelta(microseconds=1)}}

    assert len(Codec().encoder(Space)(space)) < LIMITS.state_bytes
    with pytest.raises(Refused, match="holds 3,000"):
        acl.decide(space, Joined("a", "b"))
    assert acl.decide(space, Revoked(next(iter(space.grants[next(iter(space.grants))])), "editor", next(iter(space.grants))))


# -- killed ----------------------------------------------------------------------------------


async def work(rt, random: Random):
    """Changes in two spaces; what is done is checked at once."""
    with suppress(ModelFaulted):  # the runtime closes, and its models before it
        await _work(rt, random)


async def _work(rt, random):
    for _ in range(4):
        space, who, role, resource = random.choice("xy"), *map(random.choice, (NAMES, ROLES, RESOURCES))
        await do(rt, space, Joined(*random.sample(NAMES, 2)))
        await do(rt, space, Placed(*random.sample(RESOURCES, 2)))
        mine = f"{who}{random.randrange(1 << 20)}"
        await acl.change(rt, space, Granted(mine, role, resource))
        assert await acl.check(rt, space, mine, role, resource, T0), "a grant is not seen by who made it"
        if random.random() < 0.5:
            await acl.change(rt, space, Revoked(mine, role, resource))
            assert not await acl.check(rt, space, mine, role, resource, T0), "a role that was revoked is still had"


async def check(rt):
    """The model says what a plain search of the log says."""
    plain = {space: Plain() for space in "xy"}
    people = set(NAMES)
    async for one in rt.read_all(acl.CHANGES):
        assert plain[one.stream.removeprefix("acl-")].change(one.data), f"{one.data} makes a circle"
        people |= {one.data.who} if isinstance(one.data, Granted) else set()
    for space, known in plain.items():
        for who in sorted(people)[:20]:
            for resource in RESOURCES:
                found = await acl.check(rt, space, who, "viewer", resource, T0)
                assert found == known.allows(who, "viewer", resource, T0), f"{who} on {resource} in {space}"


@pytest.mark.parametrize("url", ["file:", "memory:"])
def test_simulated_crashes_change_no_answer(url):
    report = simulate(APP, work, check=check, seeds=10, url=url, sessions=2)

    assert report.ok, report


def test_a_change_that_does_not_wait_for_the_model_is_found(monkeypatch):
    """The workload can fail."""

    async def at_once(rt, space, what):
        return (await rt.execute(f"acl-{space}", acl.SPACE, acl.decide, what)).unwrap()

    monkeypatch.setattr(acl, "change", at_once)

    report = simulate(APP, work, check=check, seeds=3, shrink_tries=0)

    assert "is not seen by who made it" in str(report) or "is still had" in str(report)


def test_killed_processes_change_no_answer(survives):
    survives(__file__)
