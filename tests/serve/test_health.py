"""/health/ready says what keeps a daemon from being given work, and why, by policy; the others go on meanwhile."""

from __future__ import annotations

import sqlite3

import attrs
import pytest
import trio
from shop import Placed, Total, app

from daemons import running
from perdure.actors.journal import JournalStatistics
from perdure.actors.status import ActorStatus
from perdure.runtime import App, Event, Projection, SqlProjection, of
from perdure.runtime.serve.health import Health

PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
QUIET = JournalStatistics(0, 0, 0, 0, 0, 0, "", 0.0, 0.0, 0.0, 0.0)


def failing(total: Total, event: Event[Placed]) -> Total:
    raise ZeroDivisionError("no good")


def make_sales(tx):
    tx.execute("CREATE TABLE sales (cents INTEGER)")


def sell(event, tx):
    tx.execute("INSERT INTO sales VALUES (?)", (event.data.cents,))


FAILING = App(projections=[*app.projections, Projection("failing", version=1, initial=Total(), step=failing, events=of(Placed))])


def states(daemon):
    """What the models do."""
    return {one.name: one.state for _, one in daemon.service.rt.status().root.walk()}


async def asked(client):
    """The status code and the reasons."""
    answer = await client.get("/health/ready")
    return answer.status_code, answer.json()["reasons"]


async def until(daemon, *words):
    """The reasons, once one of them has all these words."""
    with trio.fail_after(20):
        async with daemon.client() as client:
            while True:
                _, reasons = await asked(client)
                if any(all(word in reason for word in words) for reason in reasons):
                    return reasons
                await trio.sleep(0.05)


# -- models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "code"), [("refuse", 503), ("ignore", 200)])
async def test_a_faulted_model_counts_by_policy(policy, code):
    async with running(with_app=FAILING, ready_faulted=policy) as daemon, daemon.client() as client:
        position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
        faulted = await client.get(f"/v1/models/failing?wait_for={position}")
        other = await client.get(f"/v1/models/revenue?wait_for={position}")
        found = await asked(client)
        async with daemon.client(None) as anybody:
            public = await asked(anybody)

    assert (faulted.status_code, other.json()["state"]) == (409, {"cents": 5})
    assert found[0] == code
    assert (code == 200) == (found[1] == [])
    assert all("failing" in reason and "no good" in reason for reason in found[1])
    assert (public[0], [reason.replace(" is faulted", "") for reason in public[1]]) == (code, ["model failing"] if code == 503 else [])


async def test_a_model_out_of_restarts_stands_still_and_the_others_go_on():
    async with running() as daemon, daemon.client() as client:
        models = daemon.service.rt._models
        with trio.fail_after(30):
            while states(daemon)["revenue"] != "gave up":
                models.crash("revenue", OSError("a wire was cut"))
                await trio.sleep(0.05)
        reasons = await until(daemon, "revenue", "out of restarts", "a wire was cut")
        position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
        other = await client.get(f"/v1/models/accounts/keys/ada?wait_for={position}")
        it = await client.get(f"/v1/models/revenue?wait_for={position}")

    assert len(reasons) == 1
    assert other.json()["state"] == {"cents": 5}
    assert it.status_code == 409


async def test_a_stuck_model_is_named_and_goes_on(tmp_path):
    """Somebody keeps the lock of its database; when he lets go it gets on, and the daemon is ready."""
    database = tmp_path / "sales.db"
    sales = SqlProjection(
        "sales",
        version=1,
        database=f"sqlite:{database}",
        tables=make_sales,
        handle=sell,
        events=of(Placed),
    )
    async with running(with_app=App(sql=[sales]), ready_stuck_s=0.5) as daemon, daemon.client() as client:
        position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
        await client.get(f"/v1/models/sales?wait_for={position}")
        with sqlite3.connect(database, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            await client.post("/v1/streams/order-1", json=PLACED)
            await until(daemon, "sales", "stuck", "1 events to fold")
            other.execute("ROLLBACK")
        other.close()
        with trio.fail_after(20):
            while (found := await asked(client))[0] != 200:
                await trio.sleep(0.05)

    assert found == (200, [])


# -- the store -------------------------------------------------------------------------------


async def test_a_full_store_is_told(tmp_path):
    async with running(f"lmdb:{tmp_path / 'store'}?size=1MiB") as daemon, daemon.client() as client:
        big = {"events": [{"type": "placed", "data": {"customer": "x" * 100_000, "cents": 5}}]}
        with trio.fail_after(20):
            while (await client.post("/v1/streams/order-1", json=big)).status_code != 507:
                pass
        reasons = await until(daemon, "takes no commits", "full")

    assert reasons


# -- the looks by themselves -----------------------------------------------------------------


def model(position, lag, state="running", **more):
    return ActorStatus("m", state, position=position, lag_events=lag, **more)


@pytest.mark.parametrize(
    ("looks", "stuck_s"),
    [
        ([model(5, 0), model(5, 0), model(5, 0)], 0.0),
        ([model(5, 3), model(5, 4), model(5, 9)], 20.0),
        ([model(5, 3), model(5, 3), model(6, 3)], 0.0),
        ([model(5, 0), model(5, 3), model(5, 3)], 10.0),
        ([model(5, 3), model(5, 0), model(5, 3)], 0.0),
        ([model(5, 3, "standing by")] * 3, 0.0),
        ([model(5, 3, "faulted")] * 3, 0.0),
        ([model(5, 3, "waiting")] * 3, 20.0),
    ],
)
def test_stuck_is_who_has_more_to_fold_and_does_not_move(looks, stuck_s):
    health = Health()

    for number, one in enumerate(looks):
        health.look(QUIET, [one], number * 10.0)

    assert health.models["m"].stuck_s == stuck_s
    assert (list(health.reasons(9.0, why=True)) != []) == (stuck_s > 9)


def test_a_refusal_counts_until_a_commit_is_taken_or_for_a_while():
    health = Health()
    refused = attrs.evolve(QUIET, refused=1, refusal="another process keeps it")

    told = []
    again, taken = attrs.evolve(refused, refused=2), attrs.evolve(refused, refused=2, refusal="")
    for now_s, journal in ((0.0, QUIET), (1.0, refused), (20.0, refused), (40.0, refused), (41.0, again), (42.0, taken)):
        health.look(journal, [], now_s)
        told.append(bool(list(health.reasons(60.0, why=True))))

    assert told == [False, True, True, False, True, False]
