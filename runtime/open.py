"""Opening a runtime: the store, its actors, and the way out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal

import cattrs
import trio

from perdure.actors.journal import Journal
from perdure.actors.keeper import Keeper
from perdure.actors.model import Sources
from perdure.actors.projection import Changed, Services
from perdure.actors.ring import Ring
from perdure.actors.seat import seated
from perdure.actors.status import Hub, Lifecycle, What
from perdure.actors.stream import Streams
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.codec import Codec
from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse, PerdureError, RuntimeFailed, StoreMoved
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend, refuse_loading
from perdure.runtime import tracing
from perdure.runtime.app import App
from perdure.runtime.archives import archived
from perdure.runtime.encode import Encoder
from perdure.runtime.models import Models
from perdure.runtime.retention import Retained, keep_up
from perdure.runtime.runtime import Runtime
from perdure.runtime.tree import Tree

log = logging.getLogger("perdure.projection")


@asynccontextmanager
async def open_runtime(
    store: str | Backend,
    app: App | None = None,
    *,
    blobs: str | BlobStore | None = None,
    environment: Environment | None = None,
    limits: Limits = LIMITS,
    changed: Changed = "refuse",
    spent: Literal["fail", "leave"] = "fail",
    converter: cattrs.Converter | None = None,
    create: bool = True,
) -> AsyncIterator[Runtime]:
    """Open *store* (a URL, or an open backend, which stays open) and run the *app*'s actors while the body runs.

    On entry the store is recovered and every projection of the app stands at its last snapshot.
    *changed* says what happens to a projection whose stored state another version of it made:
    "refuse" leaves it readable, faulted; "rebuild" starts it again. *spent* says what happens when one is out of
    restarts: "fail" ends the runtime, "leave" leaves it readable, faulted, and the others go on. *converter* is a cattrs converter
    with the program's own hooks. *blobs* is where large objects go, `rt.blobs`: a URL (see `open_blobs`), or an
    open blob store, which stays open. The archives of what was cut are there: models are built, and looked at `as_of`, with
    them, and `App.retention` puts more there. On exit what is under way is finished, within `limits.close_s`.

    The nursery inside does not show: the body's exception leaves as it is.

    Raises:
      RuntimeFailed: a part of the runtime failed; the body was cancelled. If both failed, a group of the two.
      StoreMoved: the store is elsewhere now.
      Misuse, Unavailable, Corrupt, TooNew, ...: the store cannot be opened (see `open_backend`).
    """
    if changed not in ("refuse", "rebuild"):
        raise Misuse(f'changed is "refuse" or "rebuild", not {changed!r}')
    if spent not in ("fail", "leave"):
        raise Misuse(f'spent is "fail" or "leave", not {spent!r}')
    environment = environment or Environment()
    async with AsyncExitStack() as stack:
        if isinstance(store, str):
            store = await stack.enter_async_context(open_backend(store, environment=environment, limits=limits, create=create))
        else:
            refuse_loading(store, "the store")
        if isinstance(blobs, str):
            blobs = await stack.enter_async_context(open_blobs(blobs, environment=environment, create=create))
        places = await stack.enter_async_context(AsyncExitStack())
        yield await stack.enter_async_context(_run(store, app or App(), environment, limits, changed, spent == "leave", converter, places, blobs))


@asynccontextmanager
async def _run(
    backend: Backend,
    app: App,
    environment: Environment,
    limits: Limits,
    changed: Changed,
    spare: bool,
    converter: cattrs.Converter | None,
    places: AsyncExitStack,
    blobs: BlobStore | None,
) -> AsyncIterator[Runtime]:
    if (app.projections or app.sql) and not backend.capabilities.writes:
        raise Misuse("the models of an App are kept in the store: open it without ?mode=ro, or give no App and read its models as they are kept")
    if blobs is None and any(policy.archive for policy in app.retention):
        raise Misuse("the App's retention archives what it cuts: open the runtime with blobs=, or say archive=False there")
    if gone_to := await backend.moved_to():
        raise StoreMoved(backend.id, gone_to)
    backend = seated(backend)
    codec = Codec(converter=converter)
    for cls in app.classes():
        codec.registry.register(cls)
    hub = Hub()
    ring = Ring(limits.ring_bytes)
    keeper = Keeper(backend, limits, jitter=environment.jitter, publish=hub.publish)
    spans = tracing.spans_of(environment)
    journal = Journal(backend, limits, ring, keeper, spans)
    journal.head = await backend.head()
    encoder = Encoder(codec, environment, limits, await backend.now_us())
    streams = Streams(journal, limits)
    tree = Tree(backend, keeper, journal, streams, encoder, environment, limits, hub)

    def warn(name: str, text: str) -> None:
        log.warning("%s: %s", name, text)
        hub.publish(Lifecycle(f"projections/{name}", What.WARNED, text, trio.current_time()))

    def tell(name: str, what: What, text: str) -> None:
        log.info("%s: %s", name, text)
        hub.publish(Lifecycle(f"projections/{name}", what, text, trio.current_time()))

    whole = archived(backend, blobs)
    services = Services(
        whole,
        ring,
        codec,
        limits,
        journal.pace,
        tree.commit_derived,
        changed,
        warn,
        keeper.reopened,
        lambda: keeper.reopenings,
        tree.leases,
        tell,
        environment.threads,
        spans,
    )
    models = Models(services, Sources(whole, codec, limits), lambda: tree.closing, spare=spare)
    rt = Runtime(backend, environment, limits, hub, codec, encoder, journal, streams, models, tree, places, blobs, spans)

    body: BaseException | None = None
    closing: BaseException | None = None
    async with trio.open_nursery() as outer:
        with trio.CancelScope(shield=True):  # a `start` that is cancelled would wait for ever for what it started
            nursery = await outer.start(_shielded)
        try:
            with trio.CancelScope() as scope:
                tree.on_failure = scope.cancel
                retain = partial(_retain, backend, app, environment, limits, blobs) if app.retention else None
                await tree.start(nursery, models, (*app.projections, *app.sql), retain)
                yield rt
        except BaseException as error:  # noqa: ASYNC103 - raised below, outside the nursery, so that it leaves as it is
            body = error
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.close_s):
                await tree.close(models, rt._subscriptions.values())
        except Exception as error:
            closing = error
        except BaseException as error:  # noqa: ASYNC103 - a second Ctrl-C: raised below as well
            body = error if body is None else BaseExceptionGroup("the body and closing failed", [body, error])
        finally:
            tree.cut()
            nursery.cancel_scope.cancel()
    models.end()
    hub.close()
    _leave(body, tree.failure or closing)


async def _retain(backend: Backend, app: App, environment: Environment, limits: Limits, blobs: BlobStore | None, tell: Callable[[str], object]) -> None:
    """What the app's retention allows goes, again and again."""

    def told(done: Retained | PerdureError) -> None:
        if isinstance(done, PerdureError):
            tell(f"nothing goes now: {done}")
        elif done.gone:
            tell(f"{done.events:,} events of {len(done.gone):,} streams were cut" + (f" and are in archive {done.archive}" if done.archive else ""))

    await keep_up(backend, app.retention, ids=environment.ids, blobs=blobs, tell=told, limits=limits)


async def _shielded(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery that cancellation from outside does not reach: the actors go on until they have been closed in order."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


def _leave(body: BaseException | None, failure: BaseException | None) -> None:
    """Raise what is to leave: the body's own exception, `RuntimeFailed`, or both."""
    if failure is None:
        if body is not None:
            raise body
        return
    failed = RuntimeFailed()
    failed.__cause__ = failure
    if body is None:
        raise failed
    raise BaseExceptionGroup("the body and the runtime failed", [body, failed])
