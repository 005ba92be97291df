"""The testing kit: events and folds without a store, and a check that a projection is what it must be.

    async def test_revenue():
        events = given(OrderPlaced("a", 5), OrderPaid("a", 5), stream="order-1")
        assert fold(REVENUE, events) == Order(owed=0)
        await check_projection(REVENUE, events)

No pytest is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar, overload

import attrs
import msgspec
import trio

from perdure.actors.fold import AnyProjection, Fold, Keyed, Projection, keys_of, stepper
from perdure.actors.sql import SqlProjection
from perdure.backends.codec import Codec, check_stable
from perdure.backends.commit import Append, Committed, Draft, propose
from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse
from perdure.backends.event import Event, Position, Record, to_us, unpack_extra
from perdure.backends.limits import Limits
from perdure.backends.memory import open_memory
from perdure.backends.protocol import Backend
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

S = TypeVar("S")

GIVEN_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first given event was committed; each next one a second later."""
PAGES: Final = (1, 2, 3, 1_000)
"""The page sizes that `check_projection` tries."""
SEEDS: Final = ("0", "1", "4242")
"""The hash seeds that it tries, each in a process of its own."""


def given(*payloads: object, stream: str = "given-1", after: Sequence[Event[Any]] = ()) -> list[Event[Any]]:
    """Events of *payloads* in *stream*, as a store would give them: seq, position and time grow.

    A payload is an instance of an event class, or `NewEvent`. *after* are events that came before, of this
    and other streams; they are not among the answer.

    Raises:
      Misuse: a payload cannot be stored.
    """
    codec = Codec()
    seq = max([event.seq for event in after if event.stream == stream], default=0)
    position = max([int(event.position) for event in after], default=0)
    events = []
    for number, draft in enumerate(codec.drafts(payloads), 1):
        place = position + number
        at_us = to_us(GIVEN_AT) + (place - 1) * 1_000_000
        record = Record(
            stream=stream,
            seq=seq + number,
            position=Position(place),
            type=draft.type,
            version=draft.version,
            at_us=at_us,
            commit=place.to_bytes(16, "big"),
            ordinal=0,
            extra=draft.extra,
            payload=draft.payload,
            crc=0,
        )
        events.append(codec.event(record))
    return events


# -- folding ---------------------------------------------------------------------------------


@overload
def fold(what: Fold[S, Any] | Projection[S, Any], events: Iterable[Event[Any]]) -> S: ...
@overload
def fold(what: Keyed[S, Any], events: Iterable[Event[Any]]) -> dict[str, S]: ...
def fold(what: Fold[Any, Any] | AnyProjection, events: Iterable[Event[Any]]) -> Any:
    """The state after *events*, of a `Keyed` the states by key; a projection folds those that it selects."""
    if isinstance(what, Keyed):
        return _fold_keyed(what, events)
    state = what.initial
    for event in events:
        if isinstance(what, Fold) or selects(what, event):
            state = what.step(state, event)
    return state


def _fold_keyed(projection: Keyed[S, Any], events: Iterable[Event[Any]]) -> dict[str, S]:
    states: dict[str, S] = {}
    step = stepper(projection)
    for event in events:
        if selects(projection, event):
            states.update({key: step(states.get(key, projection.initial), event, key) for key in keys_of(projection, event)})
    return states


def selects(projection: AnyProjection, event: Event[Any]) -> bool:
    """Whether the projection wants *event*."""
    return projection.events.matches(event.stream, event.type, event.tags)


# -- a fault ---------------------------------------------------------------------------------


class Crash(RuntimeError):
    """What `crash` lets an actor fail with."""


def crash(rt: Runtime, projection: AnyProjection | SqlProjection[Any], error: Exception | None = None) -> None:
    """Let the actor that runs *projection* fail before its next page: a fault of the actor, not of its step.

    Raises:
      Misuse: it does not run in *rt*.
    """
    if not rt.model(projection).running:
        raise Misuse(f"projection {projection.name!r} does not run here: there is nothing to crash")
    rt._models.crash(projection.name, error or Crash(f"{projection.name!r} was told to fail"))


