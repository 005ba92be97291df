"""`retain`: let go what an app's retention allows to."""

from __future__ import annotations

from typing import Annotated, Final

import attrs
from cyclopts import Parameter

from perdure.backends.environment import random_id
from perdure.backends.errors import Misuse
from perdure.runtime import retention
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.blobstores import archive_store
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.hold import consumer_document
from perdure.runtime.cli.options import AppName, AsJson, Url
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.store import told_bytes
from perdure.runtime.cli.stores import reading

STREAMS_SHOWN: Final = 20


def retain(
    url: Url,
    /,
    *,
    app: AppName,
    blobs: Annotated[str | None, Parameter(help="Where archives go: directory:DIR, or ipfs://HOST:PORT.")] = None,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False, help="Say what would go, and how many bytes; change nothing.")] = False,
    json: AsJson = False,
) -> int:
    """Cut what the app's retention allows to go.

    What is to be archived is in a blob before it goes. Nothing goes that a projection, a named subscription or a hold has not passed: who
    holds back what is told (see `perdure hold`). Files get smaller with `perdure compact`.

    For example:

        perdure retain lmdb:shop --app shop:app --blobs directory:blobs --dry-run

    JSON: url, events, bytes, gone (of each stream: stream, first, events, bytes), archive, held, waiting, holders (name, position, why), dry.
    """
    policies = load_app(app).retention
    if not policies:
        raise Misuse(f"--app {app!r} has no retention: write App(..., retention=[Retention(categories=[...], age_s=...)])")

    async def command() -> int:
        async with reading(url) as backend, archive_store(None if dry_run else blobs, create=True) as store:
            with out.told(f"retaining in {url}") as progress:
                done = await retention.retain(backend, policies, ids=random_id, blobs=store, dry_run=dry_run, progress=progress)
        if json:
            holders = [consumer_document(one) for one in done.holders]
            out.document({"url": url, "events": done.events, "bytes": done.bytes, **attrs.asdict(done, recurse=True), "holders": holders})
        else:
            _tell(done)
            if done.gone and not dry_run:
                out.hint(f"give the room back to the disk: perdure compact {url}")
        return Exit.DONE

    return run_async(command)


def _tell(done: retention.Retained) -> None:
    most = sorted(done.gone, key=lambda gone: -gone.bytes)[:STREAMS_SHOWN]
    out.Columns("stream", "first", "events>", "bytes>").print([(gone.stream, gone.first, f"{gone.events:,}", f"{gone.bytes:,}") for gone in most])
    if len(done.gone) > len(most):
        out.line(f"... and {len(done.gone) - len(most):,} streams of which less goes (all with --json)")
    for why in done.held:
        out.note(why)
    went = "would go" if done.dry else "went"
    where = f"; archive {done.archive}" if done.archive else ""
    out.line(f"{done.events:,} events of {len(done.gone):,} streams {went}, {told_bytes(done.bytes)}{where}")
    if done.waiting:
        out.line(f"{done.waiting:,} more are held back, by:")
        for one in done.holders:
            out.line(f"  {one}")
