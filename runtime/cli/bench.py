"""`bench`: a quick measurement of a store where it would stand. `make bench` compares; this one only tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter

from perdure.actors.fold import Fold
from perdure.backends.conformance.stores import stores_of
from perdure.backends.errors import Misuse
from perdure.backends.event import Event
from perdure.backends.limits import LIMITS
from perdure.backends.schema import event
from perdure.backends.selector import of
from perdure.runtime.app import App
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url
from perdure.runtime.cli.run import run_async
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

WRITERS: Final = 64
BULK: Final = 1_000


@event("bench-payment-made")
@attrs.frozen
class Payment:
    """About 100 bytes, as a plain event has."""

    account: str
    cents: int
    text: str = "invoice 2026-03-17, thank you for your order"


@attrs.frozen
class Row:
    """What one measurement gave."""

    what: str
    events: int
    seconds: float
    events_per_s: float


class Watch:
    """Runs a piece of work again and again until its time is up."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.events = 0
        self._end = 0.0

    @property
    def running(self) -> bool:
        """Whether there is time left."""
        return trio.current_time() < self._end

    async def measure(self, what: str, work: Callable[[Watch], Awaitable[None]]) -> Row:
        """The rate of *work*, which adds to `events` while `running`."""
        self.events, began = 0, trio.current_time()
        self._end = began + self.limit_s
        await work(self)
        took_s = trio.current_time() - began
        return Row(what, self.events, round(took_s, 4), round(self.events / took_s, 1))


def bench(
    url: Url,
    /,
    *,
    seconds: Annotated[float, Parameter(help="So long for each row.")] = 2.0,
    json: AsJson = False,
) -> int:
    """Measure appends and a replay.

    In a scratch store below the URL's folder, which is removed afterwards.

    For example:

        perdure bench lmdb:shop --seconds 5

    JSON: what, events, seconds, events_per_s.
    """
    if not 0 < seconds <= 3600:
        raise Misuse(f"--seconds is a time above 0 and up to 3600, not {seconds:g}")

    async def command() -> int:
        with stores_of(url, limits=LIMITS, faults=False) as stores:
            async with stores.open("bench") as backend, open_runtime(backend, App(events=of(Payment))) as rt:
                rows = await _rows(rt, seconds)
        if json:
            for row in rows:
                out.document(attrs.asdict(row))
        else:
            out.Columns("what", "events>", "seconds>", "events/s>").print(
                [(row.what, f"{row.events:,}", f"{row.seconds:.2f}", f"{row.events_per_s:,.0f}") for row in rows]
            )
        return Exit.DONE

    return run_async(command)


async def _rows(rt: Runtime, seconds: float) -> list[Row]:
    works: dict[str, Callable[[Watch], Awaitable[None]]] = {
        "one writer, one event each": partial(_one_writer, rt, "account-one", 1),
        f"{WRITERS} writers, one event each": partial(_writers, rt),
        f"bulk, {BULK:,} events each": partial(_one_writer, rt, "account-bulk", BULK),
        "replay into a fold": partial(_replay, rt),
    }
    rows = []
    with out.bar("measuring", len(works)) as step:
        for what, work in works.items():
            step(0, what)
            rows.append(await Watch(seconds).measure(what, work))
            step()
    return rows


async def _one_writer(rt: Runtime, stream: str, size: int, watch: Watch) -> None:
    for start in count(step=size):
        await rt.append(stream, [Payment(stream, number) for number in range(start, start + size)])
        watch.events += size
        if not watch.running:
            return


async def _writers(rt: Runtime, watch: Watch) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(WRITERS):
            nursery.start_soon(_one_writer, rt, f"account-{number}", 1, watch)


async def _replay(rt: Runtime, watch: Watch) -> None:
    while True:
        _, last = await rt.fold("account-bulk", Fold(initial=0, step=_add))
        watch.events += last
        if not watch.running:
            return


def _add(total: int, event: Event[Payment]) -> int:
    return total + event.data.cents
