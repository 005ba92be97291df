"""The demo of the house does what it says, on a part of its data; and its comparison can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

ROWS = 6_000


@pytest.fixture(scope="module")
def csv(load):
    return load("examples/flights_csv.py")


@pytest.fixture(scope="module")
def demo(root):
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "examples" / "flights.py"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "NO_COLOR": "1"})

    return run


Finished = tuple[list[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["lmdb", "postgresql"])
def finished(request, demo, tmp_path_factory) -> Finished:
    """Where it was run, as options, and what it said."""
    if request.param == "lmdb":
        where = ["--dir", str(tmp_path_factory.mktemp("flights") / "store")]
    else:
        where = ["--store", request.getfixturevalue("postgres").new_database()]
    return where, demo("--rows", str(ROWS), *where)


def test_a_part_of_the_demo_ends_equal(finished):
    _, demo = finished

    assert demo.returncode == 0, demo.stderr
    assert re.search(rf"^equal: {ROWS} events, \d{{5,}} values$", demo.stdout, re.MULTILINE)


def test_questions_are_answered_by_sql(finished):
    _, demo = finished

    assert re.search(r"^  where United flew most often in January: \w{3} \d+, \w{3} \d+, \w{3} \d+$", demo.stdout, re.MULTILINE)


def test_an_actor_was_restarted_and_the_process_killed_without_losing_what_was_acknowledged(finished):
    _, demo = finished

    restarts = "1 of an actor by its supervisor, 1 of the process after SIGKILL"
    told = re.search(rf"{restarts} \(([\d,]+) acknowledged before it, ([\d,]+) found after it\)", demo.stdout)

    assert told, demo.stdout
    acknowledged, found = (int(number.replace(",", "")) for number in told.groups())
    assert ROWS * 2 // 3 <= acknowledged <= found <= ROWS


def test_a_store_that_holds_everything_is_gone_on_with_and_nothing_is_doubled(demo, finished):
    where, _ = finished

    again = demo("--rows", str(ROWS), *where, "--keep")

    assert again.returncode == 0, again.stderr
    assert f"equal: {ROWS} events" in again.stdout


def test_a_store_that_does_not_hold_what_the_file_says_exits_1_and_says_where(demo, finished):
    where, _ = finished

    fewer = demo("--rows", str(ROWS - 1), *where, "--keep")

    assert fewer.returncode == 1
    assert re.search(r"^different: aircraft-\w+ seq \d+: ", fewer.stderr, re.MULTILINE)
    assert "equal:" not in fewer.stdout


def test_a_folder_that_holds_anything_but_a_store_is_not_emptied(demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")

    refused = demo("--rows", "100", "--dir", str(tmp_path))

    assert refused.returncode == 2
    assert "thesis.txt" in refused.stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_schema_that_somebody_named_is_not_emptied(demo, postgres):
    url = f"{postgres.new_database()}&schema=theirs"
    opening = f"import trio; from perdure.runtime import open_runtime\nasync def main():\n    async with open_runtime({url!r}): pass\ntrio.run(main)"
    subprocess.run([sys.executable, "-c", opening], check=True, timeout=60)

    refused = demo("--rows", "100", "--store", url)

    assert refused.returncode == 2
    assert "--keep" in refused.stderr


@pytest.mark.parametrize("store", ["jetstream:x", "postgresql://u@127.0.0.1:1/nowhere"])
def test_a_place_where_it_cannot_run_is_said(demo, store):
    refused = demo("--rows", "100", "--store", store)

    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


# -- the comparison can fail --------------------------------------------------------------------


@pytest.fixture
def models(csv):
    return csv.recompute(csv.read_rows(500))


def test_equal_models_have_no_difference(csv, models):
    values, differences = csv.compare(models, csv.recompute(csv.read_rows(500)))

    assert values > 1_000
    assert differences == []


@pytest.mark.parametrize("change", [lambda late: late + 1, float, lambda late: None], ids=["another", "another type", "none"])
def test_one_changed_value_is_found_and_named(csv, models, change):
    wanted = csv.recompute(csv.read_rows(500))
    models["carriers"]["UA"]["late"] = change(models["carriers"]["UA"]["late"])

    _, differences = csv.compare(models, wanted)

    assert [difference.partition(":")[0] for difference in differences] == ["carriers/UA/late"]


def test_what_is_missing_or_too_much_is_found_and_named(csv, models):
    wanted = csv.recompute(csv.read_rows(500))
    del models["boards"]["LAX"]
    models["hours"][99] = {}

    _, differences = csv.compare(models, wanted)

    assert sorted(differences) == ["boards/LAX: only in the file", "hours/99: only in the store"]


# -- the data -----------------------------------------------------------------------------------


def test_without_the_data_the_error_says_what_to_do(csv, monkeypatch):
    monkeypatch.setattr(csv, "PACKAGE", "nycflights_that_nobody_has")

    with pytest.raises(csv.NoData, match="make setup"):
        csv.find_csv()


def test_the_scheduled_hour_of_the_file_is_the_hour_in_new_york(csv):
    try:
        new_york = ZoneInfo("America/New_York")
    except ZoneInfoNotFoundError:
        pytest.skip("this machine has no time zones")

    rows = list(csv.read_rows(2_000))

    assert all(csv.moment(row.time_hour).astimezone(new_york).hour == int(row.hour) for row in rows)
