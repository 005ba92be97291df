"""`model list|show|at`: what an app's projections have kept, read without running anything."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import trio
from cyclopts import App as Commands
from cyclopts import Parameter

from perdure.actors.fold import AnyProjection, Keyed, fingerprint
from perdure.actors.model import AnyModel, Cell, KeyedModel, Model, Sources, other_version, position_of
from perdure.actors.sql import SqlProjection, read_mark, why_not
from perdure.actors.subscription import Place
from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse, PerdureError
from perdure.backends.event import START, Position
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import Backend
from perdure.runtime.app import App
from perdure.runtime.archives import archived
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.blobstores import archive_store
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.log import BATCH
from perdure.runtime.cli.options import AppName, AsJson, Limit, Prefix, Url, WithArchive, at_least_0, check_limit, moment_of
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import reading
from perdure.runtime.cli.values import as_json

commands = Commands(name="model", help="Read models as they are kept, without running them.")

Name = Annotated[str, Parameter(help="The projection's name.")]


@commands.command(name="list")
def list_(url: Url, /, *, app: AppName, json: AsJson = False) -> int:
    """List the app's projections.

    Where each stands, how far that is behind the log, and why if it stands still. Of one into SQL that is what its database says.

    For example:

        perdure model list lmdb:shop --app shop:app

    JSON: name, kind, version, position, lag, fault.
    """
    loaded = load_app(app)

    async def command() -> int:
        async with reading(url) as backend:
            head, shelf = await backend.head(), Shelf(backend, loaded)
            rows = [await shelf.row(projection, head) for projection in loaded.projections]
            rows += [await shelf.table_row(projection, head) for projection in loaded.sql]
        if json:
            for row in rows:
                out.document(attrs.asdict(row))
        else:
            columns = out.Columns("name", "kind", "version>", "position>", "lag>", "fault")
            columns.print([attrs.astuple(attrs.evolve(row, fault=row.fault or "")) for row in rows])
        return Exit.DONE

    return run_async(command)


@commands.command
def show(
    url: Url,
    name: Name,
    key: Annotated[str | None, Parameter(help="Of a keyed model: this key alone.")] = None,
    /,
    *,
    app: AppName,
    prefix: Prefix = "",
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """Print the state of a model.

    Of a keyed one that of each key. It is what is durable: a running projection may be ahead of it.

    For example:

        perdure model show lmdb:shop accounts ada --app shop:app

    JSON: name, position, state; or name, key, position, state.
    """
    loaded = load_app(app)
    projection = loaded.named(name)
    check_key(projection, key, needed=False)
    check_limit(limit)

    async def command() -> int:
        async with reading(url) as backend:
            shelf = Shelf(backend, loaded)
            model = await shelf.take(projection)
            if model.fault is not None:
                out.note(f"model {name!r} stands still at position {model.position}: {model.fault}")
            out.hint(f"{name} stands at position {model.position}, the log ends at {await backend.head()}")
            if isinstance(model, Model):
                _print_state(name, None, model.position, shelf.tree(projection, model.state), json)
            elif key is not None:
                state = await model.get(key)
                if state is None:
                    return _no_key(name, key)
                _print_state(name, key, model.position, shelf.tree(projection, state), json)
            else:
                await _print_keys(shelf, projection, model, prefix, limit, json)
        return Exit.DONE

    return run_async(command)


@commands.command
def at(
    url: Url,
    name: Name,
    key: Annotated[str | None, Parameter(help="Of a keyed model: the key.")] = None,
    /,
    *,
    app: AppName,
    position: Annotated[int | None, Parameter(help="As it was at this position.")] = None,
    time: Annotated[str | None, Parameter(help="As it was at this time: ISO 8601 with a zone, as in 2026-03-01T12:00Z.")] = None,
    limit: Annotated[int, Parameter(help="Of a keyed model: read at most so many positions.")] = 1_000_000,
    with_archive: WithArchive = None,
    json: AsJson = False,
) -> int:
    """Print the state of a model as it was.

    It is folded from the nearest snapshot; that of a keyed model from the log.

    For example:

        perdure model at lmdb:shop revenue --time 2026-03-01T12:00Z --app shop:app

    JSON: name, position, state; or name, key, position, state.
    """
    loaded = load_app(app)
    projection = loaded.named(name)
    check_key(projection, key, needed=True)
    at_least_0("--position", position)
    moment = None if time is None else moment_of(time)
    if (position is None) == (moment is None):
        raise Misuse("model at takes either --position or --time")

    async def command() -> int:
        async with reading(url) as store, archive_store(with_archive) as blobs:
            backend = archived(store, blobs)
            shelf = Shelf(backend, loaded)
            model = await shelf.take(projection)
            target = await position_of(backend, None if position is None else Position(position), moment)
            with out.busy(f"folding {name} up to position {target}"):
                state = await _state_at(model, key, target, limit)
        if key is not None and state is None:
            return _no_key(name, key, target)
        _print_state(name, key, target, shelf.tree(projection, state), json)
        return Exit.DONE

    return run_async(command)


async def _state_at(model: AnyModel, key: str | None, target: Position, limit: int) -> Any:
    if isinstance(model, Model):
        return await model.as_of(position=target)
    assert key is not None
    return (await model.as_of(key, position=target, limit=limit)).state


def _print_state(name: str, key: str | None, position: Position, tree: Any, json: bool) -> None:
    if json:
        out.document({"name": name, **({} if key is None else {"key": key}), "position": position, "state": tree})
    else:
        out.line(as_json(tree))


async def _print_keys(shelf: Shelf, projection: AnyProjection, model: KeyedModel[Any], prefix: str, limit: int | None, json: bool) -> None:
    columns = out.Columns("key", "state")
    rows: list[tuple[str, str]] = []
    async for entry in model.scan(prefix, limit=limit):
        tree = shelf.tree(projection, entry.state)
        if json:
            out.document({"name": projection.name, "key": entry.key, "position": model.position, "state": tree})
            continue
        rows.append((entry.key, as_json(tree)))
        if len(rows) >= BATCH:
            columns.print(rows)
            rows.clear()
    columns.print(rows)


def _no_key(name: str, key: str, position: Position | None = None) -> int:
    out.note(f"model {name!r} has no key {key!r}" + ("" if position is None else f" at position {position}"))
    return Exit.NO


def check_key(projection: AnyProjection, key: str | None, *, needed: bool) -> None:
    """A key is for keyed models, and for those it may be *needed*."""
    if isinstance(projection, Keyed):
        if needed and key is None:
            raise Misuse(f"{projection.name!r} is a keyed model: name a key, as in `model at URL {projection.name} KEY ...`")
    elif key is not None:
        raise Misuse(f"{projection.name!r} has one state and no keys: leave {key!r} out")


# -- what is kept ----------------------------------------------------------------------------


@attrs.frozen
class Row:
    """A line of `model list`."""

    name: str
    kind: str
    version: int
    position: Position
    lag: int
    fault: str | None


class Shelf:
    """The kept models of an app."""

    def __init__(self, backend: Backend, app: App) -> None:
        self._codec = Codec()
        for cls in app.classes():
            self._codec.registry.register(cls)
        self._sources = Sources(backend, self._codec, LIMITS)

    async def row(self, projection: AnyProjection, head: Position) -> Row:
        """Where *projection* stands, without reading its state."""
        kept = await Place(projection.name, self._sources.backend).read()
        kind = "keyed" if isinstance(projection, Keyed) else "single"
        if kept is None:
            return Row(projection.name, kind, projection.version, START, head, None)
        same = kept.fingerprint == fingerprint(projection, self._codec)
        position = Position(kept.position)
        return Row(projection.name, kind, projection.version, position, max(0, head - position), (kept.fault or None) if same else other_version(kept))

    async def table_row(self, projection: SqlProjection[Any], head: Position) -> Row:
        """Where the tables of *projection* stand."""
        position, fault = START, None
        try:
            mark = await trio.to_thread.run_sync(read_mark, projection)
            if mark is not None:
                position = Position(mark.position)
                fault = why_not(mark, fingerprint(projection, self._codec), self._sources.backend.id) or mark.fault or None
        except PerdureError as error:
            fault = str(error)
        return Row(projection.name, "sql", projection.version, position, max(0, head - position), fault)

    async def take(self, projection: AnyProjection) -> AnyModel:
        """The model, with what is kept of it.

        Raises:
          ModelFaulted: another version of the projection has kept it.
        """
        cell = Cell(projection.name, projection.initial)
        if isinstance(projection, Keyed):
            return await KeyedModel(projection, cell, self._sources).refresh()
        return await Model(projection, cell, self._sources).refresh()

    def tree(self, projection: AnyProjection, state: Any) -> Any:
        """A state as plain data, as it is stored."""
        return self._codec.decode_plain(self._codec.encoder(projection.state_type)(state))
