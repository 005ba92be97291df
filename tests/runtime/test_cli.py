"""The command line on real stores: what it prints, where, and with which exit code."""

from __future__ import annotations

import importlib
import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import lmdb
import pytest
import trio

from perdure.backends import errors
from perdure.backends.errors import PerdureError
from perdure.backends.limits import MIB
from perdure.backends.lmdb.files import FileLock
from perdure.runtime import NewEvent, open_runtime
from perdure.runtime.__main__ import main
from perdure.runtime.cli import store as store_commands
from perdure.runtime.cli.exits import Exit, exit_of
from perdure.runtime.cli.out import Columns, wrapped
from perdure.runtime.cli.values import as_json, plain, shown

PERDURE = [sys.executable, "-P", "-m", "perdure.runtime"]

SHOP = """
import attrs
from perdure.runtime import App, Event, Keyed, Projection, event, of

@event("placed")
@attrs.frozen
class Placed:
    customer: str
    cents: int

@attrs.frozen
class Total:
    cents: int = 0

def step(total: Total, event: Event[Placed]) -> Total:
    return Total(total.cents + 100 // event.data.cents)

def single(version):
    return Projection("revenue", version=version, initial=Total(), step=step, events=of(Placed))

KEYED = Keyed("accounts", version=1, initial=Total(), step=step, events=of(Placed), key=lambda event: event.data.customer)
app = App(projections=[single(1), KEYED])
newer = App(projections=[single(2)])
nothing = 7
"""


@attrs.frozen
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def documents(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self):
        [one] = self.documents
        return one


@pytest.fixture
def cli(capsys):
    """`cli("read", url, ...)` in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(one) for one in arguments])
        done = Done(int(code), *capsys.readouterr())
        assert "Traceback" not in done.err or code == Exit.FAULT
        return done

    return run


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A store that is not there yet, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return f"lmdb:{tmp_path}/store"


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A folder with a store of two streams and a bucket."""
    folder = tmp_path_factory.mktemp("template")
    url = f"lmdb:{folder}/store"
    for stream, cents in (("order-1", 10), ("order-1", 20), ("order-2", 50)):
        assert main(["append", url, stream, "placed", json.dumps({"customer": stream, "cents": cents}), "--tag", f"of:{stream}"]) == 0
    for key, value in (("a", "1"), ("b", '{"x": [null, true]}')):
        assert main(["kv", "put", url, "settings", key, value]) == 0
    return folder


@pytest.fixture
def filled(url, template, tmp_path):
    """A copy of it: three events of two streams, and two entries."""
    shutil.copytree(template / "store", tmp_path / "store")
    return url


def start(*arguments, **more):
    """The real command, running; it hears SIGINT also where these tests run in a shell's background."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*PERDURE, *map(str, arguments)], text=True, preexec_fn=_hear_sigint, **pipes)


def _hear_sigint():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process):
    """What it did."""
    out, err = process.communicate(timeout=20)
    return Done(process.returncode, out, err)


HOLDER = """
import sys, trio
from perdure.runtime import NewEvent, open_runtime

async def main(url):
    async with open_runtime(url) as rt:
        await rt.append("held-1", [NewEvent({"n": 0}, type="held")])
        print("ready", flush=True)
        async def more():
            for n in range(1, 10**9):
                await rt.append("held-1", [NewEvent({"n": n}, type="held")])
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(more)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()

