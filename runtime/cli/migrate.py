"""`migrate`: a store goes to another backend while it is in use."""

from __future__ import annotations

from typing import Annotated

import attrs
from cyclopts import Parameter

from perdure.backends.errors import Misuse
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson
from perdure.runtime.cli.run import run_async
from perdure.runtime.cutover import PAUSE_S
from perdure.runtime.migrate import Migrated, migrate_store, place_of_url, roll_back


def migrate(
    source: Annotated[str, Parameter(help="Where the store is.", allow_leading_hyphen=True)],
    target: Annotated[str, Parameter(help="Where it shall be: where there is none yet.", allow_leading_hyphen=True)],
    /,
    *,
    pause: Annotated[float, Parameter(help="So many seconds writers wait at most.")] = PAUSE_S,
    rollback: Annotated[bool, Parameter(negative=(), show_default=False, help="Take it back to SOURCE, while TARGET has accepted nothing of its own.")] = False,
    json: AsJson = False,
) -> int:
    """Bring a store to another backend while others use it.

    Id, positions, revisions, keys, leases, checkpoints and snapshots stay as they are. At the end writers wait for a moment; from then
    on the store is at TARGET, and whoever writes at SOURCE is told so. If it is cut off, the same command goes on with it. A memory: store, and a
    file: store in use, can be migrated by their own process only.

    For example:

        perdure migrate lmdb:shop postgresql://shop@localhost/shop

    JSON: store, source, target, head, revision, events, entries, log_digest, paused_s, longest_pause_s, attempts; or store.
    """
    if not pause > 0:
        raise Misuse(f"--pause {pause:g}: writers wait for more than 0 s")

    async def command() -> int:
        if rollback:
            with out.busy(f"going back to {source}"):
                await roll_back(source, target)
            if json:
                out.document({"store": place_of_url(source)})
            else:
                out.facts([("store", f"{place_of_url(source)}, again")])
            return Exit.DONE
        with out.told(f"migrating {source}") as progress:
            done = await migrate_store(source, target, pause_s=pause, progress=progress)
        if json:
            out.document(attrs.asdict(done))
        else:
            out.facts(_facts(done))
        return Exit.DONE

    return run_async(command)


def _facts(done: Migrated) -> list[tuple[str, object]]:
    return [
        ("store", done.target),
        ("id", f"{done.store}, as it was"),
        ("head", f"position {done.head}"),
        ("kv revision", f"{done.revision:,}"),
        ("brought", f"{done.events:,} events, {done.entries:,} entries"),
        ("verified", f"digest of the log {done.log_digest}" if done.log_digest else "before: it had all been done"),
        ("writers", f"waited for {done.paused_s * 1e3:.0f} ms"),
    ]
