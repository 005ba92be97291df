"""`backup`, `restore`: a store's image in a folder, and a new store from it."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from perdure.backends.disk import TrioDisk
from perdure.backends.environment import wall_us
from perdure.backends.errors import Misuse
from perdure.backends.undone import is_there, refuse_filled, undone
from perdure.backends.urls import open_backend
from perdure.runtime.backup import Manifest, back_up, check_backup
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url, moment_of
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.store import told_bytes
from perdure.runtime.cli.stores import reading
from perdure.runtime.cli.values import plain
from perdure.runtime.restore import Restored, check_new, check_restore
from perdure.runtime.restore import restore as fill

Folder = Annotated[str, Parameter(help="The backup: a folder.", allow_leading_hyphen=True)]


def backup(url: Url, folder: Annotated[str, Parameter(help="Where to: a new folder, or an empty one.")], /, *, json: AsJson = False) -> int:
    """Write a backup of a store, as it is at one moment.

    Others may write meanwhile. Nothing is overwritten. A backup without its manifest was cut off, and is none.

    For example:

        perdure backup lmdb:shop saved/2026-03-01

    JSON: backup, format, store, head, revision, at, made, rows, files.
    """

    async def command() -> int:
        async with reading(url) as backend:
            with out.told(f"backing up {url}") as progress:
                manifest = await back_up(backend, folder, disk=TrioDisk(), made_us=wall_us(), progress=progress)
        _print_manifest(folder, manifest, json)
        return Exit.DONE

    return run_async(command)


def restore(
    folder: Folder,
    url: Annotated[str | None, Parameter(help="The new store: lmdb:DIR.")] = None,
    /,
    *,
    position: Annotated[int | None, Parameter(help="End the log at the last commit that is not beyond.")] = None,
    time: Annotated[str | None, Parameter(help="The same, by a time in ISO 8601 with its zone.")] = None,
    check: Annotated[bool, Parameter(negative=(), show_default=False, help="Only read the backup and compare its digests and checksums.")] = False,
    accept_damage: Annotated[bool, Parameter(negative=(), show_default=False, help="Open the store though it was damaged when it was backed up.")] = False,
    json: AsJson = False,
) -> int:
    """Make a new store from a backup.

    It gets an id of its own, and no lease or fence of the old store holds in it. With --position or --time its log
    is cut, and models go back with it; kv stands as in the backup. If this is cut off the store says that it is being
    loaded: restore into it again.

    For example:

        perdure restore saved/2026-03-01 lmdb:restored

    JSON: url, store, of, position, backup_head, revision, events_left_out, snapshots_dropped, moved, rebuilt, fences_raised, kv_entries, kv_newer_least,
    kv_newer_most, problems; or backup, format, store, head, revision, at, made, rows, files.
    """
    if check == (url is not None):
        raise Misuse("restore takes a URL to make a store at, or --check to make none")
    until = None if time is None else moment_of(time)

    async def command() -> int:
        with out.told(f"reading {folder}") as progress:
            if url is None:
                _print_manifest(folder, await check_backup(TrioDisk(), folder, progress=progress), json)
                return Exit.DONE
            await _refuse_used(url)
            checked = await check_restore(TrioDisk(), folder, position=position, time=until, progress=progress)  # before a store is made
            async with undone(url), open_backend(url, loading=True) as backend:
                report = await fill(folder, backend, disk=TrioDisk(), accept_damage=accept_damage, progress=progress, checked=checked)
        _print_restored(url, report, json, cut=position is not None or until is not None)
        return Exit.NO if report.problems else Exit.DONE

    return run_async(command)


async def _refuse_used(url: str) -> None:
    """Tell at once, before all of a backup is read, that no store can be made at *url*."""
    await refuse_filled(url)
    if await is_there(url):
        async with open_backend(url, create=False, loading=True) as backend:
            await check_new(backend)


def _print_manifest(folder: str, manifest: Manifest, json: bool) -> None:
    if json:
        out.document({"backup": folder, **{name: plain(value) for name, value in attrs.asdict(manifest).items()}})
        return
    size = sum(file.size_bytes for file in manifest.files)
    out.facts(
        [
            ("backup", folder),
            ("of store", manifest.store),
            ("head", f"position {manifest.head}"),
            ("kv revision", f"{manifest.revision:,}"),
            ("made", plain(manifest.made)),
            ("size", told_bytes(size)),
        ]
    )


def _print_restored(url: str, report: Restored, json: bool, *, cut: bool) -> None:
    if json:
        out.document({"url": url, **attrs.asdict(report)})
        return
    for problem in report.problems:
        out.line(problem)
    out.facts([*_restored(url, report), *(_cut(report) if cut else ())])


def _restored(url: str, report: Restored) -> list[tuple[str, Any]]:
    return [
        ("store", url),
        ("id", report.store),
        ("from store", report.of),
        ("head", f"position {report.position}"),
        ("kv", f"{report.kv_entries:,} entries; revisions go on after {report.revision:,}"),
        ("fences", f"{report.fences_raised:,} raised: whoever held a lease acquires it anew"),
    ]


def _cut(report: Restored) -> list[tuple[str, Any]]:
    least, most = report.kv_newer_least, report.kv_newer_most
    newer = f"{least:,}" if least == most else f"{least:,} to {most:,} (when an entry was put is not kept)"
    return [
        ("cut", f"{report.events_left_out:,} events left out, after position {report.position} of {report.backup_head}"),
        ("kv not cut", f"it stands as in the backup; entries newer than the cut: {newer}"),
        ("go on", ", ".join(report.moved) or "none from before the cut"),
        ("built anew", ", ".join(report.rebuilt) or "none"),
    ]
