"""Starts the process of lives, begins and ends lives in it. Every wait is bounded."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from torment.lives.told import Told
from torment.lives.work import Life

WITHIN_S = 60.0
_ENDED = ""
"""In the place of a line: there are no more."""
TORTURE = Path(__file__).resolve().parents[2]


class Hangs(Exception):
    """It has told nothing for a long time."""


class Mother:
    """The process, and what its lives have told: *told* takes every line."""

    def __init__(self, told: Told, errors: Path) -> None:
        self.told = told
        self.errors = errors
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        with errors.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "torment.lives.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TORTURE), *filter(None, sys.path)])},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A life that is under way is killed."""
        self._process.send_signal(signal.SIGCONT)
        if kind is not None:
            self._process.kill()  # its life, if there is one, finds nobody to tell and ends
        self._asks.close()
        self._process.wait(WITHIN_S)
        self._listener.join(WITHIN_S)
        self._answers.close()

    def begin(self, life: Life) -> None:
        """Ask for a life."""
        self._ask(json.dumps(attrs.asdict(life)))

    def kill(self, then: Callable[[], None] = lambda: None) -> int:
        """SIGKILL the life now; what it told before, it told. *then* is done before it is gone: it may be stuck in the kernel. The status it ended with."""
        self._ask("kill")
        self._take_until("struck")
        then()
        return self._take_until("end")

    def wait(self) -> int:
        """Until it has ended by itself."""
        self._ask("wait")
        return self._take_until("end")

    def wait_open(self) -> None:
        """Until it has opened the store."""
        self._take_until("open")

    def _ask(self, line: str) -> None:
        self._asks.write(line.encode() + b"\n")
        self._asks.flush()

    def _take_until(self, kind: str) -> int:
        """Take lines up to the next one of that kind; its number."""
        while True:
            line = self._line()
            word, _, rest = line.partition(" ")
            if word == "end":
                if kind == "open":
                    raise Hangs(f"a life ended before it told {kind!r}: {self.complaints()}")
                return int(rest)
            if word != "struck":
                self.told.take(line)
            if word == kind:
                return 0

    def _listen(self) -> None:
        """All the time: a life that waits for room to tell may hold the turn to write meanwhile."""
        for line in self._answers:
            self._told.put(line.decode().rstrip("\n"))
        self._told.put(_ENDED)

    def _line(self) -> str:
        try:
            line = self._told.get(timeout=WITHIN_S)
        except queue.Empty:
            raise Hangs(f"it has told nothing for {WITHIN_S:g} s: {self.complaints()}") from None
        if line == _ENDED:
            raise Hangs(f"it has ended: {self.complaints()}")
        return line

    def complaints(self) -> str:
        """What was written to standard error."""
        return self.errors.read_text(errors="replace")[-2_000:]
