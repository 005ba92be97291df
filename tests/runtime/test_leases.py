"""Leases of a runtime on a store that processes share: what is written, what the status tells, and what the store's troubles do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from perdure.actors import snapshots
from perdure.backends.commit import BEATS, LEASES, NEW_FENCE, Put
from perdure.backends.conformance.law import Desk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.faulty import FaultyBackend
from perdure.backends.processes import NamedProcess, RealProcesses, told
from perdure.runtime import START, App, LeaseLost, Limits, Misuse, ModelFaulted, Position, Projection, event, of, open_backend, open_runtime

INLINE = Environment(threads=InlineThreads())
LIMITS = Limits(lease_s=10)


@event("ticked")
@attrs.frozen
class Ticked:
    number: int = 1


SUM = Projection("sum", version=1, initial=0, step=lambda state, event: state + event.data.number, events=of(Ticked))
APP = App(projections=[SUM, *(attrs.evolve(SUM, name=f"sum-{number}") for number in range(9))])


@pytest.fixture
def url(tmp_path):
    return f"lmdb:{tmp_path / 'store'}"


@asynccontextmanager
async def two(url, *, limits=LIMITS, app=APP):
    async with open_runtime(url, app, limits=limits, environment=INLINE) as one, open_runtime(url, app, limits=limits, environment=INLINE) as other:
        yield one, other


async def entries(rt, bucket):
    return await rt.backend.scan(bucket, limit=100)


# -- what is written -------------------------------------------------------------------------


async def test_one_commit_takes_all_leases_and_one_gives_them_back(url, autojump_clock):
    async with open_runtime(url, APP, environment=INLINE) as rt:
        assert (len(await entries(rt, LEASES)), len(await entries(rt, BEATS)), rt.status().journal.commits) == (10, 1, 1)
    async with open_backend(url) as backend:
        assert (await backend.scan(LEASES, limit=9), await backend.scan(BEATS, limit=9)) == ([], [])


async def test_an_idle_owner_writes_one_entry_three_times_in_the_lease_time(url, autojump_clock):
    async with open_runtime(url, APP, limits=LIMITS, environment=INLINE) as rt:
        before = rt.status().journal.commits
        await trio.sleep(LIMITS.lease_s * 10)
        assert 29 <= rt.status().journal.commits - before <= 31


async def test_who_runs_nothing_writes_nothing(url, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt, rt.subscribe(of(Ticked), after=START):
        await trio.sleep(LIMITS.lease_s * 10)
        assert rt.status().journal.commits == 0


async def test_where_no_other_process_can_write_there_are_no_leases(autojump_clock):
    async with open_runtime("memory:", APP) as rt:
        await trio.sleep(LIMITS.lease_s * 10)
        assert (rt.status().journal.commits, await entries(rt, LEASES)) == (0, [])


# -- what the status tells -------------------------------------------------------------------


async def test_the_status_names_the_owner(url, autojump_clock):
    async with two(url) as (one, other), one.subscribe(of(Ticked), after=START, name="audit") as audit:
        await one.append("a-1", [Ticked()])
        await anext(audit)
        found = [rt.status().find("sum") for rt in (one, other)]
        held = one.status().find("leases")

        assert [(actor.state, actor.owner) for actor in found] == [
            ("running", f"process {os.getpid()} on {os.uname().nodename}"),
            ("standing by", f"process {os.getpid()} on {os.uname().nodename}"),
        ]
        assert len(held.children) == 11
        assert one.status().find("audit").owner is not None


# -- models ----------------------------------------------------------------------------------


async def test_a_model_is_waited_for_where_another_process_runs_it(url, monkeypatch, autojump_clock):
    monkeypatch.setattr(snapshots, "IDLE_S", 0.5)
    async with open_runtime(url, environment=INLINE) as reader:
        with pytest.raises(ModelFaulted):
            await reader.model(SUM).wait_for(Position(1))
        async with open_runtime(url, APP, environment=INLINE) as owner:
            for number in range(5):
                await owner.append("a-1", [Ticked(number)])
            with trio.fail_after(5):
                await reader.model(SUM).wait_for(Position(5))
            assert reader.model(SUM).state == 10
        with pytest.raises(ModelFaulted):
            await reader.model(SUM).wait_for(Position(6))


async def test_nobody_waits_for_an_owner_that_is_dead(url, autojump_clock):
    async with open_runtime(url, environment=INLINE) as reader:
        await Desk(reader.backend).done(Put(LEASES, b"projection sum", NEW_FENCE + b"x"), Put(BEATS, b"x", (10_000).to_bytes(8, "big") + b"process 1 on moon"))
        began = trio.current_time()
        with pytest.raises(ModelFaulted):
            await reader.model(SUM).wait_for(Position(1))
        assert trio.current_time() - began == pytest.approx(reader.limits.lease_s, abs=1.1)


# -- trouble ---------------------------------------------------------------------------------


async def test_what_the_store_did_not_take_back_is_given_back_later(url, autojump_clock, caplog):
    caplog.set_level(logging.ERROR)
    async with open_backend(url, environment=INLINE) as inner:
        backend = FaultyBackend(inner)
        async with open_runtime(backend, limits=LIMITS) as rt:
            async with rt.lease("job"):
                backend.fail("commit", Unavailable("a test"))
            assert len(await entries(rt, LEASES)) == 1
            await trio.sleep(LIMITS.lease_s / 10)
            assert (await entries(rt, LEASES), await entries(rt, BEATS)) == ([], [])


async def test_a_lease_is_lost_when_the_store_takes_no_beat_and_can_be_had_again(url, autojump_clock, caplog):
    caplog.set_level(logging.ERROR)
    async with open_backend(url, environment=INLINE) as inner:
        backend = FaultyBackend(inner)
        async with open_runtime(backend, limits=LIMITS) as rt:
            began = trio.current_time()
            with pytest.raises(LeaseLost):
                async with rt.lease("job") as first:
                    backend.fail("commit", Unavailable("a test"), for_good=True)
                    await trio.sleep_forever()
            assert trio.current_time() - began == pytest.approx(LIMITS.lease_s * 0.7, abs=0.1)
            backend.heal()
            async with rt.lease("job") as second:
                assert second.fence.number > first.fence.number


async def test_an_acquisition_in_doubt_is_made_again(url, autojump_clock, caplog):
    caplog.set_level(logging.ERROR)
    async with open_backend(url, environment=INLINE) as inner:
        backend = FaultyBackend(inner)
        async with open_runtime(backend, limits=attrs.evolve(LIMITS, commit_s=1)) as rt:
            backend.delay("commit", 1.5, nth=1, after=True)
            with trio.fail_after(5):
                async with rt.lease("job") as lease:
                    entry = (await entries(rt, LEASES))[0]
                    assert int.from_bytes(entry.value[:8], "big") == lease.fence.number == entry.revision


async def test_what_a_dead_process_held_is_taken_at_once(url):
    """By its pid, on the same machine; who cannot know that waits for the lease time."""
    code = f"""
