"""The same seed gives the same run: in one process, in others, under any hash seed, whenever garbage is collected."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import time

import pytest

from perdure.runtime.simulation import Faults, Plan, Workload, laws, simulate
from perdure.runtime.simulation.run import Subject, run_once

KINDS = ("file:", "segments:", "memory:", "lmdb:")

DIGESTS = """
import sys
sys.path.insert(0, {folder!r})
import app
from perdure.runtime.simulation import Plan, Workload
from perdure.runtime.simulation.run import Subject, run_once
subject = Subject(app.APP, Workload(app.APP))
print([run_once(subject, Plan(seed, url=url, runtimes=runtimes)).digest for url in {kinds!r} for seed in range(3) for runtimes in (1, 2)])
"""


def test_other_processes_and_hash_seeds_give_the_same_runs(root):
    code = DIGESTS.format(folder=str(root / "tests/simulation"), kinds=KINDS)

    told = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("0", "1", "4242")
    ]

    assert told[0].count("'") == 2 * 6 * len(KINDS)
    assert told[1:] == told[:1] * 2


@pytest.mark.parametrize("url", KINDS)
def test_garbage_does_not_matter(load, url):
    app = load("tests/simulation/app.py").APP
    subject = Subject(app, Workload(app))
    runs = [run_once(subject, Plan(5, url=url))]

    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        runs.append(run_once(subject, Plan(5, url=url)))
    finally:
        gc.set_threshold(*threshold)

    assert runs[0].digest == runs[1].digest


def test_what_went_wrong_can_be_replayed_from_its_list(load):
    app = load("tests/simulation/app.py").APP
    subject = Subject(app, Workload(app))
    drawn = run_once(subject, Plan(3, faults=Faults(gap=20)))

    again = run_once(subject, Plan(3).replayed(f"3/3/all/{','.join(map(str, drawn.injections))}"))

    assert len(drawn.injections) > 2
    assert again.digest == drawn.digest


def test_another_seed_gives_another_run(load):
    app = load("tests/simulation/app.py").APP
    subject = Subject(app, Workload(app))

    assert run_once(subject, Plan(1)).digest != run_once(subject, Plan(2)).digest


@pytest.mark.parametrize("source", [time.perf_counter_ns, itertools.count().__next__])
def test_a_workload_that_asks_elsewhere_is_caught(load, source):
    app = load("tests/simulation/app.py")

    async def work(rt, random):
        await rt.append("order-1", [app.Placed("a", source())] * (1 + source() % 7 // 6), key=b"%d" % source())

    report = simulate(app.APP, work, seeds=3, twice=True)

    assert report.failed is not None
    assert report.failed.violations[0].law == laws.REPEATS
