"""Holding what is kept of models against the log: every snapshot, and every state of a keyed model, must be the fold up to its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import cattrs
import trio

from perdure.actors import cursor
from perdure.actors.cursor import Checkpoint
from perdure.actors.fold import Keyed, Projection, Stopped, fingerprint, fold_page, keys_of, stepper
from perdure.actors.model import LogPages, bucket_of
from perdure.actors.sql import SqlProjection, read_mark, why_not
from perdure.backends.codec import Codec
from perdure.backends.commit import CHECKPOINTS
from perdure.backends.errors import PerdureError, Truncated, Unavailable, Unreadable
from perdure.backends.event import START, Event, Position, Record
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend
from perdure.runtime.app import App

PROBLEMS_MAX: Final = 20
"""So many problems of one model are named."""
_TRIES: Final = 10
REMEDY: Final = 'raise its version and open with changed="rebuild"'


@attrs.frozen
class ModelReport:
    """What was found of one model: how many states were *checked*, up to which *position*; *left_out* says why it could not be."""

    name: str
    position: Position
    checked: int
    problems: tuple[str, ...] = ()
    left_out: str = ""


async def verify_models(
    backend: Backend, app: App, *, limits: Limits = LIMITS, converter: cattrs.Converter | None = None, progress: Told = nobody
) -> list[ModelReport]:
    """Fold the log anew for each projection of *app*, and compare with what is kept. Nothing is written; others may write meanwhile.

    Raises:
      Unavailable: a keyed model is written so often that its states are not seen as they were at one position.
    """
    codec = Codec(converter=converter)
    for cls in app.classes():
        codec.registry.register(cls)
    checker = _Checker(backend, codec, limits, progress)
    return [*[await checker.check(projection) for projection in app.projections], *[await checker.check_tables(projection) for projection in app.sql]]


class _Checker:
    def __init__(self, backend: Backend, codec: Codec, limits: Limits, progress: Told) -> None:
        self._backend = backend
        self._codec = codec
        self._limits = limits
        self._progress = progress

    async def check(self, projection: Projection[Any, Any] | Keyed[Any, Any]) -> ModelReport:
        try:
            kept = await self._checkpoint(projection.name)
            if kept is None:
                return ModelReport(projection.name, START, 0, left_out="nothing of it is kept")
            if kept.fingerprint != fingerprint(projection, self._codec):
                return ModelReport(projection.name, Position(kept.position), 0, left_out="what is kept was made by another version of it")
            if isinstance(projection, Keyed):
                return await self._check_keyed(projection)
            return await self._check_single(projection, Position(kept.position))
        except Unavailable:
            raise
        except Truncated as error:
            return ModelReport(projection.name, START, 0, left_out=f"events that it was made of have been cut ({error})")
        except PerdureError as error:
            return ModelReport(projection.name, START, 0, (f"model {projection.name!r}: {error}",))

    async def check_tables(self, projection: SqlProjection[Any]) -> ModelReport:
        """What the database says of its tables; not their rows, which anybody may have changed there."""
        name, where = projection.name, projection.where
        try:
            mark = await trio.to_thread.run_sync(read_mark, projection)
        except PerdureError as error:
            return ModelReport(name, START, 0, (f"model {name!r}: {error}",))
        if mark is None:
            return ModelReport(name, START, 0, left_out=f"there are no tables of it in {where}")
        position, head = Position(mark.position), await self._backend.head()
        if why := why_not(mark, fingerprint(projection, self._codec), self._backend.id):
            return ModelReport(name, position, 0, left_out=why)
        if position > head:
            problem = f"model {name!r}: its tables in {where} stand at position {position}, and the log ends at {head}: drop them, and they are built again"
            return ModelReport(name, position, 0, (problem,))
        remedy = "if you doubt them raise its version, and they are built again beside"
        return ModelReport(name, position, 0, left_out=f"its rows in {where} are not compared; {remedy}")

    async def _checkpoint(self, name: str) -> Checkpoint | None:
        entry = await self._backend.get(CHECKPOINTS, name.encode())
        return None if entry is None else cursor.unpack(name, entry.value, self._backend.id)

    # -- one state ---------------------------------------------------------------------------

    async def _check_single(self, projection: Projection[Any, Any], position: Position) -> ModelReport:
        name, state, at, checked = projection.name, projection.initial, START, 0
        problems: list[str] = []
        print_ = fingerprint(projection, self._codec)
        for place in await self._backend.snapshots(name):
            snapshot = await self._backend.read_snapshot(name, at_most=place)
            if snapshot is None or snapshot.position != place or snapshot.fingerprint != print_:
                continue  # dropped meanwhile, or of another version
            state, stopped = await self._fold(projection, state, at, place)
            if stopped is not None:
                problems.append(_stopped(name, stopped))
                break
            at, checked = place, checked + 1
            if not self._same(projection, snapshot.state, state):
                problems.append(f"model {name!r}: its snapshot at position {place} is not the fold of the log up to there; {REMEDY}")
                if len(problems) >= PROBLEMS_MAX:
                    break
        return ModelReport(name, position, checked, tuple(problems))

    async def _fold(self, projection: Projection[Any, Any], state: Any, after: Position, until: Position) -> tuple[Any, Stopped | None]:
        pages = LogPages(self._backend, self._limits, projection.events, after, until)
        while (records := await pages.next()) is not None:
            state, stopped = fold_page(self._codec, projection.step, state, records)
            if stopped is not None:
                return state, stopped
            self._tell(projection.name, records, until)
        return state, None

    # -- a state for each key ----------------------------------------------------------------

    async def _check_keyed(self, projection: Keyed[Any, Any]) -> ModelReport:
        name = projection.name
        position, kept = await self._kept_states(name)
        states, stopped = await self._fold_keyed(projection, position)
        if stopped is not None:
            return ModelReport(name, position, 0, (_stopped(name, stopped),))
        problems = [
            *(f"model {name!r}: the state of key {key!r} is missing; {REMEDY}" for key in states.keys() - kept.keys()),
            *(f"model {name!r}: key {key!r} has a state, and no event; {REMEDY}" for key in kept.keys() - states.keys()),
            *(
                f"model {name!r}: the state of key {key!r} is not the fold of its events up to position {position}; {REMEDY}"
                for key in states.keys() & kept.keys()
                if not self._same(projection, kept[key], states[key])
            ),
        ]
        return ModelReport(name, position, len(kept), tuple(sorted(problems)[:PROBLEMS_MAX]))

    async def _kept_states(self, name: str) -> tuple[Position, dict[str, bytes]]:
        """All states as they were at one position: read again if the checkpoint has moved meanwhile."""
        for _ in range(_TRIES):
            before = await self._backend.get(CHECKPOINTS, name.encode())
            found: dict[str, bytes] = {}
            after: bytes | None = None
            while page := await self._backend.scan(bucket_of(name), after=after, limit=self._limits.page_records):
                found.update({entry.key.decode(): entry.value for entry in page})
                after = page[-1].key
            if before is not None and await self._backend.get(CHECKPOINTS, name.encode()) == before:
                return Position(cursor.unpack(name, before.value, self._backend.id).position), found
        raise Unavailable(f"model {name!r} is written all the time: stop its runtime, or verify a backup")

    async def _fold_keyed(self, projection: Keyed[Any, Any], until: Position) -> tuple[dict[str, Any], Stopped | None]:
        states: dict[str, Any] = {}
        step = stepper(projection)
        pages = LogPages(self._backend, self._limits, projection.events, START, until)
        while (records := await pages.next()) is not None:
            for record in records:
                try:
                    event: Event[Any] = self._codec.event(record)
                    for key in keys_of(projection, event):
                        states[key] = step(states.get(key, projection.initial), event, key)
                except Exception as error:
                    return states, Stopped(record, error)
            self._tell(projection.name, records, until)
        return states, None

    # -- both --------------------------------------------------------------------------------

    def _same(self, projection: Projection[Any, Any] | Keyed[Any, Any], kept: bytes, state: Any) -> bool:
        """Whether what is kept is *state*: by its bytes, or where those are not one, by what they say."""
        if self._codec.encoder(projection.state_type)(state) == kept:
            return True
        try:
            return bool(self._codec.decoder(projection.state_type)(kept) == state)
        except Unreadable:
            return False

    def _tell(self, name: str, records: Sequence[Record], until: Position) -> None:
        if records:
            self._progress(Progress(f"model {name}", records[-1].position, until))


def _stopped(name: str, stopped: Stopped) -> str:
    record = stopped.record
    return f"model {name!r}: its step raises at position {record.position} (stream {record.stream!r}, seq {record.seq}), before which it was not kept"
