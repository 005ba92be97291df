"""`export`, `import`: the log as lines of CloudEvents."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import attrs
from cyclopts import Parameter

from perdure.backends.environment import random_id
from perdure.backends.errors import Misuse
from perdure.backends.event import Position
from perdure.backends.selector import EVERYTHING
from perdure.backends.urls import open_backend
from perdure.runtime import exchange
from perdure.runtime.cli import out, stdin
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url, at_least_0
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import reading


def export(
    url: Url,
    /,
    *,
    after: Annotated[int | None, Parameter(help="Only events beyond this position.")] = None,
    type: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="Only events of this type; repeat it for more.")] = (),
    over_cuts: Annotated[bool, Parameter(negative=(), show_default=False, help="What is left, where events have been cut.")] = False,
    json: AsJson = False,
) -> int:
    """Print the log as CloudEvents, one JSON document per line.

    All of each event is in its line, so that `perdure import` makes the same store of them. kv is not part of it.

    For example:

        perdure export lmdb:shop > shop.jsonl
    """
    position = Position(at_least_0("--after", after))
    where = EVERYTHING.within(types=type) if type else EVERYTHING

    async def command() -> int:
        async with reading(url) as backend:
            with out.told(f"exporting {url}") as progress:
                await exchange.export(backend, out.raw, after=position, where=where, over_cuts=over_cuts, progress=progress)
        return Exit.DONE

    return run_async(command)


def import_(
    url: Url,
    file: Annotated[str, Parameter(help="What was exported; - reads standard input.", allow_leading_hyphen=True)],
    /,
    *,
    append: Annotated[bool, Parameter(negative=(), show_default=False, help="As new events, into a store that may have others.")] = False,
    anew: Annotated[bool, Parameter(negative=(), show_default=False, help="Forget what an import that was cut off has loaded.")] = False,
    json: AsJson = False,
) -> int:
    """Store the events of an export.

    In a new store, under the positions, seqs, ids and times that they had; an import that was cut off goes on when it is
    begun again. With --append as new events at the end of a store, each once, however often it is tried.

    For example:

        perdure import lmdb:copy shop.jsonl

    JSON: url, events, known, head.
    """
    if append and anew:
        raise Misuse("--anew is for a new store, and --append for one that is there: leave one out")

    async def command() -> int:
        with ExitStack() as stack:
            lines = stdin.Lines(stdin.Pieces(stdin.opened(file, stack)))
            progress = stack.enter_context(out.told(f"importing {file}"))
            async with open_backend(url, loading=not append) as backend:
                if append:
                    done = await exchange.import_append(backend, lines, ids=random_id, progress=progress)
                else:
                    done = await exchange.import_new(backend, lines, anew=anew, progress=progress)
        if json:
            out.document({"url": url, **attrs.asdict(done)})
        else:
            known = f" ({done.known:,} more were there already)" if done.known else ""
            out.line(f"{done.events:,} events imported{known}; the log ends at position {done.head}")
        return Exit.DONE

    return run_async(command)
