"""Who may do what: roles on resources, for people and groups, inherited, some of them for a time.

    python examples/acl.py demo                                     a demonstration in memory
    python examples/acl.py STORE SPACE join MEMBER GROUP [DAYS]     a member is a person or a group (STORE: lmdb:acl, for example)
    python examples/acl.py STORE SPACE leave MEMBER GROUP
    python examples/acl.py STORE SPACE place RESOURCE PARENT
    python examples/acl.py STORE SPACE grant WHO ROLE RESOURCE [DAYS]
    python examples/acl.py STORE SPACE revoke WHO ROLE RESOURCE
    python examples/acl.py STORE SPACE check WHO ROLE RESOURCE [DAYS AGO]

Which facet: **streams** and a **fold**. Who could do what, and who allowed it, is asked about the past as often as about now; so each
grant is an event of its space's stream. No member may come to be in itself, no resource below itself: `execute` decides that on the state
of the stream and appends on top of just that state, so two administrators cannot make a circle together. A check reads a **`Keyed`
projection**, one state for each space, which is bounded, as all states are (`ENTRIES_MAX`): let a space be a customer or a project.

That a grant ends is no event, and there is no timer: `allows` is a pure function of a state and a time. So a check of the past is the
same function, of the state at that time. `revoke` returns when the model that is asked knows it: from then on no check here says yes.

The rules: who has a role on a resource has it on all that is below, and so has each member of a group that has it, and their members.
An owner is an editor, an editor is a viewer. A grant, and a membership, given again replaces what was there, its end included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, assert_never, get_args

import attrs

import by_hand
from names import check_names
from perdure.runtime import App, Appended, Event, Fold, Keyed, Runtime, event, of, open_runtime

Role = Literal["viewer", "editor", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each includes those before it."""
NAME_BYTES_MAX, ENTRIES_MAX = 120, 3_000
"""With `who:` a name is a tag. So many grants, memberships and places, with the longest names, are a state within 1 MiB."""


# -- what happens ----------------------------------------------------------------------------


@event("acl-joined")
@attrs.frozen
class Joined:
    """*member* is in *group*, and if *until* is given then only before that."""

    member: str
    group: str
    until: datetime | None = None


@event("acl-left")
@attrs.frozen
class Left:
    """Not any more."""

    member: str
    group: str


@event("acl-placed")
@attrs.frozen
class Placed:
    """*resource* is below *parent* now, and nowhere else."""

    resource: str
    parent: str


@event("acl-granted", tags=lambda e: [f"who:{e.who}"])
@attrs.frozen
class Granted:
    """*who* has *role* on *resource*."""

    who: str
    role: Role
    resource: str
    until: datetime | None = None


@event("acl-revoked", tags=lambda e: [f"who:{e.who}"])
@attrs.frozen
class Revoked:
    """Not any more; other roles stay."""

    who: str
    role: Role
    resource: str


Change = Joined | Left | Placed | Granted | Revoked
CHANGES = of(Joined, Left, Placed, Granted, Revoked)
Ends = dict[str, datetime | None]
"""Names, each with the time from which on it does not count any more; None: it always does."""


@attrs.frozen
class Space:
    """Groups by member, parents by resource, roles by `RESOURCE` and then `WHO`."""

    groups: dict[str, Ends] = attrs.field(factory=dict)
    parents: dict[str, str] = attrs.field(factory=dict)
    grants: dict[str, dict[str, Ends]] = attrs.field(factory=dict)


# -- pure ------------------------------------------------------------------------------------


def changed(space: Space, change: Change) -> Space:
    """The space after a change."""
    match change:
        case Joined(member=member, group=group, until=until):
            return attrs.evolve(space, groups={**space.groups, member: {**space.groups.get(member, {}), group: until}})
        case Left(member=member, group=group):
            return attrs.evolve(space, groups=_put(space.groups, member, _drop(space.groups.get(member, {}), group)))
        case Placed(resource=resource, parent=parent):
            return attrs.evolve(space, parents={**space.parents, resource: parent})
        case Granted(who=who, role=role, resource=resource, until=until):
            on = space.grants.get(resource, {})
            return attrs.evolve(space, grants={**space.grants, resource: {**on, who: {**on.get(who, {}), role: until}}})
        case Revoked(who=who, role=role, resource=resource):
            on = space.grants.get(resource, {})
            return attrs.evolve(space, grants=_put(space.grants, resource, _put(on, who, _drop(on.get(who, {}), role))))
        case other:
            assert_never(other)


