# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""What holds for every history: models equal the reference fold of the log, byte for byte, however they got there."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from perdure.backends.codec import Codec
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.memory import open_memory
from perdure.runtime import App, Append, Delete, Keyed, Limits, Projection, Put, event, of, open_runtime
from perdure.runtime.testing import crash, encoded


@event("random-thing")
@attrs.frozen
class Thing:
    number: int
    keys: tuple[str, ...] = ()


@event("random-other")
@attrs.frozen
class Other:
    pass


@attrs.frozen
class State:
    count: int = 0
    numbers: tuple[int, ...] = ()
    seen: frozenset[str] = frozenset()


def step(state, event):
    return State(state.count + 1, (*state.numbers, event.data.number)[-4:], state.seen | set(event.data.keys))


ALL = Projection("all", version=1, initial=State(), step=step, events=of(Thing))
BY = Keyed("by", version=1, initial=State(), step=step, events=of(Thing), key=lambda event: event.data.keys)
APP = App(projections=[ALL, BY])
INLINE = Environment(threads=InlineThreads())

things = st.builds(Thing, st.integers(0, 99), st.lists(st.sampled_from("abcdefgh"), max_size=3).map(tuple))
operations = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("xyz"), st.lists(st.one_of(things, st.just(Other())), max_size=5)),
    st.tuples(st.just("transact"), st.sampled_from("xyz"), st.lists(things, min_size=1, max_size=3)),
    st.tuples(st.just("crash"), st.sampled_from([ALL, BY]), st.none()),
    st.tuples(st.just("restart"), st.none(), st.none()),
    st.tuples(st.just("rest"), st.floats(0, 8), st.none()),
    st.tuples(st.just("wait"), st.none(), st.none()),
)


async def live(backend, history, limits):
    """Play *history*, and return the states that are kept at the end."""
    todo, events = list(history), []
    while True:
        async with open_runtime(backend, APP, limits=limits) as rt:
            while todo:
                what, which, more = todo.pop(0)
                if what == "append":
                    await rt.append(f"{which}-1", more)
                elif what == "transact":
                    await rt.transact(Append(f"{which}-1", more), Put("k", which, len(more)), Delete("k", "none"))
                elif what == "crash":
                    crash(rt, which)
                elif what == "restart":
                    break
                elif what == "rest":
                    await trio.sleep(which)
                else:
                    await rt.model(BY).wait_for(await rt.head())
            else:
                for projection in (ALL, BY):
                    await rt.model(projection).wait_for(await rt.head())
                events = [found async for found in rt.read_all()]
                break
    async with open_runtime(backend, limits=limits) as rt:
        encode = Codec().encoder(State)
        model = await rt.model(ALL).refresh()
        kept = {"": encode(model.state)}
        crashed = any(what == "crash" for what, _, _ in history)
        assert crashed or not events or model.position == events[-1].position  # closing keeps all, but for what a crash just lost
        reached = [found for found in events if found.position <= model.position]
        by = {entry.key: encode(entry.state) async for entry in rt.model(BY).scan()}
        assert await backend.verify() == []
    return events, reached, kept, by


def run(main, *args):
    return trio.run(main, *args, clock=MockClock(autojump_threshold=0))


@settings(max_examples=60)
@given(st.lists(operations, max_size=25), st.sampled_from([1, 2, 5, 1_000]), st.sampled_from([1, 500, 1 << 20]), st.sampled_from([1, 300, 1 << 20]))
def test_models_equal_the_reference_fold(history, page, memory, ring):
    async def main():
        backend = open_memory(environment=INLINE)
        return await live(backend, history, Limits(page_records=page, keyed_memory_bytes=memory, ring_bytes=ring))

    events, reached, kept, by = run(main)

    assert kept == encoded(Codec(), ALL, reached)
    assert by == encoded(Codec(), BY, events)


def test_replay_is_byte_identical_under_any_hash_seed():
    """The same history in three processes with three seeds."""
    code = (
        "import importlib.util, sys, logging; logging.disable(50)\n"
        f"spec = importlib.util.spec_from_file_location('properties', {__file__!r})\n"
        "m = sys.modules['properties'] = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)\n"
        "h = [('append', 'xyz'[n % 3], [m.Thing(n, tuple('abcdefgh'[n % 5 : n % 5 + 3]))]) for n in range(40)]\n"
        "h[10:10] = [('restart', None, None)]; h[20:20] = [('crash', m.ALL, None), ('crash', m.BY, None), ('rest', 7.0, None)]\n"
        "events, reached, kept, by = m.run(m.live, m.open_memory(environment=m.INLINE), h, m.Limits(page_records=7))\n"
        "print(sorted(kept.items()), sorted(by.items()))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    told = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}, capture_output=True, check=True).stdout
        for seed in ("0", "1", "77")
    }

    assert len(told) == 1 and len(told.pop()) > 100
