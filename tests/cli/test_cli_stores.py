"""The commands about a store as a whole: stats, verify, conformance, bench."""

from __future__ import annotations

from perdure.runtime.cli.exits import Exit


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