trio.run(main, sys.argv[1])
"""


@pytest.fixture
def writer(url):
    """Another process that writes to the store all the time."""
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(timeout=20) == 0


# -- the log ---------------------------------------------------------------------------------


def test_append_prints_first_last_and_position(cli, url):
    plain_one = cli("append", url, "s", "t", "{}")
    json_one = cli("append", url, "s", "t", "[1, 2]", "--json", "--expected", 1)

    assert (plain_one.code, plain_one.out, plain_one.err) == (0, "first 1, last 1, position 1\n", "")
    assert json_one.document == {"stream": "s", "first": 2, "last": 2, "position": 2}


@pytest.mark.parametrize("data", ["-5", "null", '"text"', "[]", '{"a": 1.5}', '"ünïcödé"', "-0.5e-3"])
def test_any_json_comes_back(cli, url, data):
    cli("append", url, "s", "t", data)

    assert cli("read", url, "s", "--json").document["data"] == json.loads(data)


def test_json_may_come_from_stdin(cli, url, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": 1}\n'))

    assert cli("append", url, "s", "t", "-").code == 0
    assert cli("read", url, "s", "--json").document["data"] == {"a": 1}


def test_what_stdin_holds_must_be_text(cli, url, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"\xff"'), encoding="utf-8"))

    assert cli("append", url, "s", "t", "-").code == Exit.USAGE


def test_the_same_key_is_stored_once(cli, url):
    answers = [cli("append", url, "s", "t", "1", "--key", "k").out for _ in range(2)]
    other = cli("append", url, "s", "t", "2", "--key", "k")

    assert answers[0] == answers[1]
    assert other.code == Exit.USAGE
    assert "idempotency key b'k' was used for another content" in other.err


def test_a_conflict_comes_with_the_facts(cli, filled):
    done = cli("append", filled, "order-1", "placed", "{}", "--expected", 7, "--json")

    assert done.code == Exit.NO
    assert done.document == {"conflict": {"what": "stream", "subject": "order-1", "expected": 7, "actual": 2}}
    assert done.err == "perdure: stream 'order-1': expected 7, found 2; read it again, decide anew, and append with what you found\n"


@pytest.mark.parametrize(("believed", "code"), [("exists", 0), ("any", 0), ("2", 0), ("0", 1), ("-1", 2), ("some", 2), ("9" * 30, 2)])
def test_expectations(cli, filled, believed, code):
    assert cli("append", filled, "order-1", "placed", "{}", f"--expected={believed}").code == code


def test_read_gives_the_whole_envelope(cli, filled):
    first, second = cli("read", filled, "order-1", "--json").documents

    assert list(first) == ["stream", "seq", "position", "type", "version", "at", "occurred", "id", "tags", "meta", "data"]
    assert (first["seq"], second["seq"], second["position"], second["tags"]) == (1, 2, 2, ["of:order-1"])
    assert datetime.fromisoformat(first["at"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("options", "seqs"),
    [([], [1, 2]), (["--after", 1], [2]), (["--limit", 1], [1]), (["--limit", 0], []), (["--backward"], [2, 1]), (["--backward", "--after", 2], [1])],
)
def test_read_from_and_up_to(cli, filled, options, seqs):
    assert [one["seq"] for one in cli("read", filled, "order-1", "--json", *options).documents] == seqs


def test_read_prints_a_table(cli, filled):
    lines = cli("read", filled, "order-1").out.splitlines()

    assert lines[0].split() == ["seq", "position", "at", "type", "data"]
    assert lines[2].startswith("  2         2  ")
    assert lines[2].endswith('placed  {"customer": "order-1", "cents": 20}')


def test_tail_takes_what_is_selected(cli, filled):
    def selected(*options):
        return [one["position"] for one in cli("tail", filled, *options, "--after", 0, "--json").documents]

    assert selected("order-2", "--limit", 1) == [3]
    assert selected("order-2", "order-1", "--limit", 3) == [1, 2, 3]
    assert selected("--category", "order", "--type", "placed", "--limit", 2) == [1, 2]
    assert selected("--tag", "of:order-2", "--limit", 1) == [3]


def test_streams_go_on_beyond_a_page(cli, url, monkeypatch):
    monkeypatch.setattr("perdure.runtime.cli.log.BATCH", 2)
    names = [f"s-{number}" for number in range(5)]
    for name in names:
        cli("append", url, name, "t", "1")

    assert [one["stream"] for one in cli("streams", url, "--json").documents] == names
    assert [one["stream"] for one in cli("streams", url, "--json", "--limit", 3).documents] == names[:3]
    assert [one["stream"] for one in cli("streams", url, "--json", "--after", "s-1", "--prefix", "s-").documents] == names[2:]
    assert cli("stats", url, "--json").document["streams"] == 5


# -- kv --------------------------------------------------------------------------------------


def test_kv_says_no(cli, filled):
    absent = cli("kv", "get", filled, "settings", "c", "--json")
    taken = cli("kv", "put", filled, "settings", "a", "2", "--expected", 0, "--json")
    gone = cli("kv", "delete", filled, "settings", "c", "--expected", "exists")

    assert (absent.code, taken.code, gone.code) == (Exit.NO, Exit.NO, Exit.NO)
    assert (absent.out, gone.out) == ("", "")
    assert taken.document["conflict"]["actual"] == 1


def test_kv_scan_goes_on_beyond_a_page(cli, filled, monkeypatch):
    monkeypatch.setattr("perdure.runtime.cli.kv.BATCH", 1)

    documents = cli("kv", "scan", filled, "settings", "--json").documents

    assert documents == [{"key": "a", "revision": 1, "value": 1}, {"key": "b", "revision": 2, "value": {"x": [None, True]}}]


def test_kv_watch_tells_deletes(cli, filled):
    cli("kv", "delete", filled, "settings", "a")

    documents = cli("kv", "watch", filled, "settings", "--after", 1, "--limit", 2, "--json").documents

    assert [(one["key"], one["deleted"], one["revision"]) for one in documents] == [("b", False, 2), ("a", True, 3)]


def test_a_key_that_would_move_the_cursor_is_shown_as_text(cli, url):
    cli("kv", "put", url, "b", "red\x1b[31m\n", "1")

    assert "red\\x1b[31m\\n" in cli("kv", "scan", url, "b").out
    assert cli("kv", "scan", url, "b", "--json").document["key"] == "red\x1b[31m\n"


@pytest.mark.parametrize("command", [("get", "k"), ("put", "k", "1"), ("delete", "k"), ("scan",), ("watch",)])
def test_perdures_own_buckets_are_not_for_this(cli, filled, command):
    done = cli("kv", command[0], filled, "$checkpoints", *command[1:])

    assert done.code == Exit.USAGE
    assert "names beginning with $ are perdure's own" in done.err


# -- models ----------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The module `shop` in the current folder."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("shop", None)


@pytest.fixture
def kept(filled, shop):
    """The filled store after the app has run."""

    async def run(app):
        async with open_runtime(filled, app) as rt:
            for projection in app.projections:
                await rt.model(projection).wait_for(await rt.head())

    sys.path.insert(0, str(shop))
    trio.run(run, importlib.import_module("shop").app)
    return filled


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


# -- a store as a whole ----------------------------------------------------------------------


def test_stats_are_numbers(cli, filled):
    found = cli("stats", filled, "--json").document

    assert (found["head"], found["revision"], found["streams"], found["verified"]) == (3, 2, 2, "all")
    assert "position 3" in cli("stats", filled).out


def test_verify_finds_nothing_in_a_sound_store(cli, filled):
    assert cli("verify", filled, "--json").document == {"url": filled, "head": 3, "problems": []}
    assert cli("verify", filled).code == 0


def test_verify_holds_models_against_the_log(cli, kept):
    done = cli("verify", kept, "--app", "shop:app", "--json")

    assert done.code == 0
    assert [(model["name"], model["problems"]) for model in done.document["models"]] == [("revenue", []), ("accounts", [])]
    assert "model accounts: 2 states compared with the log up to position 3" in cli("verify", kept, "--app", "shop:app").out
    assert "left out" in cli("verify", kept, "--app", "shop:newer").out


def test_verify_finds_a_changed_payload(cli, filled, tmp_path):
    data = tmp_path / "store" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"order-2\xa5cents2", b"order-2\xa5cents3"))

    done = cli("verify", filled)

    assert done.code == Exit.NO
    assert "stream 'order-2', seq 1, position 3 is damaged" in done.out
    assert "stream 'order-2': seq 1 is lost" in done.out
    assert cli("verify", filled, "--json").document["problems"]
    assert cli("read", filled, "order-2").code == Exit.DAMAGED


def test_verify_survives_a_page_that_lmdb_would_crash_on(cli, filled, tmp_path):
    data = tmp_path / "store" / "data.mdb"
    raw = bytearray(data.read_bytes())
    raw[2 * 4096 :] = b"\xff" * (len(raw) - 2 * 4096)
    data.write_bytes(raw)

    done = cli("verify", filled)

    assert done.code == Exit.DAMAGED
    assert "is damaged" in done.err


def test_conformance_ends_with_the_sum(cli, url):
    done = cli("conformance", url, "--only", "snapshots")
    documents = cli("conformance", "memory:", "--only", "snapshots", "--json").documents

    assert done.code == 0
    assert done.out.splitlines()[-1] == f"{len(documents) - 1} passed, 0 failed"
    assert documents[-1]["failed"] == 0
    assert all(one["passed"] for one in documents[:-1])


def test_conformance_fails_when_a_law_is_broken(cli, monkeypatch):
    async def broken(stores):
        raise AssertionError("not kept")

    law = law_of(broken)
    monkeypatch.setattr("perdure.runtime.cli.conformance.all_laws", lambda: (law,))

    done = cli("conformance", "memory:")

    assert done.code == Exit.NO
    assert done.out.endswith("0 passed, 1 failed\n")


def law_of(check):
    """A law of its own."""
    from perdure.backends.conformance.law import Law

    return Law("a-law", "part", "A sentence.", check)


def test_bench_leaves_nothing_behind(cli, filled, tmp_path):
    before = sorted(tmp_path.rglob("*"))

    rows = cli("bench", filled, "--seconds", 0.02, "--json").documents

    assert len(rows) == 4
    assert all(row["events_per_s"] > 0 for row in rows)
    assert sorted(tmp_path.rglob("*")) == before
    assert cli("bench", filled, "--seconds", 0).code == Exit.USAGE


# -- backups ---------------------------------------------------------------------------------


def test_a_backup_is_restored(cli, filled, tmp_path):
    made = cli("backup", filled, tmp_path / "saved", "--json")
    done = cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new", "--json")

    assert (made.code, done.code) == (0, 0)
    assert (made.document["head"], done.document["position"], done.document["kv_entries"]) == (3, 3, 2)
    assert done.document["of"] == made.document["store"] != done.document["store"]
    for command in (("read", "order-1"), ("kv", "scan", "settings"), ("streams",)):
        assert cli(*about(command, f"lmdb:{tmp_path}/new"), "--json").out == cli(*about(command, filled), "--json").out


def test_a_restore_may_end_at_a_time(cli, filled, tmp_path):
    at = cli("read", filled, "order-1", "--json").documents[1]["at"]
    cli("backup", filled, tmp_path / "saved")

    done = cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new", "--time", at)

    assert done.code == 0
    assert "1 events left out, after position 2 of 3" in done.out


def test_a_damaged_backup_is_not_restored(cli, filled, tmp_path):
    cli("backup", filled, tmp_path / "saved")
    image = tmp_path / "saved" / "image"
    image.write_bytes(image.read_bytes().replace(b"order-2", b"order-3"))

    assert cli("restore", tmp_path / "saved", "--check").code == Exit.DAMAGED
    assert cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new").code == Exit.DAMAGED
    assert not (tmp_path / "new").exists()
    assert cli("restore", tmp_path / "nothing", "--check").code == Exit.USAGE


def test_a_restore_that_cannot_be_makes_no_store(cli, filled, tmp_path):
    cli("backup", filled, tmp_path / "saved")

    assert cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new", "--position", 9).code == Exit.USAGE
    assert cli("restore", tmp_path / "nothing", f"lmdb:{tmp_path}/new").code == Exit.USAGE
    assert not (tmp_path / "new").exists()


def test_damage_that_was_backed_up_is_accepted_when_asked(cli, filled, tmp_path):
    data = tmp_path / "store" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"order-2\xa5cents2", b"order-2\xa5cents3"))
    cli("backup", filled, tmp_path / "saved")

    refused = cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new")
    assert refused.code == Exit.DAMAGED
    assert not (tmp_path / "new").exists()
    done = cli("restore", tmp_path / "saved", f"lmdb:{tmp_path}/new", "--accept-damage")

    assert done.code == Exit.NO
    assert "stream 'order-2': seq 1 is lost" in done.out
    assert cli("stats", f"lmdb:{tmp_path}/new").code == 0


def test_a_store_is_compacted(cli, filled):
    done = cli("compact", filled, "--json").document

    assert (done["kept"], done["steps"]) == ("", 0)
    assert done["file_after"] <= done["file_before"]
    assert "given back  no: it has no file" in cli("compact", "memory:").out
    assert cli("verify", filled).code == 0


# -- export and import -----------------------------------------------------------------------


def test_an_export_is_imported(cli, filled, tmp_path):
    lines = cli("export", filled).out
    (tmp_path / "x.jsonl").write_text(lines)

    done = cli("import", f"lmdb:{tmp_path}/new", tmp_path / "x.jsonl", "--json")

    assert done.document == {"url": f"lmdb:{tmp_path}/new", "events": 3, "known": 0, "head": 3}
    assert cli("export", f"lmdb:{tmp_path}/new").out == lines
    assert cli("read", f"lmdb:{tmp_path}/new", "order-1", "--json").out == cli("read", filled, "order-1", "--json").out
    assert cli("verify", f"lmdb:{tmp_path}/new").code == 0


def test_an_export_is_utf_8_whatever_the_terminal_says(filled, url):
    assert main(["append", url, "größe", "t", '"€"']) == 0

    done = subprocess.run([*PERDURE, "export", url], capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert json.loads(done.stdout.splitlines()[-1])["data"] == "€"


def test_an_import_reads_standard_input(cli, filled, tmp_path, monkeypatch):
    lines = cli("export", filled).out.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))

    assert cli("import", f"lmdb:{tmp_path}/new", "-").out == "3 events imported; the log ends at position 3\n"


def test_a_bad_line_leaves_a_store_that_is_being_loaded(cli, filled, tmp_path):
    lines = cli("export", filled).out.splitlines()
    (tmp_path / "x.jsonl").write_text("\n".join([*lines[:2], lines[2][:-9]]))
    new = f"lmdb:{tmp_path}/new"

    done = cli("import", new, tmp_path / "x.jsonl")
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.err.startswith("perdure: line 3: it is not JSON")
    assert cli("streams", new).code == Exit.UNAVAILABLE
    assert "is being loaded" in cli("append", new, "s", "t", "1").err
    (tmp_path / "x.jsonl").write_text("\n".join(lines))

    assert cli("import", new, tmp_path / "x.jsonl").code == 0
    assert cli("export", new).out.splitlines() == lines


# -- what is refused -------------------------------------------------------------------------

READING = [
    ("read", "s"),
    ("tail",),
    ("streams",),
    ("kv", "get", "b", "k"),
    ("kv", "delete", "b", "k"),
    ("kv", "scan", "b"),
    ("kv", "watch", "b"),
    ("model", "list", "--app", "shop:app"),
    ("model", "show", "revenue", "--app", "shop:app"),
    ("model", "at", "revenue", "--position", "1", "--app", "shop:app"),
    ("stats",),
    ("verify",),
    ("backup", "saved"),
    ("export",),
    ("compact",),
]


def about(command, url):
    """*command* with its URL in its place."""
    words = 2 if command[0] in ("kv", "model") else 1
    return (*command[:words], url, *command[words:])


@pytest.mark.parametrize("command", READING)
def test_reading_makes_no_store(cli, url, shop, command):
    done = cli(*about(command, url))

    assert done.code == Exit.USAGE
    assert "there is no store in" in done.err
    assert not (shop / "store").exists()


@pytest.mark.parametrize("command", READING)
def test_a_file_is_no_store(cli, url, shop, command):
    (shop / "store").write_text("text")

    done = cli(*about(command, url))

    assert done.code == Exit.USAGE
    assert "store is a file: an LMDB store is a folder, name one" in done.err
    assert (shop / "store").read_text() == "text"


@pytest.mark.parametrize("command", READING)
def test_a_newer_store_is_refused(cli, filled, shop, command):
    with lmdb.open(f"{shop}/store/data.mdb", subdir=False, max_dbs=32, lock=False) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"readable_from", (99).to_bytes(8, "big"), db=meta)

    done = cli(*about(command, filled))

    assert done.code == Exit.DAMAGED
    assert "has format 99, this perdure knows up to 1: install a newer perdure" in done.err


@pytest.mark.parametrize("command", READING)
def test_a_damaged_store_is_refused(cli, filled, shop, command):
    (shop / "store" / "clean").unlink()
    data = shop / "store" / "data.mdb"
    data.write_bytes(data.read_bytes()[:4096] + os.urandom(len(data.read_bytes()) - 4096))

    done = cli(*about(command, filled))

    assert done.code == Exit.DAMAGED
    assert "is damaged" in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["append", "URL", "$s", "t", "1"], "names beginning with $ are perdure's own"),
        (["append", "URL", "", "t", "1"], "a stream name is text"),
        (["append", "URL", "a\nb", "t", "1"], "no control characters"),
        (["append", "URL", "s" * 256, "t", "1"], "the limit is 255"),
        (["append", "URL", "s", "$t", "1"], "names beginning with $ are perdure's own"),
        (["append", "URL", "s", "t", "{'a': 1}"], "is not JSON"),
        (["append", "URL", "s", "t", "NaN"], "NaN is no number of JSON"),
        (["append", "URL", "s", "t", '{"a": 1, "a": 2}'], "a name occurs twice"),
        (["append", "URL", "s", "t", "1" * 30], "can't serialize ints"),
        (["append", "URL", "s", "t", '"\\ud800"'], "surrogate"),
        (["append", "URL", "s", "t", "1", "--tag", "x" * 129], "the limit is 128"),
        (["append", "URL", "s", "t", "1", "--key", ""], "an idempotency key is 1 to 255 bytes"),
        (["append", "lmdb:no/where", "s", "t", "1"], "the folder no does not exist: make it first"),
        (["append", "lmdb:", "s", "t", "1"], "write lmdb:DIR"),
        (["append", "shop", "s", "t", "1"], "is no URL of a store"),
        (["append", "postgresql:x", "s", "t", "1"], "write postgresql://USER@HOST/DATABASE"),
        (["append", "jetstream:x", "s", "t", "1"], "is not part of this version"),
        (["append", "URL?size=many", "s", "t", "1"], "size=many"),
        (["append", "URL", "s", "t"], "requires an argument"),
        (["append", "URL", "s", "t", "1", "2"], "Unused"),
        (["append", "URL", "s", "t", "1", "--loud"], "--loud"),
        (["read", "URL", "s", "--after", "x"], "--after"),
        (["read", "URL", "s", "--after=-1"], "--after is a number from 0"),
        (["read", "URL", "s", "--limit=-1"], "--limit is a number from 0"),
        (["kv", "put", "URL", "b", "", "1"], "a key is text, not empty"),
        (["kv", "put", "URL", "b" * 65, "k", "1"], "the limit is 64"),
        (["kv", "put", "URL", "b", "k" * 401, "1"], "the limit is 400"),
        (["tail", "URL", "--after=-1"], "--after is a number from 0"),
        (["model", "list", "URL"], "--app"),
        (["conformance", "jetstream:x"], "the laws can be held against memory:, file:DIR, lmdb:DIR, postgresql://... and http://..."),
        (["restore", "saved"], "restore takes a URL to make a store at, or --check"),
        (["restore", "saved", "URL", "--check"], "restore takes a URL to make a store at, or --check"),
        (["restore", "saved", "URL", "--time", "now"], "is not ISO 8601"),
        (["import", "URL", "no-such-file"], "no-such-file cannot be read"),
        (["import", "URL", "no-such-file", "--append", "--anew"], "leave one out"),
        (["export", "URL", "--after=-1"], "--after is a number from 0"),
        (["nonsense"], "nonsense"),
        (["kv", "nonsense"], "nonsense"),
    ],
)
def test_asked_wrongly_is_one_line_and_nothing_is_stored(cli, url, arguments, text):
    done = cli(*(one.replace("URL", url) for one in arguments))

    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.err.startswith("perdure: ")
    assert done.err.count("\n") == 1
    assert text in done.err


def test_an_event_that_is_too_large(cli, url, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps("x" * (MIB + 1))))

    done = cli("append", url, "s", "t", "-")

    assert done.code == Exit.USAGE
    assert "an event of stream 's' has 1,048,582 bytes, the limit is 1,048,576" in done.err
    assert "there is no store" in cli("read", url, "s").err


def test_a_full_store(cli, url):
    small = f"{url}?size=256KiB"

    codes = [cli("append", small, "s", "t", json.dumps("x" * 50_000)).code for _ in range(8)]

    assert codes[0] == 0
    assert codes[-1] == Exit.UNAVAILABLE
    assert len(cli("read", url, "s", "--json").documents) == codes.count(0)


# -- other processes -------------------------------------------------------------------------


def test_a_second_writer_takes_its_turn(writer, url):
    done = finish(start("append", url, "s", "t", "1"))

    assert (done.code, done.err) == (0, "")


def test_a_writer_that_keeps_the_others_out_is_named(filled, cli):
    gate = FileLock(Path(filled.removeprefix("lmdb:")) / "gate.lock")
    assert gate.take()
    gate.write_pid()

    done = cli("append", filled, "s", "t", "1")
    gate.close()

    assert (done.code, done.out) == (Exit.UNAVAILABLE, "")
    assert f"process {os.getpid()} has the right to write to " in done.err


def test_reading_goes_on_while_another_process_writes(writer, url, cli):
    read = cli("read", url, "held-1", "--json", "--limit", 1)
    tail = cli("tail", url, "--limit", 3, "--json")

    assert read.document["data"] == {"n": 0}
    assert [one["seq"] - tail.documents[0]["seq"] for one in tail.documents] == [0, 1, 2]
    assert cli("streams", url, "--json").document["stream"] == "held-1"
    assert cli("stats", url, "--json").document["head"] > 0
    assert cli("verify", url).code == 0
    assert cli("kv", "scan", url, "b").code == 0


def test_a_reader_leaves_the_right_to_write_to_others(filled, cli):
    """A follower runs no upkeep: it would take the writer's lock and keep it."""
    tail = start("tail", filled, "--after", 0, "--json")
    first = tail.stdout.readline()
    try:
        done = cli("append", filled, "s", "t", "1")
    finally:
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=20)

    assert json.loads(first)["position"] == 1
    assert done.code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)])
