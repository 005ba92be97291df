"""The OpenAPI document, drawn from the operations and the classes that they speak in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args, get_origin, get_type_hints

import attrs
import msgspec

from perdure.backends.blobs.ref import OCTETS
from perdure.backends.http.wire import MEDIA_TYPE as WIRE
from perdure.runtime.serve.operation import Operation
from perdure.runtime.serve.problems import MEDIA_TYPE
from perdure.runtime.serve.represent import CLOUDEVENT, CLOUDEVENTS, EVENT_STREAM, JSON
from perdure.runtime.serve.shapes import Problem

COMMON: Final = (400, 403, 421, 431)
WITH_TOKEN: Final = (401, 429)
WITH_BODY: Final = (408, 413, 415)
WITH_BLOB: Final = (408, 413)
REFERENCE: Final = "#/components/schemas/{name}"
TITLES: Final = {
    400: "The request is wrong.",
    401: "No token, or one that does not count.",
    403: "The token does not permit this, or the request comes from a foreign web page.",
    404: "There is none.",
    408: "The body did not arrive in time.",
    409: "What was expected does not hold.",
    410: "It has been cut or forgotten.",
    412: "Not reached in time.",
    413: "Too large.",
    415: "The body is of another media type.",
    416: "Beyond the head.",
    421: "This is not the host that was asked for.",
    422: "Understood, and not possible.",
    431: "The head of the request is too large.",
    429: "Too many wrong tokens.",
    500: "What is stored is damaged.",
    503: "Not now: try again.",
    504: "In doubt: ask again with the same Idempotency-Key.",
    507: "The store is full.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document for *operations*."""
    shapes = _shapes([one for one in operations if not one.wire])
    references, components = msgspec.json.schema_components(shapes, ref_template=REFERENCE)
    schema = dict(zip(shapes, references, strict=True))
    for body in {name for one in operations if one.body is not None and not one.wire for name in _reached(one.body)}:
        components[body]["additionalProperties"] = False
    spoken = [shape for shape in _shapes([one for one in operations if one.wire]) if shape is not Problem]
    references, wired = msgspec.json.schema_components(spoken, ref_template=REFERENCE.format(name="Wire{name}"))
    schema |= dict(zip(spoken, references, strict=True))
    components |= {f"Wire{name}": one for name, one in wired.items()}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(plain_path(one.path), {})[one.method.lower()] = _operation(one, schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "perdure", "version": "1", "description": "A perdure store over HTTP. Every error is a problem of RFC 9457."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def plain_path(path: str) -> str:
    """A path without the kinds of its parameters."""
    return path.replace(":path}", "}")


def _shapes(operations: Iterable[Operation]) -> list[type]:
    found: dict[type, None] = {Problem: None}
    for one in operations:
        for shape in (one.body, *one.answers.values()):
            if shape is not None and shape is not str:
                found[shape] = None
    return list(found)


def _reached(kind: type) -> set[str]:
    """The names of the classes that a body is made of."""
    found = {kind.__name__}
    for hint in get_type_hints(kind).values():
        for inner in get_args(hint) if get_origin(hint) is list else ():
            if attrs.has(inner):
                found |= _reached(inner)
    return found


def _operation(one: Operation, schema: dict[type, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": one.name, "summary": one.summary}
    if parameters := [*_path_parameters(one), *_query_parameters(one), *_headers(one)]:
        told["parameters"] = parameters
    if one.need:
        told["security"] = [{"token": []}]
        told["description"] = f"Scope: {one.need}." if one.need != "any" else "Scopes: those of each write."
    if one.blob:
        told["requestBody"] = {"required": True, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
    if one.body is not None or one.any_body:
        content: dict[str, Any] = {JSON: {"schema": schema[one.body] if one.body is not None else {}}}
        if one.wire:
            content = {WIRE: content[JSON]}
        if one.cloudevents:
            content |= {CLOUDEVENT: {"schema": _EVENT}, CLOUDEVENTS: {"schema": {"type": "array", "items": _EVENT}}}
        told["requestBody"] = {"required": True, "content": content}
    told["responses"] = _responses(one, schema)
    return told


_EVENT: Final = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
    },
}


def _path_parameters(one: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)(?::path)?}", one.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 400}} for name in names]


def _query_parameters(one: Operation) -> list[dict[str, Any]]:
    if one.query is None:
        return []
    [_], components = msgspec.json.schema_components([one.query], ref_template=REFERENCE)
    found = []
    for name, schema in components[one.query.__name__]["properties"].items():
        if "anyOf" in schema:  # null stands for leaving it out
            schema = {**next(one for one in schema["anyOf"] if one.get("type") != "null"), **{k: v for k, v in schema.items() if k not in ("anyOf", "default")}}
        schema.pop("default", None) if schema.get("default") in (None, []) else None
        described = {"description": schema.pop("description")} if "description" in schema else {}
        found.append({"name": name, "in": "query", "required": False, "schema": schema, **described})
    return found


def _headers(one: Operation) -> list[dict[str, Any]]:
    return [{"name": header.name, "in": "header", "required": False, "description": header.help, "schema": _pattern(header.pattern)} for header in one.headers]


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern} if pattern else {"type": "string"}


def _responses(one: Operation, schema: dict[type, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, shape in one.answers.items():
        found[str(status)] = {"description": "Done." if status < 300 else TITLES.get(status, "Unchanged."), **_content(one, shape, schema)}
    if one.live:
        # Without a schema: some tools hold it against the whole body, some against each event.
        found["200"] = {"description": "Server-sent events.", "content": {EVENT_STREAM: {}}}
    problem = {"content": {MEDIA_TYPE: {"schema": schema[Problem]}}}
    body = WITH_BODY if one.body is not None or one.any_body else WITH_BLOB if one.blob else ()
    for status in sorted({*COMMON, *(WITH_TOKEN if one.need else ()), *body, *((404,) if "{" in one.path else ()), *one.problems}):
        found.setdefault(str(status), {"description": TITLES[status], **problem})
    return found


def _content(one: Operation, shape: Any, schema: dict[type, Any]) -> dict[str, Any]:
    if shape is None:
        return {}
    if shape is str:
        return {"content": {one.media_type: {"schema": {"type": "string"}}}}
    content = {WIRE if one.wire else JSON: {"schema": schema[shape]}}
    if one.cloudevents and one.body is None:
        content[CLOUDEVENTS] = {"schema": {"type": "array", "items": _EVENT}}
    return {"content": content}


