"""Values and models across processes: watched, read where another projects, and projected by two at once."""

from __future__ import annotations

from pathlib import Path

from crowd.domain import VALUES, Tally
from crowd.driver import Crowd, Member, gather, wait_until
from crowd.laws import Reference, acknowledged, modelled, ordered, watched
from crowd.notes import Note
from perdure.runtime import open_runtime

PUTS = 120
APPENDS = 200
LEASE_S = 2.0


async def test_a_bucket_is_watched_from_another_process(tmp_path: Path) -> None:
    async with gather(tmp_path) as crowd:
        watcher = await crowd.start("watcher", "watch")
        writer = await crowd.start("w", "put", "append", pace_s=0.002)
        await writer.noted("put", PUTS)
        await writer.kill()
        second = await crowd.start("w", "put", pace_s=0.002)
        await second.noted("put", PUTS)
        await second.end()

        async with open_runtime(f"lmdb:{crowd.store}") as rt:
            newest = {entry.key: (entry.revision, entry.value) for entry in (await rt.kv(VALUES, str).scan()).entries}
        revision = max(revision for revision, _ in newest.values())
        await wait_until(lambda: watcher.of("changed")[-1].number(1) >= revision, f"the watcher to see revision {revision}", 2)
        await crowd.end_all()

    assert watched(watcher.of("changed"), crowd.of("put"), crowd.of("tryput"), newest) == []


def singles(member: Member) -> list[Note]:
    """What its model of one state has shown."""
    return [note for note in member.of("model") if note.words[1] == "-"]


def shows(member: Member, reference: Reference) -> bool:
    """Whether what its models showed last is the fold of the whole log."""
    last = {note.words[1]: Tally(note.number(3), note.number(4)) for note in member.of("model")}
    return all(last.get(key) == reference.last(key) for key in ("-", "w"))


async def written(crowd: Crowd) -> Reference:
    """Let a process append for a while; the folds of the log after that."""
    writer = await crowd.start("w", "append", stop_after=APPENDS, pace_s=0.001)
    await writer.noted("ack", APPENDS)
    await writer.end()
    log = await crowd.log()
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
    return Reference(log)


async def test_a_model_is_read_in_one_process_while_another_projects_it(tmp_path: Path) -> None:
    async with gather(tmp_path) as crowd:
        owner = await crowd.start("owner", "project")
        reader = await crowd.start("reader", "read")

        reference = await written(crowd)
        await wait_until(lambda: shows(reader, reference), "the reader to show the whole log")
        await crowd.end_all()

    for member in (owner, reader):
        assert modelled(reference, member.of("model")) == []
    assert len(reader.of("model")) > 10
    assert not crowd.of("warned")


async def test_of_two_that_run_one_projection_one_stands_by_shows_what_the_other_keeps_and_takes_over(tmp_path: Path) -> None:
    async with gather(tmp_path) as crowd:
        both = [await crowd.start(name, "project", "host", lease_s=LEASE_S) for name in ("p1", "p2")]
        reference = await written(crowd)
        await wait_until(lambda: all(shows(member, reference) for member in both), "both to show the whole log")
        owner, heir = both
        assert [[note.words[0] for note in member.of("runs")] for member in both] == [["all", "each"], []]

        await owner.kill()
        reference = await written(crowd)
        await wait_until(lambda: shows(heir, reference), "the heir to show the whole log", LEASE_S + 2)
        second = await crowd.start("p3", "project")
        await wait_until(lambda: shows(second, reference), "the next one to show what the heir keeps")
        await crowd.end_all()

    for member in (owner, heir, second):
        assert modelled(reference, member.of("model")) == []
