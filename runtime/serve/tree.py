"""What a daemon runs beside the runtime, as one list.

tokens      follows the tokens of the store
here        holds the lease that tells other daemons of this one
peers       looks who else is there, and forgets who is gone
health      looks how models and store get on
http        answers
scratch     stores of their own, for clients that try things out
watchdog    tells systemd that the loop turns, and how ready it is
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from perdure.actors.restart import Restart
from perdure.actors.supervisor import Child, Supervisor
from perdure.backends.environment import Environment
from perdure.runtime.serve import peers
from perdure.runtime.serve.listen import Listener
from perdure.runtime.serve.notify import Notifier
from perdure.runtime.serve.operating import not_ready
from perdure.runtime.serve.service import Service

STATUS_S: Final = 5.0
LOOK_S: Final = 1.0


@asynccontextmanager
async def open_tree(service: Service, listener: Listener, notifier: Notifier) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The daemon's own children under one supervisor, while the body runs; gives a wait for its end."""
    name = peers.name_of(listener.urls)

    async def tokens(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        await service.tokens.follow_store(service.rt.backend, task_status=task_status)

    async def here(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await peers.stand(service.rt, name)

    async def others(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        await peers.look_out(service, name, task_status=task_status)

    async def health(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            service.health.look(service.rt.journal_statistics(), service.rt.models_status(), trio.current_time())
            await trio.sleep(LOOK_S)

    async def http(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        await listener.run(task_status=task_status)

    async def scratch(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        await service.scratch.run(task_status=task_status)

    async def watchdog(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await _watch(service, notifier)

    children = [
        Child("tokens", tokens, Restart.PERMANENT),
        Child("here", here, Restart.PERMANENT),
        Child("peers", others, Restart.PERMANENT),
        Child("health", health, Restart.PERMANENT),
        Child("scratch", scratch, Restart.PERMANENT),
        Child("http", http, Restart.TRANSIENT, stop=listener.stop),
        Child("watchdog", watchdog, Restart.PERMANENT),
    ]
    supervisor = Supervisor("daemon", children, jitter=Environment().jitter, publish=service.rt.hub.publish)
    over = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        try:
            await supervisor.run(task_status=task_status)
        finally:
            over.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield over.wait
        nursery.cancel_scope.cancel()


async def _watch(service: Service, notifier: Notifier) -> None:
    """The watchdog is fed by the loop that all else runs in: it stands still when that does."""
    pause_s = min(STATUS_S, notifier.watchdog_s / 3) if notifier.watchdog_s else STATUS_S
    while True:
        reasons = not_ready(service, why=True)
        notifier.tell(WATCHDOG="1", STATUS="; ".join(reasons)[:200] or "ready")
        await trio.sleep(pause_s)
