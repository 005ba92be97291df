# mypy: disable-error-code="attr-defined,arg-type"
"""Deliberate faults of retention, each as a patch that a simulation must notice."""

from __future__ import annotations

from perdure.backends import engine
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.runtime import archives, retention


def cuts_before_the_archive_is_there(patch):
    """The CID is known, the blob is put when the events are gone."""
    write, cut = retention.write_archive, retention._cut
    put = []

    async def write_elsewhere(backend, blobs, cuts, **more):
        async with open_blobs("directory:/elsewhere", environment=Environment(disk=SimulatedDisk().process(), threads=InlineThreads())) as there:
            cid = await write(backend, there, cuts, **more)
            put.append((blobs, b"".join([piece async for piece in there.get(cid)])))
            return cid

    async def cut_first(*args):
        held = await cut(*args)
        blobs, value = put.pop()
        await blobs.put(value)
        return held

    patch.setattr(retention, "write_archive", write_elsewhere)
    patch.setattr(retention, "_cut", cut_first)


def flushes_no_archive(patch):
    """It has its name before its bytes are durable."""
    from perdure.backends.simulated_process import SimulatedFile

    usual = SimulatedFile.flush

    async def flush(self):
        if "blobs" not in self.path:
            await usual(self)

    patch.setattr(SimulatedFile, "flush", flush)


def asks_no_consumer(patch):
    """What is held goes."""
    usual = engine._judge_cut

    def judge(cut, facts, done):
        facts.holds.clear()
        return usual(cut, facts, done)

    async def nobody(backend):
        return []

    patch.setattr(engine, "_judge_cut", judge)
    patch.setattr(retention, "consumers", nobody)


def takes_one_too_many(patch):
    usual = retention._last_that_goes

    async def last(backend, info, last, until, before_us):
        return await usual(backend, info, last + 1, until, before_us)

    patch.setattr(retention, "_last_that_goes", last)


def forgets_what_was_archived_before(patch):
    """An archive leads to none before it."""
    usual = archives.ArchiveWriter

    def writer(store, at_us, previous):
        return usual(store, at_us, {})

    patch.setattr(archives, "ArchiveWriter", writer)


def names_some_of_it(patch):
    """A dry run that leaves out a stream."""
    import attrs

    usual = retention.retain

    async def retain(*args, **more):
        done = await usual(*args, **more)
        return attrs.evolve(done, gone=done.gone[1:]) if done.dry else done

    from perdure.runtime.simulation import retained

    patch.setattr(retained, "retain", retain)
