"""`retain`: let go what an app's retention allows to."""

from __future__ import annotations

from typing import Annotated

import attrs
from cyclopts import Parameter

from perdure.backends.environment import random_id
from perdure.backends.errors import Misuse
from perdure.runtime import retention
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.blobstores import archive_store
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AppName, AsJson, Url
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.store import told_bytes
from perdure.runtime.cli.stores import reading


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

    What is to be archived is in a blob before it goes. Nothing goes that a projection, a named subscription or a hold has not passed. Files get
    smaller with `perdure compact`.

    For example:

        perdure retain lmdb:shop --app shop:app --blobs directory:blobs --dry-run

    JSON: url, events, bytes, gone (of each stream: stream, first, events, bytes), archive, held, dry.
    """
    policies = load_app(app).retention
    if not policies:
        raise Misuse(f"--app {app!r} has no retention: write App(..., retention=[Retention(categories=[...], age_s=...)])")

    async def command() -> int:
        async with reading(url) as backend, archive_store(blobs) as store:
            with out.told(f"retaining in {url}") as progress:
                done = await retention.retain(backend, policies, ids=random_id, blobs=store, dry_run=dry_run, progress=progress)
        if json:
            out.document({"url": url, "events": done.events, "bytes": done.bytes, **attrs.asdict(done)})
            return Exit.DONE
        columns = out.Columns("stream", "first>", "events>", "bytes>")
        columns.print([attrs.astuple(gone) for gone in done.gone])
        for why in done.held:
            out.note(why)
        went = "would go" if dry_run else "went"
        where = f"; archive {done.archive}" if done.archive else ""
        out.line(f"{done.events:,} events of {len(done.gone):,} streams {went}, {told_bytes(done.bytes)}{where}")
        return Exit.DONE

    return run_async(command)
