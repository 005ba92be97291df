"""What the daemon says on standard error: structlog over Python's own logging, as JSON or for people, with actor, stream and position.

Lines are written by a thread of their own from a bounded queue: whoever reads them slowly, or not at all, never holds up the loop. What finds no
room is lost, and counted.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name

from perdure.actors.mailbox import current_actor
from perdure.runtime.serve.tokens import hidden

LINES_MAX: Final = 10_000
FLUSH_S: Final = 1.0
FACTS: Final = ("actor", "stream", "seq", "position", "model")
"""What a record, or the error in it, may say of its place."""


def with_place(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the actor whose task speaks, the span it is in, and of an error where it happened."""
    if (actor := current_actor.get()) is not None:
        line.setdefault("actor", actor)
    error = _error_of(line)
    for name in ("stream", "seq", "position"):
        value = getattr(error, name, None)
        if isinstance(value, str | int):
            line.setdefault(name, value)
    if (api := sys.modules.get("opentelemetry.trace")) is not None and (span := api.get_current_span().get_span_context()).is_valid:
        line.update(trace_id=api.format_trace_id(span.trace_id), span_id=api.format_span_id(span.span_id))
    return line


def _error_of(line: Mapping[str, Any]) -> BaseException | None:
    record = line.get("_record")
    found = record.exc_info if isinstance(record, logging.LogRecord) else line.get("exc_info")
    return found[1] if isinstance(found, tuple) else found if isinstance(found, BaseException) else None


def without_secrets(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No token and no password, wherever it stands."""
    return {name: hidden(value) if isinstance(value, str) else value for name, value in line.items()}


def formatter(form: str) -> ProcessorFormatter:
    """What makes lines of records: `json`, or `console`."""
    render: Any = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    return ProcessorFormatter(
        foreign_pre_chain=[
            ExtraAdder(allow=FACTS),
            add_log_level,
            add_logger_name,
            with_place,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, without_secrets, render],
    )


class Teller(logging.Handler):
    """Hands lines to a thread that writes them; never waits."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.lost = 0
        """Lines for which there was no room."""
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_MAX)
        self._thread = threading.Thread(target=self._write, name="perdure log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Say *record*."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.lost += 1
        except Exception:
            self.handleError(record)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                self.lost += 1

    def end(self) -> None:
        """Write what waits, for a moment at most."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(FLUSH_S)


def tell(form: str, level: str, stream: TextIO | None = None) -> Teller:
    """Say what is logged from now on; `auto` is for people on a terminal, JSON elsewhere."""
    out = stream or sys.stderr
    teller = Teller(out)
    teller.setFormatter(formatter(("console" if out.isatty() else "json") if form == "auto" else form))
    root = logging.getLogger()
    root.handlers[:] = [teller]
    root.setLevel(logging.WARNING)
    logging.getLogger("perdure").setLevel(level.upper())
    return teller
