"""Starts the processes of a race, and judges what they noted together: by the history, and by all that is stored in the end."""

from __future__ import annotations

import json
import os
import pickle
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import trio

from perdure.backends.conformance import Operation, refusal_of
from perdure.backends.conformance.operation import Found, Get, Read
from perdure.runtime import open_runtime
from torment.races.race import APP, BUCKET, Race, seen

WITHIN_S = 120.0
TORTURE = Path(__file__).resolve().parents[2]


class Process:
    """A process that races when it is asked to."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file, self._errors = folder / f"{name}.noted", folder / f"{name}.errors"
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "torment.races.racer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TORTURE), *filter(None, sys.path)])},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self._asks.close()
        self._process.wait(WITHIN_S)
        self._answers.close()

    def ask(self, race: Race) -> None:
        """Get ready."""
        self._say(json.dumps({"race": attrs.asdict(race), "file": str(self._file)}))

    def wait(self, word: str) -> None:
        """Until it says so."""
        told = select.select([self._answers], [], [], WITHIN_S)[0] and self._answers.readline().decode().strip()
        if told != word:
            raise RuntimeError(f"a racer says {told!r}, not {word!r}: {self._errors.read_text(errors='replace')[-2_000:]}")

    def go(self) -> None:
        """The race begins."""
        self._say("go")

    def noted(self) -> list[Operation]:
        """What it noted."""
        found: list[Operation] = pickle.loads(self._file.read_bytes())
        return found

    def _say(self, line: str) -> None:
        self._asks.write(line.encode() + b"\n")
        self._asks.flush()


class Track:
    """The processes."""

    def __init__(self, folder: Path, processes: int) -> None:
        self._stack = ExitStack()
        self._processes = [self._stack.enter_context(Process(folder, f"racer-{number}")) for number in range(processes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def race(self, race: Race) -> tuple[list[Operation], list[str]]:
        """Let all run it; the history, and what is wrong with it or with what is stored."""
        for number, process in enumerate(self._processes):
            process.ask(attrs.evolve(race, who=f"{race.who}{'abcdefgh'[number]}"))
        for word in ("ready", "done"):
            for process in self._processes:
                process.wait(word)
            if word == "ready":
                for process in self._processes:
                    process.go()
        history = [operation for process in self._processes for operation in process.noted()]
        last, problems = trio.run(partial(_end, race))
        refusal = refusal_of([*history, *last])
        return history, [*problems, *([f"these answers have no order:\n{refusal}"] if refusal else [])]


async def _end(race: Race) -> tuple[list[Operation], list[str]]:
    """All that is stored, as looks of one more; and whether that is sound."""
    noted: list[Operation] = []
    async with open_runtime(race.url, APP) as rt:
        for number in range(race.targets):
            target, began = f"raced-{number}", time.monotonic_ns()
            if race.what == "appends":
                noted.append(Operation(Read(target), await seen(rt, target), began, time.monotonic_ns(), "end"))
            else:
                entry = await rt.kv(BUCKET, str).get(target)
                found = None if entry is None else Found(entry.revision, entry.value)
                noted.append(Operation(Get(BUCKET, target), found, began, time.monotonic_ns(), "end"))
        return noted, await rt.backend.verify()
