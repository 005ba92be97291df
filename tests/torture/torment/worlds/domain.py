"""Events and states made of all kinds of values, among them those that look different in another world."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import attrs

from perdure.runtime import App, Event, Keyed, Projection, event, of

WORDS = ("straße", "Ärger", "ıstanbul", "naïve", "zebra", "Öl", "été", "β", "中文", "i", "I", "ss")  # noqa: RUF001 - letters whose case differs by language


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@event("seen-world", tags=lambda seen: [f"word:{word}" for word in sorted(seen.words)])
@attrs.frozen
class Seen:
    number: int
    name: str
    words: frozenset[str]
    amounts: dict[str, Decimal]
    at: datetime
    day: date
    share: float
    mood: Mood
    id: UUID
    took: timedelta | None = None


@attrs.frozen
class World:
    """A state."""

    count: int = 0
    words: frozenset[str] = frozenset()
    by_word: dict[str, frozenset[int]] = attrs.field(factory=dict)
    total: Decimal = Decimal("0.00")
    last: datetime | None = None
    days: tuple[date, ...] = ()
    mean: float = 0.0
    moods: dict[Mood, int] = attrs.field(factory=dict)
    ids: frozenset[UUID] = frozenset()
    spoken: tuple[str, ...] = ()
    took: timedelta = timedelta()


def see(state: World, event: Event[Seen]) -> World:
    """Nothing here follows the order of a set."""
    seen = event.data
    return World(
        count=state.count + 1,
        words=state.words | seen.words,
        by_word={**state.by_word, **{word: state.by_word.get(word, frozenset()) | {seen.number % 50} for word in sorted(seen.words)}},
        total=state.total + sum(seen.amounts.values(), Decimal()),
        last=max(seen.at, state.last or seen.at),
        days=tuple(sorted({*state.days, seen.day}))[-10:],
        mean=state.mean + (seen.share - state.mean) / (state.count + 1),
        moods={**state.moods, seen.mood: state.moods.get(seen.mood, 0) + 1},
        ids=frozenset(sorted({*state.ids, seen.id})[-20:]),
        spoken=(*state.spoken, *sorted(word.upper() for word in seen.words))[-12:],
        took=state.took + (seen.took or timedelta()),
    )


def see_in_order(state: World, event: Event[Seen]) -> World:
    """A liar: it follows the order of a set."""
    return attrs.evolve(see(state, event), spoken=(*state.spoken, *event.data.words)[-12:])


ONE = Projection("world", version=1, initial=World(), step=see, events=of(Seen))
EACH = Keyed("worlds", version=1, initial=World(), step=see, events=of(Seen), key=lambda event: event.data.name)
LIAR = Projection("world", version=1, initial=World(), step=see_in_order, events=of(Seen))


def app(*, lies: bool) -> App:
    """What runs."""
    return App(projections=[LIAR if lies else ONE, EACH])


def drawn(seed: int, count: int) -> Sequence[Seen]:
    """Events."""
    draw = random.Random(seed)
    began = datetime(2024, 3, 31, 0, 30, tzinfo=UTC)  # half an hour before clocks go forward in much of Europe
    return [
        Seen(
            number=number,
            name=draw.choice(WORDS),
            words=frozenset(draw.sample(WORDS, draw.randrange(6))),
            amounts={word: Decimal(draw.randrange(-10_000, 10_000)).scaleb(-2) for word in draw.sample(WORDS, 3)},
            at=(began + timedelta(minutes=17 * number)).astimezone(timezone(timedelta(minutes=draw.choice((-570, 0, 60, 345))))),
            day=(began + timedelta(days=draw.randrange(400))).date(),
            share=draw.random() * 10 ** draw.randrange(-8, 9),
            mood=draw.choice(list(Mood)),
            id=UUID(int=draw.getrandbits(128)),
            took=draw.choice((None, timedelta(microseconds=draw.randrange(10**9)))),
        )
        for number in range(1, count + 1)
    ]
