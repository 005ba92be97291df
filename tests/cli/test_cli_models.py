"""The commands of read models: `model`."""

from __future__ import annotations

import sys

import pytest
import trio

from perdure.backends import errors
from perdure.runtime import open_runtime
from perdure.runtime.cli.exits import Exit


def test_models_that_never_ran_are_listed(cli, filled, shop):
    rows = cli("model", "list", filled, "--app", "shop:app", "--json").documents

    assert [(row["name"], row["kind"], row["version"], row["position"], row["lag"], row["fault"]) for row in rows] == [
        ("revenue", "single", 1, 0, 3, None),
        ("accounts", "keyed", 1, 0, 3, None),
    ]
    assert cli("model", "show", filled, "revenue", "--app", "shop:app").out == '{"cents": 0}\n'
    assert cli("model", "show", filled, "accounts", "--app", "shop:app").out == ""


def test_models_are_shown(cli, kept):
    def show(*arguments):
        return cli("model", "show", kept, *arguments, "--app", "shop:app", "--json")

    assert show("revenue").document == {"name": "revenue", "position": 3, "state": {"cents": 17}}
    assert [one["key"] for one in show("accounts").documents] == ["order-1", "order-2"]
    assert show("accounts", "order-2").document["state"] == {"cents": 2}
    assert show("accounts", "order-9").code == Exit.NO
    assert show("revenue", "order-1").code == Exit.USAGE


def test_models_are_shown_as_they_were(cli, kept):
    def at(*arguments):
        return cli("model", "at", kept, *arguments, "--app", "shop:app", "--json")

    moment = cli("read", kept, "order-1", "--limit", 1, "--json").document["at"]

    assert at("revenue", "--position", 1).document == {"name": "revenue", "position": 1, "state": {"cents": 10}}
    assert at("revenue", "--time", moment).document == {"name": "revenue", "position": 1, "state": {"cents": 10}}
    assert at("accounts", "order-1", "--position", 2).document["state"] == {"cents": 15}
    assert at("accounts", "order-2", "--position", 2).code == Exit.NO
    assert at("accounts", "order-2", "--position", 3, "--limit", 2).code == Exit.USAGE


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["revenue"], "either --position or --time"),
        (["revenue", "--position", "1", "--time", "2026-01-01T00:00Z"], "either --position or --time"),
        (["revenue", "--time", "yesterday"], "is not ISO 8601"),
        (["revenue", "--time", "2026-01-01T00:00"], "has no zone"),
        (["revenue", "--position=-1"], "--position is a number from 0"),
        (["accounts", "--position", "1"], "name a key"),
        (["revenue", "x", "--position", "1"], "has one state and no keys"),
        (["profit", "--position", "1"], "no projection 'profit'; it has: revenue, accounts"),
    ],
)
def test_model_at_asked_wrongly(cli, filled, shop, arguments, text):
    done = cli("model", "at", filled, *arguments, "--app", "shop:app")

    assert done.code == Exit.USAGE
    assert text in done.err


def test_a_model_of_another_version_is_told_and_not_shown(cli, kept):
    listed = cli("model", "list", kept, "--app", "shop:newer", "--json").document
    done = cli("model", "show", kept, "revenue", "--app", "shop:newer")

    assert "another version of it" in listed["fault"]
    assert done.code == Exit.APP
    assert "another version of it" in done.err


@pytest.mark.parametrize("model", [["revenue"], ["accounts", "x"]])
def test_a_step_that_raises_is_told_with_its_cause(cli, kept, model):
    cli("append", kept, "order-3", "placed", '{"customer": "x", "cents": 0}')

    done = cli("model", "at", kept, *model, "--position", 4, "--app", "shop:app")

    assert done.code == Exit.APP
    assert "failed at position 4" in done.err
    assert "ZeroDivisionError" in done.err


def test_a_model_that_stands_still_is_shown_and_told(cli, kept, shop):
    cli("append", kept, "order-3", "placed", '{"customer": "x", "cents": 0}')

    async def run(app):
        async with open_runtime(kept, app) as rt:
            for projection in app.projections:
                with pytest.raises(errors.ModelFaulted):
                    await rt.model(projection).wait_for(await rt.head())

    trio.run(run, sys.modules["shop"].app)
    shown = cli("model", "show", kept, "revenue", "--app", "shop:app", "--json")

    assert [row["lag"] for row in cli("model", "list", kept, "--app", "shop:app", "--json").documents] == [1, 1]
    assert "ZeroDivisionError" in cli("model", "list", kept, "--app", "shop:app").out
    assert (shown.code, shown.document["position"]) == (0, 3)
    assert "model 'revenue' stands still at position 3: " in shown.err


def test_an_event_that_does_not_fit_its_class_is_of_the_app(cli, kept):
    cli("append", kept, "order-3", "placed", '{"customer": 7}')

    done = cli("model", "at", kept, "accounts", "7", "--position", 4, "--app", "shop:app")

    assert done.code == Exit.APP
    assert "the event at position 4 ('placed' version 1) cannot be read" in done.err


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("shop", Exit.USAGE, "write module:name"),
        ("nowhere:app", Exit.USAGE, "there is no module 'nowhere': looked in "),
        ("shop.deeper:app", Exit.USAGE, "there is no module"),
        ("shop:application", Exit.USAGE, "has no 'application'; it has: app, newer"),
        ("shop:nothing", Exit.USAGE, "is a int, not an App"),
        ("broken:app", Exit.APP, "ValueError: no luck"),
        ("needy:app", Exit.APP, "No module named 'not_there_at_all'"),
        ("bad:app", Exit.APP, "SyntaxError"),
    ],
)
def test_an_app_that_cannot_be_loaded(cli, filled, shop, name, code, text):
    (shop / "broken.py").write_text("raise ValueError('no luck')")
    (shop / "needy.py").write_text("import not_there_at_all")
    (shop / "bad.py").write_text("def (")

    done = cli("model", "list", filled, "--app", name)

    assert done.code == code
    assert text in done.err
    assert done.err.count("\n") == 1
