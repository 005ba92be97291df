"""What happens to actors, as it happens."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from perdure.actors.status import Listener
from perdure.runtime.runtime import Runtime


def lifecycle(rt: Runtime) -> AbstractAsyncContextManager[Listener]:
    """An iterator over `Lifecycle` events from now on: starts, failures with their errors, restarts, warnings.

    It never holds an actor back: who fetches too late loses the oldest, and `lost` counts them.
    """
    return rt.hub.listen()
