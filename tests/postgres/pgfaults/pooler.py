"""PgBouncer before a PostgreSQL server, where this machine has it: its sessions are everybody's, a transaction long each."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres_server import run

PORT = 6432
"""Of a socket in a folder of its own."""
_SETTINGS = """
[databases]
* = host={server} user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {port}
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 500
logfile = {folder}/log
pidfile =
"""


def missing() -> str:
    """Why there can be no pooler here."""
    return "" if _program() else "there is no pgbouncer: apt-get install pgbouncer"


def _program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pooling(server: Path, *, sessions: int = 20, mode: str = "transaction") -> Iterator[str]:
    """A pooler of that many *sessions* with the server whose socket is in the folder *server*; the URL of its first database."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-pool-"))
    program = _program()
    assert program is not None
    settings = folder / "pgbouncer.ini"
    settings.write_text(_SETTINGS.format(server=server, folder=folder, port=PORT, mode=mode, sessions=sessions))
    user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
    if user is not None:
        shutil.chown(folder, user)
        server.chmod(server.stat().st_mode | 0o011)  # its folder may be passed through
    process = subprocess.Popen([program, "-q", str(settings)], user=user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"postgresql://postgres@/postgres?host={folder}&port={PORT}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, process: subprocess.Popen[bytes], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            run(url, "SELECT 1")
            return
        except Exception:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
