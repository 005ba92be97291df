"""The projections of a runtime: which run here, their cells, and handles to read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from perdure.actors.fold import AnyProjection, Keyed, Projection, fingerprint
from perdure.actors.keyed import KeyedActor
from perdure.actors.model import AnyModel, Cell, KeyedModel, Model, Sources
from perdure.actors.projection import ProjectionActor, Services, SingleActor, final
from perdure.actors.restart import Restart
from perdure.actors.supervisor import Child
from perdure.backends.errors import AlreadyRunning, Misuse

AnyActor = ProjectionActor[Any]


@attrs.define
class Running:
    """A projection that this runtime runs."""

    projection: AnyProjection
    actor: AnyActor
    cell: Cell


class Models:
    """Starts projection actors, each name once, and gives handles."""

    def __init__(self, services: Services, sources: Sources) -> None:
        self._services = services
        self._sources = sources
        self._running: dict[str, Running] = {}
        self._cells: dict[str, Cell] = {}

    def make(self, projection: AnyProjection) -> Running:
        """An actor for *projection*, not started.

        Raises:
          AlreadyRunning: one of that name runs.
        """
        self._register(projection)
        if projection.name in self._running:
            raise AlreadyRunning(projection.name)
        cell = self._cells.setdefault(projection.name, Cell(projection.name, projection.initial))
        cell.running = True
        actor: AnyActor
        if isinstance(projection, Keyed):
            actor = KeyedActor(projection, self._services, cell)
        else:
            actor = SingleActor(projection, self._services, cell)
        running = self._running[projection.name] = Running(projection, actor, cell)
        return running

    def forget(self, running: Running) -> None:
        """It has ended."""
        if self._running.get(running.projection.name) is running:
            del self._running[running.projection.name]
        running.cell.stopped()

    def handle(self, projection: AnyProjection) -> AnyModel:
        """A typed handle that reads the model, wherever it runs."""
        self._register(projection)
        running = self._running.get(projection.name)
        if running is not None:
            self._check_same(running.projection, projection)
        cell = self._cells.setdefault(projection.name, Cell(projection.name, projection.initial))
        if isinstance(projection, Keyed):
            return KeyedModel(projection, cell, self._sources)
        if isinstance(projection, Projection):
            return Model(projection, cell, self._sources)
        raise Misuse(f"{projection!r} is no Projection and no Keyed")

    def _check_same(self, running: AnyProjection, asked: AnyProjection) -> None:
        if running is not asked and fingerprint(running, self._services.codec) != fingerprint(asked, self._services.codec):
            raise Misuse(f"projection {asked.name!r} runs here with another definition: use the one it was started with")

    def _register(self, projection: AnyProjection) -> None:
        for cls in projection.events.classes:
            self._services.codec.registry.register(cls)

    def child(self, projection: AnyProjection) -> Child:
        """The supervised child that runs *projection*."""
        running = self.make(projection)
        actor = running.actor
        return Child(
            name=projection.name,
            run=actor.run,
            restart=Restart.PERMANENT,
            stop=actor.stop,
            progress=lambda: running.cell.position,
            final=final,
        )

    async def project(self, projection: AnyProjection, task_status: trio.TaskStatus[AnyModel]) -> None:  # noqa: ASYNC128 - handed on to the actor
        """See `Runtime.project`."""
        running = self.make(projection)
        try:
            await running.actor.run(task_status=_Handing(task_status, lambda: self.handle(projection)))
        finally:
            self.forget(running)

    def all(self) -> list[Running]:
        """Those that run here."""
        return list(self._running.values())

    def stop(self) -> None:
        """Ask all of them to end."""
        for running in self._running.values():
            running.actor.stop()

    def crash(self, name: str, error: Exception) -> None:
        """Make the actor of *name* fail before its next page: a fault of the actor, for trying out supervision."""
        self._running[name].actor.fail(error)


class _Handing:
    """A task status that hands on the model once the actor has started."""

    def __init__(self, status: trio.TaskStatus[AnyModel], handle: Callable[[], AnyModel]) -> None:
        self._status = status
        self._handle = handle

    def started(self, value: Any = None) -> None:
        self._status.started(self._handle())