import os, trio
from perdure.runtime import open_runtime
async def main():
    async with open_runtime({url!r}) as rt, rt.lease("job"):
        os._exit(9)
trio.run(main)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9

    async with open_runtime(url, limits=LIMITS) as rt:
        with trio.fail_after(2):
            async with rt.lease("job"):
                pass


async def test_a_name_is_checked(url):
    async with open_runtime(url) as rt:
        for name in ("", "$own", "line\nend"):
            with pytest.raises(Misuse):
                async with rt.lease(name):
                    pass


async def test_who_waits_for_a_lease_can_be_cancelled(url, autojump_clock):
    async with two(url, app=App()) as (one, other):
        async with one.lease("job"):
            with trio.move_on_after(30) as scope:
                async with other.lease("job"):
                    raise AssertionError
        assert scope.cancelled_caught
        async with one.lease("job"):
            pass


# -- processes -------------------------------------------------------------------------------


def test_a_process_knows_itself_and_the_dead():
    here = RealProcesses()
    code = f"from perdure.backends.processes import RealProcesses as R; print(R().mine()); R().gone({here.mine()!r}) and exit(1)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    name = child.communicate()[0].strip()

    assert child.returncode == 0
    assert told(name) == f"process {child.pid} on {os.uname().nodename}"
    assert here.gone(name)
    assert not here.gone(here.mine())


@pytest.mark.parametrize("name", ["process 1 on moon (another-boot 4026531836 12)", "process 1 on moon", "x", ""])
def test_nothing_is_known_of_processes_elsewhere(name):
    assert not RealProcesses().gone(name)
    assert not NamedProcess("x").gone(name)
