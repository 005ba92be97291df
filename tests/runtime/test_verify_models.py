"""What is kept of models is held against the log: a sound one passes, a state that is not the fold of its events is named."""

from __future__ import annotations

import attrs
import pytest

from perdure.actors.model import bucket_of
from perdure.backends.commit import Delete, PutAll, SaveSnapshot
from perdure.backends.conformance.law import Desk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.event import Position
from perdure.backends.memory import open_memory
from perdure.backends.progress import Progress
from perdure.runtime import App, Event, Keyed, Misuse, Projection, SqlProjection, event, of, open_runtime
from perdure.runtime.cli.model import Shelf
from perdure.runtime.simulation.simulate import simulate
from perdure.runtime.verify_models import verify_models
from shops import PostgresShop, SqliteShop


@event("verify-paid")
@attrs.frozen
class Paid:
    who: str
    cents: int


@attrs.frozen
class Total:
    cents: int = 0


def add(total: Total, event: Event[Paid]) -> Total:
    return Total(total.cents + event.data.cents)


def add_twice(total: Total, event: Event[Paid]) -> Total:
    return Total(total.cents + 2 * event.data.cents)


def who(event: Event[Paid]) -> str:
    return event.data.who


def app_of(step=add, version=1):
    return App(
        projections=[
            Projection("sum", version=version, initial=Total(), step=step, events=of(Paid)),
            Keyed("by-who", version=version, initial=Total(), step=step, events=of(Paid), key=who),
        ]
    )


@pytest.fixture
async def backend(autojump_clock):
    """A store whose models have been kept, one of them at two positions."""
    backend = open_memory(environment=Environment(threads=InlineThreads()))
    for _ in range(2):
        async with open_runtime(backend, app_of()) as rt:
            for number in range(10):
                await rt.append("order-1", [Paid(f"w-{number % 3}", number)])
            for projection in app_of().projections:
                await rt.model(projection).wait_for(await rt.head())
        backend._closed = False  # the runtime closes what it was given
    return backend


def told(reports):
    return {report.name: (report.checked, len(report.problems), report.left_out) for report in reports}


async def test_sound_models_pass(backend):
    reports = await verify_models(backend, app_of())

    assert told(reports) == {"sum": (2, 0, ""), "by-who": (3, 0, "")}
    assert {report.position for report in reports} == {20}


async def test_a_snapshot_that_is_not_the_fold_is_named(backend):
    snapshot = await backend.read_snapshot("sum")
    await Desk(backend).done(SaveSnapshot("sum", Position(20), snapshot.fingerprint, snapshot.state.replace(b"Z", b"[")))

    sound, _ = await verify_models(backend, app_of())

    assert snapshot.state.count(b"Z") == 1, "90 is the sum"
    assert sound.problems == (
        "model 'sum': its snapshot at position 20 is not the fold of the log up to there; raise its version and open with changed=\"rebuild\"",
    )


async def test_states_of_keys_that_are_wrong_missing_or_too_many_are_named(backend):
    bucket = bucket_of("by-who")
    first, *_ = await backend.scan(bucket, limit=1)
    await Desk(backend).done(PutAll(bucket, [(b"nobody", first.value)]), Delete(bucket, b"w-0"))
    await Desk(backend).done(PutAll(bucket, [(b"w-1", first.value)]))

    _, report = await verify_models(backend, app_of())

    assert [problem.partition("; ")[0] for problem in report.problems] == [
        "model 'by-who': key 'nobody' has a state, and no event",
        "model 'by-who': the state of key 'w-0' is missing",
        "model 'by-who': the state of key 'w-1' is not the fold of its events up to position 20",
    ]


async def test_a_step_that_was_changed_without_a_version_is_found(backend):
    reports = await verify_models(backend, app_of(add_twice))

    assert {name: bool(problems) for name, (_, problems, _) in told(reports).items()} == {"sum": True, "by-who": True}


