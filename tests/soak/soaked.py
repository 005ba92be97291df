"""The app of the soak, and a daemon on it whose projection actors are killed at random. `python soaked.py STORE SEED EVERY_S FLAG...`."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import attrs
import trio

from perdure.runtime import App, Event, Keyed, Projection, event, of
from perdure.runtime.serve.config import load
from perdure.runtime.serve.daemon import serve
from perdure.runtime.serve.service import Service

MODELS = 50
STREAMS = 20


@event("moved")
@attrs.frozen
class Moved:
    writer: int
    number: int
    amount: int


@attrs.frozen
class Sum:
    """Order counts: a fold that missed, doubled or swapped an event would differ."""

    events: int = 0
    amount: int = 0
    digest: int = 0


def counting(factor: int) -> Callable[[Sum, Event[Moved]], Sum]:
    """The step of model number *factor*."""

    def step(state: Sum, event: Event[Moved]) -> Sum:
        digest = (state.digest * 31 + event.data.number * factor + event.data.writer) % (1 << 61)
        return Sum(state.events + 1, state.amount + event.data.amount, digest)

    return step


SINGLES = [Projection(f"sum-{n:02}", version=1, initial=Sum(), step=counting(n + 1), events=of(Moved)) for n in range(MODELS - 10)]
KEYED = [
    Keyed(f"by-{n:02}", version=1, initial=Sum(), step=counting(n + 1), events=of(Moved), key=lambda event: event.stream) for n in range(MODELS - 10, MODELS)
]
app = App(projections=[*SINGLES, *KEYED])


async def main(store: str, seed: int, every_s: float, flags: dict[str, str]) -> int:
    """Serve until a signal ends it, and kill an actor now and then."""
    config, drawn, killed = load(None, {}, {"store": store, **flags}), random.Random(seed), 0
    ended: list[int] = []

    async def daemon(*, task_status: trio.TaskStatus[Service]) -> None:  # noqa: ASYNC128 - handed on
        ended.append(await serve(app, config, task_status=task_status))

    async with trio.open_nursery() as nursery:
        service: Service = await nursery.start(daemon)
        print(f"listening on {service.urls[0]}", flush=True)
        while not ended and not service.draining:
            await trio.sleep(every_s * (0.5 + drawn.random()))
            if not service.draining:
                service.rt._models.crash(drawn.choice(app.projections).name, RuntimeError("killed by the soak"))
                killed += 1
                print(f"killed {killed}", flush=True)
    return ended[0]


if __name__ == "__main__":
    given = dict(one.split("=", 1) for one in sys.argv[4:])
    sys.exit(trio.run(main, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), given))
