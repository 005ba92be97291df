"""`stats`, `verify`, `compact`: a store as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from perdure.backends.protocol import Backend, State, StoreStatus
from perdure.backends.recovery import Recovery
from perdure.runtime.archives import archived
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.blobstores import archive_store
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.log import BATCH
from perdure.runtime.cli.options import AsJson, Url, WithArchive
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import reading
from perdure.runtime.compact import compact as compact_store
from perdure.runtime.verify_models import ModelReport, verify_models


def stats(url: Url, /, *, json: AsJson = False) -> int:
    """Print what a store says of itself.

    Its id, where its log ends, its size, and how far it has been checked.

    For example:

        perdure stats lmdb:shop

    JSON: url, id, head, revision, bytes_used, bytes_limit, verified, scrubbed_rows, damages, state, recovery, details, streams.
    """

    async def command() -> int:
        async with reading(url) as backend:
            status, streams = await backend.store_status(), await _count_streams(backend)
            moved_to = await backend.moved_to() if status.state is State.MOVED else ""
        if json:
            out.document({**attrs.asdict(status), "streams": streams, **({"moved_to": moved_to} if moved_to else {})})
        else:
            out.facts(_lines(status, streams, moved_to))
        return Exit.DONE

    return run_async(command)


async def _count_streams(backend: Backend) -> int:
    count, after = 0, None
    with out.bar("counting streams", None) as step:
        while page := await backend.streams(after=after, limit=BATCH):
            count, after = count + len(page), page[-1].name
            step(len(page))
    return count


def _lines(status: StoreStatus, streams: int, moved_to: str) -> list[tuple[str, object]]:
    limit = f" of at most {told_bytes(status.bytes_limit)}" if status.bytes_limit else ""
    return [
        ("store", status.url),
        ("id", status.id),
        ("head", f"position {status.head}"),
        ("streams", f"{streams:,}"),
        ("kv revision", f"{status.revision:,}"),
        ("in use", f"{told_bytes(status.bytes_used)}{limit}"),
        ("verified", status.verified),
        ("state", f"moved: it is at {moved_to} now" if moved_to else status.state),
        *_told_recovery(status.recovery),
        *((name.removesuffix("_s").replace("_", " "), _told(name, value)) for name, value in status.details.items()),
    ]


def _told_recovery(recovery: Recovery) -> Iterator[tuple[str, object]]:
    """What opening found: how the store was left, what was read to check it, what had to be cut off."""
    yield "left", "cleanly" if recovery.clean else "by a crash, or a machine that went down"
    if recovery.checked or recovery.replayed:
        checked = f"{recovery.checked} ({told_bytes(recovery.checked_bytes)})" if recovery.checked else "nothing"
        yield "at opening", f"{checked} checked, {recovery.replayed:,} groups applied again, in {recovery.took_s:.1f} s"
    for cut in recovery.cuts:
        where = f"kept in {cut.kept_in}" if cut.kept_in else "not kept"
        yield "cut", f"{cut.what}: {told_bytes(cut.size_bytes)} at offset {cut.offset} of {cut.file}, {where}"


def _told(name: str, value: Any) -> object:
    if name.endswith("_bytes"):
        return told_bytes(value)
    if name.endswith("_s"):
        return f"{value * 1e3:.2f} ms"
    if name == "oldest_reader":
        return "none" if value is None else f"process {value['pid']}, for {value['age_s']:.1f} s, {value['behind']:,} transactions behind"
    return ", ".join(" ".join(part.split()) for part in value.splitlines()) if isinstance(value, str) else value


def told_bytes(size_bytes: float) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(size_bytes).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size_bytes / (1 << 10 * power):,.{1 if power else 0}f} {units[power]}"


def verify(
    url: Url,
    /,
    *,
    app: Annotated[str | None, Parameter(name="--app", help="Where an App is: module:name. Its models are held against the log.")] = None,
    with_archive: WithArchive = None,
    json: AsJson = False,
) -> int:
    """Read everything and check it.

    Checksums, seqs, indexes both ways, revisions, snapshots, pages. The problems found are printed, each with
    what is lost. With --app the snapshots and states of its models are compared with the fold of the log.

    For example:

        perdure verify lmdb:shop --app shop:app

    JSON: url, head, problems; or url, head, problems, models.
    """
    models = None if app is None else load_app(app)

    async def command() -> int:
        async with reading(_walked(url)) as backend, archive_store(with_archive) as blobs:
            with out.told(f"verifying {url}") as progress:
                problems = await backend.verify(progress)
                reports = [] if models is None else await verify_models(archived(backend, blobs), models, progress=progress)
                head = await backend.head()
        problems += [problem for report in reports for problem in report.problems]
        if json:
            told = {} if models is None else {"models": [attrs.asdict(report) for report in reports]}
            out.document({"url": url, "head": head, "problems": problems, **told})
        else:
            for problem in problems:
                out.line(problem)
            for report in reports:
                out.line(_told_model(report))
            out.line(f"problems found: {len(problems)}" if problems else f"no problem found; the log ends at position {head}")
        return Exit.NO if problems else Exit.DONE

    return run_async(command)


def _told_model(report: ModelReport) -> str:
    checked = f"left out: {report.left_out}" if report.left_out else f"{report.checked:,} states compared with the log up to position {report.position}"
    return f"model {report.name}: {checked}"


def compact(url: Url, /, *, json: AsJson = False) -> int:
    """Forget what may be forgotten, merge small frames, give room back to the disk.

    Room is given back only where no other process has the store open: else it says who, and the rest is done all the same.

    For example:

        perdure compact lmdb:shop

    JSON: url, used_before, used_after, file_before, file_after, steps, kept, young_s.
    """

    async def command() -> int:
        async with reading(url) as backend:
            with out.told(f"compacting {url}") as progress:
                report = await compact_store(backend, progress=progress)
        if json:
            out.document({"url": url, **attrs.asdict(report)})
        else:
            out.facts(
                [
                    ("in use", f"{told_bytes(report.used_before)}, now {told_bytes(report.used_after)}"),
                    ("file", f"{told_bytes(report.file_before)}, now {told_bytes(report.file_after)}"),
                    ("upkeep", f"{report.steps:,} slices"),
                    ("given back", "yes" if not report.kept else f"no: {report.kept}"),
                    *([("left", f"what was cut of events younger than {report.young_s / 60:g} minutes: compact again then")] if report.young_s else []),
                ]
            )
        return Exit.DONE

    return run_async(command)


def _walked(url: str) -> str:
    """The URL, asking for the pages to be walked before LMDB reads them: it would crash on some kinds of damage."""
    if not url.startswith("lmdb:") or "verify=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}verify=tree"
