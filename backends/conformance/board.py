"""Running the laws, and the scoreboard they give."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence

import attrs
import trio

from perdure.backends.conformance.law import Broken, Law, Stores, leaf_of, new_name
from perdure.backends.protocol import Capabilities


@attrs.frozen
class Score:
    """What came of one law: passed, or *broken* says how it failed, or *missing* what of `Stores` it would need."""

    law: Law
    took_s: float = 0.0
    broken: str | None = None
    missing: str | None = None

    @property
    def passed(self) -> bool:
        return self.broken is None and self.missing is None


@attrs.frozen
class Scoreboard:
    """The scores in the order of the laws, and what the backend declares."""

    scores: tuple[Score, ...]
    capabilities: Capabilities

    @property
    def failed(self) -> tuple[Score, ...]:
        """Those that were broken."""
        return tuple(score for score in self.scores if score.broken is not None)

    @property
    def undeclared(self) -> tuple[str, ...]:
        """The capabilities that the backend does not declare."""
        return tuple(name for name in attrs.asdict(self.capabilities) if name not in self.capabilities.declared())

    def render(self) -> str:
        """The board: each sentence under its part, then what is undeclared, then the sums."""
        lines = [line for part in dict.fromkeys(score.law.part for score in self.scores) for line in self._part(part)]
        left_out = [score for score in self.scores if score.missing is not None]
        lines += ["", f"undeclared capabilities: {', '.join(self.undeclared) or 'none'}"]
        if left_out:
            lines.append(f"{len(left_out)} left out, for want of what only some stores can do")
        lines.append(f"{sum(score.passed for score in self.scores)} passed, {len(self.failed)} failed")
        return "\n".join(lines)

    def _part(self, part: str) -> Iterator[str]:
        scores = [score for score in self.scores if score.law.part == part]
        run = [score for score in scores if score.missing is None]
        yield f"{part}: {sum(score.passed for score in run)} of {len(run)}"
        for score in scores:
            mark = "pass" if score.passed else "FAIL" if score.missing is None else "----"
            yield f"  {mark}  {score.law.sentence}"
            if score.broken is not None:
                yield f"        {score.law.name}: {score.broken}"
            if score.missing is not None:
                yield f"        {score.law.name}: left out, these stores have no {score.missing}()"


async def run_checks(stores: Stores, laws: Sequence[Law], only: Collection[str] = (), progress: Callable[[Score], None] | None = None) -> Scoreboard:
    """Hold *laws* against the backend behind *stores*, one after the other; *only* names laws or parts.

    A law that is broken, or fails in any other way, is a failed score; nothing but cancellation leaves.
    *progress* is told each score.
    """
    async with stores.open(new_name()) as backend:
        capabilities = backend.capabilities
    scores = []
    for law in laws:
        if not only or law.name in only or law.part in only:
            scores.append(await _score(law, stores))
            if progress is not None:
                progress(scores[-1])
    return Scoreboard(tuple(scores), capabilities)


async def _score(law: Law, stores: Stores) -> Score:
    for need in law.needs:
        if not hasattr(stores, need):
            return Score(law, missing=need)
    began = trio.current_time()
    try:
        await law.check(stores)
    except Broken as broken:
        return Score(law, trio.current_time() - began, broken.what)
    except Exception as error:
        return Score(law, trio.current_time() - began, _told(error))
    return Score(law, trio.current_time() - began)


def _told(error: BaseException) -> str:
    error = leaf_of(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
