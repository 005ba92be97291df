"""The daemon: how it starts, what signals do to it, and how it ends. What runs is in `tree`.

SIGTERM and SIGINT drain, the second one ends at once; SIGHUP reloads. Draining: nothing new is accepted and what lasts for ever is ended;
requests finish; projections save and leases are given back; the store is closed. All of it within `drain_s`; what is acknowledged is durable
anyhow.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse, PerdureError
from perdure.runtime.app import App
from perdure.runtime.open import open_runtime
from perdure.runtime.serve.audit import audited
from perdure.runtime.serve.config import ServeConfig, reload
from perdure.runtime.serve.listen import Listener, open_sockets
from perdure.runtime.serve.notify import Notifier
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.tls import tls_of
from perdure.runtime.serve.tokens import hidden
from perdure.runtime.serve.tree import open_tree
from perdure.runtime.serve.web import make_app

log = logging.getLogger("perdure.serve")

DRAINED: Final = 0
NOT_IN_TIME: Final = 1
LATE_S: Final = 0.2
"""What ending may take beyond `drain_s`: to come back from the last step."""


@attrs.define
class Ending:
    """How it ends: asked to by *by*, by which time it has to."""

    asked: trio.Event = attrs.field(factory=trio.Event)
    by: str = ""
    deadline: float = float("inf")

    def ask(self, by: str, drain_s: float) -> None:
        """Begin to end."""
        self.by, self.deadline = by, trio.current_time() + drain_s
        self.asked.set()


async def serve(
    app: App,
    config: ServeConfig,
    *,
    reread: Callable[[], ServeConfig] | None = None,
    notifier: Notifier | None = None,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
    signals: bool = True,
    environment: Environment | None = None,
) -> int:
    """Run *app* on `config.store` until a signal ends it; the answer is 0 if it was drained in time, else 1.

    *reread* gives the configuration anew, for SIGHUP. `task_status` is told when everything runs. Cancelled, it closes as a runtime does.

    Raises:
      Misuse, Unavailable, Corrupt, ...: it cannot start; RuntimeFailed: it cannot go on. See `open_runtime`.
    """
    notifier = notifier or Notifier()
    ending = Ending()
    tls = tls_of(config.tls_cert, config.tls_key)
    sockets = open_sockets(config)
    try:
        with trio.CancelScope() as late:
            async with open_runtime(
                config.store,
                app,
                blobs=config.blobs or None,
                environment=environment,
                limits=config.limits_in_time(),
                changed=config.changed,  # type: ignore[arg-type]  # one of the two
                spent=config.spent,  # type: ignore[arg-type]  # one of the two
                create=config.create,
            ) as rt:
                service = Service(rt, app, config, config.store, listening=tuple(one.getsockname()[0] for one in sockets))
                listener = Listener(make_app(service), config, sockets, tls)
                service.urls = tuple(listener.urls)
                service.connections = lambda: (len(listener.connections), listener.refused)
                async with open_tree(service, listener, notifier) as ended:
                    async with trio.open_nursery() as nursery:
                        if signals:
                            await nursery.start(_heed, service, ending, reread, notifier)
                        log.info("serving %s at %s", hidden(config.store), " and ".join(listener.urls))
                        notifier.tell(READY="1", STATUS=f"serving at {listener.urls[0]}")
                        task_status.started(service)
                        await _either(ending.asked.wait, ended)
                        ending.deadline = min(ending.deadline, trio.current_time() + service.config.drain_s)
                        late.deadline = ending.deadline + LATE_S
                        notifier.tell(STOPPING="1", STATUS=f"draining ({ending.by})")
                        log.info("draining (%s)", ending.by or "its end")
                        await _drain(service, listener, ending)
                        nursery.cancel_scope.cancel()
    finally:
        for one in sockets:
            one.close()
    in_time = not late.cancelled_caught and trio.current_time() <= ending.deadline + LATE_S
    log.info("drained and closed" if in_time else "cut off: not drained in time")
    return DRAINED if in_time else NOT_IN_TIME


async def _either(*waits: Callable[[], Awaitable[None]]) -> None:
    """Return when one of them has."""
    async with trio.open_nursery() as nursery:

        async def one(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(one, wait)


async def _drain(service: Service, listener: Listener, ending: Ending) -> None:
    """Stop intake, and let requests that are under way finish, in what time is theirs."""
    service.drain()
    listener.stop()
    share = service.config.drain_s - service.rt.limits.close_s
    with trio.move_on_at(ending.deadline - service.config.drain_s + max(share, 0.0)):
        await listener.wait_empty()


# -- signals ---------------------------------------------------------------------------------


async def _heed(
    service: Service,
    ending: Ending,
    reread: Callable[[], ServeConfig] | None,
    notifier: Notifier,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number == signal.SIGHUP:
                await _reload(service, reread, notifier)
            elif ending.asked.is_set():
                os._exit(128 + number)
            else:
                ending.ask(signal.Signals(number).name, service.config.drain_s)


async def _reload(service: Service, reread: Callable[[], ServeConfig] | None, notifier: Notifier) -> None:
    """Take on what can be taken on; say what cannot."""
    if reread is None:
        return
    notifier.tell(RELOADING="1", MONOTONIC_USEC=str(int(trio.current_time() * 1e6)))
    try:
        service.config, now, later = reload(service.config, reread())
    except (Misuse, ValueError) as error:
        log.error("nothing was reloaded: %s", hidden(str(error)))
        notifier.tell(READY="1")
        return
    logging.getLogger("perdure").setLevel(service.config.log_level.upper())
    log.info("reloaded: %s", ", ".join(now) or "nothing has changed")
    if later:
        log.warning("needs a new start: %s", ", ".join(later))
    try:
        await service.rt.commit_own([audited("config-reloaded", {"fields": list(now), "not": list(later)})])
    except PerdureError as error:
        log.warning("the reload is not in the audit: %s", hidden(str(error)))
    notifier.tell(READY="1")
