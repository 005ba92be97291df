"""The events of a retained store: what each says follows from its stream and seq, so that all can be checked without being told."""

from __future__ import annotations

import random

import attrs

from perdure.runtime import App, Event, Keyed, Projection, Retention, event, of

STREAMS = tuple(f"{category}-{number}" for category in ("short", "long", "kept") for number in range(8))
KEEP = {"short": 2, "long": 20}
"""So many newest events of each stream stay; of those of other categories all."""
POLICIES = (Retention(categories=["short"], count=2), Retention(categories=["long"], count=20))

@event("torture-noted")
@attrs.frozen
class Noted:
    """An event."""

    stream: str
    seq: int
    pad: str


def noted(stream: str, seq: int) -> Noted:
    """The one that stands there."""
    draw = random.Random(f"{stream} {seq}")
    return Noted(stream, seq, draw.randbytes(draw.choice((10, 100, 500))).hex())


@attrs.frozen
class Sum:
    """What the projections keep."""

    events: int = 0
    seqs: int = 0


def step(state: Sum, event: Event[Noted]) -> Sum:
    """The fold of both."""
    return Sum(state.events + 1, state.seqs + event.data.seq)


ALL = Projection("all", version=1, initial=Sum(), step=step, events=of(Noted))
BY_STREAM = Keyed("by-stream", version=1, initial=Sum(), step=step, events=of(Noted), key=lambda event: event.data.stream)
APP = App(projections=[ALL, BY_STREAM])