def _put(names: Mapping[str, Any], name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """With *name* as *value*; what is empty is not kept."""
    return {**names, name: value} if value else _drop(names, name)


def _drop(names: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {one: value for one, value in names.items() if one != name}


def allows(space: Space, who: str, role: Role, resource: str, at: datetime) -> bool:
    """Whether *who* may do at that time what *role* may on *resource*."""
    subjects = set(_in(space, who, at))
    enough = ROLES[ROLES.index(role) :]
    return any(
        _holds(ends[one], at)
        for place in _above(space, resource)
        for subject, ends in space.grants.get(place, {}).items()
        if subject in subjects
        for one in enough
        if one in ends
    )


def _in(space: Space, member: str, at: datetime | None) -> Iterator[str]:
    """*member* and all groups it is in, directly or not; at no time in particular: those it was ever put in."""
    found, todo = {member}, [member]
    while todo:
        yield (one := todo.pop())
        for group, until in space.groups.get(one, {}).items():
            if group not in found and (at is None or _holds(until, at)):
                found.add(group)
                todo.append(group)


def _above(space: Space, resource: str) -> Iterator[str]:
    """*resource* and what it is below."""
    place: str | None = resource
    while place is not None:
        yield place
        place = space.parents.get(place)


def _holds(until: datetime | None, at: datetime) -> bool:
    return until is None or at < until


def _entries(space: Space) -> int:
    return len(space.parents) + sum(map(len, space.groups.values())) + sum(len(ends) for on in space.grants.values() for ends in on.values())


class Refused(ValueError):
    """A change that would make a circle, or too much of a space."""


def decide(space: Space, change: Change) -> Sequence[Change]:
    """The change, unless it would change nothing.

    Raises:
      Refused: it would make a circle, or the space is full.
    """
    match change:
        case Joined(member=member, group=group) if member in _in(space, group, None):
            raise Refused(f"{group!r} is in {member!r}: {member!r} cannot be in {group!r}")
        case Placed(resource=resource, parent=parent) if resource in _above(space, parent):
            raise Refused(f"{parent!r} is below {resource!r}: {resource!r} cannot be below {parent!r}")
    after = changed(space, change)
    if _entries(after) > max(_entries(space), ENTRIES_MAX):
        raise Refused(f"a space holds {ENTRIES_MAX:,} grants, memberships and places: revoke some, or begin another space")
    return [] if after == space else [change]


def step(space: Space, event: Event[Change]) -> Space:
    """One more event."""
    return changed(space, event.data)


SPACE: Fold[Space, Change] = Fold(initial=Space(), step=step)
SPACES = Keyed("acl", version=1, initial=Space(), step=step, events=CHANGES, key=lambda event: event.stream.removeprefix("acl-") or [])
APP = App(projections=[SPACES])


# -- the store -------------------------------------------------------------------------------


async def change(rt: Runtime, space: str, what: Change) -> Appended:
    """Make a change; on return every check in this runtime knows of it.

    Raises:
      BadName: a name in it cannot be kept; nothing was changed.
      Refused: it would make a circle, or the space is full; nothing was changed.
    """
    check_names(NAME_BYTES_MAX, space=space, **attrs.asdict(what, filter=lambda field, _: field.name not in ("role", "until")))
    answer = (await rt.execute(f"acl-{space}", SPACE, decide, what, attempts_max=20)).unwrap()
    if answer.position is not None:
        await rt.model(SPACES).wait_for(answer.position)
    return answer


async def check(rt: Runtime, space: str, who: str, role: Role, resource: str, at: datetime) -> bool:
    """Whether *who* may, by all that is known now, at that time (now, usually)."""
    check_names(NAME_BYTES_MAX, space=space, who=who, resource=resource)
    return allows(await rt.model(SPACES).get(space) or Space(), who, role, resource, at)


async def check_then(rt: Runtime, space: str, who: str, role: Role, resource: str, at: datetime) -> bool:
    """Whether a check at that time said yes."""
    check_names(NAME_BYTES_MAX, space=space, who=who, resource=resource)
    return allows((await rt.model(SPACES).as_of(space, time=at)).state or Space(), who, role, resource, at)


# -- by hand ---------------------------------------------------------------------------------


role_of = partial(by_hand.one_of, "ROLE", ROLES)


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    now = datetime.now(UTC)
    async with open_runtime(store, APP) as rt:
        match words:
            case [space, "join", member, group]:
                await change(rt, space, Joined(member, group))
            case [space, "join", member, group, days]:
                await change(rt, space, Joined(member, group, now + by_hand.days(days)))
            case [space, "leave", member, group]:
                await change(rt, space, Left(member, group))
            case [space, "place", resource, parent]:
                await change(rt, space, Placed(resource, parent))
            case [space, "grant", who, role, resource]:
                await change(rt, space, Granted(who, role_of(role), resource))
            case [space, "grant", who, role, resource, days]:
                await change(rt, space, Granted(who, role_of(role), resource, now + by_hand.days(days)))
            case [space, "revoke", who, role, resource]:
                await change(rt, space, Revoked(who, role_of(role), resource))
            case [space, "check", who, role, resource]:
                await rt.model(SPACES).wait_for(await rt.head())
                return by_hand.answer(await check(rt, space, who, role_of(role), resource, now), "yes", "no")
            case [space, "check", who, role, resource, days]:
                return by_hand.answer(await check_then(rt, space, who, role_of(role), resource, now - by_hand.days(days)), "yes", "no")
            case ["demo"]:
                await demonstrate(rt, now)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime, now: datetime) -> None:
    """Groups in groups, folders in folders, a guest for a week, and a circle that is refused."""
    for what in (
        Joined("ada", "engineers"),
        Joined("engineers", "staff"),
        Placed("plans/2026", "plans"),
        Granted("staff", "viewer", "plans"),
        Granted("guest", "editor", "plans/2026", now + timedelta(days=7)),
    ):
        await change(rt, "house", what)
    for who, role, resource, days in (("ada", "viewer", "plans/2026", 0), ("ada", "editor", "plans/2026", 0), ("guest", "viewer", "plans/2026", 6),
                                      ("guest", "viewer", "plans/2026", 8), ("guest", "viewer", "plans", 0)):  # fmt: skip
        said = await check(rt, "house", who, role_of(role), resource, now + timedelta(days=days))
        print(f"{who:<6} as {role:<7} of {resource:<11} in {days} days: {'yes' if said else 'no'}")
    try:
        await change(rt, "house", Joined("staff", "ada"))
    except Refused as error:
        print(f"refused: {error}")
    await change(rt, "house", Left("engineers", "staff"))
    print(f"engineers have left the staff. ada may look: {await check(rt, 'house', 'ada', 'viewer', 'plans/2026', now)}")


if __name__ == "__main__":
    by_hand.run(__doc__, main)
