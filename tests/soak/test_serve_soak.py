"""Two minutes of the soak, and that it notices what it is there for."""

from __future__ import annotations

import attrs
import pytest

from following import Follower
from perdure.runtime import App, of, open_runtime
from serve_soak import Plan, Soak, slope, soak
from soaked import SINGLES, Moved, Sum, app


@pytest.mark.slow
def test_two_minutes_of_it(tmp_path):
    done = soak(Plan(seconds=120, seed=7, rate=80, followers=40), tmp_path)  # what a machine that is busy with other tests has room for

    print(done.report())
    assert done.wrong == [], done.report()
    assert (done.daemon.killed > 5, len(done.drains_s), len(done.told) > 1_000) == (True, 2, True)


# -- it can fail -----------------------------------------------------------------------------


def fed(*events, sent=0):
    """A follower that has been given (id, seq) of one stream on one connection."""
    follower = Follower(0, "", lambda: 0)
    for id, seq in events:
        follower._take(b'id: %d\ndata: {"stream":"box-1","seq":%d}' % (id, seq), sent)
    return follower.faults


@pytest.mark.parametrize(
    ("events", "sent", "word"),
    [
        ([(1, 1), (2, 2), (9, 3)], 0, None),
        ([(1, 1), (9, 3)], 0, "seq 3 came after 1"),
        ([(1, 1), (1, 1)], 0, "position 1 came after 1"),
        ([(4, 1)], 4, "after it had sent id 4"),
    ],
)
def test_a_gap_and_a_repeat_are_seen(events, sent, word):
    faults = fed(*events, sent=sent)

    assert faults == [] if word is None else any(word in fault for fault in faults)


@pytest.mark.parametrize(
    ("told", "stored", "word"),
    [
        ({"0-1": 5}, {"0-1": [5]}, None),
        ({"0-1": 5}, {}, "lost"),
        ({"0-1": 5}, {"0-1": [6]}, "elsewhere"),
        ({"0-1": 5}, {"0-1": [5, 6]}, "twice"),
    ],
)
def test_a_lost_and_a_doubled_event_are_seen(tmp_path, told, stored, word):
    one = Soak(Plan(1, 1), tmp_path)
    one.told = told

    one._judge_log(stored)

    assert one.wrong == [] if word is None else word in one.wrong[0]


async def test_a_model_that_is_not_the_fold_is_seen(tmp_path):
    def doubles(state, event):
        return Sum(state.events + 2)

    one = Soak(Plan(1, 1), tmp_path)
    liar = App(projections=[attrs.evolve(SINGLES[0], step=doubles)])
    async with open_runtime(one.daemon.store, liar) as rt:
        await rt.append("box-1", [Moved(0, 1, 5)])
        await rt.model(liar.projections[0]).wait_for(await rt.head())
    async with open_runtime(one.daemon.store, app) as rt:
        log = [event async for event in rt.read_all(of(Moved))]
        await one._judge_models(rt, log)

    assert len(one.wrong) == 1
    assert SINGLES[0].name in one.wrong[0]


@pytest.mark.parametrize(("mib_per_minute", "wrong"), [(0.0, 0), (0.8, 0), (1.5, 1)])
def test_growing_memory_is_seen(tmp_path, mib_per_minute, wrong):
    one = Soak(Plan(1, 1), tmp_path)
    one.daemon.rss = [(float(second), 100 + second / 60 * mib_per_minute) for second in range(600)]

    one._judge_memory()

    assert len(one.wrong) == wrong
    assert slope(one.daemon.rss) * 60 == pytest.approx(mib_per_minute)
