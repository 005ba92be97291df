"""Restoring: a new store from a backup, as it was then or with its log cut at a position or a time.

The new store has an id of its own, and nobody who held something in the old one holds it here: fences are raised,
revisions go on beyond any that the old store can have given. Where the log is cut, what knows more than it goes or
goes back: snapshots, checkpoints, states of models, idempotency keys. The users' kv cannot be cut: it stands
as in the backup, and the report says how much of it is newer.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from perdure.backends.denied import check_denied
from perdure.backends.disk import Disk
from perdure.backends.errors import Corrupt, Misuse, Unavailable
from perdure.backends.event import Position, to_us
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend, State
from perdure.runtime.backup import Manifest, check_backup, open_rows, read_manifest
from perdure.runtime.rewind import Rewriter, Survey


@attrs.frozen
class Restored:
    """What a restore made. *position* is where the log ends, *backup_head* where the backup's does."""

    store: str
    of: str
    position: Position
    backup_head: int
    revision: int
    events_left_out: int
    snapshots_dropped: int
    moved: tuple[str, ...]
    """Models and subscriptions that go on from before the cut;"""
    rebuilt: tuple[str, ...]
    """models that are built anew."""
    fences_raised: int
    kv_entries: int
    """Entries of the users' buckets, which stand as in the backup;"""
    kv_newer_least: int
    """so many of them are certainly newer than the cut,"""
    kv_newer_most: int
    """and so many may be: perdure does not keep the time of an entry."""
    problems: tuple[str, ...] = ()
    """What verifying found, and was accepted."""


@attrs.frozen
class Checked:
    """A backup that was read as a whole, and can be cut where that was asked for."""

    manifest: Manifest
    survey: Survey


async def restore(
    folder: str,
    backend: Backend,
    *,
    disk: Disk,
    position: int | None = None,
    time: datetime | None = None,
    accept_damage: bool = False,
    progress: Told = nobody,
    checked: Checked | None = None,
) -> Restored:
    """Fill *backend*, a new store that was opened for loading, from the backup in *folder*.

    With *position* or *time* its log ends at the last commit that is not beyond. The backup is checked before
    anything is loaded (*checked*: it was, by `check_restore`, before the store was made), and the new store is verified before it is opened. If
    cancelled or failed, the store says that it is being loaded: restore into it again, which begins anew, or remove it.

    Raises:
      Misuse: there is no backup, the store is not new, or the position is beyond the backup's, or before what had been cut.
      Corrupt: the backup is not as it was written; or, unless *accept_damage*, the store was damaged already when it was backed up.
      Unsupported: the backend cannot be loaded with rows.
      Unavailable: a disk refuses it.
    """
    await check_new(backend)
    try:
        if checked is None:
            await _check_request(disk, folder, position, time)
            await backend.begin_load(anew=True)  # from here on it says that it is none yet, whatever is found
            checked = await check_restore(disk, folder, position=position, time=time, progress=progress)
        else:
            await backend.begin_load(anew=True)
        manifest, rewriter = checked.manifest, Rewriter(checked.survey, checked.manifest.store, backend.id)
        loaded = await _Filling(disk, folder, manifest, backend, progress).fill(rewriter)
    except OSError as error:
        check_denied(error, folder, "name another backup")
        raise Unavailable(f"the backup in {folder} cannot be read: {error.strerror or error}") from error
    problems = await backend.verify(progress)
    if problems and not accept_damage:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Corrupt(f"what the backup in {folder} is of", f"{problems[0]}{more}; take an older backup, or accept the damage")
    await backend.end_load()
    return _report(manifest, rewriter, await backend.head(), loaded, problems)


async def check_new(backend: Backend) -> None:
    """Whether a backup may be restored into *backend*.

    Raises:
      Misuse: it holds something that no restore has left.
    """
    if backend.state is not State.LOADING and (await backend.head() or await backend.revision()):
        raise Misuse("a restore makes a new store: name one that is not there yet")


