"""The rows of the table can fail: stores that are broken on purpose are each found out by the row that is named."""

from __future__ import annotations

from functools import partial

import attrs
import pytest

from perdure.backends import commit_log, segment
from perdure.backends.commit_log import CommitLog
from perdure.backends.file import FileMap
from perdure.backends.image_file import ImageWriter
from perdure.backends.logged import LoggedMap, _write_rows
from perdure.backends.marks import Mark
from perdure.backends.protocol import State
from perdure.backends.simulated_process import SimulatedFile, SimulatedProcess
from torment.faults import damage, power
from torment.row import Tally

pytestmark = [pytest.mark.timeout(120)]


def ack_before_flush(patch):
    """The flush comes with the next batch."""

    async def write_flush(self, offset, data, *, in_thread=False):
        await self.flush()
        await self.write(offset, data)

    patch.setattr(SimulatedFile, "write_flush", write_flush)


def no_sync(patch):
    """Nothing is ever flushed."""

    async def flush(self):
        return None

    async def write_flush(self, offset, data, *, in_thread=False):
        await self.write(offset, data)

    patch.setattr(SimulatedFile, "flush", flush)
    patch.setattr(SimulatedFile, "write_flush", write_flush)


def no_folder_sync(patch):
    """Names are left to chance."""

    async def sync_folder(self, path):
        return None

    patch.setattr(SimulatedProcess, "sync_folder", sync_folder)


def folder_synced_at_creation_only(patch):
    """Later names are left to chance."""
    sync = SimulatedProcess.sync_folder

    async def sync_folder(self, path):
        if not any(name.endswith("/store/store") for name in self.disk.paths()):
            await sync(self, path)

    patch.setattr(SimulatedProcess, "sync_folder", sync_folder)


def flush_retried(patch):
    """What failed is flushed again, and then it is believed."""
    flushed = SimulatedFile.write_flush

    async def write_flush(self, offset, data, *, in_thread=False):
        try:
            await flushed(self, offset, data)
        except OSError:
            await self.flush()

    patch.setattr(SimulatedFile, "write_flush", write_flush)


def swallowed_error(patch):
    """A flush that fails is none of the caller's business."""
    flushed = SimulatedFile.write_flush

    async def write_flush(self, offset, data, *, in_thread=False):
        try:
            await flushed(self, offset, data)
        except OSError:
            return

    patch.setattr(SimulatedFile, "write_flush", write_flush)


def last_batch_not_written_again(patch):
    """What the page cache shows is believed at opening."""
    anew = CommitLog._begin_anew

    async def begin_anew(self, again, segments):
        await anew(self, [], segments)

    patch.setattr(CommitLog, "_begin_anew", begin_anew)


def doubt_answered_from_the_old_segment(patch):
    """The store is opened again by going on in the file whose flush failed."""
    recover = CommitLog._recover

    async def go_on(self, after, kept, write, anew):
        if not anew:
            return await recover(self, after, kept, write, anew)
        needed = commit_log._since(await self._read_heads(), kept)
        segments = [await self._read_segment(path, header) for path, header in commit_log._since(needed, after)]
        batches, self.last, self._crc = commit_log.judge(segments, after, after)
        self.epoch = segments[-1].header.epoch
        await self._go_on(segments[-1])
        self._headers = needed
        return batches

    patch.setattr(CommitLog, "_recover", go_on)


def torn_without_the_flushed_mark(patch):
    """Whatever ends the chain was being written."""

    async def nothing(disk, folder):
        return Mark()

    patch.setattr(commit_log, "read_flushed", nothing)
    patch.setattr(commit_log, "read_mark", nothing)


def no_look_behind_the_end(patch):
    """A broken batch is the last one, whatever stands behind it; and nobody asks how far it had been flushed."""
    torn_without_the_flushed_mark(patch)
    scan = segment.scan
    patch.setattr(commit_log, "scan", lambda data, header: attrs.evolve(scan(data, header), later=None, clean=True))


def no_checksums(patch):
    """A batch is one if its head looks like one."""

    def batch_at(data, at, seed):
        if at + 24 > len(data):
            return None
        magic, size, number, _ = segment._BATCH.unpack_from(data, at)
        if magic != b"PdBt" or at + 24 + size > len(data):
            return None
        return segment.Found(number, at + 24, size, segment._CRC.unpack_from(data, at + 20)[0])

    patch.setattr(segment, "_batch_at", batch_at)


def image_not_flushed(patch):
    """The log is cut as soon as the image has been written."""

    async def end(self, number):
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(SimulatedFile, "flush", _nothing)
            return await ended(self, number)

    ended = ImageWriter.end
    patch.setattr(ImageWriter, "end", end)


async def _nothing(self):
    return None


def log_cut_before_the_image(patch):
    """The log before an image is let go when that is begun."""
    tidy = FileMap.tidy

    async def cut_first(self):
        if self._imaging is None and self._tail_bytes >= self._image_due:
            await self._log.cut(self._log.last)
        return await tidy(self)

    patch.setattr(FileMap, "tidy", cut_first)


def log_cut_before_the_map(patch):
    """The log is let go before what it says is in the map."""
    apply = LoggedMap._apply

    async def cut_first(self, *, small=False):
        if self._batches:
            await self._log.cut(self._log.last)
        await apply(self, small=small)

    patch.setattr(LoggedMap, "_apply", cut_first)


def applied_number_apart_from_the_rows(patch):
    """How far the map goes is written by itself, before it is true."""
    apply = LoggedMap._apply

    async def number_first(self, *, small=False):
        if self._batches:
            await self._base.write(partial(_write_rows, type(self._above)(), self._log.last), small=True)
        await apply(self, small=small)

    patch.setattr(LoggedMap, "_apply", number_first)


def views_the_batch_that_failed(patch):
    """What could not be flushed is shown all the same."""
    doubt = FileMap._doubt

    def shown(self, why):
        error = doubt(self, why)
        self.state = State.OPEN
        return error

    patch.setattr(FileMap, "_doubt", shown)


LIARS = [
    (ack_before_flush, power.power_cuts, "file:"),
    (no_sync, power.power_cuts, "file:"),
    (no_folder_sync, power.power_cuts, "file:"),
    (folder_synced_at_creation_only, power.power_cuts, "file:"),
    (flush_retried, power.failed_flushes, "file:"),
    (swallowed_error, power.failed_flushes, "file:"),
    (last_batch_not_written_again, power.failed_flushes, "file:"),
    (doubt_answered_from_the_old_segment, power.failed_flushes, "file:"),
    (torn_without_the_flushed_mark, damage.damaged_files, "file:"),
    (no_look_behind_the_end, damage.damaged_files, "file:"),
    (no_checksums, damage.damaged_files, "file:"),
    (image_not_flushed, power.power_cuts, "file:"),
    (log_cut_before_the_image, power.power_cuts, "file:"),
    (log_cut_before_the_map, power.power_cuts, "segments"),
    (applied_number_apart_from_the_rows, power.power_cuts, "segments"),
    (views_the_batch_that_failed, power.failed_flushes, "file:"),
]


@pytest.mark.parametrize(("liar", "row", "scheme"), LIARS, ids=lambda value: getattr(value, "__name__", str(value).strip(":")))
def test_a_liar_is_found_out(liar, row, scheme, monkeypatch, tmp_path):
    liar(monkeypatch)
    tally = Tally(3_000, 1, tmp_path)

    while not (tally.over or tally.violations):
        one = Tally(tally.done + 200, tally.seed + tally.done, tmp_path)
        row(scheme, one)
        tally.done += 200
        tally.violations += one.violations

    assert tally.violations
