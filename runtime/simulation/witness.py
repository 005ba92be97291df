"""The witness of a run: what it saw of the store, its models and its followers, and its judgement of all that."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final

import msgspec
import trio

from perdure.actors import cursor
from perdure.actors.fold import AnyProjection, Keyed
from perdure.actors.model import bucket_of
from perdure.actors.subscription import Place
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.codec import Codec
from perdure.backends.commit import CHECKPOINTS, propose
from perdure.backends.errors import Closed, ModelFaulted, Truncated, Unavailable
from perdure.backends.event import START, Position, Record
from perdure.backends.protocol import Backend, Reads
from perdure.backends.selector import EVERYTHING
from perdure.runtime.app import App
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.retained import RetainedWitness
from perdure.runtime.simulation.watched import Shown
from perdure.runtime.simulation.world import Life, World

REACH_S: Final = 60.0
"""Virtual seconds within which followers reach the head when nothing goes wrong any more."""
NAMED: Final = "the simulation"
"""The follower that goes on from life to life; another begins anew in each."""


class Witness:
    """See the module."""

    def __init__(self, app: App, world: World) -> None:
        self._app = app
        self._world = world
        self._codec = Codec()
        self._initial = {projection.name: self._encode(projection, projection.initial) for projection in app.projections}
        self._samples: dict[str, list[tuple[Position, dict[str, bytes], str]]] = {projection.name: [] for projection in app.projections}
        self._runs: dict[str, list[tuple[int, list[int]]]] = {}
        self._told: set[int] = set()
        """Beyond what the named follower was told to go on, before it had a place of its own."""
        self.retained = RetainedWitness(app, world) if app.retention else None
        self.shown = Shown()
        self.records: list[Record] = []
        """The log as it was read last."""

    def _encode(self, projection: AnyProjection, state: Any) -> bytes:
        return self._codec.encoder(projection.state_type)(state)

    # -- seeing ------------------------------------------------------------------------------

    async def watch(self, rt: Runtime, who: str) -> None:
        """Look at the models now and then, for ever."""
        draw = Random(f"watch {self._world.seed} {who}")
        while True:
            await trio.sleep(draw.expovariate(1.0))
            await self.look(rt, f"in runtime {who}")

    async def look(self, rt: Runtime, when: str) -> None:
        """Note what the models say."""
        for projection in self._app.projections:
            if isinstance(projection, Keyed):
                try:
                    async with rt.backend.view() as view:
                        position, states = await _kept_states(view, projection, rt.backend.id)
                except (Closed, Unavailable):
                    continue
            else:
                model = rt.model(projection)
                if not model.running or model.position == START:
                    continue
                position, states = model.position, {"": self._encode(projection, model.state)}
            self._samples[projection.name].append((position, states, when))

    async def follow(self, rt: Runtime, who: str) -> None:
        """Follow the log for ever from the start or from now on, and note what was seen."""
        began = Random(f"follow {self._world.seed} {who}").choice((0, int(await rt.head())))
        await self._follow(rt, f"the follower of runtime {who}", began, None)

    async def follow_on(self, rt: Runtime, who: str) -> None:
        """The same under a name, from where it was left in another life."""
        await self._follow(rt, NAMED, 0, NAMED)

    async def _follow(self, rt: Runtime, about: str, began: int, name: str | None) -> None:
        while True:
            seen: list[int] = []
            self._runs.setdefault(about, []).append((began, seen))
            try:
                async with rt.subscribe(EVERYTHING, after=Position(began), name=name) as events:
                    async for event in events:
                        seen.append(int(event.position))  # noqa: PERF401 - it never ends
                return
            except Truncated as error:
                began = int(error.position)
                if name is not None:
                    await self._go_on_beyond(rt, name, began)

    async def _go_on_beyond(self, rt: Runtime, name: str, position: int) -> None:
        """Before it had a place the log was cut: it takes one beyond that, for a place before it would be of no use to it."""
        self._told.add(position)
        where = Place(f"subscription {name}", rt.backend)
        await where.read()
        id, at_us = rt.environment.ids(), await rt.backend.now_us()
        await rt.backend.commit([propose([where.put(cursor.Checkpoint(rt.backend.id, position))], id=id, at_us=at_us, own=True)])
        await trio.sleep(1)

    # -- judging -----------------------------------------------------------------------------

    def hold(self, found: Iterator[tuple[str, str]]) -> None:
        """Note what is broken."""
        for law, text in found:
            self._world.violate(law, text)

    async def audit(self, backend: Backend, who: str, blobs: BlobStore | None = None) -> None:
        """The log as it is now, with its archives, against all that is known of it."""
        records = await _read_all(backend) if self.retained is None else await self.retained.whole(backend)
        self.hold(laws.judge_log(self._world.ledger, records, self.shown.records))
        self.shown.note_records(records)
        self.records = records
        self._world.note("law", f"the log has {len(records)} events", who)
        if self.retained is not None and blobs is not None:
            await self.retained.judge(backend, blobs, records)

    async def reach(self, rt: Runtime) -> None:
        """Nothing more happens: models and followers reach the head."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.follow_on, rt, "")
            head = await rt.head()
            for projection in self._app.projections:
                await self._reach(rt, projection, head)
            for about in [NAMED, *list(self._runs)[-1:]]:
                await self._seen(about, head)
            nursery.cancel_scope.cancel()

    async def judge(self, rt: Runtime, life: Life) -> None:
        """Everything."""
        await self.look(rt, "at the end")
        if self.retained is not None:
            await self.retained.judge_at_rest(rt, life)
        await self.audit(rt.backend, life.who, rt._blobs)
        for problem in await rt.backend.verify():
            self._world.violate(laws.VERIFIED, problem)
        await self._judge_kv(rt.backend)
        for text in self.shown.broken:
            self._world.violate(laws.UNCHANGED, text)
        self.hold(laws.judge_order(self._world.ledger))
        self.hold(laws.judge_conflicts(self._world.ledger, self.records))
        for name, runs in self._runs.items():
            self.hold(laws.judge_follower(name, runs, self.records, named=name == NAMED, told=self._told))
        for projection in self._app.projections:
            self._judge_model(projection)

    async def _seen(self, about: str, head: Position) -> None:
        with trio.move_on_after(REACH_S):
            while max((seen[-1] if seen else began for began, seen in self._runs.get(about, [])), default=0) < head:  # noqa: ASYNC110 - it only looks on
                await trio.sleep(0.1)
            return
        self._world.violate(laws.REACHED, f"{about} does not reach the head, {head}, within {REACH_S:g} s of rest")

    async def _reach(self, rt: Runtime, projection: AnyProjection, head: Position) -> None:
        model = rt.model(projection)
        try:
            with trio.move_on_after(REACH_S) as scope:
                await model.wait_for(head)
        except ModelFaulted as error:
            self._world.violate(laws.GOES_ON, str(error))
            return
        if scope.cancelled_caught:
            self._world.violate(laws.REACHED, f"{projection.name} stands at {model.position} after {REACH_S:g} s of rest, the head is {head}")

    async def _judge_kv(self, reads: Reads) -> None:
        for bucket in laws.buckets_of(self._world.ledger):
            changes = await _read_changes(reads, bucket)
            self.hold(laws.judge_bucket(self._world.ledger, bucket, changes))
            self.hold(laws.judge_values(self.shown.values, bucket, changes))

    def _judge_model(self, projection: AnyProjection) -> None:
        initial = self._initial[projection.name]
        reference = laws.Reference(projection, initial)
        reference.begin(self.records)
        self.hold(laws.judge_model(reference, self._samples[projection.name], _plain))
        reference.at(self.records[-1].position if self.records else 0)
        if reference.impure:
            self._world.violate(laws.PURE, f"{projection.name!r}: {reference.impure}")
        elif self._encode(projection, projection.initial) != initial:
            self._world.violate(laws.PURE, f"the initial state of {projection.name!r} was changed by its step: return a new state (attrs.evolve)")


