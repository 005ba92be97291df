"""Decide on a stream's state, append what was decided, again on conflict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.actors.fold import Fold
from perdure.backends.commit import Appended, key_id
from perdure.backends.errors import Conflict, KeyReused, Misuse

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

S = TypeVar("S")


async def execute(
    rt: Runtime,
    stream: str,
    fold: Fold[S, Any],
    decide: Callable[..., Sequence[object]],
    args: tuple[object, ...],
    key: bytes | None,
    attempts_max: int,
) -> Appended | Conflict:
    """See `Runtime.execute`."""
    if attempts_max < 1:
        raise Misuse(f"attempts_max is a number from 1, not {attempts_max!r}")
    if key is not None and (first := await _known(rt, key)) is not None:
        return first
    for attempt in range(1, attempts_max + 1):
        state, last = await rt.fold(stream, fold)
        payloads = decide(state, *args)
        if not payloads:
            return Appended(last + 1, last, None)
        try:
            answer = await rt.append(stream, payloads, expected=last, key=key)
        except KeyReused:  # another task executed the same meanwhile
            if key is not None and (first := await _known(rt, key)) is not None:  # noqa: ASYNC120 - cancelled, nothing was stored
                return first
            raise
        if not isinstance(answer, Conflict) or attempt == attempts_max:
            return answer
    raise AssertionError("not reached")


async def _known(rt: Runtime, key: bytes) -> Appended | None:
    """The first answer under *key*."""
    known = await rt.backend.answer(key_id(key))
    if known is None:
        return None
    part = known.parts[0] if known.parts else None
    if not isinstance(part, Appended):
        raise Misuse(f"key {key!r} was used for a commit that appended nothing: use another")
    return part
