"""A connection that breaks when it is told to, at a COMMIT: for tests of doubt."""

from __future__ import annotations

from typing import Any

from perdure.backends.postgres.wire import Lost, Question, Row, Wire


class CommitFaults:
    """What is to go wrong with the next COMMITs of a store: each is stored or not, and nobody is told."""

    def __init__(self) -> None:
        self.next: list[bool] = []

    def wires(self) -> type[Wire]:
        """The class of connections that break so."""
        faults = self

        class FaultyWire(Wire):
            async def ask(self, *questions: Question | str, **how: Any) -> list[list[Row]]:
                commits = any(one == "COMMIT" or (isinstance(one, Question) and one.statement.commits) for one in questions)
                if not commits or not faults.next:
                    return await super().ask(*questions, **how)
                if faults.next.pop(0):
                    await super().ask(*questions, **how)
                self.close()
                raise Lost("it was cut on purpose")

        return FaultyWire
