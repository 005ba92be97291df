"""Models over HTTP: values, keys, as they were, and waiting for a position."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import trio
from msgspec import Meta
from starlette.responses import Response

from perdure.actors.fold import Keyed, Projection
from perdure.actors.model import KeyedModel, Model, position_of
from perdure.actors.sql import SqlModel, SqlProjection
from perdure.backends.event import Position
from perdure.runtime.serve import shapes
from perdure.runtime.serve.live import Live, event
from perdure.runtime.serve.logs import Limit, most
from perdure.runtime.serve.operation import Call, Operation, etag, json_answer
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.represent import as_json
from perdure.runtime.serve.shapes import Moment, Place

AnyProjection = Projection[Any, Any] | Keyed[Any, Any] | SqlProjection[Any]
AS_OF_MAX = 1_000_000
"""A key's state as it was is folded from the log, over at most so many positions."""

WaitFor = Annotated[Place, Meta(description="Wait until the model has reached this position; 412 when it has not in time.")]
WaitS = Annotated[float, Meta(ge=0, le=3_600, description="How long to wait, in seconds; the daemon has a bound of its own (wait_s).")]


@attrs.frozen
class ModelQuery:
    """When."""

    wait_for: WaitFor | None = None
    wait_s: WaitS = 10.0
    position: Annotated[Place, Meta(description="As it was at this position; 416 beyond the head.")] | None = None
    time: Annotated[Moment, Meta(description="As it was at this time: ISO 8601 with a zone, as 2026-03-01T12:00Z.")] | None = None


@attrs.frozen
class KeysQuery:
    """Which keys."""

    prefix: Annotated[str, Meta(description="Only keys that begin so.", max_length=400)] = ""
    after: Annotated[str, Meta(description="Only keys beyond this one.", max_length=400)] | None = None
    limit: Limit = 100
    wait_for: WaitFor | None = None
    wait_s: WaitS = 10.0


def _projection(call: Call) -> AnyProjection:
    name = call.path["name"]
    for projection in (*call.service.app.projections, *call.service.app.sql):
        if projection.name == name:
            return projection
    raise Refused(404, "not-found", "the app has no such model", "GET /v1/models lists those there are")


async def _model(call: Call, projection: AnyProjection) -> Any:
    """The handle, at what was asked to be waited for.

    Raises:
      Refused: it was not reached in time, or the daemon ends.
    """
    model: Any = call.service.rt.model(projection)
    query = call.query
    if query is not None and query.wait_for is not None:
        wait_s = min(query.wait_s, call.service.config.wait_s)
        with call.service.waiting(), trio.move_on_after(wait_s) as limit:
            await model.wait_for(Position(query.wait_for))
        if limit.cancelled_caught:
            told = f"it stands at {model.position}: ask again, or wait longer (wait_s)"
            raise Refused(412, "not-reached", "the model has not reached the position in time", told)
    if not model.running:
        await model.refresh()
    return model


def list_models(call: Call) -> Response:
    """All models of the app."""
    service = call.service
    found: list[shapes.ModelState] = []
    for projection in (*service.app.projections, *service.app.sql):
        model: Any = service.rt.model(projection)
        kind: shapes.ModelKind = "single" if isinstance(model, Model) else "keyed" if isinstance(model, KeyedModel) else "sql"
        found.append(shapes.ModelState(projection.name, kind, projection.version, model.position, model.running, model.fault))
    return json_answer(shapes.Models(found))


async def value(call: Call) -> Response:
    """A model's state; of a keyed one, or one in SQL, only where it stands."""
    projection = _projection(call)
    model = await _model(call, projection)
    query = call.query
    state: Any = None
    if query.position is None and query.time is None:
        state, position = (model.state, model.position) if isinstance(model, Model) else (None, model.position)
    elif isinstance(model, Model):
        position = await _as_of(call, query)
        state = await model.as_of(position=position)
    else:
        raise Refused(400, "misuse", "the model has no state of its own", "ask for one of its keys as it was")
    told = None if isinstance(model, KeyedModel | SqlModel) else tree(call, projection, state)
    return json_answer(shapes.ModelValue(projection.name, position, told), etag=etag(position))


