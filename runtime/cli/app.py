"""The commands, as one list, and what `perdure --help` says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

from perdure.runtime.cli import blob, hold, kv, log, model
from perdure.runtime.cli.backup import backup, restore
from perdure.runtime.cli.bench import bench
from perdure.runtime.cli.conformance import conformance
from perdure.runtime.cli.exchange import export, import_
from perdure.runtime.cli.exits import MEANING
from perdure.runtime.cli.migrate import migrate
from perdure.runtime.cli.retain import retain
from perdure.runtime.cli.simulate import simulate
from perdure.runtime.cli.store import compact, stats, verify


def _version() -> str:
    try:
        return version("perdure")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _help() -> str:
    codes = "\n".join(f"{code:>4}  {meaning}" for code, meaning in MEANING.items())
    return f"""Look into a perdure store, and write to it.

A store is named by a URL: lmdb:DIR. Data goes to standard output, all else to
standard error; with --json the data is one JSON document per line.

Exit codes:
{codes}"""


app = App(name="perdure", help=_help(), help_format="plaintext", version=_version, suppress_keyboard_interrupt=False)
for command in (
    *(log.append, log.read, log.tail, log.streams, kv.app, blob.app, model.commands, stats, verify, compact, retain, hold.app, backup, restore, export),
    *(migrate, conformance, bench, simulate),
):
    app.command(command)
app.command(import_, name="import")
