"""What moderators decided, and who decided it: nothing is ever edited, and every answer can be given as of any day.

    python examples/mod_audit.py demo                                        a demonstration in memory
    python examples/mod_audit.py STORE report ITEM BY WHY                    (STORE: lmdb:audit, for example)
    python examples/mod_audit.py STORE decide ITEM MODERATOR keep|hide|remove WHY
    python examples/mod_audit.py STORE correct ITEM NUMBER MODERATOR keep|hide|remove|withdraw WHY
    python examples/mod_audit.py STORE trail ITEM                            all that happened, with numbers
    python examples/mod_audit.py STORE standing ITEM [TIME]                  as it was known then, and as it is known now
    python examples/mod_audit.py STORE by MODERATOR
    python examples/mod_audit.py STORE seal [POSITION]

Which facet: the **log**, and nothing beside it that counts. There is no call that changes an event; who was wrong says so in a new one,
a correction that names the decision by its seq. `execute` refuses the correction of a decision that is not there. What stands now is a
**`Keyed` projection**, one state for each item, and can be thrown away and folded again. **Tags** answer what one moderator did.

There are two pasts. What was *known* on Monday is the fold of what had been said by Monday. What *stood* on Monday, as is known today,
is the decision that was in force on Monday with what has been corrected since. Who was punished wrongly asks for both.

The **seal** is a chain of digests over all events, a `Projection`. Publish it now and then, with its position: if anybody should ever
change a byte before it, behind perdure's back, with all checksums made good, the seal of that position will be another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Literal, get_args

import attrs

import by_hand
from names import check_names
from perdure.runtime import App, Event, Fold, Keyed, Position, Projection, Runtime, TooLarge, event, of, open_runtime

Action = Literal["keep", "hide", "remove"]
ACTIONS: tuple[Action, ...] = get_args(Action)
ITEM_BYTES_MAX, NAME_BYTES_MAX, DECISIONS_MAX = 250, 100, 4_000
"""Of an item, in the name of its stream; of people, in tags. So many decisions on an item, with the longest names, are a state within 1 MiB."""


# -- what happens ----------------------------------------------------------------------------


@event("mod-reported")
@attrs.frozen
class Reported:
    """Somebody complained of an item."""

    by: str
    why: str


@event("mod-decided", tags=lambda e: [f"moderator:{e.moderator}"])
@attrs.frozen
class Decided:
    """What is done about it from now on."""

    moderator: str
    action: Action
    why: str


@event("mod-corrected", tags=lambda e: [f"moderator:{e.moderator}"])
@attrs.frozen
class Corrected:
    """The decision with the seq *of* should have been another one; *action* None: it should not have been."""

    of: int
    moderator: str
    action: Action | None
    why: str


Said = Reported | Decided | Corrected
SAID = of(Reported, Decided, Corrected)


# -- what follows from it --------------------------------------------------------------------


@attrs.frozen
class Decision:
    """A decision as it is known: *action* with all corrections, None if it was withdrawn."""

    seq: int
    at: datetime
    moderator: str
    action: Action | None
    corrected: int = 0


@attrs.frozen
class Case:
    """What is known of an item."""

    reports: int = 0
    decisions: tuple[Decision, ...] = ()

    def standing(self, at: datetime | None = None) -> Action:
        """What the last decision that was not withdrawn says (of those made by then); without any an item is kept."""
        made = [one.action for one in self.decisions if one.action is not None and (at is None or one.at <= at)]
        return made[-1] if made else "keep"


def step(case: Case, event: Event[Said]) -> Case:
    """One more thing said."""
    match event.data:
        case Reported():
            return attrs.evolve(case, reports=case.reports + 1)
        case Decided(moderator=moderator, action=action):
            return attrs.evolve(case, decisions=(*case.decisions, Decision(event.seq, event.at, moderator, action)))
        case Corrected(of=seq, action=action):
            decisions = [attrs.evolve(one, action=action, corrected=one.corrected + 1) if one.seq == seq else one for one in case.decisions]
            return attrs.evolve(case, decisions=tuple(decisions))


@attrs.frozen
class Seal:
    """A digest of so many events, each with its place and time, and of the seal before."""

    events: int = 0
    digest: str = ""


def seal_step(seal: Seal, event: Event[Said]) -> Seal:
    """The next link."""
    said = [seal.digest, event.stream, event.seq, event.position, event.at.isoformat(), event.type, attrs.asdict(event.data)]
    return Seal(seal.events + 1, hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest())


CASE: Fold[Case, Said] = Fold(initial=Case(), step=step)
CASES = Keyed("mod-cases", version=1, initial=Case(), step=step, events=SAID, key=lambda event: event.stream.removeprefix("mod-") or [])
SEAL = Projection("mod-seal", version=1, initial=Seal(), step=seal_step, events=SAID)
APP = App(projections=[CASES, SEAL])


# -- the store -------------------------------------------------------------------------------


class NoSuchDecision(ValueError):
    """A correction of what was not decided."""


class NotYet(ValueError):
    """A seal of what has not been said."""


async def report(rt: Runtime, item: str, by: str, why: str) -> int:
    """Complain; the seq."""
    check_names(ITEM_BYTES_MAX, item=item)
    check_names(NAME_BYTES_MAX, by=by)
    return (await rt.append(f"mod-{item}", [Reported(by, why)])).last


async def decide(rt: Runtime, item: str, moderator: str, action: Action, why: str) -> int:
    """Decide; the seq by which it can be corrected.

    Raises:
      TooLarge: it was decided `DECISIONS_MAX` times.
    """
    check_names(ITEM_BYTES_MAX, item=item)
    check_names(NAME_BYTES_MAX, moderator=moderator)

    def decision(case: Case) -> Sequence[Said]:
        if len(case.decisions) >= DECISIONS_MAX:
            raise TooLarge("case", f"item {item!r}", len(case.decisions) + 1, DECISIONS_MAX, "decisions", "correct the last one")
        return [Decided(moderator, action, why)]

    return (await rt.execute(f"mod-{item}", CASE, decision, attempts_max=20)).unwrap().last


async def correct(rt: Runtime, item: str, seq: int, moderator: str, action: Action | None, why: str) -> int:
    """Say that the decision *seq* should have been another, or none.

    Raises:
      BadName: of the item, or of the moderator.
      NoSuchDecision: nothing was decided there.
    """
    check_names(ITEM_BYTES_MAX, item=item)
    check_names(NAME_BYTES_MAX, moderator=moderator)

    def correction(case: Case) -> Sequence[Said]:
        if all(one.seq != seq for one in case.decisions):
            raise NoSuchDecision(f"of {item!r} nothing was decided at {seq}; see its trail")
        return [Corrected(seq, moderator, action, why)]

    return (await rt.execute(f"mod-{item}", CASE, correction, attempts_max=20)).unwrap().last


async def case_of(rt: Runtime, item: str) -> Case:
    """What is known now."""
    check_names(ITEM_BYTES_MAX, item=item)
    return (await rt.fold(f"mod-{item}", CASE))[0]


async def known_at(rt: Runtime, item: str, at: datetime) -> Action:
    """What stood then as it was known then."""
    check_names(ITEM_BYTES_MAX, item=item)
    case = (await rt.model(CASES).as_of(item, time=at)).state
    return "keep" if case is None else case.standing()


async def stood_at(rt: Runtime, item: str, at: datetime) -> Action:
    """What stood then as it is known now."""
    return (await case_of(rt, item)).standing(at)


async def said_by(rt: Runtime, moderator: str) -> list[Event[Said]]:
    """All that a moderator decided and corrected, oldest first."""
    check_names(NAME_BYTES_MAX, moderator=moderator)
    return [one async for one in rt.read_all(SAID.within(tags=[f"moderator:{moderator}"]))]


async def seal_at(rt: Runtime, position: Position) -> Seal:
    """The seal as of a position: compare it with what was published.

    Raises:
      NotYet: the log does not go so far.
    """
    if position > (head := await rt.head()):
        raise NotYet(f"the log ends at {head}, there is no seal of {position} yet: ask for one up to {head}")
    return await rt.model(SEAL).as_of(position=position)


# -- by hand ---------------------------------------------------------------------------------


def told(event: Event[Said]) -> str:
    """An event in a line."""
    return f"{event.at:%Y-%m-%d %H:%M:%S} {event.stream.removeprefix('mod-')} {event.seq}  {_told(event.data)}"


def _told(said: Said) -> str:
    match said:
        case Reported(by=by, why=why):
            return f"{by} complains: {why}"
        case Decided(moderator=moderator, action=action, why=why):
            return f"{moderator} decides {action}: {why}"
        case Corrected(of=seq, moderator=moderator, action=action, why=why):
            return f"{moderator} corrects {seq} to {action or 'nothing'}: {why}"


action_of = partial(by_hand.one_of, "ACTION", ACTIONS)


async def show(rt: Runtime, item: str) -> None:
    """The trail of an item."""
    check_names(ITEM_BYTES_MAX, item=item)
    async for one in rt.read_all(SAID.within(streams=[f"mod-{item}"])):
        print(told(one))


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    async with open_runtime(store, APP) as rt:
        match words:
            case ["report", item, by, *why]:
                print(await report(rt, item, by, " ".join(why)))
            case ["decide", item, moderator, action, *why]:
                print(await decide(rt, item, moderator, action_of(action), " ".join(why)))
            case ["correct", item, seq, moderator, action, *why]:
                instead = None if action == "withdraw" else action_of(action)
                print(await correct(rt, item, by_hand.number("NUMBER", seq, int, 1), moderator, instead, " ".join(why)))
            case ["trail", item]:
                await show(rt, item)
            case ["standing", item]:
                print((await case_of(rt, item)).standing())
            case ["standing", item, *time]:
                then = by_hand.moment("TIME", " ".join(time))
                print(f"known then: {await known_at(rt, item, then)}; known now: {await stood_at(rt, item, then)}")
            case ["by", moderator]:
                for one in await said_by(rt, moderator):
                    print(told(one))
            case ["seal", *at] if len(at) < 2:
                print(await seal_at(rt, Position(by_hand.number("POSITION", at[0], int, 0)) if at else await rt.head()))
            case ["demo"]:
                await demonstrate(rt)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime) -> None:
    """A decision that was wrong."""
    await report(rt, "photo-7", "bob", "rude")
    seq = await decide(rt, "photo-7", "mia", "remove", "rule 3")
    monday = [one async for one in rt.read_all(SAID)][-1]
    seal = await seal_at(rt, monday.position)
    await correct(rt, "photo-7", seq, "noor", "keep", "rule 3 is about something else")
    await show(rt, "photo-7")
    print(f"on Monday it was known to be: {await known_at(rt, 'photo-7', monday.at)}")
    print(f"and today we know it was:     {await stood_at(rt, 'photo-7', monday.at)}")
    print(f"the seal of Monday is as it was published: {await seal_at(rt, monday.position) == seal}")


if __name__ == "__main__":
    by_hand.run(__doc__, main)
