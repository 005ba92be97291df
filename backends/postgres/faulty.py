"""A connection that breaks or waits when it is told to, at a COMMIT: for tests of doubt, and of what others see meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from perdure.backends.postgres.wire import Lost, Question, Row, Wire


class CommitFaults:
    """What is to go wrong with the next COMMITs of a store: each is stored or not, and nobody is told."""

    def __init__(self) -> None:
        self.next: list[bool] = []
        self._held: tuple[trio.Event, trio.Event] | None = None
        """Set when a group is written, and when it may be committed."""

    @contextmanager
    def hold(self) -> Iterator[trio.Event]:
        """The next group is written, then the event is set, and it is committed when the block ends."""
        begun, goes_on = self._held = (trio.Event(), trio.Event())
        try:
            yield begun
        finally:
            self._held = None
            goes_on.set()

    async def _through(self, ask: Callable[..., Awaitable[list[list[Row]]]], questions: tuple[Question | str, ...], how: dict[str, Any]) -> list[list[Row]]:
        held, self._held = self._held, None
        if held is None:
            return await ask(*questions, **how)
        if "COMMIT" in questions:
            middle = questions.index("COMMIT")
            written = await ask(*questions[:middle], within_s=how["within_s"])
        else:  # a statement that is a transaction of its own
            middle, (_, *written) = len(questions), await ask("BEGIN", *questions, within_s=how["within_s"])
        held[0].set()
        await held[1].wait()
        return written + await ask(*(questions[middle:] or ["COMMIT"]), **how)

    def wires(self) -> type[Wire]:
        """The class of connections that break so."""
        faults = self

        class FaultyWire(Wire):
            async def ask(self, *questions: Question | str, **how: Any) -> list[list[Row]]:
                commits = any(one == "COMMIT" or (isinstance(one, Question) and one.statement.commits) for one in questions)
                if not commits:
                    return await super().ask(*questions, **how)
                if not faults.next:
                    return await faults._through(super().ask, questions, how)
                if faults.next.pop(0):
                    await super().ask(*questions, **how)
                self.close()
                raise Lost("it was cut on purpose")

        return FaultyWire
