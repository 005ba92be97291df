"""Completion, by really pressing Tab in bash; the other shells' scripts are parsed by them where they are."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from perdure.runtime.__main__ import main

PROMPT = b"ready> "


@pytest.fixture
def bash(tmp_path):
    """An interactive bash that has read the script; gives a function that types, presses Tab and tells the line."""
    script = tmp_path / "completion.bash"
    script.write_text(subprocess.run([sys.executable, "-m", "perdure.runtime", "completion", "bash"], check=True, capture_output=True, text=True).stdout)
    rc = tmp_path / "rc"
    rc.write_text(f"PS1='{PROMPT.decode()}'\nbind 'set enable-bracketed-paste off'\nbind 'set bell-style none'\nsource {script}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--noprofile", "--rcfile", str(rc), "-i"], {**os.environ, "TERM": "dumb", "COLUMNS": "200"})

    def shown(until, limit_s=20.0):
        text, end = b"", time.monotonic() + limit_s
        while not until(text) and time.monotonic() < end:
            if select.select([terminal], [], [], 0.3)[0]:
                text += os.read(terminal, 4_096)
        return text

    def press(typed, wanted):
        os.write(terminal, typed.encode() + b"\t")
        text = shown(lambda text: wanted.encode() in text)
        os.write(terminal, b"\x15\r")  # the line is given up
        shown(lambda text: PROMPT in text)
        return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x07", b"", text).decode()

    shown(lambda text: PROMPT in text)
    yield press
    os.close(terminal)
    os.waitpid(pid, 0)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("perdure app", "perdure append "),
        ("perdure kv sc", "perdure kv scan "),
        ("perdure append lmdb:shop order-1 placed --exp", "--expected "),
        ("perdure kv scan lmdb:shop settings --pre", "--prefix "),
        ("perdure token rev", "perdure token revoke "),
        ("perdure completion fi", "perdure completion fish "),
    ],
)
def test_tab_completes(bash, typed, line):
    assert line in bash(typed, line)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_script_names_every_command(shell, capsys):
    main(["completion", shell, "--json"])
    told = json.loads(capsys.readouterr().out)

    assert told["shell"] == shell
    assert all(name in told["script"] for name in ("append", "migrate", "completion", "--expected"))
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=told["script"], text=True, check=True)
