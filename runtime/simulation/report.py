"""What a simulation found, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from perdure.runtime.simulation.faults import WHATS
from perdure.runtime.simulation.run import Run

LINES_MAX = 60
"""So many lines of the shortest trace are told; all are in `Run.trace`."""


@attrs.frozen
class Report:
    """*runs* were done, the last with *seed*; *counts* says what was met. *failed* is the run that broke a law, None if none did;
    *shortest* the shortest one that was found to break the same law."""

    runs: int
    seed: int
    counts: dict[str, int]
    failed: Run | None = None
    shortest: Run | None = None

    @property
    def ok(self) -> bool:
        """Whether every law held."""
        return self.failed is None

    def __str__(self) -> str:
        """What people read."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        met = ", ".join(f"{self.counts[what]:,} {what}" for what in WHATS if self.counts.get(what))
        yield f"{self.runs:,} runs: {self.counts.get('points', 0):,} lines of trace, {self.counts.get('events', 0):,} events; met: {met or 'nothing'}"
        if self.failed is None or self.shortest is None:
            yield "every law held"
            return
        yield ""
        yield f"seed {self.failed.plan.seed} breaks a law:"
        for violation in self.failed.violations:
            yield f"  {violation}"
        yield ""
        yield f"The shortest run that does: {self.shortest.plan}"
        for violation in self.shortest.violations:
            yield f"  {violation}"
        yield ""
        yield from story(self.shortest)

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        found: dict[str, Any] = {"ok": self.ok, "runs": self.runs, "seed": self.seed, "counts": self.counts}
        if self.failed is not None and self.shortest is not None:
            found["failed"] = _document(self.failed)
            found["shortest"] = {**_document(self.shortest), "trace": list(story(self.shortest, None))}
        return found


def _document(run: Run) -> dict[str, Any]:
    return {
        "replay": str(run.plan if run.plan.injections is not None else attrs.evolve(run.plan, injections=run.injections)),
        "violations": [attrs.asdict(violation) for violation in run.violations],
        "injections": [str(injection) for injection in run.injections],
        "digest": run.digest,
    }


def story(run: Run, lines_max: int | None = LINES_MAX) -> Iterator[str]:
    """The trace without the calls that did what they should: what went wrong, who was told what, who lived and died."""
    lines = run.trace.lines("fault", "told", "life", "law")[:-1]  # the last one sums up the scheduler
    if lines_max is not None and len(lines) > lines_max:
        yield f"... {len(lines) - lines_max} lines before"
        lines = lines[-lines_max:]
    yield from map(str, lines)