async def test_what_another_version_made_is_left_out(backend):
    reports = await verify_models(backend, app_of(version=2))

    assert {report.left_out for report in reports} == {"what is kept was made by another version of it"}


async def test_a_model_that_never_ran_is_left_out(autojump_clock):
    reports = await verify_models(open_memory(), app_of())

    assert {report.left_out for report in reports} == {"nothing of it is kept"}


async def test_a_step_that_raises_is_named(backend):
    def fails(total: Total, event: Event[Paid]) -> Total:
        raise ZeroDivisionError

    reports = await verify_models(backend, app_of(fails))

    assert all("raises at position 1 (stream 'order-1', seq 1)" in report.problems[0] for report in reports)


async def test_its_progress_is_told(backend):
    seen: list[Progress] = []

    await verify_models(backend, app_of(), progress=seen.append)

    assert {one.what for one in seen} == {"model sum", "model by-who"}


# -- in SQL ----------------------------------------------------------------------------------


def tables(tx):
    tx.execute("CREATE TABLE paid (position INTEGER PRIMARY KEY)")


def note(event, tx):
    tx.execute(f"INSERT INTO paid VALUES ({event.position})")


def sql_app(shop, version=1):
    return App(sql=[SqlProjection("paid", version=version, database=shop.url, tables=tables, handle=note, events=of(Paid))])


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path):
    if request.param == "sqlite":
        return SqliteShop(tmp_path / "x.sqlite")
    return PostgresShop(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


@pytest.fixture
async def filled(backend, shop):
    async with open_runtime(backend, app := sql_app(shop)) as rt:
        await rt.model(app.sql[0]).wait_for(await rt.head())
    return backend


async def test_rows_in_sql_are_said_not_to_be_compared(filled, shop):
    (report,) = await verify_models(filled, sql_app(shop))

    assert (report.position, report.problems) == (await filled.head(), ())
    assert "not compared" in report.left_out


async def test_tables_that_were_never_made_or_are_of_another_version_are_left_out(backend, filled, shop, tmp_path):
    (other,) = await verify_models(filled, sql_app(shop, version=2))
    (never,) = await verify_models(filled, sql_app(SqliteShop(tmp_path / "never.sqlite")))

    assert "version 1" in other.left_out
    assert "no tables" in never.left_out


async def test_tables_beyond_the_end_of_the_log_are_a_problem(filled, shop):
    shop.rows("UPDATE perdure_checkpoints SET position = 99")

    (report,) = await verify_models(filled, sql_app(shop))

    assert "stand at position 99" in report.problems[0]


async def test_a_database_that_cannot_be_reached_is_a_problem_of_its_model_and_the_password_is_not_shown(backend):
    url = "postgresql://u:secret@127.0.0.1:1/db"
    app = App(sql=[SqlProjection("paid", version=1, database=url, tables=tables, handle=note, events=of(Paid))])

    (report,) = await verify_models(backend, app)

    assert "cannot be reached" in report.problems[0]
    assert "secret" not in report.problems[0] + app.sql[0].where


async def test_the_list_of_models_says_where_tables_stand(filled, shop):
    projection = sql_app(shop).sql[0]
    head = await filled.head()

    row = await Shelf(filled, sql_app(shop)).table_row(projection, head)
    away = await Shelf(filled, sql_app(shop)).table_row(attrs.evolve(projection, database="postgresql://u@127.0.0.1:1/db"), head)

    assert (row.kind, row.position, row.lag, row.fault) == ("sql", head, 0, None)
    assert "cannot be reached" in str(away.fault)


def test_a_model_in_sql_is_asked_for_in_sql(shop):
    with pytest.raises(Misuse, match="ask there, in SQL"):
        sql_app(shop).named("paid")


def test_a_simulation_refuses_read_models_in_sql_and_says_what_to_do(shop):
    with pytest.raises(Misuse, match=r"sql=\(\)"):
        simulate(sql_app(shop), seeds=1)
