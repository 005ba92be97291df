"""The commands of buckets: `kv`."""

from __future__ import annotations

import pytest

from perdure.runtime.cli.exits import Exit


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
