"""What the laws of the runtime have in common: a runtime over a fresh store, and some events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs

from perdure.actors.fold import Fold
from perdure.backends.conformance.law import Check, Part, Stores, new_name
from perdure.backends.event import Event
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.schema import event
from perdure.runtime.app import App
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime


@event("kit-happened", tags=lambda happened: [f"tag:{happened.tag}"] if happened.tag else [])
@attrs.frozen
class Happened:
    """What most laws append."""

    number: int
    text: str = ""
    tag: str = ""


@event("kit-other")
@attrs.frozen
class Other:
    """What a selector leaves out."""

    number: int = 0


COUNT: Fold[int, Any] = Fold(0, lambda state, event: state + 1)


class RuntimePart(Part):
    """Laws whose checks get a runtime over a fresh store."""

    def runtime(
        self, sentence: str, *, limits: Limits = LIMITS, app: App | None = None, needs: tuple[str, ...] = ()
    ) -> Callable[[Callable[[Runtime], Awaitable[None]]], Check]:
        """Mark a function of a runtime as the check of *sentence*."""

        def mark(function: Callable[[Runtime], Awaitable[None]]) -> Check:
            async def check(stores: Stores) -> None:
                async with stores.open(new_name()) as backend, open_runtime(backend, app, limits=limits) as rt:
                    await function(rt)

            check.__name__ = function.__name__
            return self.law(sentence, needs=needs)(check)

        return mark


@asynccontextmanager
async def runtime_on(stores: Stores, name: str | None = None, **how: Any) -> AsyncIterator[Runtime]:
    """A runtime over the store of that name."""
    async with stores.open(name or new_name()) as backend, open_runtime(backend, **how) as rt:
        yield rt


async def listed(events: AsyncIterator[Event[Any]]) -> list[Event[Any]]:
    """All of them."""
    return [found async for found in events]