# -- checking a projection -------------------------------------------------------------------


class Differs(AssertionError):
    """A projection gives another state than it must; the message says when."""


@attrs.frozen
class Checked:
    """What `check_projection` has found in order: over so many events; *skipped* says what could not be tried, and why."""

    events: int
    skipped: tuple[str, ...] = ()


async def check_projection(projection: AnyProjection, events: Sequence[Event[Any]]) -> Checked:
    """Hold *projection* to what every projection promises, over *events* (see `given`).

    Its step changes no state that it got, each state is stable, and the states are the same, byte for byte:
    folded twice, with pages of any size, restarted at every event, and under any hash seed. It runs as it would
    in a program, over a store in memory. The hash seeds need its module to be importable, else they are skipped.

    Raises:
      Differs: it gives another state; the message says when.
      UnstableState: a state is not the same when stored and read back.
    """
    codec = Codec()
    for cls in projection.events.classes:
        codec.registry.register(cls)
    _check_steps(codec, projection, events)
    records = [event.record for event in events]
    for page in PAGES:
        await _check_run(projection, records, Limits(page_records=page), f"with pages of {page}")
    await _check_restarts(projection, records)
    skipped = await check_seeds(codec, projection, records)
    return Checked(len(events), skipped)


def _check_steps(codec: Codec, projection: AnyProjection, events: Sequence[Event[Any]]) -> None:
    encode = codec.form(projection.state_type).attempt
    check_stable(codec, projection.state_type, projection.initial, name=projection.name)
    states: dict[str, Any] = {}
    step = stepper(projection)
    for event in events:
        if not selects(projection, event):
            continue
        for key in keys_of(projection, event) if isinstance(projection, Keyed) else ("",):
            state = states.get(key, projection.initial)
            before = encode(state)
            after = step(state, event, key)
            if encode(state) != before:
                raise Differs(f"the step of {projection.name!r} changes the state that it got, at {_told(event)}: return a new one (attrs.evolve)")
            raw = check_stable(codec, projection.state_type, after, name=projection.name)
            if encode(step(state, event, key)) != raw:
                raise Differs(f"the step of {projection.name!r} gives another state when asked again, at {_told(event)}: it may depend on nothing else")
            states[key] = after


def _told(event: Event[Any]) -> str:
    return f"the {event.type!r} at position {event.position} (stream {event.stream!r}, seq {event.seq})"


async def _check_run(projection: AnyProjection, records: Sequence[Record], limits: Limits, how: str) -> None:
    """One run over all of them."""
    backend = _store(limits)
    await _store_all(backend, records)
    expected = await _reference(projection, backend)
    _compare(projection, expected, await _run(projection, backend, limits), how)
    await backend.aclose()


async def _check_restarts(projection: AnyProjection, records: Sequence[Record]) -> None:
    """A run that begins again with every event."""
    backend = _store(Limits())
    for number, record in enumerate(records, 1):
        await _store_all(backend, [record])
        found = await _run(projection, backend, Limits())
        _compare(projection, await _reference(projection, backend), found, f"restarted at event {number} of {len(records)}")
    await backend.aclose()


def _store(limits: Limits) -> Backend:
    return open_memory(environment=Environment(clock=lambda: to_us(GIVEN_AT)), limits=limits)


async def _store_all(backend: Backend, records: Sequence[Record]) -> None:
    for record in records:
        extra = unpack_extra(record.extra)
        draft = Draft(record.type, record.version, record.payload, record.extra, extra.tags)
        group = await backend.commit([propose([Append(record.stream, [draft])], id=os.urandom(16), at_us=record.at_us)])
        if not isinstance(answer := group.answers[0], Committed):
            raise answer


