"""Which store a request of the wire is about, and what its token permits there."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES, MODELS
from perdure.backends.errors import AT_HOME, Forbidden, WrongStore
from perdure.backends.http import wire
from perdure.backends.protocol import Backend
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.operation import Call


class Target:
    """The runtime that a call is about: the daemon's, or one over a store of the client's own, where everything is permitted."""

    def __init__(self, call: Call, rt: Runtime, *, own: bool) -> None:
        self.rt = rt
        self.backend: Backend = rt.backend
        self.own = own
        self.app = call.service.app
        self.scopes = call.scopes
        self.codec = call.service.codec


async def target_of(call: Call) -> Target:
    """The store that the request is about.

    Raises:
      Forbidden: the token does not permit a store of one's own.
      WrongStore: it is not the one that is meant.
    """
    name = call.headers.get(wire.SCRATCH)
    if name is None:
        target = Target(call, call.service.rt, own=False)
    else:
        need(call.scopes.may_scratch(), "scratch")
        target = Target(call, await call.service.scratch.runtime(name), own=True)
    if (meant := call.headers.get(wire.STORE, target.backend.id)) != target.backend.id:
        raise WrongStore(meant, target.backend.id)
    return target


def need(has: bool, what: str) -> None:
    """Whether the token has the scope *what*.

    Raises:
      Forbidden: it has not.
    """
    if not has:
        raise Forbidden(f"the token needs the scope {what}")


def need_look(target: Target, bucket: str) -> None:
    """Whether the token permits to read the bucket.

    Raises:
      Forbidden: it does not, or no token could.
    """
    if not target.own and bucket.startswith("$") and not is_kept(bucket):
        raise own(bucket)
    need(may_look(target, bucket), "read" if bucket.startswith("$") else f"kv:{bucket}")


def own(name: str) -> Forbidden:
    """The refusal of what is perdure's own, and not to be had from elsewhere."""
    return Forbidden(f"{name} is perdure's own, and no token permits it", AT_HOME)


def wire_answer(said: Any) -> Response:
    """*said* as the wire says it."""
    return Response(wire.to_bytes(said), 200, media_type=wire.MEDIA_TYPE)


def is_kept(bucket: str) -> bool:
    """Whether it is what a runtime keeps for itself, and may be asked for from elsewhere."""
    return bucket in (CHECKPOINTS, LEASES, BEATS) or bucket.startswith(MODELS)


def may_look(target: Target, bucket: str) -> bool:
    """Whether the token permits to read the bucket."""
    if target.own:
        return True
    if bucket.startswith("$"):
        return is_kept(bucket) and (target.scopes.may_read() or target.scopes.may_run())
    return target.scopes.may_use(bucket)
