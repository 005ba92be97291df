"""The commands, as one list, and what `perdure --help` says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from cyclopts import App, Group

from perdure.runtime.cli import blob, hold, kv, log, model, token
from perdure.runtime.cli.backup import backup, restore
from perdure.runtime.cli.bench import bench
from perdure.runtime.cli.completion import completion
from perdure.runtime.cli.conformance import conformance
from perdure.runtime.cli.exchange import export, import_
from perdure.runtime.cli.exits import MEANING
from perdure.runtime.cli.helping import tell
from perdure.runtime.cli.migrate import migrate
from perdure.runtime.cli.out import Printer
from perdure.runtime.cli.retain import retain
from perdure.runtime.cli.serve import serve
from perdure.runtime.cli.simulate import simulate
from perdure.runtime.cli.store import compact, stats, verify
from perdure.runtime.cli.top import top


def _version() -> str:
    try:
        return version("perdure")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _help() -> str:
    codes = "\n".join(f"{code:>7}  {meaning}" for code, meaning in MEANING.items())
    return f"""Look into a perdure store, and write to it.

A store is named by a URL: lmdb:DIR, file:DIR, postgresql://USER@HOST/DATABASE. Data goes to standard output, all else to standard error. With \
--json each line of data is a JSON document; later versions may add fields, and leave those there are as they are.

Exit codes:

{codes}"""


app = App(name="perdure", help=_help(), help_format="plaintext", version=_version, suppress_keyboard_interrupt=False, console=Printer())
OWN: Final = "The command line"
GROUPS: Final[dict[str, tuple[Any, ...]]] = {
    "Read and write": (log.append, log.read, log.tail, log.streams, kv.app, blob.app, model.commands),
    "Look after a store": (stats, verify, compact, retain, hold.app, backup, restore, migrate, export, import_),
    "Run": (serve, top, token.commands),
    "Try": (simulate, conformance, bench),
    OWN: (completion,),
}
PANELS: Final = {title: Group(title, sort_key=place) for place, title in enumerate(GROUPS)}
for title, group in PANELS.items():
    for command in GROUPS[title]:
        if isinstance(command, App):
            command.group = group
            app.command(command)
        else:
            app.command(command, name="import" if command is import_ else None, group=group)
for flag in ("--help", "--version"):
    app[flag].group = PANELS[OWN]
tell(app)
