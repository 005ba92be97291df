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
from perdure.actors.sql import SqlActor, SqlModel, SqlProjection
from perdure.actors.supervisor import Child
from perdure.backends.errors import AlreadyRunning, Misuse, TooManyRestarts

AnyActor = ProjectionActor[Any]
Runnable = AnyProjection | SqlProjection[Any]
Handle = AnyModel | SqlModel


@attrs.define
class Running:
    """A projection that this runtime runs."""

    projection: Runnable
    actor: AnyActor
    cell: Cell
    ended: trio.Event = attrs.field(factory=trio.Event)
    supervised: bool = False


class Models:
    """Starts projection actors, each name once, and gives handles."""

    def __init__(self, services: Services, sources: Sources, closing: Callable[[], bool], *, spare: bool = False) -> None:
        self._services = services
        self._closing = closing
        """Whether the runtime ends: who waits for a model that stops then is told that, and not that the model stands still."""
        self._spare = spare
        """Whether a model that is out of restarts is left standing, instead of failing the runtime."""
        self._sources = sources
        self._running: dict[str, Running] = {}
        self._cells: dict[str, Cell] = {}

    def make(self, projection: Runnable) -> Running:
        """An actor for *projection*, not started.

        Raises:
          AlreadyRunning: one of that name runs.
        """
        self._register(projection)
        if projection.name in self._running:
            raise AlreadyRunning(projection.name)
        cell = self._cell(projection)
        actor: AnyActor
        if isinstance(projection, SqlProjection):
            actor = SqlActor(projection, self._services, cell)
        elif isinstance(projection, Keyed):
            actor = KeyedActor(projection, self._services, cell)
        else:
            actor = SingleActor(projection, self._services, cell)
        cell.running = True
        running = self._running[projection.name] = Running(projection, actor, cell)
        return running

    def forget(self, running: Running) -> None:
        """It has ended."""
        if self._running.get(running.projection.name) is running:
            del self._running[running.projection.name]
        running.cell.stopped()
        running.ended.set()

    def handle(self, projection: Runnable) -> Handle:
        """A typed handle that reads the model, wherever it runs."""
        self._register(projection)
        running = self._running.get(projection.name)
        if running is not None:
            self._check_same(running.projection, projection)
        cell = self._cell(projection)
        if isinstance(projection, SqlProjection):
            return SqlModel(projection, cell, self._sources, self._services.threads)
        if isinstance(projection, Keyed):
            return KeyedModel(projection, cell, self._sources)
        return Model(projection, cell, self._sources)

    def _cell(self, projection: Runnable) -> Cell:
        return self._cells.setdefault(projection.name, Cell(projection.name, projection.initial, self._closing))

    def _check_same(self, running: Runnable, asked: Runnable) -> None:
        if running is not asked and fingerprint(running, self._services.codec) != fingerprint(asked, self._services.codec):
            raise Misuse(f"projection {asked.name!r} runs here with another definition: use the one it was started with")

    def _register(self, projection: Runnable) -> None:
        if not isinstance(projection, Projection | Keyed | SqlProjection):
            raise Misuse(f"{projection!r} is no Projection, no Keyed and no SqlProjection")
        for cls in projection.events.classes:
            self._services.codec.registry.register(cls)

    def child(self, projection: Runnable) -> Child:
        """The supervised child that runs *projection*."""
        running = self.make(projection)
        running.supervised = True
        actor = running.actor

        async def run(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on to the actor
            try:
                await actor.run(task_status=task_status)
            except Exception as error:
                if final(error):
                    running.cell.stopped()
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + self._services.limits.ask_s):
                        await actor.leave()  # another process may know better
                raise  # else it is started again, and who waits for it goes on waiting
            except BaseException:
                running.cell.stopped()
                raise
            running.cell.stopped()

        return Child(
            name=projection.name,
            run=run,
            restart=Restart.PERMANENT,
            stop=actor.stop,
            progress=lambda: running.cell.position,
            final=final,
            spent=(lambda error: self._spent(running, error)) if self._spare else None,
        )

    async def _spent(self, running: Running, error: TooManyRestarts) -> None:
        """It stands still from now on; another process may have more luck with it."""
        causes = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else ()
        running.cell.stand_still(f"{error}; the last one: {causes[-1]!r}" if causes else str(error))
        running.cell.stopped()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._services.limits.ask_s):
            await running.actor.leave()

    async def project(self, projection: Runnable, task_status: trio.TaskStatus[Handle]) -> None:  # noqa: ASYNC128 - handed on to the actor
        """See `Runtime.project`."""
        running = self.make(projection)
        try:
            await running.actor.run(task_status=_Handing(task_status, lambda: self.handle(projection)))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._services.limits.ask_s):
                await running.actor.leave()
            self.forget(running)

    def all(self) -> list[Running]:
        """Those that run here."""
        return list(self._running.values())

    def stop(self) -> None:
        """Ask all of them to end."""
        for running in self._running.values():
            running.actor.stop()

    async def wait_projected(self) -> None:
        """Return when those that run in nurseries of the program have ended."""
        for running in list(self._running.values()):
            if not running.supervised:
                await running.ended.wait()

    def end(self) -> None:
        """Nothing runs any more: tell whoever waits for a model."""
        for running in self._running.values():
            running.cell.stopped()

    def crash(self, name: str, error: Exception) -> None:
        """Make the actor of *name* fail before its next page: a fault of the actor, for trying out supervision."""
        self._running[name].actor.fail(error)


class _Handing:
    """A task status that hands on the model once the actor has started."""

    def __init__(self, status: trio.TaskStatus[Handle], handle: Callable[[], Handle]) -> None:
        self._status = status
        self._handle = handle

    def started(self, value: Any = None) -> None:
        self._status.started(self._handle())
