"""Deliberate faults of perdure, each as a patch that a simulation must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from perdure.actors import journal, mailbox, projection
from perdure.actors.follower import Follower
from perdure.backends import commit_log, engine, file, logged, ordered, redo, segment, simulated_process
from perdure.backends.commit import Committed, Stored
from perdure.backends.layered import Recorder

Patch = Callable[[Any], None]
"""Given pytest's monkeypatch, makes perdure lie."""


# -- the disk is not asked -------------------------------------------------------------------


def acknowledges_before_the_flush(patch):
    """A batch is written, and flushed by whoever comes next."""

    async def write_only(self, offset, data, *, in_thread=False):
        await self.write(offset, data)

    patch.setattr(simulated_process.SimulatedFile, "write_flush", write_only)


def never_flushes(patch):
    async def nothing(self):
        await trio.lowlevel.checkpoint()

    patch.setattr(simulated_process.SimulatedFile, "flush", nothing)


def syncs_no_folder(patch):
    async def nothing(self, path):
        await trio.lowlevel.checkpoint()

    patch.setattr(simulated_process.SimulatedProcess, "sync_folder", nothing)


def syncs_its_folder_at_creation_only(patch):
    """The names of later segments are left to chance."""
    usual = simulated_process.SimulatedProcess.sync_folder
    real = commit_log.CommitLog._make_segment

    async def sync(self, path):
        if not getattr(self, "rolling", False):
            await usual(self, path)

    async def make(self, number, first, previous, payloads=()):
        self._disk.rolling = number > 1
        try:
            await real(self, number, first, previous, payloads)
        finally:
            self._disk.rolling = False

    patch.setattr(simulated_process.SimulatedProcess, "sync_folder", sync)
    patch.setattr(commit_log.CommitLog, "_make_segment", make)


def flushes_again_after_a_failure(patch):
    """A failed flush is asked once more, and its answer believed."""
    usual = simulated_process.SimulatedFile.write_flush

    async def write_flush(self, offset, data, *, in_thread=False):
        try:
            await usual(self, offset, data)
        except OSError:
            await self.flush()

    patch.setattr(simulated_process.SimulatedFile, "write_flush", write_flush)


def renames_before_it_flushes(patch):
    """An image gets its name first."""
    from perdure.backends.image_file import ImageWriter

    usual = ImageWriter.end

    async def end(self, number):
        class Unflushed:
            def __init__(self, inner):
                self.inner = inner

            def __getattr__(self, name):
                return getattr(self.inner, name)

            async def flush(self):
                await trio.lowlevel.checkpoint()

        self._file = Unflushed(self._file)
        return await usual(self, number)

    patch.setattr(ImageWriter, "end", end)


# -- the log is believed too soon, or too late -------------------------------------------------


def believes_its_cache_when_it_opens(patch):
    """The last batch is not written again, and the log goes on where it seems to end."""
    usual = commit_log.CommitLog._begin_anew

    async def go_on(self, again, segments):
        if not segments[-1].scanned.clean:
            await usual(self, again, segments)
        else:
            await self._go_on(segments[-1])

    patch.setattr(commit_log.CommitLog, "_begin_anew", go_on)


def resolves_doubt_from_the_old_segment(patch):
    """After a failed flush what reads well counts as flushed."""

    async def recover(self, after, *, kept=None, write=True, anew=False):
        return await self._recover(after, after if kept is None else kept, write, False)

    usual = commit_log.CommitLog._begin_anew

    async def without_again(self, again, segments):
        await usual(self, [], segments)

    patch.setattr(commit_log.CommitLog, "recover", recover)
    patch.setattr(commit_log.CommitLog, "_begin_anew", without_again)


def forgets_the_last_batch_when_it_opens(patch):
    """What was not confirmed is cut off, though it may have been acknowledged."""
    usual = commit_log.CommitLog._recover

    async def recover(self, after, kept, write, anew):
        batches = await usual(self, after, kept, write, anew)
        return batches[:-1] if not self.recovery.clean and len(batches) > 1 else batches

    patch.setattr(commit_log.CommitLog, "_recover", recover)


def believes_torn_batches(patch):
    """No checksum is looked at."""

    def batch_at(data, at, seed):
        if at + segment._HEAD_BYTES > len(data):
            return None
        magic, size, number, _ = segment._BATCH.unpack_from(data, at)
        start = at + segment._HEAD_BYTES
        if magic != segment._BATCH_MAGIC or start + size > len(data):
            return None
        return segment.Found(number, start, size, segment._CRC.unpack_from(data, at + segment._BATCH.size)[0])

    patch.setattr(segment, "_batch_at", batch_at)