async def _run(projection: AnyProjection, backend: Backend, limits: Limits) -> dict[str, bytes]:
    """The bytes of the states after running it up to the head, as they are kept."""
    async with open_runtime(backend, limits=limits) as rt, trio.open_nursery() as nursery:
        model = await nursery.start(rt.project, projection)
        await model.wait_for(await rt.head())
        rt._models.stop()
    codec = Codec()
    encode = codec.encoder(projection.state_type)
    async with open_runtime(backend, limits=limits) as rt:
        if isinstance(projection, Keyed):
            keyed = await rt.model(projection).refresh()
            return {entry.key: encode(entry.state) async for entry in keyed.scan()}
        single = await rt.model(projection).refresh()
        return {"": encode(single.state)}


async def _reference(projection: AnyProjection, backend: Backend) -> dict[str, bytes]:
    """The bytes of the states that a plain fold of the store's log gives."""
    async with open_runtime(backend) as rt:
        events = [event async for event in rt.read_all(projection.events)]
    return encoded(Codec(), projection, events)


def encoded(codec: Codec, projection: AnyProjection, events: Iterable[Event[Any]]) -> dict[str, bytes]:
    """The folded states as bytes, by key; a single one has the key ''."""
    encode = codec.encoder(projection.state_type)
    states = fold(projection, events) if isinstance(projection, Keyed) else {"": fold(projection, events)}
    return {key: encode(state) for key, state in sorted(states.items())}


def _compare(projection: AnyProjection, expected: dict[str, bytes], found: dict[str, bytes], how: str) -> None:
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            where = f", key {key!r}" if key else ""
            wanted, got = (_plain(raw.get(key)) for raw in (expected, found))
            raise Differs(f"{projection.name!r}{where} differs {how}: it should be {wanted!r:.300}, it is {got!r:.300}")


def _plain(raw: bytes | None) -> Any:
    return None if raw is None else msgspec.msgpack.decode(raw, strict=False)


# -- hash seeds ------------------------------------------------------------------------------


async def check_seeds(codec: Codec, projection: AnyProjection, records: Sequence[Record]) -> tuple[str, ...]:
    """Fold *records* in processes with other hash seeds: the states must be the same. What could not be tried, and why.

    Raises:
      Differs: they are not.
    """
    place = _place_of(projection)
    if place is None:
        return (f"hash seeds: {projection.name!r} is not at the top of a module, so other processes cannot import it",)
    asked = msgspec.msgpack.encode([*place, list(records)])
    digests: dict[str, str] = {}
    problems: list[str] = []

    async def ask(seed: str) -> None:
        done = await trio.run_process(
            [sys.executable, "-c", f"from {__name__} import answer_for_seed; answer_for_seed()"],
            stdin=asked,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        if done.returncode:
            problems.append(f"hash seeds: {done.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]}")
        digests[seed] = done.stdout.decode().strip()

    async with trio.open_nursery() as nursery:
        for seed in SEEDS:
            nursery.start_soon(ask, seed)
    if problems:
        return (problems[0],)
    own = _digest(projection, [codec.event(record) for record in records])
    for seed in SEEDS:
        if digests[seed] != own:
            raise Differs(f"{projection.name!r} differs under PYTHONHASHSEED={seed}: something in its state follows the order of a set")
    return ()


def _place_of(projection: AnyProjection) -> tuple[str, str, str] | None:
    """Module, file and name under which another process finds *projection*."""
    for module in [sys.modules.get(projection.step.__module__), *list(sys.modules.values())]:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is projection and getattr(module, "__file__", None):
                assert module is not None
                return module.__name__, str(module.__file__), name
    return None


def _digest(projection: AnyProjection, events: Iterable[Event[Any]]) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(encoded(Codec(), projection, events))).hexdigest()


def answer_for_seed() -> None:
    """The other process's side: read what is asked from standard input, print the digest of the states."""
    name, file, attribute, raw = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=tuple[str, str, str, msgspec.Raw])
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    projection = getattr(module, attribute)
    codec = Codec()
    for cls in projection.events.classes:
        codec.registry.register(cls)
    events = map(codec.event, msgspec.msgpack.decode(raw, type=list[Record]))
    sys.stdout.write(partial(_digest, projection)(events))
