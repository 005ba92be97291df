"""A log that is cut when it is restored: exactly there, and the store goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from copies import backed_up, fill, restored
from perdure.backends.commit import Put, key_id
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Misuse
from perdure.backends.event import to_datetime
from perdure.backends.memory import open_memory


@pytest.mark.parametrize(("position", "stands"), [(0, 0), (1, 0), (2, 2), (11, 10), (12, 12), (23, 22), (24, 24)])
async def test_a_log_is_cut_at_a_position(desk, tmp_path, position, stands):
    await backed_up(desk.backend, tmp_path / "b")
    before = await desk.log()

    backend, report = await restored(tmp_path / "b", position=position)

    copy = Desk(backend)
    assert await copy.log() == [record for record in before if record.position <= stands]
    assert await backend.snapshots("s") == [place for place in await desk.backend.snapshots("s") if place <= stands]
    for stream in ("s-0", "s-1"):
        assert await copy.stream(stream) == [record for record in before if record.stream == stream and record.position <= stands]
    assert (report.position, report.backup_head, report.events_left_out) == (stands, 24, 24 - stands)
    assert report.snapshots_dropped == 12 - stands // 2
    assert await backend.scan("k", limit=9) == await desk.backend.scan("k", limit=9)
    assert await backend.verify() == []


async def test_a_cut_in_a_merged_frame_is_exact(desk, tmp_path):
    while await desk.backend.maintain():
        pass
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=14)

    assert await Desk(backend).log() == [record for record in await desk.log() if record.position <= 14]
    assert await backend.verify() == []


@pytest.mark.parametrize(("seconds", "stands"), [(-5, 0), (0.5, 0), (1, 2), (7.5, 14), (12, 24), (99, 24)])
async def test_a_log_is_cut_at_a_time(tmp_path, seconds, stands):
    desk = Desk(open_memory())
    now = await fill(desk)
    await backed_up(desk.backend, tmp_path / "b")

    _, report = await restored(tmp_path / "b", time=to_datetime(now) + timedelta(seconds=seconds))

    assert report.position == stands


async def test_a_commit_that_was_cut_off_is_not_known_and_is_stored_anew(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=10)

    answers = [await backend.answer(key_id(b"key-%d" % number)) for number in range(1, 13)]
    assert [answer is not None for answer in answers] == [True] * 5 + [False] * 7
    again = await Desk(backend).done(appending("s-0", 2), key=b"key-6")
    assert again.position == 12


async def test_positions_and_seqs_go_on_after_the_cut(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=10)

    copy = Desk(backend)
    assert (await copy.append("s-0", 1, 4)).position == 11
    assert (await copy.append("new", 1, 0)).position == 12


async def test_the_report_says_how_much_of_kv_is_newer_than_the_cut(desk, tmp_path):
    """The entries 1 to 4 were put last by the commits 11, 12, 8 and 9: their keys say when."""
    await backed_up(desk.backend, tmp_path / "b")

    _, cut = await restored(tmp_path / "b", position=16)
    _, whole = await restored(tmp_path / "b")

    assert (cut.kv_entries, cut.kv_newer_least, cut.kv_newer_most) == (4, 3, 3)
    assert (whole.kv_newer_least, whole.kv_newer_most) == (0, 0)


async def test_where_nothing_says_when_an_entry_was_put_the_report_says_that(tmp_path):
    desk = Desk(open_memory())
    for number in range(5):
        await desk.done(appending("a"), Put("k", b"%d" % number, b""))
    await backed_up(desk.backend, tmp_path / "b")

    _, report = await restored(tmp_path / "b", position=2)

    assert (report.kv_entries, report.kv_newer_least, report.kv_newer_most) == (5, 0, 5)


async def test_what_is_asked_wrongly_is_refused(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    now = datetime.now(UTC)

    for more in ({"position": 25}, {"position": -1}, {"position": 1, "time": now}, {"time": now.replace(tzinfo=None)}):
        with pytest.raises(Misuse):
            await restored(tmp_path / "b", **more)