def test_a_signal_ends_quietly_and_leaves_the_store_clean(filled, tmp_path, number, code):
    tail = start("tail", filled, "--after", 0, "--json")
    tail.stdout.readline()

    tail.send_signal(number)
    done = finish(tail)

    assert (done.code, done.err) == (code, "")
    assert (tmp_path / "store" / "clean").exists()


def test_a_closed_pipe_ends_quietly_and_leaves_the_store_clean(url, tmp_path):
    async def fill():
        async with open_runtime(url) as rt:
            await rt.append("s", [NewEvent("x" * 200, type="t") for _ in range(2_000)])

    trio.run(fill)
    read = start("read", url, "s", "--json")
    read.stdout.readline()

    read.stdout.close()

    assert read.stderr.read() == ""
    assert read.wait(timeout=20) == Exit.PIPE_CLOSED
    read.stderr.close()
    assert (tmp_path / "store" / "clean").exists()


def test_json_survives_a_terminal_without_unicode(cli, url):
    cli("append", url, "s-ü", "t", '"日本"')

    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    read, table = map(finish, [start("read", url, "s-ü", "--json", env=environment), start("read", url, "s-ü", env=environment)])

    assert (read.document["stream"], read.document["data"]) == ("s-ü", "日本")
    assert (table.code, table.err) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_an_output_that_cannot_be_written(filled):
    with open("/dev/full", "w") as full:
        done = finish(start("read", filled, "order-1", stdout=full))

    assert done.code == Exit.UNAVAILABLE
    assert done.err == "perdure: [Errno 28] No space left on device\n"