def cuts_the_log_before_the_map_has_it(patch):
    """Behind a commit log: the log before a transaction is let go, then the transaction is written."""
    usual = logged.LoggedMap._apply

    async def apply(self, *, small=False):
        if self._batches:
            await self._log.cut(self._log.last)
        await usual(self, small=small)

    patch.setattr(logged.LoggedMap, "_apply", apply)


def shows_before_it_flushes(patch):
    """Rows are seen while their batch is on its way to the disk."""

    async def write(self, fn, *, small=False, size_bytes=0):
        recorder = Recorder(self._tables.reader)
        result = fn(recorder)
        if recorder.rows:
            payload = redo.encode(recorder.rows)
            with trio.CancelScope(shield=True):
                self._tables.apply(recorder.rows)
                await self._append(payload)
        return result

    patch.setattr(file.FileMap, "write", write)


# -- callers are told wrongly ----------------------------------------------------------------


def lets_go_of_what_it_has_taken(patch):
    """A caller that is cancelled leaves, though its commit is under way."""

    def abort(self, _):
        self.abandon()
        return trio.lowlevel.Abort.SUCCEEDED

    patch.setattr(mailbox.Slot, "_abort", abort)


def takes_doubt_for_absence(patch):
    """After a failed flush each commit is tried again, and one that was stored is stored twice."""

    async def is_absent(self, request):
        await trio.lowlevel.checkpoint()
        return request.stage is mailbox.Stage.TAKEN

    def note_doubt(self, commits, follows):
        for commit in commits:
            self._doubts.append(bytes(16) + commit.id)

    patch.setattr(journal.Journal, "_is_absent", is_absent)
    patch.setattr(ordered.OrderedBackend, "_note_doubt", note_doubt)


def answers_every_doubt_with_yes(patch):
    usual = journal.Journal._is_absent

    async def is_absent(self, request):
        if await usual(self, request) and request.commit.key is None:
            import outcome

            parts = tuple(Stored(1) for _ in request.commit.writes)
            request.answer(outcome.Value(Committed(self.head, parts)))
            return False
        return request.stage is mailbox.Stage.TAKEN

    patch.setattr(journal.Journal, "_is_absent", is_absent)


def looks_at_no_expectation(patch):
    """Of two appenders with the same expectation both win."""
    patch.setattr(engine, "_compare", lambda what, subject, expected, actual: None)


# -- followers and projections ---------------------------------------------------------------


def sleeps_between_look_and_wait(patch):
    """A wake-up between the two is lost for good."""

    async def wait(self, what, done, position=None):
        await trio.lowlevel.checkpoint()
        while not await self._look(done):
            await trio.lowlevel.checkpoint()
            await self._store.news.wait(what)

    patch.setattr(ordered.OrderedBackend, "_wait", wait)


def trusts_the_wake_up(patch):
    """A follower that is woken takes it that there is one page, and goes to the head."""
    usual = Follower.page

    async def page(self):
        records = await usual(self)
        if self._ring.last is not None and len(records) > 3:
            self.cursor = max(self.cursor, self._ring.last)
        return records

    patch.setattr(Follower, "page", page)


def keeps_the_checkpoint_apart_from_the_state(patch):
    """State first, then the checkpoint, in two commits: between them a crash applies a page twice."""
    usual = projection.ProjectionActor.save

    async def save(self, fault=""):
        services = self._services

        async def apart(writes):
            if len(writes) > 1:
                await services.commit(writes[1:])
                return await services.commit(writes[:1])
            return await services.commit(writes)

        import attrs

        self._services = attrs.evolve(services, commit=apart)
        try:
            return await usual(self, fault)
        finally:
            self._services = services

    patch.setattr(projection.ProjectionActor, "save", save)


def folds_the_last_page_again_after_a_restart(patch):
    """The checkpoint that is read is one event behind the state beside it."""
    from perdure.actors.keyed import KeyedActor

    usual = KeyedActor._begin

    async def begin(self, kept):
        await usual(self, kept)
        if kept is not None and kept.position:
            self._progress.position = self._progress.position - 1

    patch.setattr(KeyedActor, "_begin", begin)
