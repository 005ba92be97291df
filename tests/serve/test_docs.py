"""docs/serve.md names every setting, operation and exit; README's example runs as shown; what is in examples/deploy fits."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from doctest import ELLIPSIS, OutputChecker

import attrs
import pytest

from daemons import SHOP, perdure, process
from perdure.runtime.serve.config import ServeConfig, load
from perdure.runtime.serve.openapi import plain_path
from perdure.runtime.serve.web import OPERATIONS


def row(field):
    """The line of a setting."""
    default = field.default
    told = str(default).lower() if isinstance(default, bool) else ", ".join(default) if isinstance(default, tuple) else default
    return f"| `{field.name}` | {told} | {'yes' if field.metadata['reload'] else ''} | {field.metadata['help']} |"


@pytest.mark.parametrize("name", [name for name in attrs.fields_dict(ServeConfig) if name != "limits"])
def test_every_setting_is_in_the_table(root, name):
    assert row(attrs.fields_dict(ServeConfig)[name]) in (root / "docs" / "serve.md").read_text()


@pytest.mark.parametrize("path", sorted({plain_path(one.path) for one in OPERATIONS}))
def test_every_path_is_told(root, path):
    told = re.sub(r"{(\w+)}", lambda found: found[1].replace("name", "NAME").upper(), path)

    assert told in (root / "docs" / "serve.md").read_text()


def test_the_configuration_that_is_shown_is_one(root):
    found = load(str(root / "examples" / "deploy" / "serve.toml"))

    assert found.store == "lmdb:/var/lib/perdure/store"


def test_the_container_is_told_what_there_is(root):
    text = (root / "examples" / "deploy" / "Containerfile").read_text()
    environment = dict(one.split("=", 1) for one in re.findall(r"PERDURE_\w+=\S+", text))

    found = load(environment=environment)

    assert (found.store, found.insecure, len(environment)) == ("lmdb:/store", True, 3)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's example uses curl")
def test_the_readme_is_as_it_is(root, tmp_path):
    """Its commands, run one after the other in one shell, print what is shown."""
    text = (root / "README.md").read_text()
    [block] = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "perdure").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m perdure.runtime "$@"\n')
    (bin / "perdure").chmod(0o755)
    (tmp_path / "examples").symlink_to(root / "examples")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    block = block.replace("8467", str(port))  # another daemon may have it on this machine
    ready = "until grep -q listening shown; do sleep 0.1; done"
    commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    script = "\n".join(f"echo {shlex.quote('$ ' + one)}\n{one}" + (f"\n{ready}" if one.endswith("&") else "") for one in commands)

    with (tmp_path / "shown").open("w") as shown:
        done = subprocess.run(
            ["sh", "-c", f"{script}\nkill $!\nwait"],
            cwd=tmp_path,
            stdout=shown,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "PERDURE_LISTEN": f"127.0.0.1:{port}"},
        )

    found = (tmp_path / "shown").read_text()
    assert OutputChecker().check_output(block, found, ELLIPSIS), found + done.stderr


@pytest.mark.slow
def test_the_clients_program_does_what_is_shown(root, tmp_path):
    """On a store of its own, then through a daemon that has this store open: the same lines."""
    text = (root / "docs" / "client.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [shown] = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    (tmp_path / "till.py").write_text(program)
    (tmp_path / "shop.py").write_text(SHOP.read_text())
    token = perdure("token", "new", "lmdb:shop", "till", "--scope=read", "--scope=append:order", "--scope=run", folder=tmp_path).stdout.strip()

    def till(url):
        done = subprocess.run(
            [sys.executable, "till.py", url], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PERDURE_TOKEN": token}
        )
        return done.stdout + done.stderr

    lines = ["$ python till.py lmdb:shop", till("lmdb:shop").rstrip(), "$ perdure serve shop:app --store lmdb:shop &"]
    with process(tmp_path, "--store", "lmdb:shop", "--listen", "127.0.0.1:0") as daemon:
        lines += ["$ python till.py http://127.0.0.1:8467", till(daemon.url)]

    assert "\n".join(lines) == shown