def test_output_that_was_closed_before(filled):
    line = shlex.join([*PERDURE, "read", filled, "order-1"])

    closed = subprocess.run(f"{line} >&-; echo $? >&2", shell=True, stderr=subprocess.PIPE, text=True, check=False)
    both = subprocess.run(f"{line} >&- 2>&-", shell=True, check=False)

    assert closed.stderr == "0\n"
    assert both.returncode == 0


def on_a_terminal(*arguments):
    """What stdout gets, and what a terminal that is stderr gets."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65_536):
            seen += part
    except OSError:  # how a pty says that all is read
        pass
    finally:
        os.close(ours)
    with process:
        return Done(process.wait(timeout=20), process.stdout.read(), seen.decode())


def test_progress_shows_on_a_terminal_and_only_there(filled, cli):
    done = on_a_terminal("bench", "memory:", "--seconds", "0.05", "--json")

    assert len(done.documents) == 4
    assert "measuring" in done.err
    assert "4/4" in done.err
    assert cli("bench", "memory:", "--seconds", "0.05", "--json").err == ""


# -- without its extra -----------------------------------------------------------------------

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv[:] = ["perdure", "stats", "memory:"]
from perdure.runtime.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("blocked", [("cyclopts",), ("rich",), ("cyclopts", "rich")])
def test_without_its_extra_it_says_what_to_install(tmp_path, blocked):
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED.format(blocked=blocked)], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (Exit.NOT_INSTALLED, "")
    assert done.stderr == "perdure: the command line needs an extra: pip install 'perdure[cli]'\n"


def test_another_missing_module_is_no_missing_extra(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED.format(blocked=("trio",))], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "perdure[cli]" not in done.stderr


# -- exit codes and values -------------------------------------------------------------------


def error_classes(base=PerdureError):
    """All of the family, from its own module."""
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from error_classes(cls)


@pytest.mark.parametrize("cls", list(error_classes()))
def test_every_error_has_an_exit_code(cls):
    assert exit_of(cls.__new__(cls)) in set(Exit) - {Exit.DONE}


def test_the_exit_code_of_what_a_failed_runtime_failed_of():
    failed = errors.RuntimeFailed()
    failed.__cause__ = errors.InDoubt(b"", None)

    assert exit_of(failed) == Exit.IN_DOUBT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InDoubt(b"\0" * 16, b"k"), Exit.IN_DOUBT),
        (ExceptionGroup("two", [errors.Unavailable("x"), errors.Corrupt("f", "y")]), Exit.DAMAGED),
        (errors.MissingExtra("the lmdb: backend", "lmdb"), Exit.NOT_INSTALLED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ],
)
def test_what_a_command_raises_becomes_its_exit_code(cli, monkeypatch, error, code):
    def fail(url):
        raise error

    monkeypatch.setattr(store_commands, "reading", fail)

    assert cli("stats", "memory:").code == code


def test_a_fault_of_ours_shows_its_traceback(cli, monkeypatch):
    monkeypatch.setattr(store_commands, "reading", lambda url: 1 / 0)

    done = cli("stats", "memory:")

    assert done.code == Exit.FAULT
    assert "ZeroDivisionError" in done.err


def test_help_and_version_are_data(cli):
    assert cli("--help").code == 0
    assert "Exit codes:" in cli("--help").out
    assert cli("--version").out.strip()
    assert cli("kv", "--help").code == 0


def test_bytes_and_times_in_json(cli, url):
    async def fill():
        async with open_runtime(url) as rt:
            data = {"raw": b"\0\xff", "when": datetime(2026, 3, 1, 12, tzinfo=UTC), "nan": float("nan"), 5: {"deep": [b"x"]}}
            await rt.append("s", [NewEvent(data, type="t", occurred=datetime(2013, 1, 1, tzinfo=UTC), meta={"raw": b"\1"})])

    trio.run(fill)
    event = cli("read", url, "s", "--json").document

    assert event["data"] == {"raw": "AP8=", "when": "2026-03-01T12:00:00Z", "nan": None, "5": {"deep": ["eA=="]}}
    assert (event["occurred"], event["meta"]) == ("2013-01-01T00:00:00Z", {"raw": "AQ=="})


def test_values_for_people():
    assert plain({(1, 2): float("inf"), None: {3}}) == {"[1, 2]": None, "null": [3]}
    assert as_json("é", ascii=True) == '"\\u00e9"'
    assert shown("a\u202eb\x9b") == "a\\u202eb\\x9b"


def test_the_last_column_is_wrapped_by_cells():
    assert wrapped("日本語" * 20, 30) == ["日本語" * 5, "日本語" * 5, "日本語" * 5, "日本語" * 5]
    assert wrapped("x" * 50, 10) == ["x" * 50]


def test_a_column_is_as_wide_as_what_it_has_held(capsys):
    columns = Columns("name", "n>", "text")
    columns.print([("日本", 1, "x")])
    columns.print([("longer name", 100, "y"), ("a", 2, "")])

    assert capsys.readouterr().out.splitlines() == ["name  n  text", "日本  1  x", "longer name  100  y", "a              2"]


# -- for reading only ------------------------------------------------------------------------


@pytest.mark.parametrize("command", [command for command in READING if command[:2] not in (("kv", "delete"), ("kv", "watch")) and command[0] != "tail"])
def test_what_reads_works_for_reading_only(cli, filled, shop, command):
    assert cli(*about(command, f"{filled}?mode=ro")).code in (Exit.DONE, Exit.NO)


def test_what_writes_is_not_supported_for_reading_only(cli, filled):
    for command in (["append", "s", "t", "1"], ["kv", "put", "b", "k", "1"]):
        done = cli(*about(command, f"{filled}?mode=ro"))
        assert (done.code, done.out) == (Exit.USAGE, "")
        assert "does not declare 'writes'" in done.err
