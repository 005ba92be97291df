"""Every error as a problem of RFC 9457: which status, which words. Nothing that is secret gets into them."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from starlette.responses import Response

from perdure.backends import errors
from perdure.backends.errors import Conflict, PerdureError
from perdure.backends.http.facts import facts_of
from perdure.runtime.serve.shapes import Failed, Problem
from perdure.runtime.serve.tokens import hidden

MEDIA_TYPE: Final = "application/problem+json"
DETAIL_MAX: Final = 2_000

STATUS: Final[tuple[tuple[type[PerdureError], int, str], ...]] = (
    (errors.Conflict, 409, "what you expected does not hold"),
    (errors.KeyReused, 422, "the idempotency key belongs to another content"),
    (errors.TooLarge, 413, "it is too large"),
    (errors.ConditionTooBroad, 422, "the condition is too broad"),
    (errors.Truncated, 410, "what was asked for has been cut"),
    (errors.Compacted, 410, "what was asked for has been forgotten"),
    (errors.Rewound, 416, "the log does not go so far"),
    (errors.WrongStore, 409, "this is another store"),
    (errors.ModelFaulted, 409, "the model stands still"),
    (errors.AlreadyRunning, 409, "it runs already"),
    (errors.ProjectionFailed, 422, "the fold does not get there"),
    (errors.Unreadable, 422, "what is stored does not fit its class"),
    (errors.LeaseLost, 409, "the lease was lost"),
    (errors.BlobMissing, 404, "there is no such blob"),
    (errors.Corrupt, 500, "what is stored is damaged"),
    (errors.BlobsUnavailable, 503, "the blob store is unavailable"),
    (errors.Unavailable, 503, "the store is unavailable"),
    (errors.ClockAhead, 503, "this machine's clock is ahead"),
    (errors.Closed, 503, "the daemon ends"),
    (errors.AskTimeout, 503, "an actor did not answer in time"),
    (errors.InDoubt, 504, "whether it was stored is in doubt"),
    (errors.Full, 507, "the store is full"),
    (errors.Unsupported, 501, "this kind of store cannot do that"),
    (errors.Forbidden, 403, "the token does not permit this"),
    (errors.Misuse, 400, "the request is wrong"),
)
"""The first that fits counts; what is not here is 500."""


class Refused(Exception):
    """A request that is answered by a problem: raised anywhere below an operation."""

    def __init__(self, status: int, name: str, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(title)
        self.problem = Problem(type=f"urn:perdure:problem:{name}", title=title, status=status, detail=detail)
        self.headers = headers


def name_of(error: type[PerdureError]) -> str:
    """A situation's name: that of its class, in lower case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def problem_of(error: Exception) -> Problem:
    """What is told of *error*; of one that perdure did not raise on purpose, nothing but that."""
    if isinstance(error, Refused):
        return error.problem
    for kind, status, title in STATUS:
        if isinstance(error, kind):
            detail = hidden(str(error))[:DETAIL_MAX]
            failed = [Failed(*fact) for fact in error.facts()] if isinstance(error, Conflict) else None
            name = f"urn:perdure:problem:{name_of(kind)}"
            return Problem(type=name, title=title, status=status, detail=detail, conflict=failed, facts=_shown(error))
    if isinstance(error, PerdureError):
        name, detail = f"urn:perdure:problem:{name_of(type(error))}", hidden(str(error))[:DETAIL_MAX]
        return Problem(type=name, title="the daemon cannot do it", status=500, detail=detail, facts=_shown(error))
    detail = "its log has the traceback: please report it"
    return Problem(type="urn:perdure:problem:fault", title="a fault of the daemon itself", status=500, detail=detail)


def _shown(error: PerdureError) -> dict[str, Any]:
    """The facts of *error*, without secrets."""
    return {name: hidden(value) if isinstance(value, str) else value for name, value in facts_of(error).items()}


def answer_of(error: Exception) -> Response:
    """The answer that tells of *error*."""
    return answer(problem_of(error), error.headers if isinstance(error, Refused) else None)


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The answer that is *problem*."""
    told = {name: value for name, value in msgspec.to_builtins(problem, enc_hook=str).items() if value not in (None, "")}
    more = dict(headers or {})
    if problem.status == 503:
        more.setdefault("retry-after", "1")
    return Response(msgspec.json.encode(told) + b"\n", problem.status, more, MEDIA_TYPE)
