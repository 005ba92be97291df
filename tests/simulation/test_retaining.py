"""Retention in simulation: crashes at any point lose nothing that must stay, and nothing that went; a liar is caught."""

from __future__ import annotations

import pytest

from perdure.runtime.simulation import Faults, laws, simulate

LIARS = {
    "cuts_before_the_archive_is_there": (laws.ARCHIVED,),
    "flushes_no_archive": (laws.ARCHIVED, laws.SOUND),
    "asks_no_consumer": (laws.KEPT,),
    "takes_one_too_many": (laws.KEPT,),
    "forgets_what_was_archived_before": (laws.ARCHIVED,),
    "names_some_of_it": (laws.NAMED,),
}


@pytest.mark.parametrize(("url", "runtimes"), [("file:", 1), ("segments:", 1), ("memory:", 2), ("lmdb:", 2)])
def test_retention_keeps_its_laws(load, url, runtimes):
    app = load("tests/simulation/app.py")

    report = simulate(app.RETAINING, seeds=8, url=url, runtimes=runtimes, limits=app.SWEPT_SOON)

    assert report.ok, report
    assert report.counts["cut"] > 8


@pytest.mark.parametrize("name", LIARS)
def test_a_liar_is_caught(load, monkeypatch, name):
    app, liars = load("tests/simulation/app.py"), load("tests/simulation/retaining_liars.py")
    getattr(liars, name)(monkeypatch)

    report = simulate(app.RETAINING, seeds=60, limits=app.SWEPT_SOON, shrink_tries=0, faults=Faults.only("crash", "power", gap=15.0, most=16))

    assert report.failed is not None, name
    assert report.failed.violations[0].law in LIARS[name], report


def test_every_liar_is_tried(load):
    liars = load("tests/simulation/retaining_liars.py")
    assert {name for name, value in vars(liars).items() if getattr(value, "__module__", "") == liars.__name__} == set(LIARS)
