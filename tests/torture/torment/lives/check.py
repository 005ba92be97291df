"""Holds a store against what was told: every acknowledgement, every content, every model, all that is kept of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import trio

from perdure.actors.subscription import Place
from perdure.backends.errors import PerdureError
from perdure.runtime import START, Event, Runtime, open_runtime
from perdure.runtime.testing import encoded, fold
from torment.lives.domain import APP, BATCH_MAX, DELETED_EVERY, LAST, PAIRS, SHARED, SUBSCRIPTION, TOTAL, VALUES, Counted, filler
from torment.lives.told import Told

WITHIN_S = 60.0

Events = Sequence[Event[Any]]


def problems(url: str, told: Told, *, models: bool = True) -> list[str]:
    """What is wrong with the store, each a sentence; what it shows is told from now on."""
    try:
        return trio.run(_problems, url, told, models)
    except PerdureError as error:
        return [f"it cannot be opened or read: {type(error).__name__}: {error}"]


async def _problems(url: str, told: Told, models: bool) -> list[str]:
    with trio.fail_after(WITHIN_S):
        async with open_runtime(url, APP if models else None) as rt:
            everything: AsyncIterator[Event[Any]] = rt.read_all()
            events = [event async for event in everything]
            found = [*_in_log(events, told), *[problem async for problem in _in_kv(rt, told)]]
            if models:
                found += [problem async for problem in _in_models(rt, events)]
            found += [problem async for problem in _place(rt, events, told)]
            told.ended = 1
            return found + await rt.backend.verify()


# -- the log ---------------------------------------------------------------------------------


def _in_log(events: Events, told: Told) -> Iterator[str]:
    """Positions grow, seqs have no gap, contents are what was appended, commits are whole, nothing is lost or comes from nowhere."""
    streams: defaultdict[str, list[Event[Counted]]] = defaultdict(list)
    position = 0
    for event in events:
        if event.position <= position:
            yield f"position {event.position} comes after {position}"
        position = event.position
        streams[event.stream].append(event)
        if event.seq != len(streams[event.stream]):
            yield f"{event.stream}: seq {event.seq} is its {len(streams[event.stream])}th event"
    for stream, found in streams.items():
        yield from _shared(found, told) if stream == SHARED else _counted(stream, found, told)
    for stream, last in told.streams.items():
        if len(streams[stream]) < last:
            yield f"{stream} was acknowledged up to {last} and has {len(streams[stream])} events"
        if len(streams[stream]) > last + told.ended * (BATCH_MAX if stream.startswith("run-") else 1):
            yield f"{stream} was acknowledged up to {last} and has {len(streams[stream])} events, more than were asked for"
        told.streams[stream] = len(streams[stream])
    for seq in sorted(set(told.shared) - {event.seq for event in streams[SHARED]})[:3]:
        yield f"{SHARED}: seq {seq} was acknowledged and is lost"


def _counted(stream: str, events: Sequence[Event[Counted]], told: Told) -> Iterator[str]:
    told.streams.setdefault(stream, 0)
    ends = 0
    for event in events:
        data = event.data
        if data.number != event.seq or (stream.startswith(("run-", "keyed-")) and data.more != filler(data.number)):
            yield f"{stream}: seq {event.seq} holds {data}"
        if data.nth == 1:
            ends = event.seq + data.of - 1
        if event.seq + data.of - data.nth != ends:
            yield f"{stream}: seq {event.seq} is the {data.nth}. of {data.of} of a commit that is not whole"
    if events and ends != events[-1].seq:
        yield f"{stream}: ends with {events[-1].seq}, in the middle of a commit"


def _shared(events: Sequence[Event[Counted]], told: Told) -> Iterator[str]:
    seen: set[tuple[str, int]] = set()
    for event in events:
        ident = (event.data.by, event.data.number)
        if ident in seen:
            yield f"{SHARED}: {ident} is there twice, again at {event.seq}"
        seen.add(ident)
        if told.shared.setdefault(event.seq, ident) != ident:
            yield f"{SHARED}: seq {event.seq} was acknowledged as {told.shared[event.seq]} and is {ident}"


# -- kv, models, places ----------------------------------------------------------------------


async def _in_kv(rt: Runtime, told: Told) -> AsyncIterator[str]:
    pairs = {entry.key: entry.value for entry in (await rt.kv(PAIRS, int).scan()).entries}
    for name in {*told.pairs, *(key for key in pairs if " " not in key)}:
        stream = await rt.backend.stream(f"pair-{name}")
        last = stream.last if stream else 0
        if pairs.get(name, 0) != last:
            yield f"pair {name}: its entry says {pairs.get(name, 0)}, its stream has {last} events"
        wanted = {f"{name} {number % 7}": number for number in range(max(1, last - 6), last + 1)}
        if any(pairs.get(key) != number for key, number in wanted.items()):
            yield f"pair {name}: its entries are {pairs}, not {wanted}"
        told.pairs[name] = last
    values = {entry.key: entry.value for entry in (await rt.kv(VALUES, int).scan()).entries}
    for name in {*told.values, *(key.removesuffix(" number") for key in values if key.endswith(" number"))}:
        asked, number = told.values.get(name, 0), values.get(f"{name} number", 0)
        if not asked <= number <= asked + told.ended:
            yield f"value {name} was acknowledged as {asked} and is at {number}"
        wanted_value = None if number % DELETED_EVERY == 0 else number
        if values.get(name) != wanted_value:
            yield f"value {name}: change {number} makes it {wanted_value}, it is {values.get(name)}"
        told.values[name] = number


async def _in_models(rt: Runtime, events: Events) -> AsyncIterator[str]:
    """Each is the fold of the log, and so is each snapshot up to its position."""
    head = await rt.head()
    total, last = rt.model(TOTAL), rt.model(LAST)
    await total.wait_for(head)
    await last.wait_for(head)
    if total.state != (wanted := fold(TOTAL, events)):
        yield f"model total is {total.state}, the log gives {wanted}"
    if (states := {entry.key: entry.state async for entry in last.scan()}) != (wanted_states := fold(LAST, events)):
        yield f"model last is {states}, the log gives {wanted_states}"
    for position in {position for position in await rt.backend.snapshots("total") if position > START}:
        snapshot = await rt.backend.read_snapshot("total", at_most=position)
        wanted_raw = encoded(rt._codec, TOTAL, [event for event in events if event.position <= position])[""]
        if snapshot is None or snapshot.state != wanted_raw:
            yield f"the snapshot at {position} is {snapshot}, not {wanted_raw!r}"


async def _place(rt: Runtime, events: Events, told: Told) -> AsyncIterator[str]:
    """The subscription got everything from a place that can have been kept, once and in order; no place was kept of what was not done."""
    positions, got = [int(event.position) for event in events], told.followed
    reached = max(told.kept, told.reached)
    if got:
        begin = bisect_left(positions, got[0])
        if got != positions[begin : begin + len(got)]:
            yield f"the subscription got {got[:3]}... to {got[-1]} and left something out, or got it twice or in another order"
        if not bisect_right(positions, told.kept) <= begin <= bisect_right(positions, reached):
            yield f"the subscription, whose place was {told.kept} to {reached}, went on with {got[0]}"
    kept = await Place(f"subscription {SUBSCRIPTION}", rt.backend).read()
    if kept is not None and kept.position > max([reached, *got[-1:]]):
        yield f"the subscription's place is {kept.position}, it was done up to {max([reached, *got[-1:]])}"
    told.kept = told.reached = 0 if kept is None else kept.position
    told.followed = []
