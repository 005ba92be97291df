"""What the command line says where something has been cut: options that the command has, and that do it."""

from __future__ import annotations

import re

import pytest
import trio

from perdure.backends.commit import Cut
from perdure.backends.conformance.law import Desk
from perdure.backends.urls import open_backend
from perdure.runtime.__main__ import main


@pytest.fixture(autouse=True, params=["with archive", "without"])
def store(request, tmp_path, monkeypatch):
    """A stream of seqs 5 to 8, and an event of another one."""
    monkeypatch.chdir(tmp_path)
    if request.param == "without":
        trio.run(make)
    else:
        trio.run(make, 0)
        (tmp_path / "four_kept.py").write_text("from perdure.runtime import App, Retention\napp = App(retention=[Retention(streams=['s'], count=4)])\n")
        assert main(["retain", "lmdb:shop", "--app", "four_kept:app", "--blobs", "directory:archives"]) == 0


async def make(cut=5):
    async with open_backend("lmdb:shop") as backend:
        await Desk(backend).append("s", 8)
        await Desk(backend).append("other", 1)
        if cut:
            await Desk(backend).done(Cut("s", cut))


def said(capsys, *arguments):
    """What a command prints and why it refuses."""
    capsys.readouterr()
    code = main(list(arguments))
    done = capsys.readouterr()
    return code, done.out.splitlines(), done.err


def followed(capsys, text, *arguments):
    """The seqs that the command gives with the option that the text names."""
    option = re.search(r"(--(?:after|limit) \d+|--over-cuts)", text)
    assert option is not None, text
    code, lines, err = said(capsys, *arguments, *option[1].split())
    assert (code, err) == (0, "")
    return lines


@pytest.mark.parametrize(
    ("asked", "count"),
    [("", 4), ("--after 2", 4), ("--backward", 4), ("--backward --after 7", 2), ("--backward --after 99", 4), ("--backward --limit 6", 4)],
)
def test_read_names_what_reads_on(capsys, asked, count):
    code, lines, err = said(capsys, "read", "lmdb:shop", "s", *asked.split())
    assert (code, len(lines)) == (2, count + 1 if "--backward" in asked else 0)  # with the headings
    assert "read after" not in err

    again = asked.replace("--limit 6", "").split() if "--backward" in asked else []
    assert len(followed(capsys, err, "read", "lmdb:shop", "s", "--json", *again)) == count


@pytest.mark.parametrize("after", ["3", "5"])
def test_read_backward_from_before_the_first(capsys, after):
    assert f"nothing is left below seq {after}" in said(capsys, "read", "lmdb:shop", "s", "--backward", "--after", after)[2]


@pytest.mark.parametrize("how", [(), ("--backward",)])
def test_read_names_the_archive_if_there_is_one(capsys, tmp_path, how):
    err = said(capsys, "read", "lmdb:shop", "s", *how)[2]

    assert ("--with-archive" in err) == (tmp_path / "archives").exists()
    if (tmp_path / "archives").exists():
        assert len(said(capsys, "read", "lmdb:shop", "s", "--json", "--with-archive", "directory:archives", *how)[1]) == 8


def test_tail_names_where_to_begin(capsys):
    code, lines, err = said(capsys, "tail", "lmdb:shop", "--after", "0", "--limit", "1", "--json")

    assert (code, lines, "archives" in err) == (2, [], False)
    assert len(followed(capsys, err, "tail", "lmdb:shop", "--limit", "1", "--json")) == 1


def test_export_names_over_cuts(capsys):
    code, lines, err = said(capsys, "export", "lmdb:shop")

    assert (code, lines, "archives" in err) == (2, [], False)
    assert len(followed(capsys, err, "export", "lmdb:shop")) == 5
    assert "--after 4" in err
