"""The laws of leases can fail: runtimes that get one thing wrong are found out, and so are stores that do."""

from __future__ import annotations

import pytest

from perdure.actors.claim import Sightings
from perdure.actors.lease import Claim, Leases
from perdure.actors.projection import ProjectionActor
from perdure.actors.subscription import Subscription
from perdure.backends.processes import RealProcesses
from perdure.runtime.conformance import run_checks


async def keep_all(leases):
    leases._closed = True


async def show_nothing(actor, kept):
    pass


async def lose_all(leases):
    for claim in leases.held():
        claim.lose()
    await BEATS(leases)


BEATS = Leases._beat_when_due
LIARS = {
    "a runtime that takes its own leases for lost": (Leases, "_beat_when_due", lose_all, "models-get-over-a-failed-flush"),
    "a runtime that closes and gives nothing back": (Leases, "close", keep_all, "closing-hands-over"),
    "a watcher that takes everybody for dead": (RealProcesses, "gone", lambda processes, name: True, "one-process-runs-each"),
    "a watcher that waits for ever": (Sightings, "left_s", lambda sightings, beat, now_s: 9.0, "a-silent-owner-is-replaced"),
    "a follower that asks nobody": (Subscription, "owns", property(lambda subscription: True), "a-named-subscription-has-one-owner"),
    "a follower that goes on while its beats do not get through": (Claim, "fresh", property(lambda claim: claim.held), "a-lost-lease-is-told"),
    "a holder that is told nothing": (Claim, "expired", lambda claim: None, "a-lost-lease-is-told"),
    "one that stands by and shows nothing": (ProjectionActor, "_show_others", show_nothing, "one-process-runs-each"),
}


@pytest.mark.parametrize("name", LIARS)
async def test_a_lying_runtime_is_caught(name, load, autojump_clock, monkeypatch):
    where, attribute, lie, law = LIARS[name]
    liars = load("tests/backends/shared_liars.py")
    monkeypatch.setattr(where, attribute, lie)

    board = await run_checks(liars.SharedStores(liars.Honest), only=[law])

    assert [score.law.name for score in board.failed] == [law]


@pytest.mark.parametrize(
    ("liar", "law"),
    [
        ("a fence that is known until one is told otherwise", "a-lost-lease-is-told"),
        ("a steal that looks at nothing", "one-holds-a-lease"),
    ],
)
async def test_a_lying_store_is_caught(liar, law, load, autojump_clock):
    liars = load("tests/backends/shared_liars.py")
    make, _ = liars.LIARS[liar]

    board = await run_checks(liars.SharedStores(make), only=[law])

    assert [score.law.name for score in board.failed] == [law]
