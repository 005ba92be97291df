"""The commands of the log on real stores: append, read, tail, streams."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timedelta

import pytest

from perdure.runtime.cli.exits import Exit


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