def _plain(raw: bytes) -> Any:
    return msgspec.msgpack.decode(raw, strict=False)


async def _read_all(reads: Reads) -> list[Record]:
    records: list[Record] = []
    after = START
    while True:
        page = await reads.read_log(after=after, limit=1_000, bytes_max=1 << 20)
        records += page.records
        if page.examined <= after or page.examined >= page.head:
            return records
        after = page.examined


async def _read_changes(reads: Reads, bucket: str) -> list[Any]:
    changes: dict[bytes, Any] = {}
    after = 0
    while True:
        page = await reads.read_changes(bucket, after=after, limit=1_000)
        changes.update({change.key: change for change in page.changes})
        if page.examined <= after or not page.changes:
            return list(changes.values())
        after = page.examined


async def _kept_states(view: Reads, projection: Keyed[Any, Any], store: str) -> tuple[Position, dict[str, bytes]]:
    """The checkpoint of a keyed projection, and its states at the same moment."""
    entry = await view.get(CHECKPOINTS, projection.name.encode())
    position = START if entry is None else Position(cursor.unpack(projection.name, entry.value, store).position)
    states: dict[str, bytes] = {}
    after = None
    while page := await view.scan(bucket_of(projection.name), after=after, limit=1_000):
        states.update({one.key.decode(): one.value for one in page})
        after = page[-1].key
    return position, states
