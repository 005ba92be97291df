"""`serve`: the daemon."""

from __future__ import annotations

import gc
import os
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from perdure.backends.errors import MissingExtra, Misuse
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.options import AsJson

EXTRA = ("starlette", "hypercorn", "h11", "anyio", "prometheus_client", "structlog")


def serve(
    app: Annotated[str, Parameter(help="Where the App is: module:name, the current folder first.")],
    /,
    *,
    store: Annotated[str | None, Parameter(help="The store: lmdb:DIR, for example.")] = None,
    config: Annotated[str | None, Parameter(help="A TOML file with the configuration; docs/serve.md lists what may be in it.")] = None,
    listen: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="HOST:PORT to listen on; repeat it for more.")] = (),
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="NAME=VALUE of the configuration; repeat it for more.")] = (),
    json: AsJson = False,
) -> int:
    """Run an app's projections on a store, and let other programs use it over HTTP.

    Until SIGTERM or Ctrl-C: then it finishes what is under way, within `drain_s` (5 seconds), and exits with 0; with 1 if that was too short.
    SIGHUP reads the configuration again. Where it listens is printed once it answers.

    For example:

        perdure serve shop:app --store lmdb:shop --listen 127.0.0.1:8467

    JSON: listening.
    """
    try:
        from perdure.runtime.serve.config import load
        from perdure.runtime.serve.daemon import serve as run
        from perdure.runtime.serve.notify import Notifier
        from perdure.runtime.serve.service import Service
        from perdure.runtime.serve.telling import tell
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise MissingExtra("the daemon", "serve") from error

    flags = _flags(store, listen, set)

    def configured() -> Any:
        return load(config, os.environ, flags)

    told = configured()
    if not told.store:
        raise Misuse("which store? name it by --store URL, or as store in the configuration")
    loaded = load_app(app)
    teller = tell(told.log_format, told.log_level)

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            ended: list[int] = []

            async def daemon(*, task_status: trio.TaskStatus[Service]) -> None:  # noqa: ASYNC128 - handed on
                ended.append(await run(loaded, told, reread=configured, notifier=Notifier.of(os.environ), task_status=task_status))

            service: Service = await nursery.start(daemon)
            service.log_lines_lost = lambda: teller.lost
            gc.collect()
            gc.freeze()  # what was imported and opened lives as long as the process: no collection looks at it again
            for url in service.urls:
                if json:
                    out.document({"listening": url})
                else:
                    out.line(f"listening on {url}")
            out.flush()
        return ended[0]

    try:
        return trio.run(main)
    finally:
        teller.end()


def _flags(store: str | None, listen: tuple[str, ...], given: tuple[str, ...]) -> dict[str, Any]:
    """What the command line says, as the configuration takes it."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise Misuse(f"--set {one!r}: write NAME=VALUE, as in drain_s=10")
        found[name.strip()] = value
    if store is not None:
        found["store"] = store
    if listen:
        found["listen"] = list(listen)
    return found
