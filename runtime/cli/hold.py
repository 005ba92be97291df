"""`hold list|put|drop`: who keeps events from being cut, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from perdure.backends.environment import random_id
from perdure.backends.event import Position
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import reading
from perdure.runtime.consumers import Consumer, consumers, drop_consumer, put_hold

app = App(name="hold", help="Say who keeps events from being cut, and let go.")


@app.command(name="list")
def list_(url: Url, /, *, json: AsJson = False) -> int:
    """List all that have registered a place: projections, named subscriptions, holds. Nothing beyond the lowest place is cut.

    The lowest comes first; behind: so many positions up to the head.

    For example:

        perdure hold list lmdb:shop

    JSON: name, position, why.
    """

    async def command() -> int:
        async with reading(url) as backend:
            found, head = await consumers(backend), await backend.head()
        if json:
            for one in found:
                out.document(consumer_document(one))
        out.Columns("position>", "behind>", "name", "why").print([(one.position, head - one.position, one.name, one.why) for one in found if not json])
        return Exit.DONE

    return run_async(command)


@app.command
def put(
    url: Url,
    name: Annotated[str, Parameter(help="The hold's name, of your choice.")],
    /,
    *,
    position: Annotated[int, Parameter(help="What is beyond this position stays; 0: everything that is still there.")] = 0,
    why: Annotated[str, Parameter(help="For whoever finds it.", show_default=False)] = "",
    json: AsJson = False,
) -> int:
    """Keep what is beyond a position from being cut, until the hold is put elsewhere or dropped.

    For example:

        perdure hold put lmdb:shop audit --why "case 17"

    JSON: name, position, why.
    """

    async def command() -> int:
        async with reading(url) as backend:
            await put_hold(backend, name, Position(position), why=why, ids=random_id)
        if json:
            out.document({"name": name, "position": position, "why": why})
        else:
            out.line(f"{name} holds what is beyond position {position}")
        return Exit.DONE

    return run_async(command)


@app.command
def drop(url: Url, name: Annotated[str, Parameter(help="The name, as hold list prints it.")], /, *, json: AsJson = False) -> int:
    """Let go what somebody holds: a hold of yours, or the place of a projection or subscription that no program has any more.

    Should a projection come back it is built anew, and a subscription begins where its program says, from what is there then.

    For example:

        perdure hold drop lmdb:shop audit

    JSON: name, dropped (positions).
    """

    async def command() -> int:
        async with reading(url) as backend:
            found = await drop_consumer(backend, name, ids=random_id)
        if json:
            out.document({"name": name, "dropped": [one.position for one in found]})
        for one in found if not json else ():
            out.line(f"dropped {one}")
        if not found:
            out.note(f"nobody of that name holds anything: `perdure hold list {url}` lists who does")
        return Exit.DONE if found else Exit.NO

    return run_async(command)


def consumer_document(one: Consumer) -> dict[str, Any]:
    """It as JSON."""
    return {"name": one.name, "position": one.position, "why": one.why}
