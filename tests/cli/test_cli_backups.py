"""The commands that bring a store elsewhere or make it smaller: backup, restore, compact, export, import."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

from commands import PERDURE, about
from perdure.runtime.__main__ import main
from perdure.runtime.cli.exits import Exit

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