async def check_restore(
    disk: Disk, folder: str, *, position: int | None = None, time: datetime | None = None, progress: Told = nobody
) -> Checked:
    """Read the backup in *folder* as a whole, and look whether its log can be cut there: for who makes a store only then.

    Raises:
      Misuse: there is no backup, or the cut is none, or it is before what had been cut.
      Corrupt: the backup is not as it was written.
      Unavailable: the disk refuses it.
    """
    await _check_request(disk, folder, position, time)
    manifest = await check_backup(disk, folder, progress=progress)
    survey = await _survey(disk, folder, manifest, Survey(None if position == manifest.head else position, None if time is None else to_us(time)), progress)
    survey.check_cut()
    return Checked(manifest, survey)


async def _check_request(disk: Disk, folder: str, position: int | None, time: datetime | None) -> None:
    """Whether there is a backup and the cut is one; its rows are not read."""
    if position is not None and time is not None:
        raise Misuse("a restore ends at a position or at a time, not both")
    if time is not None and time.tzinfo is None:
        raise Misuse(f"the time {time.isoformat()} needs a time zone: add Z, or +02:00")
    try:
        manifest = await read_manifest(disk, folder)
    except OSError as error:
        check_denied(error, folder, "name another backup")
        raise Unavailable(f"the backup in {folder} cannot be read: {error.strerror or error}") from error
    if position is not None and not 0 <= position <= manifest.head:
        raise Misuse(f"the backup ends at position {manifest.head}: there is no position {position} in it")


async def _survey(disk: Disk, folder: str, manifest: Manifest, survey: Survey, progress: Told) -> Survey:
    """Tell *survey* of all rows."""
    done = 0
    try:
        async with open_rows(disk, folder, manifest) as reader:
            async for table, rows in reader:
                survey.add(table, rows)
                done += len(rows)
                progress(Progress("rows looked at", done, manifest.rows))
    except OSError as error:
        check_denied(error, folder, "name another backup")
        raise Unavailable(f"the backup in {folder} cannot be read: {error.strerror or error}") from error
    survey.finish()
    return survey


def _report(manifest: Manifest, rewriter: Rewriter, head: Position, loaded: int, problems: list[str]) -> Restored:
    return Restored(
        store=rewriter.id,
        of=manifest.store,
        position=head,
        backup_head=manifest.head,
        revision=rewriter.revision,
        events_left_out=0 if rewriter.survey.cut is None else rewriter.survey.events - loaded,
        snapshots_dropped=rewriter.snapshots_dropped,
        moved=tuple(rewriter.moved),
        rebuilt=tuple(rewriter.rebuilt),
        fences_raised=rewriter.fences,
        kv_entries=rewriter.entries,
        kv_newer_least=rewriter.newer_least,
        kv_newer_most=rewriter.newer_most,
        problems=tuple(problems),
    )


class _Filling:
    """Loads a backup, which was surveyed."""

    def __init__(self, disk: Disk, folder: str, manifest: Manifest, backend: Backend, progress: Told) -> None:
        self._disk = disk
        self._folder = folder
        self._manifest = manifest
        self._backend = backend
        self._progress = progress

    async def fill(self, rewriter: Rewriter) -> int:
        """Load all that stays; how many records that were (of a log that is cut)."""
        done = loaded = 0
        if rewriter.survey.cut is not None and rewriter.survey.cuts:
            await self._backend.load_cuts(rewriter.survey.cuts, rewriter.survey.told_of())
        async with open_rows(self._disk, self._folder, self._manifest) as reader:
            async for table, rows in reader:
                if table == "frames" and rewriter.survey.cut is not None:
                    records = [record for part in rewriter.records(rows) for record in part]
                    await self._backend.load(records)
                    loaded += len(records)
                elif found := rewriter.rows(table, rows):
                    await self._backend.load_rows(table, found)
                done += len(rows)
                self._progress(Progress("rows loaded", done, self._manifest.rows))
        for table, rows in rewriter.more():
            await self._backend.load_rows(table, rows)
        return loaded
