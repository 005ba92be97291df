"""Starts a file system that can lose its power, and asks it."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from torment.power.disk import Policy

WITHIN_S = 60.0
TORTURE = Path(__file__).resolve().parents[2]


def why_not() -> str:
    """Why there can be none on this machine; '' if there can."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed: apt-get install fuse3 libfuse3-dev pkg-config, then make setup"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened here"
    if os.getuid() and shutil.which("fusermount3") is None:
        return "there is no fusermount3: apt-get install fuse3"
    return ""


class Power:
    """The file system at *mount*, with folders that a cut can strike."""

    def __init__(self, folder: Path) -> None:
        self.mount = folder / "mount"
        self.mount.mkdir()
        self._errors = folder / "fs-errors"
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "torment.power.server", str(self.mount)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TORTURE), *filter(None, sys.path)])},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self._answer("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Unmount, also after an error."""
        try:
            self._asks.close()
            self._process.wait(WITHIN_S)
        except (OSError, subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        finally:
            self._answers.close()
            if os.path.ismount(self.mount):
                subprocess.run(["umount", "--lazy", self.mount] if os.getuid() == 0 else ["fusermount3", "-u", "-z", self.mount], check=False)

    def make(self, name: str) -> Path:
        """An empty folder."""
        self._ask(f"make {name}")
        return self.mount / name

    def stop(self, after: int) -> None:
        """Let the power fail before so many operations more are done: then nobody gets an answer."""
        self._ask(f"stop {after}")

    def stopped(self, within_s: float) -> int:
        """Wait until it has failed, or let it fail after so long; the operations done."""
        return int(self._ask(f"stopped {within_s}").split()[1])

    def cut(self, name: str, policy: Policy, seed: int, dest: Path, new: str) -> None:
        """What is left of folder *name* is in *dest*, and here in folder *new*; the power is back."""
        self._ask(f"cut {name} {policy} {seed} {dest} {new}")

    def _ask(self, line: str) -> str:
        self._asks.write(line.encode() + b"\n")
        self._asks.flush()
        return self._answer(line)

    def _answer(self, line: str) -> str:
        if not select.select([self._answers], [], [], WITHIN_S)[0]:
            raise TimeoutError(f"{line!r} was not answered: {self._errors.read_text(errors='replace')}")
        answer = self._answers.readline().decode().strip()  # there is one line for each that was asked
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{line!r} was answered {answer!r}: {self._errors.read_text(errors='replace')}")
        return answer
