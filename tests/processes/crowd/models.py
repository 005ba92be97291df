"""Projecting, and reading what another process projects."""

from __future__ import annotations

from typing import Any

import trio

from crowd.domain import Done, Tally, all_of, each_of
from crowd.notes import Notebook
from crowd.options import Options
from perdure.runtime import Keyed, KeyedModel, Model, Projection, Runtime, What, lifecycle

LOOK_EVERY_S = 0.02
"""A model is looked at so often: between two looks it may move many times."""


def projections(options: Options) -> list[Projection[Tally, Done] | Keyed[Tally, Done]]:
    """What a projecting member runs."""
    suffixes = [options.suffix, *(f"{options.suffix}-{number}" for number in range(2, options.pairs + 1))]
    return [make(suffix) for suffix in suffixes for make in (all_of, each_of)]


async def host(rt: Runtime, options: Options, notes: Notebook) -> None:
    """The app runs them, here or elsewhere; note which are run here."""
    ran: set[str] = set()
    while True:
        parts = [rt.status().find(name) for name in ("projections", "subscriptions")]
        running = {one.name for part in parts if part is not None for one in part.children if one.state == "running"}
        for name in sorted(running ^ ran):
            notes.write("runs" if name in running else "waits", name)
        ran = running
        await trio.sleep(LOOK_EVERY_S)


async def project(rt: Runtime, options: Options, notes: Notebook) -> None:
    """The app runs them; note what they show, and what they are warned of."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note_warnings, rt, notes)
        await look(rt, options, notes)


async def note_warnings(rt: Runtime, notes: Notebook) -> None:
    """Above all: that another process runs the same projection."""
    async with lifecycle(rt) as happenings:
        async for happened in happenings:
            if happened.what is not What.STARTED:
                notes.write("warned", happened.actor, happened.what.name)


async def read(rt: Runtime, options: Options, notes: Notebook) -> None:
    """The models of projections that other processes run."""
    await look(rt, options, notes)


async def look(rt: Runtime, options: Options, notes: Notebook) -> None:
    """Note what the models show, whenever it has changed, for ever."""
    single, keyed = rt.model(all_of(options.suffix)), rt.model(each_of(options.suffix))
    shown: dict[str, Any] = {}
    while True:
        await note_single(single, shown, notes)
        await note_keyed(keyed, shown, notes)
        await trio.sleep(LOOK_EVERY_S)


async def note_single(model: Model[Tally], shown: dict[str, Any], notes: Notebook) -> None:
    """State and position belong together: no Trio checkpoint lies between reading both."""
    await model.refresh()
    now = (model.position, model.state)
    if shown.get("-") != now:
        shown["-"] = now
        notes.write("model", model.name, "-", model.position, model.state.events, model.state.digest)


async def note_keyed(model: KeyedModel[Tally], shown: dict[str, Any], notes: Notebook) -> None:
    """Each key at a position of its own."""
    await model.refresh()
    async for entry in model.scan():
        if shown.get(f"={entry.key}") != entry.state:
            shown[f"={entry.key}"] = entry.state
            notes.write("model", model.name, entry.key, 0, entry.state.events, entry.state.digest)
    if shown.get("position") != model.position:
        shown["position"] = model.position
        notes.write("stands", model.name, model.position)
