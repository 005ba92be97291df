"""A glance at a store and who works on it, as values: from a daemon's status, or from the store itself; and how fast things go between two of them. Pure.

A daemon tells all of its tree. A store only tells what is kept: who has which lease, and how far each model is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

FORMAT: Final = 1
SPAN_S: Final = 5.0
"""Rates are those of about so long."""


@attrs.frozen(kw_only=True)
class Actor:
    """A line of the tree; *rate* is events per second, once there are two glances."""

    depth: int
    name: str
    state: str
    mailbox: int = 0
    position: int | None = None
    lag_events: int | None = None
    lag_s: float | None = None
    restarts: int = 0
    owner: str | None = None
    last_error: str | None = None
    rate: float | None = None

    @property
    def troubled(self) -> bool:
        """Whether a person should look at it."""
        return self.last_error is not None or self.state not in ("running", "standing by", "held", "open", "done")


@attrs.frozen(kw_only=True)
class Glance:
    """What is known at *at_s*, seconds on a clock that only goes forward. What a source cannot tell is None."""

    source: str
    at_s: float
    store: str
    url: str
    head: int
    state: str
    kept_only: bool = False
    """It comes from the store: models are as they are kept."""
    ready: bool | None = None
    reasons: tuple[str, ...] = ()
    up_s: float | None = None
    stall_max_s: float | None = None
    streams_live: int | None = None
    journal: Mapping[str, Any] = attrs.field(factory=dict)
    http: Mapping[str, Any] = attrs.field(factory=dict)
    used_bytes: int | None = None
    limit_bytes: int | None = None
    daemons: tuple[str, ...] = ()
    actors: tuple[Actor, ...] = ()
    rates: Mapping[str, float] = attrs.field(factory=dict)
    """Events, commits, flushes and requests per second."""


def of_status(source: str, at_s: float, status: Mapping[str, Any], ready: Mapping[str, Any]) -> Glance:
    """The glance that a daemon's status document gives."""
    reasons = tuple(ready.get("reasons", ()))
    return Glance(
        source=source,
        at_s=at_s,
        store=status["store"],
        url=status["url"],
        head=status["head"],
        state=status["state"] if status["state"] != "running" else status["store_state"],
        ready=not reasons,
        reasons=reasons,
        up_s=status["up_s"],
        stall_max_s=status["loop_stall_max_s"],
        streams_live=status.get("streams_live"),
        journal=status["journal"],
        http=status["http"],
        daemons=tuple(one["name"] + (" (here)" if one["here"] else "") for one in status["daemons"]),
        actors=tuple(_walk(status["root"], 0)),
    )


def _walk(node: Mapping[str, Any], depth: int) -> Iterator[Actor]:
    names = [field.name for field in attrs.fields(Actor) if field.name not in ("depth", "rate")]
    yield Actor(depth=depth, **{name: node[name] for name in names})
    for child in node["children"]:
        if not (child["name"].startswith("stream ") and not child["mailbox"]):
            yield from _walk(child, depth + 1)


def with_rates(before: Glance | None, now: Glance) -> Glance:
    """*now* with how fast things have gone since *before*."""
    if before is None or now.at_s <= before.at_s:
        return now
    took_s = now.at_s - before.at_s
    pairs = {
        "events": (before.head, now.head),
        "commits": (before.journal.get("commits"), now.journal.get("commits")),
        "flushes": (before.journal.get("groups"), now.journal.get("groups")),
        "requests": (before.http.get("requests"), now.http.get("requests")),
    }
    rates = {name: max(0, new - old) / took_s for name, (old, new) in pairs.items() if old is not None and new is not None}
    positions = {(one.depth, one.name): one.position for one in before.actors}
    actors = tuple(_with_rate(one, positions.get((one.depth, one.name)), took_s) for one in now.actors)
    return attrs.evolve(now, rates=rates, actors=actors)


def _with_rate(one: Actor, position: int | None, took_s: float) -> Actor:
    if position is None or one.position is None:
        return one
    return attrs.evolve(one, rate=max(0, one.position - position) / took_s)


class Glances:
    """The last few, for rates that do not jump."""

    def __init__(self) -> None:
        self._kept: list[Glance] = []

    def note(self, glance: Glance) -> Glance:
        """One more; itself with rates. Of a daemon that was started anew nothing before counts."""
        if self._kept and (glance.up_s or 0.0) < (self._kept[-1].up_s or 0.0):
            self._kept.clear()
        self._kept.append(glance)
        while len(self._kept) > 2 and glance.at_s - self._kept[1].at_s >= SPAN_S:
            self._kept.pop(0)
        return with_rates(self._kept[0], glance)


def document(glance: Glance) -> dict[str, Any]:
    """What `--json` prints."""
    told = attrs.asdict(glance, filter=lambda attribute, _: attribute.name != "at_s")
    return {"format": FORMAT, **told}


def worst_first(actors: Iterable[Actor]) -> list[Actor]:
    """Models and subscriptions by how far they are behind, those in trouble before all."""
    chosen = [one for one in actors if one.lag_events is not None or one.troubled]
    return sorted(chosen, key=lambda one: (not one.troubled, -(one.lag_events or 0), one.name))