async def keys(call: Call) -> Response:
    """Keys of a keyed model."""
    projection = _keyed(call)
    model: KeyedModel[Any] = await _model(call, projection)
    limit, position = most(call), model.position
    found = [
        shapes.KeyState(entry.key, tree(call, projection, entry.state))
        async for entry in model.scan(call.query.prefix, after=call.query.after or None, limit=limit)
    ]
    return json_answer(shapes.ModelKeys(projection.name, position, found, found[-1].key if len(found) == limit else None))


async def key(call: Call) -> Response:
    """One key of a keyed model."""
    projection = _keyed(call)
    model: KeyedModel[Any] = await _model(call, projection)
    name, query = call.path["key"], call.query
    if query.position is None and query.time is None:
        position = model.position
        state = await model.get(name) if name else None
    else:
        position = await _as_of(call, query)
        state = (await model.as_of(name, position=position, limit=AS_OF_MAX)).state
    if state is None:
        raise Refused(404, "not-found", "the model has no such key", f"GET /v1/models/{projection.name}/keys lists those there are")
    return json_answer(shapes.ModelValue(projection.name, position, tree(call, projection, state), name), etag=etag(position))


async def follow(call: Call) -> Response:
    """A model's states as they come; of a keyed one the keys that were touched."""
    projection = _projection(call)
    service = call.service
    model = await _model(call, projection)
    if isinstance(model, SqlModel):
        raise Refused(400, "misuse", "a model in SQL cannot be followed here", "follow the log, and ask its database")
    if not model.running:
        raise Refused(409, "model-faulted", "the model does not run here", "ask the daemon that runs it, or follow the log")
    changes = aiter(model.changes())

    async def piece() -> bytes | None:
        with trio.move_on_after(service.config.alive_s):
            try:
                found = await anext(changes)
            except StopAsyncIteration:
                return None
            position = model.position
            what = {"keys": list(found)} if isinstance(model, KeyedModel) else {"state": tree(call, projection, found)}
            return event(position, as_json({"name": projection.name, "position": position, **what}))
        return b": alive\n\n"

    return Live(call, piece)


def _keyed(call: Call) -> Keyed[Any, Any]:
    projection = _projection(call)
    if not isinstance(projection, Keyed):
        raise Refused(404, "not-found", "the model has no keys", "ask for its state at /v1/models/NAME")
    return projection


async def _as_of(call: Call, query: ModelQuery) -> Position:
    """The position that is asked for: itself, or that of the last commit up to a time. `Rewound`, beyond the head."""
    return await position_of(call.service.rt.backend, None if query.position is None else Position(query.position), query.time)


def tree(call: Call, projection: Any, state: Any) -> Any:
    """A state as plain data, as it is stored."""
    codec = call.service.codec
    return codec.decode_plain(codec.encoder(projection.state_type)(state))


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/models",
        name="list_models",
        summary="The models of the app, and where each stands.",
        run=list_models,
        need="read",
        answers={200: shapes.Models},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/v1/models/{name}",
        name="model",
        summary="A model's state now, once it has reached a position, or as it was; of a keyed one, or one in SQL, only where it stands: `state` is null.",
        run=value,
        need="read",
        query=ModelQuery,
        answers={200: shapes.ModelValue},
        problems=(404, 409, 412, 416, 422, 503),
    ),
    Operation(
        method="GET",
        path="/v1/models/{name}/keys",
        name="model_keys",
        summary="Keys of a keyed model with their states.",
        run=keys,
        need="read",
        query=KeysQuery,
        answers={200: shapes.ModelKeys},
        problems=(404, 409, 412, 422, 503),
    ),
    Operation(
        method="GET",
        path="/v1/models/{name}/keys/{key:path}",
        name="model_key",
        summary="The state of one key.",
        run=key,
        need="read",
        query=ModelQuery,
        answers={200: shapes.ModelValue},
        problems=(404, 409, 412, 413, 416, 422, 503),
    ),
    Operation(
        method="GET",
        path="/v1/follow/models/{name}",
        name="follow_model",
        summary="A model's states as they come (of a keyed one the keys touched), conflated: server-sent events whose ids are positions.",
        run=follow,
        need="read",
        live=True,
        answers={},
        problems=(404, 409, 503),
    ),
)
