"""What the command line refuses, in one line, with which exit code, and nothing is stored."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import lmdb
import pytest

from commands import READING, about
from perdure.backends.limits import MIB
from perdure.runtime.cli.exits import Exit

# -- what is refused -------------------------------------------------------------------------


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


# -- for reading only ------------------------------------------------------------------------


@pytest.mark.parametrize("command", [command for command in READING if command[:2] not in (("kv", "delete"), ("kv", "watch")) and command[0] != "tail"])
def test_what_reads_works_for_reading_only(cli, filled, shop, command):
    assert cli(*about(command, f"{filled}?mode=ro")).code in (Exit.DONE, Exit.NO)


def test_what_writes_is_not_supported_for_reading_only(cli, filled):
    for command in (["append", "s", "t", "1"], ["kv", "put", "b", "k", "1"]):
        done = cli(*about(command, f"{filled}?mode=ro"))
        assert (done.code, done.out) == (Exit.USAGE, "")
        assert "does not declare 'writes'" in done.err


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
